"""Pictures of a segmentation for the page: outlines, hypotheses one by one, and maps, zoomed to a window."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import PIL.Image
from PIL import ImageDraw, ImageFilter

from ..overview import colour_map, outline, resize_image, resize_map, window_around
from ..pipeline.regions import Window

LONGEST = 768  # side of the main picture, in pixels
TILE = 256
CONSENSUS = ((0, 0, 0), (255, 255, 255))  # a white line, cased in black: seen on everything
BLUR = 0.45  # of a mask that grows, in its own pixels: the most that leaves a single pixel above one half
MAP_SHARE = 0.65  # of a map's colours over the image

# sixteen of the colours that S. Trubetskoy chose by eye to be told apart (2017), without the darkest and the whitest
SIXTEEN = (
    "e6194b 3cb44b ffe119 4363d8 f58231 911eb4 42d4f4 f032e6 bfef45 fabed4 469990 dcbeff 9a6324 aaffc3 808000 ffd8b1"
)
COLOURS = [(red, green, blue) for red, green, blue in map(bytes.fromhex, SIXTEEN.split())]


def colour_of(index: int) -> tuple[int, int, int]:
    """The colour of hypothesis or class number `index`, from 0; they repeat after sixteen."""
    return COLOURS[index % len(COLOURS)]


class View(NamedTuple):
    """What a picture shows of an image: rows and columns as slices, and the picture's width and height."""

    rows: slice
    columns: slice
    size: tuple[int, int]

    def point(self, x: float, y: float) -> tuple[float, float]:
        """The pixel of the image at a position in the picture, its middle being at .5."""
        width, height = self.size
        across, down = self.columns.stop - self.columns.start, self.rows.stop - self.rows.start
        column = min(int((x + 0.5) / width * across), across - 1)
        row = min(int((y + 0.5) / height * down), down - 1)
        return float(self.columns.start + column), float(self.rows.start + row)

    def place(self, x: float, y: float) -> tuple[float, float]:
        """Where the middle of a pixel lies in the picture."""
        width, height = self.size
        across, down = self.columns.stop - self.columns.start, self.rows.stop - self.rows.start
        return (x + 0.5 - self.columns.start) * width / across, (y + 0.5 - self.rows.start) * height / down


def view_of(shape: Sequence[int], found: np.ndarray | None = None, longest: int = LONGEST) -> View:
    """The whole of an image `(H, W, ...)`, or the part around what was `found`, bool `(H, W)`."""
    rows, columns = (slice(None), slice(None)) if found is None else window_around(found)
    rows, columns = slice(*rows.indices(shape[0])[:2]), slice(*columns.indices(shape[1])[:2])
    return View(rows, columns, display_size((rows.stop - rows.start, columns.stop - columns.start), longest))


def display_size(shape: Sequence[int], longest: int = LONGEST) -> tuple[int, int]:
    """Width and height of a picture of an image `(H, W, ...)`: a whole multiple where it grows."""
    height, width = shape[:2]
    scale = longest // max(height, width) or longest / max(height, width)
    return max(1, round(width * scale)), max(1, round(height * scale))


