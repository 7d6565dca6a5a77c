"""DICOM files as images: one frame, grey or colour, as a viewer would first show it. Needs the extra `dicom`."""

import numpy as np

from .dicom_files import is_dicom, read_dataset, refuse_other_objects
from .dicom_values import frame_header, modality_values, one_number, padding, visible
from .jpeg_scan import refuse_cut_jpeg
from .limits import BadImage, check_size, name_of, unreadable

__all__ = ["decode_frame", "is_dicom", "read_dataset", "read_dicom"]

GREY = ("MONOCHROME1", "MONOCHROME2")
COLOUR = ("RGB", "PALETTE COLOR", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
PACKAGES = {  # pydicom's dependency -> the package that provides it, in the extra `dicom`
    "gdcm": "python-gdcm",  # JPEG Lossless, JPEG of 12 bits; Apache-2.0, where pylibjpeg-libjpeg is under the GPL
    "pyjpegls": "pyjpegls",  # JPEG-LS; MIT
    "pylibjpeg-openjpeg": "pylibjpeg-openjpeg",  # high-throughput JPEG 2000, which Pillow does not read; MIT
}


def read_dicom(source, stretch: bool = False, frame: int | None = None) -> np.ndarray:
    """One frame of a DICOM file as float32 `(H, W)`, or `(H, W, 3)` in colour, in [0, 1].

    Grey: the modality transform is applied (to Hounsfield units in CT), then the file's first VOI table or window;
    without them the range of values is stretched to [0, 1]. Enhanced objects state these for each frame.
    MONOCHROME1 and a `PresentationLUTShape` of INVERSE are inverted, once, so that greater is brighter. Padding around
    the scanned field takes the darkest value found inside it.

    Colour: RGB, palettes and YBR become RGB, divided by the largest value of `BitsStored`; windows do not apply to it.
    Overlays, supplemental palettes, real-world maps and ICC profiles are ignored on purpose: they do not change what
    was scanned.

    Args:
        source: a path, a file object or a `pydicom.Dataset`.
        stretch (`bool`, *optional*, defaults to `False`): ignore tables and windows, stretch the full range of values.
        frame (`int`, *optional*): index of the frame in a multi-frame file, from 0.

    Raises:
        ImportError: without pydicom.
        ValueError: for several frames without `frame`, objects that are not images (doses, segmentations, reports),
            missing or damaged pixel data, a compression whose decoder is not installed, an empty image or more than
            `MAX_PIXELS` pixels, and attributes that contradict each other.
    """
    dataset, name = read_dataset(source), name_of(source)
    try:
        return _read(dataset, name, stretch, frame)
    except (BadImage, ImportError):
        raise
    except Exception as error:  # values are decoded on first use, and damage raises almost any exception
        raise unreadable(name, error) from error


def _read(dataset, name: str, stretch: bool, frame: int | None) -> np.ndarray:
    # 1. refuse what is not one image
    refuse_other_objects(dataset, name)
    photometric = str(dataset.get("PhotometricInterpretation") or "none")
    if photometric not in (*GREY, *COLOUR):
        raise BadImage(f"`image` must be grey or in colour as a DICOM file, but {name} is {photometric}.")
    index = _frame_index(dataset, frame, name)
    rows, columns = (int(one_number(dataset, keyword, name, default=0)) for keyword in ("Rows", "Columns"))
    check_size(rows, columns, name)
    stored_bits, high_bit = (one_number(dataset, keyword, name) for keyword in ("BitsStored", "HighBit"))
    if stored_bits is None:
        raise BadImage(f"`BitsStored` must be a number, but {name} has none.")
    if high_bit is not None and high_bit != stored_bits - 1:
        raise BadImage(f"`HighBit` must be BitsStored - 1, but {name} has {high_bit:g} and {stored_bits:g}.")
    # 2. colour
    stored = decode_frame(dataset, index, name)  # [H, W] or [H, W, 3]
    if photometric in COLOUR:
        return _colour(stored, dataset, stored_bits, name)
    # 3. grey values: Hounsfield units in CT; padding takes the darkest
    if stored.ndim != 2:
        raise BadImage(f"`image` must be of shape (H, W) as a grey DICOM file, but {name} is {stored.shape}.")
    header = frame_header(dataset, index, name)
    values, empty = modality_values(stored, header, name), padding(stored, header, name)  # [H, W] twice
    inverted = photometric == "MONOCHROME1" or str(header.get("PresentationLUTShape") or "").strip() == "INVERSE"
    if empty.any() and not empty.all():
        values[empty] = values[~empty].max() if inverted else values[~empty].min()
    # 4. the file's display settings, or the full range; greater is brighter
    signed = stored.dtype.kind == "i" or (one_number(header, "RescaleIntercept", name, default=0) < 0)
    shown = None if stretch else visible(values, header, signed, name)  # [H, W]
    if shown is None:
        values -= values.min()
        shown = values / (values.max() or 1)  # [H, W]
    return (1 - shown if inverted else shown).astype(np.float32)


def _frames(dataset, name: str) -> int:
    return int(one_number(dataset, "NumberOfFrames", name, default=1)) or 1


def _frame_index(dataset, frame: int | None, name: str) -> int:
    frames = _frames(dataset, name)
    if frame is None and frames != 1:
        chosen = f"choose one by `frame`, from 0 to {frames - 1}"
        raise BadImage(f"`image` must be a DICOM file of a single frame, but {name} has {frames}: {chosen}.")
    if not 0 <= (frame or 0) < frames:
        raise BadImage(f"`frame` must be from 0 to {frames - 1} for {name}, but was {frame}.")
    return frame or 0


def decode_frame(dataset, index: int, name: str) -> np.ndarray:
    """The stored values of a frame, `(H, W)` or `(H, W, 3)`, by the first decoder that succeeds; YBR becomes RGB.

    Raises:
        BadImage: for damaged pixel data, and for a compression whose decoder is not installed, which is named.
    """
    from pydicom.encaps import get_frame
    from pydicom.pixels import pixel_array
    from pydicom.uid import JPEGBaseline8Bit

    syntax = getattr(getattr(dataset, "file_meta", None), "TransferSyntaxUID", None)
    if syntax is None:
        raise BadImage(f"`image` must name its transfer syntax in DICOM's file meta, but {name} does not.")
    plugins = _plugins(syntax, name) if syntax.is_encapsulated else [""]
    if syntax == JPEGBaseline8Bit:
        refuse_cut_jpeg(get_frame(dataset.PixelData, index, number_of_frames=_frames(dataset, name)), name)
    reasons = []
    for plugin in plugins:
        try:
            return pixel_array(dataset, index=index, decoding_plugin=plugin)
        except Exception as error:  # decoders raise almost any exception
            reasons.append(" ".join(str(error).split()))
    raise BadImage(f"`image` must hold pixel data that can be decoded, but {name} does not: {'; '.join(reasons)}")


def _plugins(syntax, name: str) -> list[str]:
    """The installed decoders of a compression; gdcm comes last, for what no other one reads."""
    from pydicom.pixels import get_decoder

    try:
        decoder = get_decoder(syntax)
    except NotImplementedError as error:
        raise BadImage(f"`image` must be a picture, but {name} is compressed as {syntax.name}.") from error
    if not decoder.available_plugins:
        missing = " ".join(decoder.missing_dependencies)
        packages = " or ".join(package for dependency, package in PACKAGES.items() if dependency in missing)
        advice = f'which needs {packages}: `pip install "medseglatdiff[dicom]"`'
        raise BadImage(f"`image` must be a DICOM file that can be decoded, but {name} is {syntax.name}, {advice}.")
    return sorted(decoder.available_plugins, key=lambda plugin: plugin == "gdcm")


def _colour(stored: np.ndarray, dataset, stored_bits: float, name: str) -> np.ndarray:
    if dataset.PhotometricInterpretation == "PALETTE COLOR":
        from pydicom.pixels import apply_color_lut

        stored = apply_color_lut(stored, dataset)  # [H, W, 3], 8 or 16 bits, independent of the indices
        stored_bits = 8 * stored.dtype.itemsize
    if stored.ndim != 3 or stored.shape[2] != 3 or stored.dtype.kind != "u":
        found = f"{stored.shape} of type {stored.dtype}"
        raise BadImage(
            f"`image` must be unsigned and of shape (H, W, 3) as a colour DICOM file, but {name} is {found}."
        )
    return (stored / np.float32(2**stored_bits - 1)).astype(np.float32)  # [H, W, 3]
