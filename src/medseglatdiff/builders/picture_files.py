"""Image files of a source as pixels and as the bytes to store, rows of them, and the error for a bad file."""

import io
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import PIL.ExifTags
import PIL.Image

from .archives import Source
from .stripping import strip_metadata

TIFF_TEXTS = {  # tags that describe who, where and when
    **dict.fromkeys((269, 270, 271, 272, 285, 305, 306, 315, 316, 33432), "text"),
    **{700: "XMP", 33723: "IPTC", 34377: "IPTC", 34665: "EXIF", 34853: "EXIF", 34675: "profile"},
}
INFO_KINDS = {"exif": "EXIF", "xmp": "XMP", "icc_profile": "profile", "comment": "comment"}  # by the key in Pillow


class BadFile(ValueError):
    """A file that cannot become part of a row: its name and the reason."""

    def __init__(self, name: str, reason: str):
        super().__init__(name, reason)
        self.name, self.reason = name, reason


class Picture(NamedTuple):
    """An image as pixels, `(H, W)` or `(H, W, 3)`, as the bytes of the file to store, and the kinds of metadata that
    were removed."""

    pixels: np.ndarray
    data: bytes
    removed: frozenset[str] = frozenset()


@dataclass
class Row:
    """One row by the column contract; `dropped` is the reason if it is left out of the data set."""

    image: Picture
    masks: list[Picture]
    image_id: str
    group_id: str
    split: str
    dropped: str = ""


def picture(pixels: np.ndarray, removed: frozenset[str] = frozenset()) -> Picture:
    """Pixels (uint8 or uint16) as a PNG file; bool becomes 0/255."""
    pixels = pixels.astype(np.uint8) * 255 if pixels.dtype == bool else pixels
    file = io.BytesIO()
    PIL.Image.fromarray(pixels).save(file, "PNG")
    return Picture(pixels, file.getvalue(), removed)


def read_picture(source: Source, name: str, modes: tuple[str, ...] = ()) -> Picture:
    """A file of the source: its bytes without metadata if it is a PNG or JPEG of one of `modes`, else converted to the
    first.

    Without `modes` no file is converted. An EXIF orientation is not applied but removed with the other metadata, so
    that image and masks stay aligned in every reader. Of a phone's JPEG with further pictures the first is read.

    Raises:
        BadFile: if the file is missing, does not decode or holds several frames.
    """
    if name not in source:
        raise BadFile(name, "missing")
    try:
        data = source.read(name)
    except OSError as error:
        raise BadFile(name, str(error)) from error
    if not data:
        raise BadFile(name, "empty (zero bytes)")
    try:
        stripped, removed = strip_metadata(data)
        with PIL.Image.open(io.BytesIO(stripped)) as image:
            frames, mode, kind = getattr(image, "n_frames", 1), image.mode, image.format
            pixels = np.asarray(image if not modes or mode in modes else image.convert(modes[0]))
            removed |= _metadata_of(image) if kind not in ("PNG", "JPEG") else set()
        if "EXIF" in removed or kind == "TIFF":  # in TIFF the orientation is a tag like others
            removed |= {"orientation"} if _is_turned(data) else set()
    except Exception as error:  # on damaged bytes decoders raise almost any exception
        reason = str(error).replace("cannot identify image file <_io.BytesIO object", "no image <").split(" <")[0]
        raise BadFile(name, f"cannot be decoded: {reason}") from error
    if frames != 1:
        raise BadFile(name, f"holds {frames} frames, not one")
    if not modes or (mode in modes and kind in ("PNG", "JPEG")):
        return Picture(pixels, stripped, removed)
    return picture(pixels, removed)


def _is_turned(data: bytes) -> bool:
    with PIL.Image.open(io.BytesIO(data)) as image:
        return image.getexif().get(PIL.ExifTags.Base.Orientation, 1) != 1


def _metadata_of(image: PIL.Image.Image) -> set[str]:
    """The kinds of metadata in a file that is not stored unchanged."""
    tags = getattr(image, "tag_v2", {})
    return {INFO_KINDS[key] for key in image.info if key in INFO_KINDS} | {
        TIFF_TEXTS[tag] for tag in tags if tag in TIFF_TEXTS
    }


def read_mask(source: Source, name: str, size: tuple[int, int]) -> Picture:
    """A mask of `size` (H, W) as 0/255 of mode "L": the unchanged file if it is one, else its greys > 127."""
    mask = read_picture(source, name)
    if mask.pixels.shape[:2] != size:
        raise BadFile(name, f"{mask.pixels.shape[:2]} (height, width) pixels, but its image has {size}")
    with PIL.Image.open(io.BytesIO(mask.data)) as image:
        if (image.format, image.mode) == ("PNG", "L") and not set(np.unique(mask.pixels)) - {0, 255}:
            return mask
        return picture(np.asarray(image.convert("L")) > 127, mask.removed)
