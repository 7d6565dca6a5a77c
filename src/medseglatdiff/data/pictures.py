"""Pillow images -> arrays: one table says how each mode is read, and anything ambiguous is refused."""

import numpy as np
import PIL.ExifTags
import PIL.Image
from PIL.Image import Transpose
from PIL.TiffImagePlugin import TiffImageFile

from .damage import refuse_damage
from .limits import BadImage, check_size, name_of, open_regular, unreadable

MODES = {  # mode -> what it is read as; any other is refused
    "1": "1",  # black and white: 0 and 1
    "L": "L",  # grey, divided by 255
    "LA": "L",  # alpha must be opaque, here and below
    "La": "L",  # multiplied by alpha, which changes nothing where it is opaque
    "P": "RGB",  # a palette's colours, greys too
    "PA": "RGB",
    "RGB": "RGB",
    "RGBX": "RGB",  # the fourth byte means nothing
    "RGBA": "RGB",
    "RGBa": "RGB",
    "CMYK": "RGB",  # inks; Pillow corrects Adobe's inverted ones; without a profile, as in viewers that have none
    "YCbCr": "RGB",  # ITU-R 601 in the full range, as in JPEG
    "HSV": "RGB",
    "LAB": "RGB",  # CIE L*a*b* under D50, by littlecms
    "I;16": "I;16",  # grey, divided by 65535; the letters are byte orders
    "I;16L": "I;16",
    "I;16B": "I;16",
    "I;16N": "I;16",
    "I": "I",  # 32 bits, signed; from a PGM file 16 bits, which Pillow scales to 65535; others need `stretch`
    "F": "F",  # floats, in [0, 1] unless they are stretched
}
STRAIGHT = {"La": "LA", "RGBa": "RGBA"}  # alpha no longer multiplied in
WHITE_IS_ZERO = 0  # TIFF 6.0, PhotometricInterpretation; Pillow inverts up to 8 bits, but not 16 bits or floats
UNDO = {  # orientation of a TIFF, 2 to 8, which Pillow applies -> how to undo it
    **{2: Transpose.FLIP_LEFT_RIGHT, 3: Transpose.ROTATE_180, 4: Transpose.FLIP_TOP_BOTTOM, 5: Transpose.TRANSPOSE},
    **{6: Transpose.ROTATE_90, 7: Transpose.TRANSVERSE, 8: Transpose.ROTATE_270},
}


def read_picture(source, frame: int | None = None) -> np.ndarray:
    """A file that Pillow reads, as an array: bool, uint8, uint16, int32 or float32, `(H, W)` or `(H, W, 3)`.

    Raises:
        BadImage: for unreadable or damaged files, and as `from_pil` does.
    """
    name = name_of(source)
    with open_regular(source) as file:
        try:
            image = PIL.Image.open(file)
            check_size(image.height, image.width, name)  # from the header: nothing is decoded yet
            if frame is not None:
                _choose(image, frame, getattr(image, "n_frames", 1), name)
            refuse_damage(file, image, name)
            return from_pil(PIL.Image.open(file), frame, name)
        except BadImage:
            raise
        except Exception as error:  # on damaged bytes decoders raise almost any exception
            raise unreadable(name, str(error).split(" <_io.")[0]) from error


def from_pil(image: PIL.Image.Image, frame: int | None = None, name: str = "it") -> np.ndarray:
    """A PIL image as an array, by `MODES`. ICC profiles are ignored, EXIF and TIFF orientations are not applied.

    Only `read_picture` finds damage that decoders ignore: here the file has been opened already. Of a phone's photo
    with further pictures (MPO: previews, depth, gain maps) the first is read, which is the photo.

    Args:
        image: an open image.
        frame (`int`, *optional*): index of the frame, page or picture, from 0.
        name: what error messages call the image.

    Raises:
        BadImage: for other modes, several frames without `frame`, transparency, damage, and a closed image.
    """
    if image.mode not in MODES:
        raise BadImage(f"`image` must be grey or in colour, but {name} is of mode {image.mode}: convert it first.")
    check_size(image.height, image.width, name)
    orientation, white_is_zero = 1, False
    try:
        frames = 1 if image.format == "MPO" and frame is None else getattr(image, "n_frames", 1)
        _choose(image, frame, frames, name)
        if isinstance(image, TiffImageFile):
            orientation = image.tag_v2.get(PIL.ExifTags.Base.Orientation, 1)
            white_is_zero = image.tag_v2.get(PIL.ExifTags.Base.PhotometricInterpretation) == WHITE_IS_ZERO
        image.load()
    except BadImage:
        raise
    except Exception as error:  # decoders raise almost any exception
        raise unreadable(name, error) from error
    image = image.transpose(UNDO[orientation]) if orientation in UNDO else image
    return _values(image, white_is_zero, name)


def _choose(image: PIL.Image.Image, frame: int | None, frames: int, name: str):
    if frame is None and frames != 1:
        chosen = f"choose one by `frame`, from 0 to {frames - 1}"
        raise BadImage(f"`image` must hold a single frame, but {name} holds {frames}: {chosen}.")
    if not 0 <= (frame or 0) < frames:
        raise BadImage(f"`frame` must be from 0 to {frames - 1} for {name}, but was {frame}.")
    if frame is not None:
        image.seek(frame)


def _values(image: PIL.Image.Image, white_is_zero: bool, name: str) -> np.ndarray:
    """A loaded image's pixels, by what `MODES` reads it as."""
    target = MODES[image.mode]
    image = image.convert(STRAIGHT[image.mode]) if image.mode in STRAIGHT else image
    if target in ("I", "I;16", "F"):
        array = np.asarray(image)  # [H, W]
        clear = image.info.get("transparency") is not None and (array == image.info["transparency"]).any()
    else:
        clear = False
        if image.has_transparency_data:
            with_alpha = image.convert("RGBA")
            clear = np.asarray(with_alpha.getchannel("A")).min() < 255
            image = with_alpha if target == "RGB" else image
        array = np.asarray(image if image.mode == target else image.convert(target))  # [H, W] or [H, W, 3]
    if clear:
        raise BadImage(
            f"`image` must be opaque, but {name} has transparent pixels: flatten it onto a background first."
        )
    if target == "F" and white_is_zero:
        raise BadImage(f"`image` must not use 0 for white, but {name} is a float TIFF that does: invert it.")
    if target == "I;16" or (target == "I" and image.format == "PPM"):
        array = array.astype(np.uint16)
        return 65535 - array if white_is_zero else array
    return array
