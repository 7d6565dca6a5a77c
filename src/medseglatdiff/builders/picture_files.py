"""Image files of a source as pixels and as the bytes that are stored, and the error that names a bad one."""

import io
from typing import NamedTuple

import numpy as np
import PIL.Image

from .archives import Source


class BadFile(ValueError):
    """A file that cannot become a row: its name and the reason."""

    def __init__(self, name: str, reason: str):
        super().__init__(name, reason)
        self.name, self.reason = name, reason


class Picture(NamedTuple):
    """An image as pixels, `(H, W)` or `(H, W, 3)`, and as the bytes of the file that will be stored."""

    pixels: np.ndarray
    data: bytes


def picture(pixels: np.ndarray) -> Picture:
    """Pixels (uint8 or uint16) as a PNG file; bool becomes 0/255."""
    pixels = pixels.astype(np.uint8) * 255 if pixels.dtype == bool else pixels
    file = io.BytesIO()
    PIL.Image.fromarray(pixels).save(file, "PNG")
    return Picture(pixels, file.getvalue())


def read_picture(source: Source, name: str, modes: tuple[str, ...] = ()) -> Picture:
    """A file of the source: its bytes unchanged if it is a PNG or JPEG of one of `modes`, else converted to the first.

    Without `modes` every file stays as it is. Raises `BadFile` if the file is missing, does not decode or holds
    several frames.
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
        with PIL.Image.open(io.BytesIO(data)) as image:
            frames, mode, kind = getattr(image, "n_frames", 1), image.mode, image.format
            pixels = np.asarray(image if not modes or mode in modes else image.convert(modes[0]))
    except Exception as error:  # on damaged bytes decoders raise nearly anything
        reason = str(error).replace("cannot identify image file <_io.BytesIO object", "no image <").split(" <")[0]
        raise BadFile(name, f"cannot be decoded: {reason}") from error
    if frames != 1:
        raise BadFile(name, f"holds {frames} frames, not one")
    return Picture(pixels, data) if not modes or (mode in modes and kind in ("PNG", "JPEG")) else picture(pixels)


def read_mask(source: Source, name: str, size: tuple[int, int]) -> Picture:
    """A mask of `size` (H, W) as 0/255 of mode "L": the file's own bytes if it is one, else its greys > 127."""
    mask = read_picture(source, name)
    if mask.pixels.shape[:2] != size:
        raise BadFile(name, f"{mask.pixels.shape[:2]} (height, width) pixels, but its image has {size}")
    if mask.pixels.ndim == 2 and mask.data.startswith(b"\x89PNG") and not set(np.unique(mask.pixels)) - {0, 255}:
        return mask
    with PIL.Image.open(io.BytesIO(mask.data)) as image:
        return picture(np.asarray(image.convert("L")) > 127)
