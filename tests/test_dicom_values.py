"""Every attribute behind a DICOM image's values, over VR, sign, missing, empty, several values, enhanced or not."""

import numpy as np
import pytest

pydicom = pytest.importorskip("pydicom", reason="needs the extra `dicom`")
from dicom_fixtures import STORED, SYNTAXES, WINDOW, item, make, shown, window_by_the_standard, written  # noqa: E402
from pydicom.uid import EnhancedCTImageStorage  # noqa: E402

from medseglatdiff.data.dicom import read_dicom  # noqa: E402

HU = np.array([[-2000, -800, -400, -2000], [0, 300, 900, 1200]], np.int16)  # -2000 is padding
RAMP = np.array([[-2000, -800, -400, -2000], [0, 300, 900, 1200]]).clip(-800) / 2000 + 0.4


PADDING = {  # pixels, padding as (keyword, VR, value), whether it is recognised
    "signed, SS": (HU, [("PixelPaddingValue", "SS", -2000)], True),
    "signed, US as GE writes it": (HU, [("PixelPaddingValue", "US", 63536)], True),
    "unsigned, US": (HU.view(np.uint16), [("PixelPaddingValue", "US", 63536)], True),
    "unsigned, SS": (HU.view(np.uint16), [("PixelPaddingValue", "SS", -2000)], True),
    "missing": (HU, [], False),
    "empty": (HU, [("PixelPaddingValue", "US", None)], False),
    "another value": (HU, [("PixelPaddingValue", "SS", -1999)], False),
    "a value that no pixel can have": (HU, [("PixelPaddingValue", "SS", -32768)], False),
    "range, SS": (HU, [("PixelPaddingValue", "SS", -2048), ("PixelPaddingRangeLimit", "SS", -1500)], True),
    "range, US": (HU, [("PixelPaddingValue", "US", 63488), ("PixelPaddingRangeLimit", "US", 64036)], True),
    "range, both": (HU, [("PixelPaddingValue", "US", 63488), ("PixelPaddingRangeLimit", "SS", -1500)], True),
    "range, backwards": (HU, [("PixelPaddingValue", "SS", -1500), ("PixelPaddingRangeLimit", "US", 63488)], True),
    "range limit is empty": (HU, [("PixelPaddingValue", "SS", -2000), ("PixelPaddingRangeLimit", "SS", None)], True),
}


@pytest.mark.parametrize("syntax", SYNTAXES)
@pytest.mark.parametrize("case", PADDING)
def test_padding_takes_the_darkest_whatever_its_representation(case, syntax):
    stored, raw, recognised = PADDING[case]
    found = shown(stored, syntax=SYNTAXES[syntax], raw=raw)
    if recognised and stored.dtype.kind == "i":
        expected = RAMP
    elif recognised:  # unsigned: the negative values are the greatest
        values = stored.astype(float)
        values[HU == -2000] = 0
        expected = values / values.max()
    else:
        expected = (stored - float(stored.min())) / (float(stored.max()) - float(stored.min()))
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_padding_of_several_values_is_refused():
    with pytest.raises(ValueError, match="`PixelPaddingValue` must be one number, but it has 2"):
        shown(HU, raw=[("PixelPaddingValue", "SS", [-2000, 5])])


def test_all_padding_is_no_picture_of_noise():
    assert not shown(np.full((2, 2), -2000, np.int16), raw=[("PixelPaddingValue", "US", 63536)]).any()


RESCALE = {  # attributes -> the values that the window is applied to
    "both": (dict(RescaleSlope=2, RescaleIntercept=-1024), lambda x: 2 * x - 1024),
    "a slope alone": (dict(RescaleSlope=0.5), lambda x: 0.5 * x),
    "an intercept alone": (dict(RescaleIntercept=300), lambda x: x + 300),
    "empty": (dict(RescaleSlope="", RescaleIntercept=""), lambda x: x),
    "missing": ({}, lambda x: x),
    "negative": (dict(RescaleSlope=-1, RescaleIntercept=3000), lambda x: 3000 - x),
    "as text": (dict(RescaleSlope="1.5E0", RescaleIntercept="-10.25"), lambda x: 1.5 * x - 10.25),
}


@pytest.mark.parametrize("enhanced", [False, True])
@pytest.mark.parametrize("case", RESCALE)
def test_rescaling(case, enhanced):
    attributes, formula = RESCALE[case]
    if enhanced:
        group = item(PixelValueTransformationSequence=item(**attributes), FrameVOILUTSequence=item(**WINDOW))
        found = shown(sop_class=EnhancedCTImageStorage, SharedFunctionalGroupsSequence=group)
    else:
        found = shown(**attributes, **WINDOW)
    np.testing.assert_allclose(found, window_by_the_standard(formula(STORED.astype(float)), 1000, 2001), atol=1e-6)


