"""The attributes that give a DICOM frame's values their meaning, by the standard (PS3.3) and whatever VR they have.

pydicom's functions are used where they follow the standard (decoding, palettes, colour). Written out here is what they
lack: functional groups, padding, a slope or an intercept alone, and tables that begin below zero or hold more entries
than their bits can count (`apply_modality_lut` and `apply_voi` index in the pixels' type).
"""

import math
from typing import overload

import numpy as np

from .limits import BadImage

MACROS = {  # functional groups of enhanced objects (C.7.6.16.2) -> the attributes that are read
    "PixelMeasuresSequence": ("PixelSpacing",),
    "PixelValueTransformationSequence": ("RescaleSlope", "RescaleIntercept"),
    "FrameVOILUTSequence": ("WindowCenter", "WindowWidth", "VOILUTFunction"),
}
OF_THE_FILE = (
    *("ModalityLUTSequence", "VOILUTSequence", "PixelPaddingValue", "PixelPaddingRangeLimit", "PresentationLUTShape"),
    *("PhotometricInterpretation", "PixelRepresentation", "BitsStored", "ImagerPixelSpacing"),
    *("PixelSpacingCalibrationType", "EstimatedRadiographicMagnificationFactor"),
)


def frame_header(dataset, frame: int, name: str):
    """The attributes of one frame as a flat dataset: of its functional groups, the shared ones, or the file.

    Raises:
        BadImage: if the functional groups cannot be read.
    """
    from pydicom import Dataset

    header = Dataset()
    try:
        for keyword in (*OF_THE_FILE, *(keyword for keywords in MACROS.values() for keyword in keywords)):
            if keyword in dataset:
                header[keyword] = dataset[keyword]
        per_frame = list(dataset.get("PerFrameFunctionalGroupsSequence") or [])
        if per_frame and frame >= len(per_frame):
            raise BadImage(f"`image` must describe each of its frames, but {name} describes only {len(per_frame)}.")
        groups = [*(dataset.get("SharedFunctionalGroupsSequence") or []), *per_frame[frame : frame + 1]]
        for group in groups:
            for macro, keywords in MACROS.items():
                for item in list(group.get(macro) or [])[:1]:
                    for keyword in (keyword for keyword in keywords if keyword in item):
                        header[keyword] = item[keyword]
    except BadImage:
        raise
    except Exception as error:  # values are decoded on first use, and damage raises almost any exception
        raise BadImage(f"`image` must have readable functional groups, but {name} does not: {error}") from error
    return header


def numbers(header, keyword: str, name: str, finite: bool = True) -> list[float]:
    """The values of a numeric attribute; an empty list if it is missing or empty.

    Raises:
        BadImage: for values that are not numbers and, unless `finite` is false, for NaN and infinity.
    """
    try:
        value = header.get(keyword)
        values = list(value) if hasattr(value, "__iter__") and not isinstance(value, (str, bytes)) else [value]
        found = [float(value) for value in values if value not in (None, "")]
    except Exception as error:  # pydicom decodes here
        raise BadImage(f"`{keyword}` must hold numbers, but that of {name} does not: {error}") from error
    if finite and not all(map(math.isfinite, found)):
        raise BadImage(f"`{keyword}` must hold finite numbers, but that of {name} is {found}.")
    return found


@overload
def one_number(header, keyword: str, name: str, default: float) -> float: ...


@overload
def one_number(header, keyword: str, name: str, default: None = None) -> float | None: ...


def one_number(header, keyword: str, name: str, default: float | None = None) -> float | None:
    """The value of an attribute with a single one; the default if it is missing or empty."""
    found = numbers(header, keyword, name)
    if len(found) > 1:
        raise BadImage(f"`{keyword}` must be one number, but {name} has {len(found)}.")
    return found[0] if found else default


def padding(stored: np.ndarray, header, name: str) -> np.ndarray:
    """Which pixels the file marks as padding (C.7.5.1.1.2): bool, of the shape of the stored values.

    The padding value has 16 bits and is signed if the pixels are, but writers get its VR wrong, so that -2000 becomes
    63536 or the reverse: a value outside the pixels' range is reinterpreted.
    """
    value = one_number(header, "PixelPaddingValue", name)
    if value is None:
        return np.zeros(stored.shape, bool)
    limit = one_number(header, "PixelPaddingRangeLimit", name, default=value)
    value, limit = (as_stored(int(number), stored.dtype.kind == "i") for number in (value, limit))
    return (stored >= min(value, limit)) & (stored <= max(value, limit))


