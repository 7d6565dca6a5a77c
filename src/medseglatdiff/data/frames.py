"""The values of a frame of a DICOM volume: what was measured, and how a viewer would first show it."""

from pathlib import Path

import numpy as np

from .dicom import decode_frame
from .dicom_values import frame_header, modality_values, one_number, padding, visible


def frame_values(dataset, frame: int, file: Path) -> np.ndarray:
    """What was measured, such as Hounsfield units, float32 `(H, W)`; padding takes the darkest value inside the field.

    Where more is darker (MONOCHROME1, or a `PresentationLUTShape` of INVERSE), values come with their sign turned.

    Raises:
        ValueError: for pixels that cannot be decoded, and attributes that contradict each other.
    """
    name = str(file)
    header, stored = frame_header(dataset, frame, name), decode_frame(dataset, frame, name)  # [H, W]
    values = modality_values(stored, header, name).astype(np.float32) * _sign(header)  # [H, W]
    empty = padding(stored, header, name)  # [H, W]
    if empty.any() and not empty.all():
        values[empty] = values[~empty].min()
    return values


def shown_values(values: np.ndarray, dataset, frame: int, file: Path) -> np.ndarray:
    """Values of `frame_values` by the table or window of a frame; without them by the range of the frame's values."""
    name = str(file)
    header = frame_header(dataset, frame, name)
    negative = [
        one_number(header, keyword, name, default=0) for keyword in ("RescaleIntercept", "PixelRepresentation")
    ]
    shown = visible(_sign(header) * values, header, negative[0] < 0 or negative[1] == 1, name)
    if shown is None:
        whole = frame_values(dataset, frame, file)  # [H, W]
        return (values - whole.min()) / (np.ptp(whole) or 1)
    return shown if _sign(header) > 0 else 1 - shown


def _sign(header) -> int:
    inverted = str(header.get("PresentationLUTShape") or "").strip() == "INVERSE"
    return -1 if inverted or header.get("PhotometricInterpretation") == "MONOCHROME1" else 1
