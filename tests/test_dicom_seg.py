"""DICOM SEG and NIfTI of findings, read back by highdicom and SimpleITK: the same voxels at the same place."""

import sys
import time
import warnings

import highdicom
import numpy as np
import pydicom
import pytest
import SimpleITK
from series_fixtures import (
    AXIAL,
    OBLIQUE,
    SECRET,
    UPSIDE_DOWN,
    Chest,
    datasets,
    draw_chest,
    write_itk,
    write_multiframe,
    write_series,
)

from medseglatdiff.data.volumes import read_volume
from medseglatdiff.pipeline.dicom_seg import FINDINGS, PLACE, write_finding, write_segmentation
from medseglatdiff.pipeline.finding import FindingResult
from medseglatdiff.pipeline.geometry_outputs import draw_finding, write_nifti
from medseglatdiff.pipeline.measurements import measure_finding
from medseglatdiff.pipeline.volume import nearest_part

SMALL = draw_chest((6, 40, 32), (0.8, 1.2, 2.5), diameter=8, vessels=3)  # pixels that are not square
ONE = Chest(SMALL.values[3:4], SMALL.nodule[3:4], (*SMALL.centre[:2], 0), SMALL.spacing)
OFFSET = (2, 10, 6)  # slice, row, column


def finding_in(volume, slices: int = 3) -> FindingResult:
    """Hypotheses that differ on every slice and overlap, without symmetry: no flip leaves them as they are."""
    rng = np.random.default_rng(0)
    masks = rng.random((3, min(slices, volume.shape[0]), 12, 9)) < 0.4
    masks[:, :, 0, 0] = True
    share = masks.mean(axis=0, dtype=np.float32)
    offset = OFFSET if volume.shape[0] > 1 else (0, *OFFSET[1:])
    spacing = tuple(volume.spacing[::-1].tolist())
    return FindingResult(volume.uid, (9.0, 14.0, 3.0), offset, spacing, masks, share, share, share >= 0.5, 0.5)


def places(volume, values: np.ndarray) -> dict[tuple[float, ...], float]:
    """LPS mm of the voxels that are not 0, with their values."""
    found = np.argwhere(values)
    return {tuple(np.round(volume.point_of(at[::-1]), 2) + 0.0): round(float(values[tuple(at)]), 2) for at in found}


def itk_places(path) -> dict[tuple[float, ...], float]:
    image = SimpleITK.ReadImage(path)
    values = SimpleITK.GetArrayFromImage(image)
    return {
        tuple(np.round(image.TransformIndexToPhysicalPoint(at[::-1].tolist()), 2) + 0.0): round(
            float(values[tuple(at)]), 2
        )
        for at in np.argwhere(values)
    }


def seg_places(path, segment: int) -> dict[tuple[float, ...], float]:
    """By highdicom's own geometry of the volume that the frames of a segment span."""
    written = highdicom.seg.segread(path)
    volume = written.get_volume(segment_numbers=[segment], combine_segments=False, allow_missing_positions=True)
    values = volume.array[..., 0]  # [D, H, W]
    points = np.argwhere(values)
    return {
        tuple(np.round(volume.affine @ [*at, 1], 2)[:3] + 0.0): round(float(values[tuple(at)]), 2) for at in points
    }


def close(found: dict, expected: dict) -> bool:
    """The same places to 0.02 mm, with the same values to the steps in which SEG stores them."""
    if len(found) != len(expected):
        return False
    first, second = (
        np.array([[*place, value] for place, value in sorted(each.items())]) for each in (found, expected)
    )
    distances = np.abs(first[:, None] - second[None]).max(axis=2).min(axis=1)
    return bool((distances < 0.02).all())


SOURCES = {
    "axial": lambda folder: write_series(folder / "a", SMALL),
    "oblique": lambda folder: write_series(folder / "a", SMALL, OBLIQUE),
    "upside down": lambda folder: write_series(folder / "a", SMALL, UPSIDE_DOWN),
    "reversed": lambda folder: write_series(folder / "a", SMALL, AXIAL, reverse=True),
    "oblique and reversed": lambda folder: write_series(folder / "a", SMALL, OBLIQUE, reverse=True),
    "single slice": lambda folder: write_series(folder / "a", ONE, OBLIQUE),
    "frames in disorder": lambda folder: write_multiframe(folder / "a.dcm", SMALL, OBLIQUE, [3, 0, 5, 1, 4, 2]),
}


