"""The values of one frame of a DICOM slice: what was measured, and how a viewer would first show it."""

from pathlib import Path

import numpy as np

from .dicom import _padding, _window

OF_A_FRAME = ("PixelValueTransformationSequence", "FrameVOILUTSequence")  # functional groups that change values


def frame_values(dataset, frame: int, file: Path) -> np.ndarray:
    """What was measured, such as Hounsfield units, float32 `(H, W)`; padding takes the darkest value inside the field.

    MONOCHROME1, in which more is darker, is returned with its sign turned.

    Raises:
        ValueError: for pixels that cannot be decoded.
    """
    from pydicom.pixels import apply_modality_lut, pixel_array

    header = _header(dataset, frame)
    try:
        stored = pixel_array(dataset, index=frame)  # [H, W]
    except Exception as error:  # decoders raise nearly anything
        reason = str(error).splitlines()[0]
        raise ValueError(f"{file} must hold pixels that can be decoded, but does not: {reason}") from error
    values = apply_modality_lut(stored, header).astype(np.float32) * _sign(dataset)  # [H, W]
    empty = _padding(stored, header)  # [H, W]
    if empty.any() and not empty.all():
        values[empty] = values[~empty].min()
    return values


def shown_values(values: np.ndarray, dataset, frame: int, file: Path) -> np.ndarray:
    """Values of `frame_values` by the window of a frame; without a window by the range of the frame's values."""
    header, sign = _header(dataset, frame), _sign(dataset)
    if header.get("WindowCenter") is None:
        whole = frame_values(dataset, frame, file)  # [H, W]
        return (values - whole.min()) / (np.ptp(whole) or 1)
    shown = _window(sign * values, header, file)
    return shown if sign > 0 else 1 - shown


def _sign(dataset) -> int:
    return -1 if dataset.get("PhotometricInterpretation") == "MONOCHROME1" else 1


def _header(dataset, frame: int):
    """What is said of a frame: by its functional groups, those shared by all, or the file."""
    if "PerFrameFunctionalGroupsSequence" not in dataset:
        return dataset
    from pydicom import Dataset

    header = Dataset()
    for keyword in ("PixelPaddingValue", "PixelPaddingRangeLimit", "WindowCenter", "WindowWidth", "VOILUTFunction"):
        if keyword in dataset:
            header[keyword] = dataset[keyword]
    shared = dataset.get("SharedFunctionalGroupsSequence") or []
    for group in (*shared, dataset.PerFrameFunctionalGroupsSequence[frame]):
        for macro in OF_A_FRAME:
            for item in group.get(macro) or []:
                header.update(item)
    return header
