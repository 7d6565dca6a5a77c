"""Reads mask files; ambiguous ones are refused with the option that resolves them."""

import io
from typing import NamedTuple

import numpy as np
import PIL.Image

from .archives import Source
from .picture_files import BadFile, Picture, picture, read_picture

GREY_MODES = ("1", "L", "I", "F", "I;16", "I;16L", "I;16B", "I;16N")
COLOUR_MODES = ("LA", "P", "PA", "RGB", "RGBA", "RGBX")
NEAR_BLACK, NEAR_WHITE = 63, 192  # how far JPEG compression may move 0 and 255
LOSSY = ("JPEG", "JPEG2000", "MPO", "WEBP", "AVIF")
ADVICE = (
    "--threshold N takes greys above N as foreground, --instances every number above 0, --num-classes K label maps"
)


class MaskRule(NamedTuple):
    """How masks are read; at most one of `num_classes`, `threshold` and `instances`.

    Args:
        num_classes (`int`, *optional*): masks are label maps of 0 to this number.
        threshold (`float`, *optional*): greys above it are foreground, in the units of the file.
        instances (`bool`): everything but 0, or black, is foreground.
        invert (`bool`): exchange foreground and background.
    """

    num_classes: int | None = None
    threshold: float | None = None
    instances: bool = False
    invert: bool = False


def read_mask_by_rule(source: Source, name: str, size: tuple[int, int], rule: MaskRule) -> Picture:
    """A mask of `size` (H, W) as 0/255, or with `rule.num_classes` as its labels, uint8.

    Raises:
        BadFile: for a file that cannot be read, has another size, or is ambiguous.
    """
    file = read_picture(source, name)
    if file.pixels.shape[:2] != size:
        hint = ""
        if "orientation" in file.removed or file.pixels.shape[1::-1] == size:
            hint = ": drawn on a turned image? Images and masks are taken as their pixels are stored"
        raise BadFile(name, f"{file.pixels.shape[:2]} (height, width) pixels, but its image has {size}{hint}")
    with PIL.Image.open(io.BytesIO(file.data)) as image:
        try:
            pixels = _labels(image, rule.num_classes) if rule.num_classes else _foreground(image, rule)  # [H, W]
        except ValueError as error:
            raise BadFile(name, str(error)) from error
    return picture(pixels, file.removed)


def _labels(image: PIL.Image.Image, num_classes: int) -> np.ndarray:
    """Label maps: the numbers themselves, or a palette's indices; uint8 `(H, W)`."""
    if image.format in LOSSY:
        raise ValueError(f"is a label map as {image.format}, which changes labels: store it as PNG")
    if image.mode in ("P", "PA"):
        _refuse_shuffled_palette(image)
        pixels = np.asarray(image.getchannel(0) if image.mode == "PA" else image)  # [H, W]
    else:
        plain = _without_alpha(image)
        if plain is None:
            raise ValueError("has transparent pixels: flatten it onto a background first")
        if plain.ndim == 3:
            raise ValueError("is a coloured label map, but must hold the labels themselves as greys or palette")
        pixels = plain > 0 if image.mode == "1" else plain
    if not (pixels == np.floor(pixels)).all() or pixels.min() < 0:  # also refuses NaN
        raise ValueError("must hold labels 0, 1, 2, ..., but holds other numbers")
    if pixels.max() > num_classes:
        raise ValueError(f"holds the label {pixels.max():g}, but --num-classes is {num_classes}")
    return pixels.astype(np.uint8)


def _refuse_shuffled_palette(image: PIL.Image.Image):
    """Refuses a palette that another program has sorted, so that black is not the label 0."""
    colours = np.array(image.getpalette("RGB") or [], np.uint8).reshape(-1, 3)
    used = np.unique(np.asarray(image if image.mode == "P" else image.getchannel(0)))
    black = [index for index in used if index < len(colours) and not colours[index].any()]
    if black and black != [0] and len(np.unique(colours[used], axis=0)) > 1:
        raise ValueError(f"has a palette whose black is the label {black[-1]}, not 0: store the labels as greys")


