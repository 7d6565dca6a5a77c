"""The part of an image that the model sees: points and boxes as windows, cut out of the image and pasted back."""

import math
import warnings
from collections.abc import Sequence
from typing import NamedTuple, overload

import numpy as np
import torch

LARGE = 1.5  # images larger than this many times the field of view get a warning without a region


class Window(NamedTuple):
    """A rectangle in an image's pixels, half-open; it may extend beyond the image."""

    left: int
    top: int
    right: int
    bottom: int

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.bottom - self.top, self.right - self.left


@overload
def region_window(region: None, size: tuple[int, int], side: tuple[float, float]) -> None: ...
@overload
def region_window(region: Sequence[float], size: tuple[int, int], side: tuple[float, float]) -> Window: ...
def region_window(region, size: tuple[int, int], side: tuple[float, float]) -> Window | None:
    """The window of a region: `None` for the whole image, the field of view around a point, or a box unchanged.

    Args:
        region: `None`, a point `(x, y)` or a box `(left, top, right, bottom)`, in pixels of the image.
        size (`tuple[int, int]`): height and width of the image.
        side (`tuple[float, float]`): height and width of the field of view around a point, in pixels of the image.

    Raises:
        TypeError, ValueError: for anything else, a point or a box outside the image, and a box without area.
    """
    if region is None:
        return None
    try:
        values = np.asarray(region, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise TypeError(_wrong(region)) from error
    if values.shape not in ((2,), (4,)) or not np.isfinite(values).all():
        raise ValueError(_wrong(region))
    height, width = size
    if values.shape == (2,):
        x, y = values
        if not (0 <= x < width and 0 <= y < height):
            raise ValueError(
                f"`regions`: the point {_plain(values)} must lie in the image of {width} x {height} pixels."
            )
        down, across = (max(1, round(length)) for length in side)
        left, top = math.floor(x + 1 - across / 2), math.floor(y + 1 - down / 2)  # centred, to half a pixel
        return Window(left, top, left + across, top + down)
    left, top, right, bottom = (round(value) for value in values)
    if left >= right or top >= bottom:
        raise ValueError(f"`regions`: the box {_plain(values)} must have left < right and top < bottom.")
    if left < 0 or top < 0 or right > width or bottom > height:
        raise ValueError(f"`regions`: the box {_plain(values)} must lie in the image of {width} x {height} pixels.")
    return Window(left, top, right, bottom)


def as_region_list(regions, num_images: int) -> list:
    """One region per image; for a single image the region alone is enough.

    Raises:
        TypeError, ValueError: unless it is a list with one entry per image.
    """
    if regions is None:
        return [None] * num_images
    if not isinstance(regions, (list, tuple, np.ndarray)):
        raise TypeError(f"`regions` must be a list with one entry per image, but was {type(regions).__name__}.")
    numbers = all(isinstance(entry, (int, float, np.integer, np.floating)) for entry in regions)
    if num_images == 1 and len(regions) in (2, 4) and numbers:
        return [regions]
    if len(regions) != num_images:
        raise ValueError(
            f"`regions` must have one entry per image, {num_images}, but had {len(regions)}: each is None, a point "
            "(x, y) or a box (left, top, right, bottom)."
        )
    return list(regions)


def cut(image: np.ndarray, window: Window | None) -> np.ndarray:
    """The window of an image, `(H, W, C)` -> `(h, w, C)`; the image is reflected at its borders."""
    if window is None:
        return image
    rows, columns = (
        reflected(np.arange(first, last), length)
        for first, last, length in (
            (window.top, window.bottom, image.shape[0]),
            (window.left, window.right, image.shape[1]),
        )
    )
    return image[rows[:, None], columns]


def reflected(index: np.ndarray, length: int) -> np.ndarray:
    """Indices beyond `[0, length)` reflected at the border, without repeating it, as often as needed.

    >>> reflected(np.array([-2, -1, 0, 3, 4, 5]), 4).tolist()
    [2, 1, 0, 3, 2, 1]
    """
    if length == 1:
        return np.zeros_like(index)
    period = 2 * (length - 1)
    folded = np.abs(index) % period
    return np.minimum(folded, period - folded)


def paste(values: torch.Tensor, window: Window | None, size: tuple[int, int]) -> torch.Tensor:
    """Maps of a window, `(..., h, w)`, pasted into zeros of the image's size, `(..., H, W)`."""
    if window is None:
        return values
    height, width = size
    top, left, bottom, right = (
        max(window.top, 0),
        max(window.left, 0),
        min(window.bottom, height),
        min(window.right, width),
    )
    whole = values.new_zeros((*values.shape[:-2], height, width))
    inner = values[..., top - window.top : bottom - window.top, left - window.left : right - window.left]
    whole[..., top:bottom, left:right] = inner
    return whole


def warn_without_region(size: tuple[int, int], region_size: int | None, index: int):
    """Warns about an image without a region that is much larger than the crops in training."""
    if region_size is not None and max(size) > LARGE * region_size:
        warnings.warn(
            f"Image {index} has {size[1]} x {size[0]} pixels, but this checkpoint was trained on crops of "
            f"{region_size} x {region_size}: at that size, small findings are lost. Pass the region to look at, "
            f"`regions=[(x, y)]` in Python or `--point X,Y` on the command line.",
            UserWarning,
            stacklevel=4,
        )


def _plain(values: np.ndarray) -> str:
    return f"({', '.join(f'{value:g}' for value in values)})"


def _wrong(region) -> str:
    return f"`regions` must be None, points (x, y) or boxes (left, top, right, bottom) in pixels, but had {region!r}."