def as_stored(number: int, signed: bool) -> int:
    """A 16-bit value, whichever VR it came in, as the signed or unsigned value of the same bits."""
    if signed:
        return number - 2**16 if 2**15 <= number < 2**16 else number
    return number + 2**16 if -(2**15) <= number < 0 else number


def modality_values(stored: np.ndarray, header, name: str) -> np.ndarray:
    """Stored values in the units of the modality, float64 (C.11.1): by a table, else by slope and intercept.

    Raises:
        BadImage: for a slope of 0, several slopes, and damaged tables.
    """
    for table in header.get("ModalityLUTSequence") or []:
        return look_up(stored, table, stored.dtype.kind == "i", name)[0]
    slope = one_number(header, "RescaleSlope", name, default=1)
    if slope == 0:
        raise BadImage(f"`RescaleSlope` must not be 0, but that of {name} is.")
    return stored.astype(np.float64) * slope + one_number(header, "RescaleIntercept", name, default=0)


def look_up(values: np.ndarray, item, signed: bool, name: str) -> tuple[np.ndarray, int]:
    """Values by the table of an item (C.11.1.1.1), float64, and the bits of its entries.

    Args:
        values (`np.ndarray`): whole numbers; those before the first entry take the first, those beyond take the last.
        item (`pydicom.Dataset`): with `LUTDescriptor` (number of entries, first value, bits) and `LUTData`.
        signed (`bool`): whether the first value may be below 0.

    Raises:
        BadImage: if the descriptor is not three numbers, or there are fewer entries than it states.
    """
    descriptor = [int(number) for number in numbers(item, "LUTDescriptor", name)]
    if len(descriptor) != 3 or not 1 <= descriptor[2] <= 16:
        raise BadImage(f"`LUTDescriptor` must be entries, first value and bits, but that of {name} is {descriptor}.")
    count, first, bits = descriptor[0] % 2**16 or 2**16, as_stored(descriptor[1], signed), descriptor[2]
    data = item.get("LUTData")
    if isinstance(data, bytes):  # OW, in which two entries of 8 bits may share a word
        word = ">u2" if item.original_encoding[1] is False else "<u2"
        table = np.frombuffer(data[: len(data) // 2 * 2], np.uint8 if len(data) - count in (0, 1) else word)
    else:
        table = np.array(numbers(item, "LUTData", name))
    if len(table) < count:
        raise BadImage(f"`LUTData` must hold {count} entries, but that of {name} holds {len(table)}.")
    index = np.rint(values) - first
    return table[index.clip(0, count - 1).astype(np.int64)].astype(np.float64), bits


def visible(values: np.ndarray, header, signed: bool, name: str) -> np.ndarray | None:
    """Values in [0, 1] under the first display setting of the file (C.11.2); `None` if it has none.

    By the first item of `VOILUTSequence`, as pydicom's `apply_voi_lut` prefers it, else by the first window.

    Raises:
        BadImage: for a window without center or width, an unknown `VOILUTFunction`, and damaged tables.
    """
    for item in header.get("VOILUTSequence") or []:
        shown, bits = look_up(values, item, signed, name)
        return (shown / (2**bits - 1)).clip(0, 1)
    centers, widths = (numbers(header, keyword, name) for keyword in ("WindowCenter", "WindowWidth"))
    if not centers and not widths:
        return None
    center, width = centers[0] if centers else None, widths[0] if widths else 0
    function = str(header.get("VOILUTFunction") or "LINEAR").strip().upper()
    if function not in ("LINEAR", "LINEAR_EXACT", "SIGMOID"):
        raise BadImage(f"`VOILUTFunction` must be LINEAR, LINEAR_EXACT or SIGMOID, but that of {name} is {function}.")
    if center is None:
        raise BadImage(f"`image` must have a window with a center, but that of {name} has none.")
    if not width >= (1 if function == "LINEAR" else 0) or width == 0:
        least = "of at least 1 (its function is LINEAR)" if 0 < width < 1 else "above 0"
        raise BadImage(f"`image` must have a window of positive width, {least}, but that of {name} is {width:g}.")
    return window(values, center, width, function)


def window(values: np.ndarray, center: float, width: float, function: str = "LINEAR") -> np.ndarray:
    """Values in [0, 1] under a window (C.11.2.1.2 and C.11.2.1.3); pydicom's function fills the stored range."""
    if function == "SIGMOID":
        return 1 / (1 + np.exp((-4 * (values - center) / width).clip(-700, 700)))
    if function == "LINEAR":
        center, width = center - 0.5, max(width - 1, 1e-6)
    return ((values - center) / width + 0.5).clip(0, 1)