def smooth_mask(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A mask at a picture's size: its border runs smoothly where it grows; where it shrinks, a single pixel stays."""
    picture = PIL.Image.fromarray(mask.astype(np.uint8) * 255).resize(size, PIL.Image.Resampling.BOX)
    if size[0] < mask.shape[1]:
        return np.asarray(picture) > 0
    blur = ImageFilter.GaussianBlur(BLUR * size[0] / mask.shape[1])
    return np.asarray(picture.filter(blur)) > 127


def draw_image(image: np.ndarray, view: View, window: Window | None = None) -> PIL.Image.Image:
    """An image, float `(H, W, C)` in [0, 1], with a frame around a window of it."""
    picture = PIL.Image.fromarray(resize_image(image[view.rows, view.columns], view.size).copy())
    if window is not None:
        left, top = view.place(window.left - 0.5, window.top - 0.5)
        right, bottom = view.place(window.right - 0.5, window.bottom - 0.5)
        draw = ImageDraw.Draw(picture)
        for width, colour in zip((5, 3), CONSENSUS, strict=True):
            draw.rectangle([left, top, right - 1, bottom - 1], outline=colour, width=width)
    return picture


def draw_outlines(
    image: np.ndarray,
    masks: np.ndarray,
    shown: Sequence[int] = (),
    consensus: np.ndarray | None = None,
    num_classes: int = 1,
    view: View | None = None,
    marks: Sequence[tuple[float, float, bool]] = (),
) -> PIL.Image.Image:
    """Outlines over an image.

    Args:
        image (`np.ndarray`, float `(H, W, C)`): in [0, 1].
        masks (`np.ndarray`, bool or uint8 `(M, H, W)`): hypotheses; label maps where there are several classes.
        shown (`Sequence[int]`): the indices of those to outline, each in the colour of its index, or of its class.
        consensus (`np.ndarray`, bool or uint8 `(H, W)`, *optional*): outlined in white, on top; several classes are
            also filled, each in its colour.
        num_classes (`int`, *optional*, defaults to 1): foreground classes.
        view (`View`, *optional*): what to show; all of it if `None`.
        marks (`Sequence[tuple[float, float, bool]]`): pixels to mark by + (`True`) or -.
    """
    view = view or view_of(image.shape)
    picture = resize_image(image[view.rows, view.columns], view.size).copy()  # [h, w, 3]
    masks = masks[:, view.rows, view.columns]  # [M, h', w']
    classes = range(1, num_classes + 1)
    if consensus is not None:
        consensus = consensus[view.rows, view.columns]  # [h', w']
    if consensus is not None and num_classes > 1:
        picture = filled(picture, consensus, classes, view.size)
    for index in shown:
        for k in classes:
            colour = colour_of(index if num_classes == 1 else k - 1)
            picture[outline(smooth_mask(masks[index] == k, view.size))] = colour
    if consensus is not None:
        for k in classes:
            inside = smooth_mask(consensus == k, view.size)  # [h, w]
            for width, colour in zip((5, 3), CONSENSUS, strict=True):
                picture[outline(inside, width)] = colour
    result = PIL.Image.fromarray(picture)
    draw_marks(result, view, marks)
    return result


def filled(picture: np.ndarray, labels: np.ndarray, classes: Sequence[int], size: tuple[int, int]) -> np.ndarray:
    """A picture `(h, w, 3)` with each class of a label map tinted in its colour."""
    picture = picture.astype(np.float32)
    for k in classes:
        inside = smooth_mask(labels == k, size)  # [h, w]
        picture[inside] = 0.6 * picture[inside] + 0.4 * np.array(colour_of(k - 1))
    return picture.astype(np.uint8)


def draw_marks(picture: PIL.Image.Image, view: View, marks: Sequence[tuple[float, float, bool]]):
    """Marks each pixel by a + or a - in a white disc."""
    draw = ImageDraw.Draw(picture)
    for x, y, is_inside in marks:
        x, y = view.place(x, y)
        draw.ellipse([x - 13, y - 13, x + 13, y + 13], "white", "black", 2)
        draw.line([x - 7, y, x + 7, y], "black", 3)
        if is_inside:
            draw.line([x, y - 7, x, y + 7], "black", 3)


def draw_tiles(
    image: np.ndarray, masks: np.ndarray, num_classes: int = 1, view: View | None = None
) -> list[PIL.Image.Image]:
    """One small picture per hypothesis: tinted and outlined in its colour, or its classes', over the dark image."""
    view = view or view_of(image.shape, longest=TILE)
    dark = resize_image(image[view.rows, view.columns], view.size) * 0.7  # [h, w, 3]
    tiles = []
    for index, mask in enumerate(masks[:, view.rows, view.columns]):
        tile = dark.copy()
        for k in range(1, num_classes + 1):
            colour = colour_of(index if num_classes == 1 else k - 1)
            inside = smooth_mask(mask == k, view.size)
            tile[inside] = 0.6 * tile[inside] + 0.4 * np.array(colour)
            tile[outline(inside)] = colour
        tiles.append(PIL.Image.fromarray(tile.astype(np.uint8)))
    return tiles


def draw_map(image: np.ndarray, values: np.ndarray, anchors: str, view: View | None = None) -> PIL.Image.Image:
    """A map of values in [0, 1], `(H, W)`, in the colours between `anchors`, over the image where it is not 0."""
    view = view or view_of(image.shape)
    scan = resize_image(image[view.rows, view.columns], view.size)  # [h, w, 3]
    values = values[view.rows, view.columns]  # [h', w']
    colours = resize_map(colour_map(values, anchors), view.size)  # [h, w, 3]
    over = smooth_mask(values > 0, view.size)[..., None] * MAP_SHARE  # [h, w, 1]
    return PIL.Image.fromarray(((1 - over) * scan + over * colours).astype(np.uint8))
