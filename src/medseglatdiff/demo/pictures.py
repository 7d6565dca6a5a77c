"""Pictures of a segmentation for the page: outlines, hypotheses one by one, and maps."""

from collections.abc import Sequence

import numpy as np
import PIL.Image

from ..overview import colour_map, colour_of, outline, resize_image, resize_map, resize_mask

LONGEST = 768  # side of the main picture, in pixels
TILE = 256
CONSENSUS = ((0, 0, 0), (255, 255, 255))  # a white line, cased in black: seen on everything


def display_size(shape: Sequence[int], longest: int = LONGEST) -> tuple[int, int]:
    """Width and height of a picture of an image `(H, W, ...)`: a whole multiple where it grows."""
    height, width = shape[:2]
    scale = longest // max(height, width) or longest / max(height, width)
    return max(1, round(width * scale)), max(1, round(height * scale))


def draw_outlines(
    image: np.ndarray, masks: np.ndarray, shown: Sequence[int] = (), consensus: np.ndarray | None = None
) -> PIL.Image.Image:
    """Outlines over an image.

    Args:
        image (`np.ndarray`, float `(H, W, C)`): in [0, 1].
        masks (`np.ndarray`, bool `(M, H, W)`): hypotheses.
        shown (`Sequence[int]`): the indices of those to outline, each in the colour of its index.
        consensus (`np.ndarray`, bool `(H, W)`, *optional*): outlined in white, on top.
    """
    size = display_size(image.shape)
    picture = resize_image(image, size).copy()  # [h, w, 3]
    for index in shown:
        picture[outline(resize_mask(masks[index], size))] = colour_of(index)
    if consensus is not None:
        inside = resize_mask(consensus, size)  # [h, w]
        for width, colour in zip((5, 3), CONSENSUS, strict=True):
            picture[outline(inside, width)] = colour
    return PIL.Image.fromarray(picture)


def draw_tiles(image: np.ndarray, masks: np.ndarray) -> list[PIL.Image.Image]:
    """One small picture per hypothesis: tinted and outlined in its colour over the darkened image."""
    size = display_size(image.shape, TILE)
    dark = resize_image(image, size) * 0.7  # [h, w, 3]
    tiles = []
    for index, mask in enumerate(masks):
        inside, tile = resize_mask(mask, size), dark.copy()
        tile[inside] = 0.6 * tile[inside] + 0.4 * np.array(colour_of(index))
        tile[outline(inside)] = colour_of(index)
        tiles.append(PIL.Image.fromarray(tile.astype(np.uint8)))
    return tiles


def draw_map(values: np.ndarray, anchors: str) -> PIL.Image.Image:
    """A map of values in [0, 1], `(H, W)`, in the colours between `anchors`; pixels stay squares."""
    return PIL.Image.fromarray(resize_map(colour_map(values, anchors), display_size(values.shape)))
