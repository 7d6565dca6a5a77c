"""LIDC-IDRI from synthetic DICOM series with XML: known shapes, several readers, and every kind of broken series."""

import io

import numpy as np
import pytest
from dataset_fixtures import rows_of, write_folder

from medseglatdiff.builders import lidc_idri
from medseglatdiff.builders.archives import Source
from medseglatdiff.builders.lidc_contours import parse_annotations
from medseglatdiff.builders.lidc_dicom import series_jobs, series_rows, series_strays

pydicom = pytest.importorskip("pydicom", reason="DICOM needs pydicom")
WINDOW = (-600.0, 1500.0)
SIDE = 160  # of the synthetic scans


def dicom(z: float, pixels: np.ndarray, index: int, spacing=(0.7, 0.7), photometric="MONOCHROME2", uid="1.2") -> bytes:
    """A slice of the scan `uid`; stored values are Hounsfield units + 1024."""
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = CTImageStorage, f"{uid}.3.{index}"
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = FileDataset("", {}, file_meta=meta, preamble=bytes(128))
    dataset.PatientID, dataset.SeriesInstanceUID, dataset.SOPInstanceUID = "LIDC-IDRI-0001", uid, f"{uid}.3.{index}"
    dataset.SOPClassUID, dataset.Modality = CTImageStorage, "CT"
    dataset.ImagePositionPatient, dataset.PixelSpacing = [0, 0, z], list(spacing)
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


def xml(sessions: list[list[list[tuple]]], uid: str = "1.2") -> bytes:
    """Sessions of nodules of contours `(slice index, included, points)`."""
    text = '<LidcReadMessage xmlns="http://www.nih.gov"><ResponseHeader>'
    text += f"<SeriesInstanceUid>{uid}</SeriesInstanceUid></ResponseHeader>"
    for nodules in sessions:
        text += "<readingSession>"
        for contours in nodules:
            text += "<unblindedReadNodule>"
            for index, included, points in contours:
                text += f"<roi><imageSOP_UID>{uid}.3.{index}</imageSOP_UID>"
                text += f"<inclusion>{str(included).upper()}</inclusion>"
                text += "".join(f"<edgeMap><xCoord>{x}</xCoord><yCoord>{y}</yCoord></edgeMap>" for x, y in points)
                text += "</roi>"
            text += "</unblindedReadNodule>"
        text += "</readingSession>"
    return (text + "</LidcReadMessage>").encode()


def series(sessions, uid="1.2", **options) -> dict[str, bytes]:
    """Six slices 1..6 at falling positions, so that neither names nor UIDs are in the order of positions."""
    files = {f"{uid}/a.xml": xml(sessions, uid)}
    for index in range(1, 7):
        pixels = np.full((SIDE, SIDE), 100 * index)
        files[f"{uid}/{index}.dcm"] = dicom(-2.5 * index, pixels, index, uid=uid, **options)
    return files


def rows_from(path, files, pixel_mm=None):
    """Rows by nodule and slice, without the series that their ids start with."""
    source = Source([write_folder(path, files)])
    (job,) = series_jobs(source)
    return {row.image_id.split("/", 2)[2]: row for row in series_rows(source, WINDOW, pixel_mm, job)}


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
    assert sorted(rows) == ["nodule-0/slice-3", "nodule-0/slice-4", "nodule-1/slice-3"]
    assert areas(rows["nodule-0/slice-4"]) == [15**2 - 5**2, 15**2, 0, 0]
    assert areas(rows["nodule-0/slice-3"]) == [15**2, 0, 0, 0]
    assert areas(rows["nodule-1/slice-3"]) == [15**2, 11**2, 0, 0]
    # 300 stored = -724 HU on slice 3: (-724 + 600) / 1500 + 1/2 = .4173
    assert set(np.unique(rows["nodule-0/slice-3"].image.pixels)) == {round(0.41733 * 255)}


def test_crop_is_centred_and_stays_inside_the_scan(tmp_path):
    sessions = [[[(2, True, square(80, 80, 8))], [(4, True, square(12, 12, 8))]]]
    rows = rows_from(tmp_path / "in", series(sessions))
    y, x = np.nonzero(rows["nodule-0/slice-4"].masks[0].pixels)
    assert (y.min(), y.max(), x.min(), x.max()) == (57, 71, 57, 71)
    y, x = np.nonzero(rows["nodule-1/slice-2"].masks[0].pixels)
    assert (y.min(), y.max(), x.min(), x.max()) == (5, 19, 5, 19)


def ring(radius: float, spacing: tuple[float, float], centre: tuple[int, int]) -> list[tuple[int, int]]:
    """The lattice points just outside a circle of this radius in mm, in order."""
    radius = radius + np.mean(spacing) / 2
    turn = np.linspace(0, 2 * np.pi, 2000, endpoint=False)
    y = (centre[0] + radius / spacing[0] * np.sin(turn)).round().astype(int).tolist()
    x = (centre[1] + radius / spacing[1] * np.cos(turn)).round().astype(int).tolist()
    return list(dict.fromkeys(zip(x, y, strict=True)))


