"""What a public Space accepts, and a sentence for whatever it does not: nothing of an uploaded file is ever quoted."""

import io
import logging
import tempfile
import warnings
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import PIL.Image
import pydicom

from ..data.images import load_image
from ..data.spacing import pixel_spacing

MAX_FILE_MB = 20
MAX_PIXELS = 2048 * 2048
MAX_MASKS = 32
MAX_STEPS = 50
MAX_SEED = 2**32 - 1

UPLOAD_FIRST = "Please upload an image first, or click an example."
EMPTY = "This file is empty. Please upload a PNG, JPEG or DICOM image."
TOO_BIG = f"This file is larger than {MAX_FILE_MB} MB. Please upload a smaller one."
TOO_MANY_PIXELS = f"This image has more than {MAX_PIXELS:,} pixels. Please crop it or make it smaller."
NO_IMAGE = "This file is no PNG, JPEG or DICOM image, whatever its name says. Please upload one of these."
DAMAGED = "This image is damaged or cut short and cannot be read. Please export it again and upload the new file."
ANIMATED = "This file holds several pictures. Please upload a single one."
DAMAGED_DICOM = "This DICOM file cannot be read. Please export it again as a single grey image without compression."
COMPRESSED_DICOM = "This DICOM file is compressed. Please convert it to Explicit VR Little Endian without compression."
SEVERAL_FRAMES = "This DICOM file holds several frames. Please export the one frame that you want to segment."
COLOUR_DICOM = "This DICOM file is in colour. Please upload a grey one, or export the picture as PNG."
NO_PIXELS = "This DICOM file holds no image. Please upload one that does."


class InputError(ValueError):
    """Bad input; the message is a whole sentence for the page that says what to do."""


@dataclass(frozen=True)
class Upload:
    """An image that was accepted: float32 `(H, W, C)` in [0, 1]; for DICOM its spacing in mm and the file itself."""

    image: np.ndarray
    spacing: tuple[float, float] | None = None
    dicom: bytes | None = field(default=None, repr=False)


def silence_pydicom():
    """Keeps patient data out of the logs: pydicom's warnings about malformed values quote them."""
    logging.getLogger("pydicom").disabled = True
    warnings.filterwarnings("ignore", module="pydicom")
    pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE


def check_settings(num_masks, num_inference_steps, seed) -> tuple[int, int, int]:
    """The three as integers.

    Raises:
        InputError: unless each is a whole number within its limits.
    """
    limits = (
        ("hypotheses", num_masks, 1, MAX_MASKS),
        ("steps", num_inference_steps, 1, MAX_STEPS),
        ("the seed", seed, 0, MAX_SEED),
    )
    for name, value, least, most in limits:
        if not isinstance(value, (int, float)) or not least <= value <= most or value != int(value):
            given = "nothing" if value is None else str(value)[:20]
            raise InputError(f"Please choose a whole number from {least} to {most} for {name}; you gave {given}.")
    return int(num_masks), int(num_inference_steps), int(seed)


def read_upload(data: bytes | None, stretch: bool) -> Upload:
    """An uploaded file's bytes as an image; DICOM is told from pictures by its content.

    Args:
        data (`bytes`, *optional*): the file.
        stretch (`bool`): as `medseglatdiff.images.load_image` has it.

    Raises:
        InputError: for whatever cannot be segmented here.
    """
    if data is None:
        raise InputError(UPLOAD_FIRST)
    if not data:
        raise InputError(EMPTY)
    if len(data) > MAX_FILE_MB * 10**6:
        raise InputError(TOO_BIG)
    if data[128:132] == b"DICM":
        return _told(DAMAGED_DICOM, _read_dicom, data, stretch)
    return _told(DAMAGED, _read_picture, data, stretch)


def _told(sentence: str, read, data: bytes, stretch: bool) -> Upload:
    """A hostile file may make a parser raise anything, with the file's content in the message: neither gets out."""
    try:
        return read(data, stretch)
    except InputError:
        raise
    except Exception:  # parsers of a stranger's bytes raise nearly anything
        raise InputError(sentence) from None


def _read_picture(data: bytes, stretch: bool) -> Upload:
    try:
        picture = PIL.Image.open(io.BytesIO(data), formats=("PNG", "JPEG"))
    except PIL.UnidentifiedImageError:
        raise InputError(NO_IMAGE) from None
    except PIL.Image.DecompressionBombError:
        raise InputError(TOO_MANY_PIXELS) from None
    if picture.width * picture.height > MAX_PIXELS:  # as the header has it: nothing is decoded yet
        raise InputError(TOO_MANY_PIXELS)
    if picture.format != "MPO" and getattr(picture, "n_frames", 1) > 1:  # MPO: a phone's photo, with a preview
        raise InputError(ANIMATED)
    picture.load()
    try:
        return Upload(load_image(io.BytesIO(data), stretch))
    except (TypeError, ValueError) as error:  # a mode or transparency; the messages quote no content
        raise InputError(str(error).replace("`image`", "The image")) from None


def _read_dicom(data: bytes, stretch: bool) -> Upload:
    with tempfile.TemporaryDirectory() as folder:  # the upload's own name may tell a patient's
        path = Path(folder, "image.dcm")
        path.write_bytes(data)
        # 1. refuse by the header, before anything is unpacked
        syntax = pydicom.filereader.read_file_meta_info(path).TransferSyntaxUID
        if syntax.is_encapsulated or syntax.is_deflated:
            raise InputError(COMPRESSED_DICOM)
        header = pydicom.dcmread(path, stop_before_pixels=True)
        if "Rows" not in header:
            raise InputError(NO_PIXELS)
        if int(header.get("NumberOfFrames") or 1) > 1:
            raise InputError(SEVERAL_FRAMES)
        if not str(header.get("PhotometricInterpretation")).startswith("MONOCHROME"):
            raise InputError(COLOUR_DICOM)
        if header.Rows * header.Columns > MAX_PIXELS:
            raise InputError(TOO_MANY_PIXELS)
        # 2. read
        spacing = pixel_spacing(path)
        known = spacing is not None and all(0 < distance < float("inf") for distance in spacing)
        return Upload(load_image(path, stretch), spacing if known else None, data)