def _foreground(image: PIL.Image.Image, rule: MaskRule) -> np.ndarray:
    """One class: bool `(H, W)`."""
    pixels = _without_alpha(image)  # [H, W] or [H, W, 3]
    if pixels is None:  # alpha is the mask
        pixels = np.asarray(image.convert("RGBA"))[:, :, 3]  # [H, W]
    coloured = pixels.ndim == 3
    if not np.isfinite(pixels).all():
        raise ValueError("holds NaN or infinity")
    # 1. by an option
    if rule.threshold is not None:
        if coloured:
            raise ValueError("is coloured, but --threshold is about greys: store the mask as grey")
        drawn = pixels > rule.threshold  # [H, W]
    elif rule.instances:
        drawn = np.asarray(pixels.any(axis=2) if coloured else pixels != 0)  # [H, W]
        if drawn.all() and len(np.unique(pixels.reshape(-1, 3 if coloured else 1), axis=0)) > 1:
            raise ValueError("has no 0 (black) for the background, but several numbers or colours")
    # 2. else by the file itself, if it is unambiguous
    else:
        lossy = image.format in LOSSY
        drawn = _plain_colours(pixels, lossy) if coloured else _plain_greys(pixels, lossy)  # [H, W]
        if not rule.invert:
            _refuse_inverted(drawn)
    return ~drawn if rule.invert else drawn


def _without_alpha(image: PIL.Image.Image) -> np.ndarray | None:
    """Greys `(H, W)` or colours `(H, W, 3)`; `None` where the alpha channel alone holds the mask."""
    if image.mode in GREY_MODES and not image.has_transparency_data:
        return np.asarray(image.convert("L") if image.mode == "1" else image)
    if image.mode not in (*GREY_MODES, *COLOUR_MODES):
        raise ValueError(f"is of mode {image.mode}, but a mask must be grey, coloured on black or transparent")
    pixels = np.asarray(image.convert("RGBA"))  # [H, W, 4]
    colours, alpha = pixels[:, :, :3], pixels[:, :, 3]  # [H, W, 3], [H, W]
    if alpha.min() < alpha.max():
        visible = colours[alpha > 0]  # [N, 3]
        if (visible != visible[0]).any():
            raise ValueError("has transparent pixels and several colours: flatten it onto a background first")
        if not visible[0].any() and (alpha > 0).mean() > 0.5:
            raise ValueError("is black with transparent pixels: drawn or cut out? Flatten it onto a background first")
        return None
    return colours[:, :, 0] if (colours == colours[:, :, :1]).all() else colours


def _plain_greys(grey: np.ndarray, lossy: bool) -> np.ndarray:
    values = np.unique(grey)
    if len(values) == 1 or (len(values) == 2 and values[0] == 0):
        return grey > 0 if values[-1] > 0 else np.zeros(grey.shape, bool)
    if lossy and grey.dtype == np.uint8 and _is_black_and_white(values):
        return grey > 127
    shown = ", ".join(f"{value:g}" for value in values[:4])
    raise ValueError(f"holds {len(values)} values ({shown}, ...), not 0 and one other: {ADVICE}")


def _plain_colours(colours: np.ndarray, lossy: bool) -> np.ndarray:
    found = np.unique(colours.reshape(-1, 3), axis=0)  # [N, 3]
    if len(found) == 1 or (len(found) == 2 and not found[0].any()):  # `unique` sorts: black comes first
        return np.asarray(colours.any(axis=2))  # [H, W]
    if lossy and _is_black_and_white(np.unique(colours)):
        corners = np.unique(found > 127, axis=0)  # [N, 3]
        if len(corners) == 2 and not corners[0].any():
            return np.asarray((colours > 127).any(axis=2))  # [H, W]
    raise ValueError(
        f"holds {len(found)} colours, not black and one other: --instances takes every colour but black as "
        "foreground; label maps need --num-classes and must be grey or have a palette"
    )


def _is_black_and_white(values: np.ndarray) -> bool:
    """Whether all values are near 0 or near 255, some of them near 255: black and white after lossy compression."""
    return bool(((values <= NEAR_BLACK) | (values >= NEAR_WHITE)).all() and values[-1] >= NEAR_WHITE)


def _refuse_inverted(drawn: np.ndarray):
    """Refuses foreground all along the border with a hole inside: probably a dark lesion on white."""
    border = np.concatenate([drawn[0], drawn[-1], drawn[:, 0], drawn[:, -1]])
    if border.all() and not drawn.all():
        raise ValueError(
            "is foreground all along its border with a hole inside: if the lesion is dark on white, --invert makes "
            "dark pixels foreground; if not, --threshold N makes greys above N foreground"
        )