def inside_by_pick(points: list[tuple[int, int]]) -> int:
    """Lattice points strictly inside a simple lattice polygon: area - border / 2 + 1 (Pick)."""
    (x, y), (u, v) = np.array(points).T, np.roll(points, -1, axis=0).T
    return round(abs((x * v - u * y).sum()) / 2 - np.gcd(u - x, v - y).sum() / 2 + 1)


def sphere_scan(spacing: tuple[float, float], thickness: float, radius: float) -> dict[str, bytes]:
    """A bright sphere, drawn by three of four readers: exactly, 2 mm larger, and 2 mm smaller."""
    zs, centre = thickness * (np.arange(13) - 6), (84, 80)
    sessions, files = [[[]], [[]], [[]], []], {}
    y, x = np.mgrid[:SIDE, :SIDE]
    squared = ((y - centre[0]) * spacing[0]) ** 2 + ((x - centre[1]) * spacing[1]) ** 2  # mm^2, [SIDE, SIDE]
    for index, z in enumerate(zs):
        for reader, own in enumerate((radius, radius + 2, radius - 2)):
            if abs(z) < own - 1:
                sessions[reader][0].append((index, True, ring(np.sqrt(own**2 - z**2), spacing, centre)))
        files[f"s/{12 - index}.dcm"] = dicom(z, np.where(squared + z**2 < radius**2, 1024, 24), index, spacing)
    return {"s/a.xml": xml(sessions), **files}


@pytest.mark.parametrize(("spacing", "thickness"), [((0.7, 0.7), 2.0), ((0.5, 0.8), 2.5), ((0.9, 0.6), 3.0)])
def test_a_sphere_read_by_three(tmp_path, spacing, thickness):
    radius = 11.0
    rows = rows_from(tmp_path / "in", sphere_scan(spacing, thickness, radius))
    assert {key.split("/")[0] for key in rows} == {"nodule-0"}
    volumes = np.zeros(4)
    for key, row in rows.items():
        z = thickness * (int(key.rsplit("-", 1)[1]) - 6)
        for reader, own in enumerate((radius, radius + 2, radius - 2)):
            drawn = abs(z) < own - 1
            expected = inside_by_pick(ring(np.sqrt(own**2 - z**2), spacing, (84, 80))) if drawn else 0
            assert areas(row)[reader] == expected
        volumes += np.array(areas(row)) * spacing[0] * spacing[1] * thickness
        if areas(row)[0] > 50:  # what was drawn exactly lies on what is bright
            bright, mask = row.image.pixels > 127, row.masks[0].pixels > 0
            assert (bright & mask).sum() / (bright | mask).sum() > 0.8
    assert volumes[:3] == pytest.approx([4 / 3 * np.pi * own**3 for own in (11, 13, 9)], rel=0.1) and volumes[3] == 0


def test_resampling_makes_pixels_square(tmp_path):
    rows = rows_from(tmp_path / "in", sphere_scan((0.5, 0.8), 2.5, 11.0), pixel_mm=0.5)
    (y, x), image = np.nonzero(rows["nodule-0/slice-6"].masks[0].pixels), rows["nodule-0/slice-6"].image.pixels
    assert image.shape == (128, 128)
    for drawn in (np.ptp(y) + 1, np.ptp(x) + 1, *((image > 127).any(axis).sum() for axis in (0, 1))):
        assert drawn == pytest.approx(22 / 0.5, abs=3)
    sessions = [[[(2, True, square(80, 80, 8))]]]
    (row,) = rows_from(tmp_path / "b", series(sessions, spacing=(1.0, 1.0)), pixel_mm=0.5).values()
    assert areas(row)[0] == (2 * 15) ** 2


def test_two_series_of_a_patient_and_readings_of_x_rays(tmp_path):
    sessions = [[[(2, True, square(80, 80, 8))]]]
    files = {**series(sessions), **series(sessions, uid="1.9")}
    files |= {"xray/a.xml": b"<?xml version='1.0'?><IdriReadMessage/>", "xray/1.dcm": files["1.2/1.dcm"]}
    files |= {"lonely/b.xml": b"<LidcReadMessage/>", "unread/1.dcm": files["1.2/1.dcm"]}
    source = Source([write_folder(tmp_path / "in", files)])
    assert [job[0] for job in series_jobs(source)] == ["in/1.2/a.xml", "in/1.9/a.xml"]
    assert series_strays(source) == ["in/lonely/b.xml", "in/unread/1.dcm"]
    with pytest.raises(ValueError, match="2 files cannot be used"):
        lidc_idri.main([str(tmp_path / "in"), "--out", str(tmp_path / "out")])
    rows = rows_of(lidc_idri.main([str(tmp_path / "in"), "--out", str(tmp_path / "out"), "--skip-bad"]))
    assert set(rows) == {f"LIDC-IDRI-0001/{uid}/nodule-0/slice-4" for uid in ("1.2", "1.9")}
    assert {row["group_id"] for row in rows.values()} == {"LIDC-IDRI-0001"}