@pytest.mark.parametrize("source", SOURCES)
def test_seg_and_nifti_land_on_the_same_voxels(source, tmp_path):
    volume = read_volume(SOURCES[source](tmp_path))
    result, out = finding_in(volume), tmp_path / "out"
    out.mkdir()
    write_nifti(out, result, volume)
    write_finding(out, result, volume, model="tiny", finding="nodule", hypotheses=True)
    names = ["confidence.nii.gz", "consensus.nii.gz", "mask-01.nii.gz", "mask-02.nii.gz", "mask-03.nii.gz"]
    assert sorted(path.name for path in out.iterdir()) == [*names, "seg-confidence.dcm", "seg.dcm"]
    maps = {"consensus": result.consensus, "confidence": result.confidence}
    maps |= {f"mask-0{number + 1}": mask for number, mask in enumerate(result.masks)}
    segments = {"consensus": 1, "mask-01": 2, "mask-02": 3, "mask-03": 4}
    for name, values in maps.items():
        expected = places(volume, result.in_volume(values, volume.shape))
        assert close(itk_places(out / f"{name}.nii.gz"), expected), name
        file = out / ("seg-confidence.dcm" if name == "confidence" else "seg.dcm")
        assert close(seg_places(file, segments.get(name, 1)), expected), name


def test_nifti_has_the_volumes_grid_and_types(tmp_path):
    volume = read_volume(write_itk(tmp_path / "scan.nrrd", SMALL, OBLIQUE))
    write_nifti(tmp_path, finding_in(volume), volume)
    source = SimpleITK.ReadImage(tmp_path / "scan.nrrd")
    for name, kind in (("consensus", SimpleITK.sitkUInt8), ("confidence", SimpleITK.sitkFloat32)):
        image = SimpleITK.ReadImage(tmp_path / f"{name}.nii.gz")
        assert image.GetPixelID() == kind and image.GetSize() == source.GetSize()
        for part in ("GetSpacing", "GetOrigin", "GetDirection"):
            np.testing.assert_allclose(getattr(image, part)(), getattr(source, part)(), atol=1e-5)


def test_segments_say_what_they_are_and_refer_to_their_slices(tmp_path):
    folder = write_series(tmp_path / "a", SMALL, reverse=True)
    volume = read_volume(folder)
    write_finding(tmp_path, finding_in(volume), volume, model="lung", finding="nodule", hypotheses=True)
    written = highdicom.seg.segread(tmp_path / "seg.dcm")
    assert written.SegmentationType == "BINARY" and written.SegmentsOverlap == "YES"
    labels = [item.SegmentLabel for item in written.SegmentSequence]
    assert labels == ["Consensus", "Hypothesis 1", "Hypothesis 2", "Hypothesis 3"]
    for item in written.SegmentSequence:
        kind, algorithm = (
            item.SegmentedPropertyTypeCodeSequence[0],
            item.SegmentationAlgorithmIdentificationSequence[0],
        )
        assert (kind.CodeValue, kind.CodingSchemeDesignator) == ("27925004", "SCT")
        assert (item.SegmentAlgorithmType, algorithm.AlgorithmName) == ("AUTOMATIC", "lung")
    looked_at = [source.SOPInstanceUID for source in volume.sources[2:5]]
    references = written.ReferencedSeriesSequence[0]
    assert references.SeriesInstanceUID == volume.uid
    assert {item.ReferencedSOPInstanceUID for item in references.ReferencedInstanceSequence} == set(looked_at)
    confidence = highdicom.seg.segread(tmp_path / "seg-confidence.dcm")
    kinds = confidence.SegmentationType, confidence.SegmentationFractionalType, confidence.MaximumFractionalValue
    assert kinds == ("FRACTIONAL", "PROBABILITY", 255)


def test_without_hypotheses_there_is_one_segment_and_an_empty_finding_is_written(tmp_path):
    volume = read_volume(write_series(tmp_path / "a", SMALL))
    result = finding_in(volume)
    for values in (result.masks, result.consensus, result.confidence):
        values[...] = 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        write_finding(tmp_path, result, volume, model="lung")
    for name in ("seg.dcm", "seg-confidence.dcm"):
        written = highdicom.seg.segread(tmp_path / name)
        assert written.number_of_segments == 1 and not written.pixel_array.any()
        code = written.SegmentSequence[0].SegmentedPropertyTypeCodeSequence[0]
        assert code.CodeMeaning == "Lesion"


