"""`segment` on volumes and lists of findings: folders per finding, measurements, files in the source's geometry."""

import csv
import json
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from conftest import tiny_pipeline
from series_fixtures import SECRET, draw_chest, write_itk, write_series

from medseglatdiff.cli import main

pytest.importorskip("SimpleITK", reason="needs the extra `volumes`")
pytest.importorskip("skimage", reason="needs the extra `volumes`")


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    tiny_pipeline(region_size=16).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def chest():
    return draw_chest(shape=(6, 40, 48), spacing=(1.0, 1.0, 2.0), diameter=8.0, vessels=2)


@pytest.fixture(scope="module")
def studies(tmp_path_factory, chest) -> Path:
    folder = tmp_path_factory.mktemp("studies")
    write_series(folder / "patient-1" / "series", chest)
    write_itk(folder / "patient-2.nii.gz", chest)
    PIL.Image.fromarray(np.full((30, 30), 90, np.uint8)).save(folder / "radiograph.png")
    return folder


def segment(*words) -> int:
    return main([str(word) for word in ("segment", *words)])


def test_a_series_by_point_is_written_in_its_own_geometry(studies, model, chest, tmp_path, capsys):
    import highdicom
    import SimpleITK

    out, point = tmp_path / "out", ",".join(map(str, chest.centre))
    words = [studies / "patient-1" / "series", "--model", model, "--out", out, "--point", point]
    assert segment(*words, "--format", "nifti", "dicom-seg", "--num-masks", "3") == 0
    folder = out / "series" / "finding-1"
    names = {path.name for path in folder.iterdir()}
    assert names == {f"{name}.nii.gz" for name in ("consensus", "confidence", "mask-01", "mask-02", "mask-03")} | {
        "overview.png",
        "seg.dcm",
        "seg-confidence.dcm",
    }
    image = SimpleITK.ReadImage(folder / "consensus.nii.gz")
    assert image.GetSize() == (48, 40, 6) and image.GetSpacing() == pytest.approx((1.0, 1.0, 2.0))
    segmentation = highdicom.seg.segread(folder / "seg.dcm")
    assert segmentation.number_of_segments == 4
    assert segmentation.get_segment_description(1).segmented_property_type.meaning == "Lesion"
    rows = list(csv.DictReader((out / "measurements.csv").open()))
    assert [(row["case"], row["finding"]) for row in rows] == [("series", "1")] and "volume_mm3_median" in rows[0]
    text = b"".join(path.read_bytes() for path in out.rglob("*") if path.suffix in (".csv", ".json"))
    assert str(studies).encode() not in text and SECRET.encode() not in text
    assert "volume (mm³)" in capsys.readouterr().out
    assert segment(*words, "--format", "nifti", "dicom-seg", "--num-masks", "3") == 0
    assert "1 of 1 cases had already been finished" in capsys.readouterr().out


def test_a_list_of_findings_chooses_cases_and_gives_each_a_folder(studies, model, chest, tmp_path):
    x, y, z = chest.centre
    table = tmp_path / "findings.csv"
    table.write_text(f"case,x,y,z\npatient-2,{x},{y},{z}\npatient-2,{x + 3},{y},{z}\n")
    out = tmp_path / "out"
    assert segment(studies, "--model", model, "--out", out, "--findings", table, "--num-masks", "2") == 0
    assert sorted(path.name for path in out.iterdir()) == ["measurements.csv", "patient-2"]
    assert (out / "patient-2" / "finding-2" / "consensus.nii.gz").is_file()
    marked = json.loads((out / "patient-2" / "done.json").read_text())
    assert marked["places"] == [[x, y, z], [x + 3, y, z]] and len(marked["measurements"]) == 2


def test_findings_in_images_are_regions_and_measured_in_pixels(studies, model, tmp_path):
    table = tmp_path / "findings.csv"
    table.write_text("case,x,y\nradiograph,5,5\nradiograph,20,20\n")
    assert segment(studies, "--model", model, "--out", tmp_path / "out", "--findings", table) == 0
    assert (tmp_path / "out" / "radiograph" / "finding-2" / "mask-01.png").is_file()
    rows = list(csv.DictReader((tmp_path / "out" / "measurements.csv").open()))
    assert [row["finding"] for row in rows] == ["1", "2"] and "area_px2_median" in rows[0]


WRONG = {
    "no point": ([], "is a volume, which is segmented around a finding: give `--point X,Y,Z`"),
    "point of an image": (["--point", "3,4"], "is a volume, which is segmented around a finding"),
    "outside": (["--point", "3,4,99"], "must be (x, y, z) in the 48 x 40 x 6 voxels"),
    "png": (["--point", "3,4,2", "--format", "png"], "`--format` must be one of nifti, dicom-seg"),
    "seg of nifti": (["--point", "3,4,2", "--format", "dicom-seg"], "use `nifti`"),
    "two ways": (["--point", "3,4,2", "--box", "1,1,2,2"], "`--point` and `--box` must not be given together"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_calls_for_a_volume_are_one_sentence(name, studies, model, tmp_path, capsys):
    words, message = WRONG[name]
    assert segment(studies / "patient-2.nii.gz", "--model", model, "--out", tmp_path / "out", *words) == 2
    assert message in capsys.readouterr().err and not list((tmp_path / "out").glob("patient-2"))


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("case,x,y\nnobody,1,1\n", "findings.csv, line 2, column case: nobody is none of the"),
        ("case,x\nradiograph,1\n", "findings.csv, line 1: the column y is missing"),
        ("case,x,y\nradiograph,1,far\n", "findings.csv, line 2, column y: must be a finite number, but is far"),
        ("case,x,y\npatient-2,1,1\n", "findings.csv, line 2: the column z must be given for a volume"),
        ("seriesuid,coordX,coordY,coordZ\n1.2.3,0,0,0\n", "column seriesuid: 1.2.3 is none of the"),
    ],
)
def test_wrong_lists_name_file_line_and_column(table, message, studies, model, tmp_path, capsys):
    (tmp_path / "findings.csv").write_text(table)
    words = [studies, "--model", model, "--out", tmp_path / "out", "--findings", tmp_path / "findings.csv"]
    assert segment(*words) == 2
    assert message in capsys.readouterr().err


def test_an_image_takes_no_voxel(studies, model, tmp_path, capsys):
    words = ["--model", model, "--out", tmp_path / "out", "--point", "3,4,5"]
    assert segment(studies / "radiograph.png", *words) == 2
    assert "is a single image: a point must be X,Y, but was 3,4,5" in capsys.readouterr().err
