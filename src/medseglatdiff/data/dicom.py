"""DICOM files as images: single-frame grey ones, as a viewer would first show them. Needs the extra `dicom`."""

from pathlib import Path

import numpy as np

MAX_PIXELS = 89_478_485  # more than any detector has: Pillow's own limit, whatever a caller sets that to


def is_dicom(path) -> bool:
    """Whether a path leads to a DICOM file: by its name, or by the mark "DICM" after the preamble of 128 bytes."""
    path = Path(path)
    if path.suffix.lower() in (".dcm", ".dicom"):
        return True
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


def read_dataset(path, stop_before_pixels: bool = False):
    """The `pydicom.Dataset` of a file.

    Raises:
        ImportError: without pydicom.
        ValueError: if the file is missing or no DICOM.
    """
    try:
        import pydicom
    except ImportError as error:
        raise ImportError('Reading DICOM needs `pip install "medseglatdiff[dicom]"`.') from error
    errors = (OSError, EOFError, NotImplementedError, ValueError)
    try:
        dataset = pydicom.dcmread(path, stop_before_pixels=stop_before_pixels)
        list(dataset)  # decodes every value, which pydicom puts off: damage shows here
        return dataset
    except (*errors, pydicom.errors.BytesLengthException, pydicom.errors.InvalidDicomError) as error:
        raise ValueError(f"`image` must be a DICOM file that can be read, but {path} cannot: {error}") from error


def read_dicom(path, stretch: bool = False) -> np.ndarray:
    """A single-frame grey DICOM file as float32 `(H, W)` in [0, 1].

    The modality transform is applied (to Hounsfield units in CT), then the file's first window; without a window the
    range of values is stretched to [0, 1]. MONOCHROME1 is inverted, so that more is brighter, and padding around the
    scanned field takes the darkest value found inside it.

    Args:
        path: of the file.
        stretch (`bool`, *optional*, defaults to `False`): ignore the window and stretch the full range of values.

    Raises:
        ImportError: without pydicom.
        ValueError: for several frames, colour, no or damaged pixel data, a compression that pydicom needs a plug-in
            for, no pixel or more than `MAX_PIXELS`, or a window without a positive width.
    """
    dataset = read_dataset(path)
    # 1. refuse what has no plain meaning as one grey image
    if "PixelData" not in dataset:
        raise ValueError(f"`image` must be a DICOM file with pixel data, but {path} has none.")
    photometric, frames = dataset.get("PhotometricInterpretation"), int(dataset.get("NumberOfFrames") or 1)
    if photometric not in ("MONOCHROME1", "MONOCHROME2"):
        raise ValueError(f"`image` must be grey as a DICOM file, but {path} is {photometric}.")
    if frames != 1:
        raise ValueError(f"`image` must be a DICOM file of a single frame, but {path} has {frames}.")
    rows, columns = (dataset.get(name) or 0 for name in ("Rows", "Columns"))
    if not 0 < rows * columns <= MAX_PIXELS:
        raise ValueError(f"`image` must have 1 to {MAX_PIXELS} pixels, but {path} has {rows} x {columns}.")
    # 2. values: Hounsfield units in CT; padding takes the darkest
    stored, values = _values(dataset, path)  # [H, W] twice
    inverted, padding = photometric == "MONOCHROME1", _padding(stored, dataset)  # [H, W]
    if padding.any() and not padding.all():
        values[padding] = values[~padding].max() if inverted else values[~padding].min()
    # 3. the window or the full range, more is brighter
    if dataset.get("WindowCenter") is not None and not stretch:
        shown = _window(values, dataset, path)  # [H, W]
    else:
        values -= values.min()
        shown = values / (values.max() or 1)  # [H, W]
    return (1 - shown if inverted else shown).astype(np.float32)


def pixel_spacing(path) -> tuple[float, float] | None:
    """Distance between pixels in mm, `(between rows, between columns)`, where a DICOM file tells it."""
    if not is_dicom(path):
        return None
    spacing = read_dataset(path, stop_before_pixels=True).get("PixelSpacing")
    return (float(spacing[0]), float(spacing[1])) if spacing else None


def _values(dataset, path) -> tuple[np.ndarray, np.ndarray]:
    from pydicom.pixels import apply_modality_lut

    try:
        stored = dataset.pixel_array  # [H, W]
    except (AttributeError, NotImplementedError, RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"`image` must hold pixel data that can be decoded, but {path} does not: {reason}") from error
    return stored, apply_modality_lut(stored, dataset).astype(np.float64)


def _padding(stored: np.ndarray, dataset) -> np.ndarray:
    """Where the file says that nothing was scanned (PS3.3 C.7.5.1.1.2)."""
    value = dataset.get("PixelPaddingValue")
    if value is None:
        return np.zeros(stored.shape, bool)
    limit = dataset.get("PixelPaddingRangeLimit", value)
    return (stored >= min(value, limit)) & (stored <= max(value, limit))


def _window(values: np.ndarray, dataset, path) -> np.ndarray:
    """The first window's function of values (DICOM PS3.3 C.11.2.1.2 and C.11.2.1.3), in [0, 1]."""
    center, width = (float(np.atleast_1d(dataset.get(name) or 0)[0]) for name in ("WindowCenter", "WindowWidth"))
    if not width > 0:
        raise ValueError(f"`image` must have a window of positive width, but that of {path} is {width}.")
    function = dataset.get("VOILUTFunction") or "LINEAR"
    if function == "SIGMOID":
        return 1 / (1 + np.exp(-4 * (values - center) / width))
    if function == "LINEAR":
        center, width = center - 0.5, max(width - 1, 1e-6)
    return ((values - center) / width + 0.5).clip(0, 1)
