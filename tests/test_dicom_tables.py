"""DICOM tables of values, inversion, bits, frames and colour, by formulas that do not go through the code."""

import numpy as np
import pytest

pydicom = pytest.importorskip("pydicom", reason="needs the extra `dicom`")
from dicom_fixtures import STORED, SYNTAXES, WINDOW, item, make, shown, window_by_the_standard, written  # noqa: E402
from pydicom.uid import ExplicitVRBigEndian  # noqa: E402

from medseglatdiff.data.dicom import read_dicom  # noqa: E402
from medseglatdiff.data.dicom_values import look_up  # noqa: E402


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
    np.testing.assert_allclose(
        shown(stretch=stretch, **attributes), 1 - expected if INVERSION[case] else expected, atol=1e-6
    )


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
    with pytest.raises(ValueError, match="must describe each of its frames, but it describes only 2"):
        shown(stored, 2, **groups | dict(PerFrameFunctionalGroupsSequence=frames[:2]))
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
    indices, palette = (
        np.arange(12, dtype=np.uint8).reshape(3, 4),
        np.random.default_rng(1).integers(0, 2**bits, (3, 12)),
    )
    attributes = {}
    for name, channel in zip(("Red", "Green", "Blue"), palette, strict=True):
        attributes[f"{name}PaletteColorLookupTableDescriptor"] = [12, 0, bits]
        attributes[f"{name}PaletteColorLookupTableData"] = channel.astype("<u2" if bits == 16 else np.uint8).tobytes()
    found = shown(indices, PhotometricInterpretation="PALETTE COLOR", **attributes)
    np.testing.assert_allclose(found, np.moveaxis(palette[:, indices], 0, -1) / (2**bits - 1), atol=1e-6)


def test_signed_colour_is_refused():
    with pytest.raises(ValueError, match="unsigned and of shape"):
        shown(COLOURS.view(np.int8))
