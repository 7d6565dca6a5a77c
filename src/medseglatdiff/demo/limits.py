"""What a public Space accepts, and a sentence for whatever it does not: nothing of an uploaded file is ever quoted."""

import io
import logging
import re
import tempfile
import warnings
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import PIL.Image
import pydicom
import torch

from ..data.images import load_image, resize_bilinear
from ..data.spacing import pixel_spacing

MAX_FILE_MB = 40
MAX_PIXELS = 50_000_000  # of a picture
MAX_RESULT_PIXELS = 2048 * 2048  # of results, and of DICOM files, whose results must be as large as they are
MAX_MASKS = 32
MAX_STEPS = 50
MAX_SEED = 2**32 - 1

UPLOAD_FIRST = "Please upload an image first, or click an example."
GONE = "This file has been deleted from the server meanwhile. Please upload it again."
EMPTY = "This file is empty. Please upload a PNG, JPEG, TIFF or DICOM image."
TOO_BIG = f"This file is larger than {MAX_FILE_MB} MB. Please upload a smaller one."
TOO_MANY_PIXELS = f"This image has more than {MAX_PIXELS:,} pixels. Please crop it or make it smaller."
DICOM_TOO_LARGE = f"This DICOM file has more than {MAX_RESULT_PIXELS:,} pixels. Please crop it or make it smaller."
NO_IMAGE = "This file is no PNG, JPEG, TIFF or DICOM image, whatever its name says. Please upload one of these."
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
    """An image that was accepted.

    Args:
        image (`np.ndarray`, float32 `(H, W, C)`): in [0, 1], at most `MAX_RESULT_PIXELS`: what is shown and what
            results are as large as.
        spacing (`tuple[float, float]`, *optional*): between its rows and columns, in mm.
        dicom (`bytes`, *optional*): the file, where it is DICOM.
        photo (`bytes`, *optional*): the file, where it is a picture larger than `image`.
        full_size (`tuple[int, int]`, *optional*): height and width of that picture.
    """

    image: np.ndarray
    spacing: tuple[float, float] | None = None
    dicom: bytes | None = field(default=None, repr=False)
    photo: bytes | None = field(default=None, repr=False)
    full_size: tuple[int, int] | None = None

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of what the model looks at."""
        return self.full_size or self.image.shape[:2]

    def source(self) -> np.ndarray | io.BytesIO:
        """What the model looks at: the file as it was uploaded, or its pixels where these are all there is to it."""
        data = self.dicom or self.photo
        return io.BytesIO(data) if data else self.image


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


def read_file(path: str | None) -> bytes | None:
    """An uploaded file's bytes, unless they are too many.

    Raises:
        InputError: for a file that is too large, and one that has been deleted by age.
    """
    if path is None:
        return None
    try:
        if Path(path).stat().st_size > MAX_FILE_MB * 10**6:
            raise InputError(TOO_BIG)
        return Path(path).read_bytes()
    except FileNotFoundError:
        raise InputError(GONE) from None


def safe_name(path: str, is_dicom: bool) -> str:
    """What files of results are called after: the upload's name without its suffix, in plain letters; that of a DICOM
    file may be a patient's, and is left out.

    >>> safe_name("/tmp/Zoë's mole (2).png", False), safe_name("Mustermann.dcm", True), safe_name("...", False)
    ('Zo-s-mole-2', 'dicom', 'image')
    """
    stem = "dicom" if is_dicom else re.sub(r"[^A-Za-z0-9]+", "-", Path(path).stem).strip("-")
    return stem[:60] or "image"


def read_upload(data: bytes | None, stretch: bool) -> Upload:
    """An uploaded file's bytes as an image; DICOM is told from pictures by its content.

    Args:
        data (`bytes`, *optional*): the file.
        stretch (`bool`): as `load_image` has it.

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
        picture = PIL.Image.open(io.BytesIO(data), formats=("PNG", "JPEG", "TIFF"))
    except PIL.UnidentifiedImageError:
        raise InputError(NO_IMAGE) from None
    except PIL.Image.DecompressionBombError:
        raise InputError(TOO_MANY_PIXELS) from None
    if picture.width * picture.height > MAX_PIXELS:  # as the header has it: nothing is decoded yet
        raise InputError(TOO_MANY_PIXELS)
    if picture.format != "MPO" and getattr(picture, "n_frames", 1) > 1:  # MPO: a phone's photo, with a preview
        raise InputError(ANIMATED)
    picture.load()  # what is cut short ends here
    try:
        image = load_image(io.BytesIO(data), stretch)
    except (TypeError, ValueError) as error:  # a mode or transparency; the messages quote no content
        raise InputError(str(error).replace("`image`", "The image")) from None
    height, width = image.shape[:2]
    if height * width <= MAX_RESULT_PIXELS:
        return Upload(image)
    scale = (MAX_RESULT_PIXELS / (height * width)) ** 0.5
    smaller = (max(1, int(height * scale)), max(1, int(width * scale)))
    pixels = resize_bilinear(torch.from_numpy(image).movedim(-1, 0)[None], smaller)[0]  # [C, h, w]
    return Upload(pixels.movedim(0, -1).clamp(0, 1).numpy(), photo=data, full_size=(height, width))


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
        if header.Rows * header.Columns > MAX_RESULT_PIXELS:
            raise InputError(DICOM_TOO_LARGE)
        # 2. read
        spacing = pixel_spacing(path)
        known = spacing is not None and all(0 < distance < float("inf") for distance in spacing)
        return Upload(load_image(path, stretch), spacing if known else None, data)