WINDOWS = {  # attributes -> the picture
    "single": (dict(WindowCenter=1000, WindowWidth=800), lambda x: window_by_the_standard(x, 1000, 800)),
    "several": (dict(WindowCenter=[1000, 9], WindowWidth=[800, 7]), lambda x: window_by_the_standard(x, 1000, 800)),
    "more centers than widths": (
        dict(WindowCenter=[1000, 9], WindowWidth=800),
        lambda x: window_by_the_standard(x, 1000, 800),
    ),
    "of one value": (dict(WindowCenter=1000, WindowWidth=1), lambda x: (x > 999.5).astype(float)),
    "empty": (dict(WindowCenter="", WindowWidth=""), lambda x: x / 3500),
    "missing": ({}, lambda x: x / 3500),
    "linear by name": (
        dict(WindowCenter=1000, WindowWidth=800, VOILUTFunction="LINEAR"),
        lambda x: window_by_the_standard(x, 1000, 800),
    ),
    "an empty function": (
        dict(WindowCenter=1000, WindowWidth=800, VOILUTFunction=""),
        lambda x: window_by_the_standard(x, 1000, 800),
    ),
    "exact": (
        dict(WindowCenter=1000, WindowWidth=800, VOILUTFunction="LINEAR_EXACT"),
        lambda x: ((x - 1000) / 800 + 0.5).clip(0, 1),
    ),
    "exact, narrow": (
        dict(WindowCenter=1000, WindowWidth=0.5, VOILUTFunction="LINEAR_EXACT"),
        lambda x: ((x - 1000) / 0.5 + 0.5).clip(0, 1),
    ),
    "sigmoid": (
        dict(WindowCenter=1000, WindowWidth=800, VOILUTFunction="SIGMOID"),
        lambda x: 1 / (1 + np.exp(-4 * (x - 1000) / 800)),
    ),
    "sigmoid, steep": (
        dict(WindowCenter=1000, WindowWidth=0.01, VOILUTFunction="SIGMOID"),
        lambda x: (x > 1000) + (x == 1000) / 2,
    ),
}


@pytest.mark.parametrize("enhanced", [False, True])
@pytest.mark.parametrize("case", WINDOWS)
def test_windows(case, enhanced):
    attributes, formula = WINDOWS[case]
    if enhanced:
        attributes = dict(PerFrameFunctionalGroupsSequence=item(FrameVOILUTSequence=item(**attributes)))
    np.testing.assert_allclose(shown(**attributes), formula(STORED.astype(float)), atol=1e-6)
    np.testing.assert_allclose(shown(stretch=True, **attributes), STORED / 3500, atol=1e-6)


BAD_ATTRIBUTES = {
    "no width": (dict(WindowCenter=40, WindowWidth=0), "window of positive width, above 0, but that of it is 0"),
    "negative width": (dict(WindowCenter=40, WindowWidth=-5), "window of positive width.*-5"),
    "linear below 1": (dict(WindowCenter=40, WindowWidth=0.5), "of at least 1 .its function is LINEAR.*0.5"),
    "center without width": (dict(WindowCenter=40), "window of positive width"),
    "width without center": (dict(WindowWidth=40), "a window with a center"),
    "unknown function": (dict(WindowCenter=4, WindowWidth=4, VOILUTFunction="CUBIC"), "`VOILUTFunction`.*CUBIC"),
    "slope of 0": (dict(RescaleSlope=0, RescaleIntercept=1), "`RescaleSlope` must not be 0"),
    "several slopes": (dict(RescaleSlope=[1, 2], RescaleIntercept=1), "`RescaleSlope` must be one number.*2"),
    "high bit": (dict(BitsStored=12, HighBit=15), "`HighBit` must be BitsStored - 1, but it has 15 and 12"),
    "table without entries": (dict(VOILUTSequence=item(LUTDescriptor=[9, 0, 8])), "`LUTData` must hold 9 entries"),
    "short table": (
        dict(ModalityLUTSequence=item(LUTDescriptor=[9, 0, 16], LUTData=b"\1\0\2\0", ModalityLUTType="US")),
        "`LUTData` must hold 9 entries, but that of it holds 2",
    ),
    "table of 40 bits": (
        dict(VOILUTSequence=item(LUTDescriptor=[2, 0, 40], LUTData=b"\1\0\2\0")),
        "`LUTDescriptor` must be entries, first value and bits",
    ),
}


@pytest.mark.parametrize("case", BAD_ATTRIBUTES)
def test_attributes_that_contradict_are_refused(case):
    attributes, message = BAD_ATTRIBUTES[case]
    with pytest.raises(ValueError, match=message):
        shown(**attributes)


@pytest.mark.parametrize("keyword", ["WindowCenter", "WindowWidth", "RescaleSlope", "RescaleIntercept"])
@pytest.mark.parametrize("text", ["nan", "inf", "-inf", "many"])
def test_numbers_that_are_none_are_refused(keyword, text):
    data = written(make(WindowCenter=1, WindowWidth=1, RescaleSlope=1, RescaleIntercept=1)).getvalue()
    tag = pydicom.tag.Tag(keyword)
    start = tag.group.to_bytes(2, "little") + tag.element.to_bytes(2, "little") + b"DS"
    at, padded = data.index(start), text.encode() + b" " * (len(text) % 2)
    old = int.from_bytes(data[at + 6 : at + 8], "little")
    changed = data[: at + 6] + len(padded).to_bytes(2, "little") + padded + data[at + 8 + old :]
    with pytest.raises(ValueError, match=f"`({keyword}|image)` must"):
        read_dicom(pydicom.filebase.DicomBytesIO(changed))
