"""DICOM SEG: what it says of itself and its sources, what it does not copy, and what it needs."""

import warnings

import highdicom
import numpy as np
import pydicom
import pytest
from series_fixtures import SECRET, Chest, datasets, draw_chest, finding_in, write_itk, write_multiframe, write_series

from medseglatdiff.data.volumes import read_volume
from medseglatdiff.pipeline.dicom_seg import FINDINGS, PLACE, write_finding, write_segmentation

SMALL = draw_chest((6, 40, 32), (0.8, 1.2, 2.5), diameter=8, vessels=3)  # pixels that are not square
ONE = Chest(SMALL.values[3:4], SMALL.nodule[3:4], (*SMALL.centre[:2], 0), SMALL.spacing)


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


def test_what_is_not_dicom_has_no_segmentation(tmp_path):
    volume = read_volume(write_itk(tmp_path / "scan.nii.gz", SMALL))
    with pytest.raises(ValueError, match=r"`dicom-seg` must have a DICOM source .*scan\.nii\.gz is none: use `nifti`"):
        write_finding(tmp_path, finding_in(volume), volume, model="lung")
