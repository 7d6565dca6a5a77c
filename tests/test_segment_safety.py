"""`segment` where folders lead astray: sources that change, names that fit twice, what is no scan, broken volumes."""

import csv
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from conftest import tiny_pipeline
from series_fixtures import draw_chest, write_itk, write_series

from medseglatdiff.cli import main
from medseglatdiff.data.volumes import read_volume
from medseglatdiff.pipeline.case_results import SegmentSettings, segment_image
from medseglatdiff.pipeline.cases import find_cases
from medseglatdiff.pipeline.segmenter import source_checksum

pytest.importorskip("SimpleITK", reason="needs the extra `volumes`")
pytest.importorskip("skimage", reason="needs the extra `volumes`")
CHEST = draw_chest(shape=(4, 40, 48), spacing=(1.0, 1.0, 2.0), diameter=8.0, vessels=2)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    tiny_pipeline(region_size=16).save_pretrained(folder)
    return folder


def segment(*words) -> int:
    return main([str(word) for word in ("segment", *words)])


def save(path: Path, value: int = 90) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(np.full((30, 30), value, np.uint8)).save(path)
    return path


def table(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def flip_last_byte(path: Path):
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("suffix", [".mhd", ".nhdr"])
def test_voxels_beside_their_header_are_part_of_the_source(suffix, tmp_path):
    header = write_itk(tmp_path / f"scan{suffix}", CHEST)
    before = source_checksum(str(header))
    save(tmp_path / "another.png")
    assert source_checksum(str(header)) == before
    (voxels,) = (path for path in tmp_path.iterdir() if path.stem == "scan" and path != header)
    flip_last_byte(voxels)
    assert source_checksum(str(header)) != before


def test_slices_of_the_same_size_with_other_pixels_are_another_source(tmp_path):
    write_series(tmp_path / "series", CHEST)
    before = source_checksum(str(tmp_path / "series"))
    flip_last_byte(sorted((tmp_path / "series").iterdir())[1])
    assert source_checksum(str(tmp_path / "series")) != before


def test_measurements_are_not_those_of_before_a_failure(model, tmp_path):
    for name in "ab":
        save(tmp_path / "in" / f"{name}.png")
    words = [tmp_path / "in", "--model", model, "--out", tmp_path / "out"]
    words += ["--findings", table(tmp_path / "findings.csv", "case,x,y\na,5,5\nb,5,5\n")]
    assert segment(*words) == 0
    (tmp_path / "in" / "b.png").write_bytes(b"damaged")
    assert segment(*words) == 1
    rows = list(csv.DictReader((tmp_path / "out" / "measurements.csv").open()))
    assert [row["case"] for row in rows] == ["a"]


def test_a_broken_volume_does_not_stop_a_list_in_millimetres(model, tmp_path, capsys):
    (tmp_path / "in").mkdir()
    write_itk(tmp_path / "in" / "good.mha", CHEST)
    (tmp_path / "in" / "bad.mha").write_bytes(b"no volume")
    point = read_volume(tmp_path / "in" / "good.mha").point_of(CHEST.centre)
    text = f"seriesuid,coordX,coordY,coordZ\ngood,{','.join(map(str, point))}\n"
    words = [tmp_path / "in", "--model", model, "--out", tmp_path / "out", "--num-masks", 2, "--findings"]
    assert segment(*words, table(tmp_path / "good.csv", text)) == 0  # it is not listed
    assert segment(*words, table(tmp_path / "both.csv", text + text.splitlines()[1].replace("good", "bad"))) == 1
    assert "bad.mha cannot be segmented" in capsys.readouterr().err
    (row,) = csv.DictReader((tmp_path / "out" / "failures.csv").open())
    assert row["case"] == "bad"


@pytest.mark.parametrize("names", [("p/scan.png", "q/scan.png"), ("scan.png", "scan.tif")])
def test_a_finding_whose_name_fits_two_images_is_refused(names, model, tmp_path, capsys):
    for name in names:
        save(tmp_path / "in" / name)
    listed = table(tmp_path / "findings.csv", "case,x,y\nscan,5,5\n")
    assert segment(tmp_path / "in", "--model", model, "--out", tmp_path / "out", "--findings", listed) == 2
    assert "findings.csv, line 2: scan must name one case, but names 2" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_name_of_a_case_below_a_folder_tells_two_images_apart(model, tmp_path):
    for number, name in enumerate(("p/scan.png", "q/scan.png")):
        save(tmp_path / "in" / name, 90 + number)
    listed = table(tmp_path / "findings.csv", "case,x,y\nq/scan,5,5\n")
    assert segment(tmp_path / "in", "--model", model, "--out", tmp_path / "out", "--findings", listed) == 0
    assert [path.name for path in (tmp_path / "out").iterdir() if path.is_dir()] == ["q"]


def test_series_in_hidden_and_linked_folders_are_passed_over(tmp_path):
    write_series(tmp_path / "elsewhere", CHEST)
    write_series(tmp_path / "in" / ".hidden", CHEST)
    write_series(tmp_path / "in" / "shown", CHEST)
    (tmp_path / "in" / "link").symlink_to(tmp_path / "elsewhere")
    assert [case.name for case in find_cases([tmp_path / "in"])] == ["shown"]


def test_a_segmentation_is_no_scan(model, tmp_path):
    write_series(tmp_path / "series", CHEST)
    point = ",".join(map(str, CHEST.centre))
    words = ["--model", model, "--out", tmp_path / "out", "--point", point, "--format", "dicom-seg", "--num-masks", 2]
    assert segment(tmp_path / "series", *words) == 0
    for path in (tmp_path / "out").rglob("seg*.dcm"):
        with pytest.raises(ValueError, match="class Segmentation Storage"):
            read_volume(path)


def test_several_classes_are_measured_as_one_finding(tmp_path):
    pipeline = tiny_pipeline(num_classes=2)
    image = str(save(tmp_path / "scan.png"))
    (tmp_path / "out").mkdir()
    result = segment_image(pipeline, image, None, SegmentSettings(), "tiny", tmp_path / "out", measured=True)
    output = pipeline(image, seed=0)
    assert set(np.unique(output.consensus[0])) > {0, 1}  # two classes, so that counting one of them would be less
    assert result.row is not None
    assert result.row["consensus_area_px2"] == (output.consensus[0] > 0).sum()


def test_each_finding_has_the_masks_at_its_own_place(model, tmp_path):
    rng, points = np.random.default_rng(0), [(5, 5), (20, 20)]
    PIL.Image.fromarray(rng.integers(0, 256, (30, 30), dtype=np.uint8)).save(tmp_path / "scan.png")
    listed = table(tmp_path / "findings.csv", "case,x,y\n" + "".join(f"scan,{x},{y}\n" for x, y in points))
    assert segment(tmp_path / "scan.png", "--model", model, "--out", tmp_path / "out", "--findings", listed) == 0
    pipeline, written = tiny_pipeline(region_size=16), []
    for number, point in enumerate(points, start=1):
        written.append(np.asarray(PIL.Image.open(tmp_path / "out" / "scan" / f"finding-{number}" / "mask-01.png")) > 0)
        assert np.array_equal(written[-1], pipeline(tmp_path / "scan.png", seed=0, regions=[point]).masks[0][0])
    assert not np.array_equal(*written)


def test_each_finding_in_a_volume_is_followed_from_its_own_slice(model, tmp_path):
    import SimpleITK

    from medseglatdiff.pipeline.volume import segment_finding

    scan, (x, y, z) = write_itk(tmp_path / "scan.nii.gz", CHEST), CHEST.centre
    points = [(x, y, z), (x + 3, y, z - 1)]
    listed = table(tmp_path / "findings.csv", "case,x,y,z\n" + "".join(f"scan,{a},{b},{c}\n" for a, b, c in points))
    words = ["--model", model, "--out", tmp_path / "out", "--findings", listed, "--num-masks", 2]
    assert segment(scan, *words) == 0
    pipeline, volume, written = tiny_pipeline(region_size=16), read_volume(scan), []
    for number, point in enumerate(points, start=1):
        result = segment_finding(pipeline, volume, point, num_masks=2, num_inference_steps=2, seed=0)
        file = tmp_path / "out" / "scan" / f"finding-{number}" / "mask-01.nii.gz"
        written.append(SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(file)) > 0)
        assert np.array_equal(written[-1], result.in_volume(result.masks[0], volume.shape))
    assert not np.array_equal(*written)