@pytest.mark.parametrize("kind", ("series", "multiframe"))
def test_only_what_the_standard_demands_is_copied(kind, tmp_path):
    make = {
        "series": lambda: write_series(tmp_path / "a", SMALL),
        "multiframe": lambda: write_multiframe(tmp_path / "a.dcm", SMALL),
    }
    volume = read_volume(make[kind]())
    result = finding_in(volume)
    write_finding(tmp_path, result, volume, model="lung")
    for name in ("seg.dcm", "seg-confidence.dcm"):
        assert SECRET.encode() not in (tmp_path / name).read_bytes()
        written = pydicom.dcmread(tmp_path / name)
        for keyword in ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyID"):
            assert written[keyword].value == volume.sources[0][keyword].value
        for keyword in ("StudyInstanceUID", "FrameOfReferenceUID"):
            assert written[keyword].value == volume.sources[0][keyword].value
        assert not written.AccessionNumber and not written.ReferringPhysicianName  # type 2: there, but empty
        assert "InstitutionName" not in written and "PatientComments" not in written
    write_finding(tmp_path, result, volume, model="lung", keep_all=True)
    written = pydicom.dcmread(tmp_path / "seg.dcm")
    assert written.PatientComments == written.StudyDescription == written.AccessionNumber == SECRET


NEEDED = ("SOPInstanceUID", "StudyInstanceUID", "FrameOfReferenceUID", "Modality", "SliceThickness")
EMPTY = ("PatientName", "PatientID", "PatientSex", "StudyDate", "StudyTime", "StudyID")


@pytest.mark.parametrize("keyword", NEEDED)
def test_a_missing_attribute_is_named_and_nothing_is_written(keyword, tmp_path):
    sources = datasets(write_series(tmp_path / "a", SMALL))
    delattr(sources[1], keyword)
    with pytest.raises(ValueError, match=f"must have {keyword} for a DICOM Segmentation .* image 2"):
        write_segmentation(tmp_path / "seg.dcm", sources, model="lung", masks=np.ones((1, 6, 40, 32), bool))
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_missing_attribute_of_frames_is_named(tmp_path):
    source = pydicom.dcmread(write_multiframe(tmp_path / "a.dcm", SMALL))
    del source.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].SliceThickness
    with pytest.raises(ValueError, match="must have SliceThickness for a DICOM Segmentation"):
        write_segmentation(tmp_path / "seg.dcm", [source], model="lung", masks=np.ones((1, 6, 40, 32), bool))


def test_what_does_not_read_back_gets_no_name(tmp_path):
    """Frames are found by their source's UID, which two sources share here."""
    sources = datasets(write_series(tmp_path / "a", SMALL))
    sources[1].SOPInstanceUID = sources[0].SOPInstanceUID
    masks = np.random.default_rng(0).random((1, 6, 40, 32)) < 0.5
    with pytest.raises(ValueError, match="DICOM Segmentation that was written .* read back"):
        write_segmentation(tmp_path / "seg.dcm", sources, model="lung", masks=masks)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("keyword", EMPTY)
def test_attributes_that_may_be_empty_may_be_missing(keyword, tmp_path):
    sources = datasets(write_series(tmp_path / "a", SMALL))
    for source in sources:
        delattr(source, keyword)
    write_segmentation(tmp_path / "seg.dcm", sources, model="lung", masks=np.ones((1, 6, 40, 32), bool))
    assert highdicom.seg.segread(tmp_path / "seg.dcm").pixel_array.all()


def test_a_single_image_without_a_place_in_the_patient(tmp_path):
    """A radiograph or a photograph: no frame of reference, as the standard allows there."""
    source = datasets(write_series(tmp_path / "a", ONE))[0]
    for keyword in PLACE:
        delattr(source, keyword)
    source.SOPClassUID = "1.2.840.10008.5.1.4.1.1.1"
    masks = np.random.default_rng(1).random((2, 1, 40, 32)) < 0.5
    write_segmentation(tmp_path / "seg.dcm", [source], model="m", masks=masks, finding="skin lesion")
    written = highdicom.seg.segread(tmp_path / "seg.dcm")
    assert "FrameOfReferenceUID" not in written
    np.testing.assert_array_equal(written.pixel_array, masks[:, 0])


