"""Which attribute gives the distance between pixels, and what a file says that cannot be."""

import numpy as np
import pytest

pydicom = pytest.importorskip("pydicom", reason="needs the extra `dicom`")
from dicom_fixtures import STORED, item, make, written  # noqa: E402
from pydicom.uid import ComputedRadiographyImageStorage, UltrasoundImageStorage  # noqa: E402

from medseglatdiff.data.spacing import pixel_spacing  # noqa: E402

IMAGER, FACTOR = dict(ImagerPixelSpacing=[0.2, 0.3]), dict(EstimatedRadiographicMagnificationFactor=1.25)


def region(x=0.05, y=0.04, units=3, kind=1):
    (one,) = item(RegionSpatialFormat=kind, PhysicalUnitsXDirection=units, PhysicalUnitsYDirection=units)
    one.PhysicalDeltaX, one.PhysicalDeltaY = x, y
    return one


def ultrasound(*regions, **more):
    return dict(SequenceOfUltrasoundRegions=pydicom.Sequence(regions), sop_class=UltrasoundImageStorage, **more)


COUNTS = {
    "PixelSpacing": (dict(PixelSpacing=[0.5, 0.7]), (0.5, 0.7)),
    "missing": ({}, None),
    "empty": (dict(PixelSpacing=""), None),
    "0 and 0": (dict(PixelSpacing=[0, 0]), None),
    "0 and a number": (dict(PixelSpacing=[0, 0.5]), None),
    "a detector's, magnified by an unknown factor": (IMAGER, None),
    "a detector's and its factor": (dict(**IMAGER, **FACTOR), (0.16, 0.24)),
    "a factor of 0": (dict(**IMAGER, EstimatedRadiographicMagnificationFactor=0), None),
    "a factor alone": (FACTOR, None),
    "calibrated": (dict(PixelSpacing=[0.15, 0.2], **IMAGER), (0.15, 0.2)),
    "a copy of the detector's": (dict(PixelSpacing=[0.2, 0.3], **IMAGER), None),
    "a copy and the factor": (dict(PixelSpacing=[0.2, 0.3], **IMAGER, **FACTOR), (0.16, 0.24)),
    "a copy that was calibrated": (
        dict(PixelSpacing=[0.2, 0.3], PixelSpacingCalibrationType="FIDUCIAL", **IMAGER),
        (0.2, 0.3),
    ),
    "on a film": (dict(NominalScannedPixelSpacing=[0.1, 0.1]), None),
    "a region": (ultrasound(region()), (0.4, 0.5)),
    "two regions that agree": (ultrasound(region(), region()), (0.4, 0.5)),
    "two regions that differ": (ultrasound(region(), region(x=0.1)), None),
    "counted upwards": (ultrasound(region(y=-0.04)), (0.4, 0.5)),
    "a spectrum beside it": (ultrasound(region(), region(x=9, kind=3)), (0.4, 0.5)),
    "a region in seconds": (ultrasound(region(units=4)), None),
    "a region without width": (ultrasound(region(x=0)), None),
    "no region": (ultrasound(), None),
    "a region and PixelSpacing": (ultrasound(region(), PixelSpacing=[0.4, 0.5]), (0.4, 0.5)),
    "shared by all frames": (
        dict(SharedFunctionalGroupsSequence=item(PixelMeasuresSequence=item(PixelSpacing=[0.6, 0.8]))),
        (0.6, 0.8),
    ),
    "of the frame": (
        dict(
            SharedFunctionalGroupsSequence=item(PixelMeasuresSequence=item(PixelSpacing=[9, 9])),
            PerFrameFunctionalGroupsSequence=item(PixelMeasuresSequence=item(PixelSpacing=[0.6, 0.8])),
        ),
        (0.6, 0.8),
    ),
}


@pytest.mark.parametrize("case", COUNTS)
def test_what_counts(case):
    attributes, expected = COUNTS[case]
    found = pixel_spacing(written(make(**attributes)))
    assert found == (expected if expected is None else pytest.approx(expected))


CONTRADICTS = {
    "one value": (
        dict(PixelSpacing=0.7),
        "`PixelSpacing` must be two positive distances in mm, but that of it is 0.7",
    ),
    "three values": (dict(PixelSpacing=[1, 2, 3]), "`PixelSpacing`.* is 1, 2, 3"),
    "negative": (dict(PixelSpacing=[-1, 1]), "`PixelSpacing`.* is -1, 1"),
    "both negative": (dict(PixelSpacing=[-1, -1]), "`PixelSpacing`.* is -1, -1"),
    "a negative detector's": (dict(ImagerPixelSpacing=[-1, 1], **FACTOR), "`ImagerPixelSpacing`.* is -1, 1"),
    "a factor below 1": (dict(**IMAGER, EstimatedRadiographicMagnificationFactor=0.5), "at least 1"),
    "regions of another scale": (ultrasound(region(), PixelSpacing=[1, 1]), "must agree with the ultrasound regions"),
    "in a group": (
        dict(SharedFunctionalGroupsSequence=item(PixelMeasuresSequence=item(PixelSpacing=[0.6]))),
        "`PixelSpacing`.* is 0.6",
    ),
}


@pytest.mark.parametrize("case", CONTRADICTS)
def test_what_contradicts_itself_is_refused(case):
    attributes, message = CONTRADICTS[case]
    with pytest.raises(ValueError, match=message):
        pixel_spacing(
            written(make(sop_class=attributes.pop("sop_class", ComputedRadiographyImageStorage), **attributes))
        )


@pytest.mark.parametrize(
    "text", [b"-1\\1 ", b"nan\\1 ", b"inf\\1 ", b"1\\-inf ", b"1\\2\\3 ", b"0\\-1", b"0\\nan", b"a\\b "]
)
def test_text_that_is_no_distance_is_refused(text):
    dataset = make()
    tag = pydicom.tag.Tag("PixelSpacing")
    dataset._dict[tag] = pydicom.dataelem.RawDataElement(tag, "DS", len(text), text, 0, False, True)
    with pytest.raises(ValueError, match="`PixelSpacing` must"):
        pixel_spacing(dataset)


def test_frames_and_sources(tmp_path):
    frames = pydicom.Sequence([item(PixelMeasuresSequence=item(PixelSpacing=[n, n]))[0] for n in (1, 2)])
    dataset = make(np.stack([STORED] * 2), PerFrameFunctionalGroupsSequence=frames)
    (tmp_path / "two").write_bytes(written(dataset).getvalue())
    for source in (dataset, tmp_path / "two", str(tmp_path / "two"), written(dataset)):
        assert [pixel_spacing(source, frame) for frame in (0, 1)] == [(1, 1), (2, 2)]
    assert pixel_spacing(STORED) is None and pixel_spacing(tmp_path / "image.png") is None