def test_a_gap_in_the_series_is_no_fault_where_nobody_drew(tmp_path):
    files = series([[[(2, True, square(80, 80, 8))]]])
    del files["1.2/4.dcm"]
    assert list(rows_from(tmp_path / "in", files)) == ["nodule-0/slice-3"]  # of five slices


def test_monochrome1_keeps_hounsfield_units(tmp_path):
    sessions = [[[(2, True, square(80, 80, 8))]]]
    (plain,) = rows_from(tmp_path / "a", series(sessions)).values()
    (inverted,) = rows_from(tmp_path / "b", series(sessions, photometric="MONOCHROME1")).values()
    assert np.array_equal(plain.image.pixels, inverted.image.pixels)


def compressed(data: bytes, syntax: str) -> bytes:
    dataset, file = pydicom.dcmread(io.BytesIO(data)), io.BytesIO()
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.PixelData = pydicom.encaps.encapsulate([bytes(range(100))])
    dataset["PixelData"].VR = "OB"
    dataset.save_as(file, enforce_file_format=True)
    return file.getvalue()


def test_compression_without_its_plug_in_names_the_plug_in(tmp_path):
    syntaxes = (pydicom.uid.JPEGLosslessSV1, pydicom.uid.HTJ2KLossless, pydicom.uid.JPEGLSLossless)
    lacking = [uid for uid in syntaxes if not pydicom.pixels.get_decoder(uid).is_available]
    if not lacking:
        pytest.skip("every plug-in is installed")
    files = series([[[(2, True, square(80, 80, 8))]]])
    files["1.2/2.dcm"] = compressed(files["1.2/2.dcm"], lacking[0])
    with pytest.raises(ValueError, match=r"in/1\.2/2\.dcm.*needs (python-gdcm|pylibjpeg-openjpeg|pyjpegls)"):
        rows_from(tmp_path / "in", files)


def test_series_that_cannot_be_used_say_why(tmp_path):
    files = series([[[(2, True, square(80, 80, 8))]]])
    broken = {
        r"slices missing in the series, such as 1\.2\.3\.2": {"1.2/2.dcm": None},
        r"1\.2/2\.dcm.*cannot be decoded": {"1.2/2.dcm": compressed(files["1.2/2.dcm"], pydicom.uid.JPEG2000Lossless)},
        r"1\.2/5\.dcm.*no (readable DICOM|usable header)": {"1.2/5.dcm": files["1.2/5.dcm"][:300]},
        r"1\.2/4\.dcm.*not a readable DICOM": {"1.2/4.dcm": b"nothing"},
        r"pixels of unknown mm": {"1.2/1.dcm": dicom(0, np.zeros((SIDE, SIDE)), 1, spacing=(0.0, 0.7))},
        r"is about series 1\.9, but lies beside series 1\.2": {"1.2/a.xml": xml([], "1.9")},
        r"cannot be parsed": {"1.2/a.xml": files["1.2/a.xml"][:200]},
        r"invalid literal": {"1.2/a.xml": files["1.2/a.xml"].replace(b"<xCoord>72<", b"<xCoord>many<")},
        r"differ in size": {"1.2/1.dcm": dicom(0, np.zeros((90, 90)), 1)},
    }
    for number, (reason, change) in enumerate(broken.items()):
        changed = {name: data for name, data in {**files, **change}.items() if data is not None}
        with pytest.raises(ValueError, match=reason):
            rows_from(tmp_path / str(number), changed)
    for encoding in ("ascii", "utf-16"):
        declared = '<!DOCTYPE x [<!ENTITY a "b">]><LidcReadMessage/>'.encode(encoding)
        with pytest.raises(ValueError, match="document type"):
            parse_annotations(declared)
    with pytest.raises(ValueError, match="IdriReadMessage"):
        parse_annotations(b"<IdriReadMessage/>")


def test_collection_builds_from_the_command_line(tmp_path, capsys):
    source = write_folder(tmp_path / "in", series([[[(2, True, square(80, 80, 8))]]]))
    out = lidc_idri.main([str(source), "--window", "-700", "1000", "--out", str(tmp_path / "out")])
    (row,) = rows_of(out).values()
    assert row["group_id"] == "LIDC-IDRI-0001" and len(row["masks"]) == 4
    assert set(np.unique(row["image"])) == {round((-824 + 700 + 500) / 1000 * 255)}  # 200 stored are -824 HU
    assert "--window -700.0 1000.0" in (out / "README.md").read_text()
    assert "from DICOM series with XML: 1 to read" in capsys.readouterr().out