@pytest.mark.parametrize("finding", FINDINGS)
def test_codes_are_those_of_the_dictionary(finding):
    """Where pydicom's copy of PS3.16 knows the concept, code and meaning agree with it."""
    from pydicom.sr.codedict import codes

    code, meaning = FINDINGS[finding]
    known = getattr(
        codes.SCT, {"skin lesion": "SkinLesion", "nodule": "Nodule", None: "Lesion"}.get(finding, ""), None
    )
    assert code.isdigit() and (known is None or (known.value, known.meaning) == (code, meaning))


@pytest.mark.parametrize(
    ("options", "message"),
    (
        ({"finding": "tumour"}, "`finding` must be one of None, 'nodule', 'polyp', 'skin lesion', but was 'tumour'"),
        ({"confidence": np.zeros((6, 40, 32))}, "`masks` or `confidence` must be given, and not both"),
        ({"masks": None}, "`masks` or `confidence` must be given"),
        ({"masks": np.ones((1, 6, 40, 31), bool)}, "cannot be referred to|does not read back|cannot be read back"),
    ),
)
def test_wrong_arguments(options, message, tmp_path):
    sources = datasets(write_series(tmp_path / "a", SMALL))
    settings = {"model": "lung", "masks": np.ones((1, 6, 40, 32), bool), **options}
    with pytest.raises(ValueError, match=message):
        write_segmentation(tmp_path / "seg.dcm", sources, **settings)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_the_same_finding_gives_the_same_bytes(tmp_path):
    """In a later run, at another time; no two objects share a UID."""
    volume = read_volume(write_series(tmp_path / "a", SMALL))
    contents = []
    for run in ("first", "second"):
        (tmp_path / run).mkdir()
        write_nifti(tmp_path / run, finding_in(volume), volume)
        write_finding(tmp_path / run, finding_in(volume), volume, model="lung", hypotheses=True)
        contents.append({path.name: path.read_bytes() for path in (tmp_path / run).iterdir()})
        time.sleep(0.01)  # times are written to the microsecond
    assert contents[0] == contents[1]
    objects = [pydicom.dcmread(tmp_path / "first" / name) for name in ("seg.dcm", "seg-confidence.dcm")]
    assert len({uid for item in objects for uid in (item.SOPInstanceUID, item.SeriesInstanceUID)}) == 4
    assert objects[0].ContentDate == "20240101" and objects[0].file_meta.MediaStorageSOPInstanceUID
    other = finding_in(volume)
    other.consensus[0, 0, 0] ^= True
    write_finding(tmp_path, other, volume, model="lung", hypotheses=True)
    assert pydicom.dcmread(tmp_path / "seg.dcm").SOPInstanceUID != objects[0].SOPInstanceUID


def test_what_is_not_dicom_has_no_segmentation(tmp_path):
    volume = read_volume(write_itk(tmp_path / "scan.nii.gz", SMALL))
    with pytest.raises(ValueError, match=r"`dicom-seg` must have a DICOM source .*scan\.nii\.gz is none: use `nifti`"):
        write_finding(tmp_path, finding_in(volume), volume, model="lung")


@pytest.mark.parametrize("package", ("highdicom", "SimpleITK", "skimage.measure"))
def test_a_missing_package_names_the_extra(package, tmp_path, monkeypatch):
    write_itk(tmp_path / "scan.mha", SMALL)
    volume = read_volume(write_series(tmp_path / "a", SMALL))
    result = finding_in(volume)
    monkeypatch.setitem(sys.modules, package, None)
    uses = {
        "highdicom": [lambda: write_finding(tmp_path, result, volume, model="lung")],
        "SimpleITK": [lambda: read_volume(tmp_path / "scan.mha"), lambda: write_nifti(tmp_path, result, volume)],
        "skimage.measure": [lambda: measure_finding(result), lambda: nearest_part(result.consensus[0], (1, 1))],
    }
    for use in uses[package]:
        with pytest.raises(ImportError, match=r"medseglatdiff\[volumes\]"):
            use()


def test_the_picture_shows_the_main_slice(tmp_path):
    volume = read_volume(write_series(tmp_path / "a", SMALL))
    picture = draw_finding(finding_in(volume), volume, "scan", "finding 1")
    assert picture.mode == "RGB" and picture.width > 1000
