"""Every attribute behind a DICOM image's values, over VR, sign, missing, empty, several values, enhanced or not."""

import numpy as np
import pytest

pydicom = pytest.importorskip("pydicom", reason="needs the extra `dicom`")
from dicom_fixtures import STORED, item, make, written  # noqa: E402
from pydicom.uid import (  # noqa: E402
    EnhancedCTImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from medseglatdiff.data.dicom import read_dicom  # noqa: E402
from medseglatdiff.data.dicom_values import look_up  # noqa: E402

SYNTAXES = {"explicit": ExplicitVRLittleEndian, "implicit": ImplicitVRLittleEndian, "big": ExplicitVRBigEndian}
HU = np.array([[-2000, -800, -400, -2000], [0, 300, 900, 1200]], np.int16)  # -2000 is padding
RAMP = np.array([[-2000, -800, -400, -2000], [0, 300, 900, 1200]]).clip(-800) / 2000 + 0.4


def shown(stored=STORED, frame=None, stretch=False, **options) -> np.ndarray:
    return read_dicom(written(make(stored, **options)), stretch, frame)


def window_by_the_standard(values, center, width):
    """The pseudo-code of PS3.3 C.11.2.1.2.1, value by value, for an output from 0 to 1."""

    def one(x):
        if x <= center - 0.5 - (width - 1) / 2:
            return 0.0
        if x > center - 0.5 + (width - 1) / 2:
            return 1.0
        return (x - (center - 0.5)) / (width - 1) + 0.5

    return np.vectorize(one)(values.astype(float))


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


WINDOW = dict(WindowCenter=1000, WindowWidth=2001)
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


def table(values, first=0, bits=16, **more):
    sequence = item(LUTDescriptor=[len(values) % 2**16, first, bits], **more)
    sequence[0].add_new("LUTData", "US", list(values))
    return sequence


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_voi_tables_count_before_windows(syntax):
    """Entries for 0, 1000, 2000 and 3000 stored; beyond the table its ends."""
    entries = np.linspace(0, 1023, 3001).round().astype(int) ** 2 // 1023
    sequence = dict(VOILUTSequence=table(entries.tolist(), bits=10), **WINDOW)
    found = shown(syntax=SYNTAXES[syntax], **sequence)
    np.testing.assert_allclose(found, entries[STORED.clip(0, 3000)] / 1023, atol=1e-6)
    np.testing.assert_allclose(shown(stretch=True, **sequence), STORED / 3500, atol=1e-6)


@pytest.mark.parametrize("syntax", SYNTAXES)
@pytest.mark.parametrize("first", [-1000, 64536])
def test_a_voi_table_may_begin_below_zero(first, syntax):
    """In Hounsfield units, its first value written as SS or, with the same bits, as US."""
    sequence, entries = table(list(range(0, 2001)), bits=11), np.arange(2001)
    vr = "SS" if first < 0 else "US"
    if vr == "US":
        sequence[0].LUTDescriptor = [2001, first, 11]
    else:
        sequence[0].add_new("LUTDescriptor", "SS", [2001, first, 11])
    found = shown(syntax=SYNTAXES[syntax], RescaleSlope=1, RescaleIntercept=-1024, VOILUTSequence=sequence)
    np.testing.assert_allclose(found, entries[(STORED.astype(int) - 24).clip(0, 2000)] / 2047, atol=1e-6)


def test_an_empty_voi_sequence_leaves_the_window():
    found = shown(VOILUTSequence=pydicom.Sequence([]), **WINDOW)
    np.testing.assert_allclose(found, window_by_the_standard(STORED, 1000, 2001), atol=1e-6)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("syntax", SYNTAXES)
def test_tables_of_eight_bits_for_many_values(syntax, packed):
    """As US, or as OW with two entries in a word; pydicom's own index would overflow at 256."""
    entries = np.linspace(255, 0, 3502).round().astype(np.uint8)
    sequence = table(entries.tolist(), bits=8)
    if packed and SYNTAXES[syntax] != ExplicitVRBigEndian:
        sequence[0].add_new("LUTData", "OW", entries.tobytes())
    found = shown(syntax=SYNTAXES[syntax], VOILUTSequence=sequence)
    np.testing.assert_allclose(found, entries[STORED] / 255, atol=1e-6)


def test_modality_tables_and_the_window_after_them():
    entries = [min(4 * value, 60_000) for value in range(3501)]
    modality = dict(ModalityLUTSequence=table(entries, ModalityLUTType="US"))
    found = shown(**modality, WindowCenter=5000, WindowWidth=4000)
    np.testing.assert_allclose(found, window_by_the_standard(np.array(entries)[STORED], 5000, 4000), atol=1e-6)
    assert np.allclose(shown(**modality), STORED / 3500)


def test_a_table_of_signed_values_over_the_whole_range():
    """From -32768 on: the difference to the first value needs more than the pixels' 16 bits."""
    stored = np.array([[-32768, -1], [0, 32767]], np.int16)
    (entry,) = table([])
    entry.LUTDescriptor = [0, 32768, 16]
    entry["LUTData"].value = list(range(65536))
    values, bits = look_up(stored, entry, True, "it")
    assert bits == 16 and values.tolist() == [[0, 32767], [32768, 65535]]


INVERSION = {  # photometric interpretation, presentation shape -> inverted
    ("MONOCHROME2", None): False,
    ("MONOCHROME2", "IDENTITY"): False,
    ("MONOCHROME2", "INVERSE"): True,
    ("MONOCHROME1", None): True,
    ("MONOCHROME1", "INVERSE"): True,  # as DX has it: once, not twice
    ("MONOCHROME1", "IDENTITY"): True,
}


@pytest.mark.parametrize("case", INVERSION)
@pytest.mark.parametrize("stretch", [False, True])
def test_more_is_brighter(case, stretch):
    attributes = dict(PhotometricInterpretation=case[0], WindowCenter=1750.5, WindowWidth=3501)
    if case[1]:
        attributes["PresentationLUTShape"] = case[1]
    expected = STORED / 3500
    np.testing.assert_allclose(shown(stretch=stretch, **attributes), 1 - expected if INVERSION[case] else expected, atol=1e-6)


BITS = {  # stored type, BitsStored, the bits in the file -> the values they mean
    "12 of 16, unsigned": (np.array([[0, 4095, 7]], np.uint16), 12, [0, 4095, 7]),
    "12 of 16, overlay in the high bits": (np.array([[0xF000, 0x1FFF, 7]], np.uint16), 12, [0, 4095, 7]),
    "12 of 16, signed": (np.array([[0x0FFF, 0x0800, 7]], np.int16), 12, [-1, -2048, 7]),
    "8, signed": (np.array([[-128, 127, 7]], np.int8), 8, [-128, 127, 7]),
    "32, unsigned": (np.array([[0, 2**32 - 1, 2**31]], np.uint32), 32, [0, 2**32 - 1, 2**31]),
}


@pytest.mark.parametrize("case", BITS)
def test_bits_and_signs(case):
    stored, bits, values = BITS[case]
    values = np.array([values], float)
    found = shown(stored, BitsStored=bits, HighBit=bits - 1)
    np.testing.assert_allclose(found, (values - values.min()) / np.ptp(values), atol=1e-6)


def test_frames_are_chosen_with_what_is_said_of_them():
    """Per-frame groups count, then the shared ones; what only one frame says holds for it alone."""
    stored = np.stack([STORED, STORED // 2, STORED // 5])
    frames = pydicom.Sequence([pydicom.Dataset() for _ in range(3)])
    frames[1].FrameVOILUTSequence = item(WindowCenter=500, WindowWidth=700)
    frames[2].PixelValueTransformationSequence = item(RescaleSlope=10, RescaleIntercept=-50)
    shared = item(FrameVOILUTSequence=item(WindowCenter=1000, WindowWidth=900))
    groups = dict(SharedFunctionalGroupsSequence=shared, PerFrameFunctionalGroupsSequence=frames)
    expected = [
        window_by_the_standard(stored[0], 1000, 900),
        window_by_the_standard(stored[1], 500, 700),
        window_by_the_standard(10.0 * stored[2] - 50, 1000, 900),
    ]
    for frame, picture in enumerate(expected):
        np.testing.assert_allclose(shown(stored, frame, **groups), picture, atol=1e-6)
    for frame in (-1, 3):
        with pytest.raises(ValueError, match=f"`frame` must be from 0 to 2 for it, but was {frame}"):
            shown(stored, frame, **groups)
    with pytest.raises(ValueError, match="of a single frame, but it has 3: choose one by `frame`, from 0 to 2"):
        shown(stored, **groups)


COLOURS = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)


def ybr(rgb: np.ndarray) -> np.ndarray:
    """PS3.3 C.7.6.3.1.2, YBR_FULL."""
    matrix = np.array([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]])
    return (rgb @ matrix.T + [0, 128, 128]).round().clip(0, 255).astype(np.uint8)


def test_colour():
    np.testing.assert_allclose(shown(COLOURS), COLOURS / 255, atol=1e-6)
    planes = make(COLOURS, PlanarConfiguration=1, PixelData=np.moveaxis(COLOURS, -1, 0).tobytes())
    np.testing.assert_allclose(read_dicom(written(planes)), COLOURS / 255, atol=1e-6)
    full = shown(ybr(COLOURS), PhotometricInterpretation="YBR_FULL")
    assert np.abs(full - COLOURS / 255).max() < 3 / 255
    smooth = np.repeat(COLOURS[:, ::2], 2, axis=1)  # pairs of pixels share their colour
    halves = ybr(smooth).reshape(6, 4, 2, 3)
    packed = np.concatenate([halves[..., 0], halves[:, :, 0, 1:]], axis=-1)  # Y1 Y2 Cb Cr
    half = shown(COLOURS, PhotometricInterpretation="YBR_FULL_422", PixelData=packed.tobytes())
    assert np.abs(half - smooth / 255).max() < 3 / 255
    deep = COLOURS.astype(np.uint16) * 16 + 15  # of 12 bits
    np.testing.assert_allclose(shown(deep, BitsStored=12, HighBit=11), deep / 4095, atol=1e-6)


@pytest.mark.parametrize("bits", [8, 16])
def test_palettes(bits):
    indices, palette = np.arange(12, dtype=np.uint8).reshape(3, 4), np.random.default_rng(1).integers(0, 2**bits, (3, 12))
    attributes = {}
    for name, channel in zip(("Red", "Green", "Blue"), palette, strict=True):
        attributes[f"{name}PaletteColorLookupTableDescriptor"] = [12, 0, bits]
        attributes[f"{name}PaletteColorLookupTableData"] = channel.astype("<u2" if bits == 16 else np.uint8).tobytes()
    found = shown(indices, PhotometricInterpretation="PALETTE COLOR", **attributes)
    np.testing.assert_allclose(found, np.moveaxis(palette[:, indices], 0, -1) / (2**bits - 1), atol=1e-6)


def test_signed_colour_is_refused():
    with pytest.raises(ValueError, match="unsigned and of shape"):
        shown(COLOURS.view(np.int8))
