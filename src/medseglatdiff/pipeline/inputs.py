"""The pipeline's arguments: counts, generators and latents are checked; images are cut to regions and resized."""

import os
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from ..data.images import load_image, resize_bilinear, to_channels
from ..data.limits import MAX_CANDIDATES, MAX_MASKS, MAX_STEPS
from ..data.spacing import pixel_spacing
from .regions import Window, as_region_list, cut, region_window, warn_without_region
from .sampling import check_finite

MOST = {"num_masks": MAX_MASKS, "num_candidates": MAX_CANDIDATES, "num_inference_steps": MAX_STEPS}


def check_counts(**counts):
    """Raises a `ValueError` or `TypeError` that names the argument unless each is an integer from 1 to its limit."""
    for name, value in counts.items():
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
            raise TypeError(f"`{name}` must be an integer, but was {value!r}.")
        if value < 1:
            raise ValueError(f"`{name}` must be at least 1, but was {value}.")
        if value > MOST.get(name, value):
            raise ValueError(f"`{name}` must be at most {MOST[name]:,}, but was {value:,}.")


def check_choice(name: str, value, choices: tuple):
    """Raises a `ValueError` unless `value` is one of `choices`."""
    if value not in choices:
        raise ValueError(f"`{name}` must be one of {', '.join(map(repr, choices))}, but was {value!r}.")


def check_latents(latents: torch.Tensor | None, shape: tuple[int, ...]):
    """Raises a `ValueError` unless `latents` are `None` or finite and of this shape."""
    if latents is None:
        return
    if tuple(latents.shape) != shape:
        raise ValueError(f"`latents` must have shape {shape}, but was {tuple(latents.shape)}.")
    check_finite(latents, "latents")


def check_members(members: Sequence[int] | None, count: int) -> list[int]:
    """Indices of candidates as a list, all of them for `None`.

    Raises:
        ValueError: unless there is at least one and each lies in [0, count), once.
    """
    members = list(range(count)) if members is None else [int(member) for member in members]
    if not members or len(set(members)) < len(members) or not 0 <= min(members) <= max(members) < count:
        raise ValueError(f"`members` must be different indices in [0, {count}), but was {members}.")
    return members


def as_generators(generator, seed: int | None, num_images: int) -> list[torch.Generator] | list[None]:
    """One generator per image, `None` where there is none: as given, the same for all, or seeded by `seed`.

    Raises:
        TypeError, ValueError: for anything else, and if both `generator` and `seed` are given.
    """
    if seed is not None:
        if generator is not None:
            raise ValueError("`seed` and `generator` must not be given together.")
        if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or not 0 <= seed < 2**63:
            raise ValueError(f"`seed` must be an integer in [0, 2**63), but was {seed!r}.")
        return [torch.Generator().manual_seed(int(seed)) for _ in range(num_images)]
    generators = generator if isinstance(generator, list) else [generator] * num_images
    if len(generators) != num_images:
        raise ValueError(
            f"`generator` must be one generator or a list with one per image, {num_images}, "
            f"but was a list of {len(generators)}."
        )
    for entry in generators:
        if entry is not None and not isinstance(entry, torch.Generator):
            raise TypeError(f"`generator` must be one or several torch.Generator, but had {type(entry).__name__}.")
    return generators


class Views(NamedTuple):
    """Images as the model sees them.

    Args:
        pixels (`torch.Tensor` of shape `(B, channels, S, S)`): in [-1, 1].
        sizes (`list[tuple[int, int]]`): height and width of each whole image.
        windows (`list[Window | None]`): the part of each image in `pixels`; `None` for the whole image.
    """

    pixels: torch.Tensor
    sizes: list[tuple[int, int]]
    windows: list[Window | None]


def preprocess(images: list, regions, channels: int, config) -> Views:
    """Loads images one by one, cuts out their regions and resizes them to the model's size.

    Args:
        images: anything that `load_image` takes.
        regions: one entry per image: `None`, a point `(x, y)` or a box `(left, top, right, bottom)`.
        channels (`int`): channels of the image encoder's input, 1 or 3.
        config: the pipeline's; `sample_size`, `stretch`, `region_size` and `pixel_size` are used.

    Raises:
        TypeError, ValueError: with the index of the image that cannot be used.
    """
    batch, sizes, windows = [], [], []
    for index, (image, region) in enumerate(zip(images, as_region_list(regions, len(images)), strict=True)):
        try:
            array = to_channels(load_image(image, config.stretch), channels)  # [H, W, C]
            known = region is not None and config.pixel_size and isinstance(image, (str, os.PathLike))
            side = field_of_view(pixel_spacing(image) if known else None, config)
            window = region_window(region, array.shape[:2], side)
        except (TypeError, ValueError) as error:
            kind = TypeError if isinstance(error, TypeError) else ValueError
            raise kind(f"`images` must be usable images, but index {index} is not: {error}") from error
        if window is None:
            warn_without_region(array.shape[:2], config.region_size, index)
        view = cut(array, window)  # [h, w, C]
        if window is not None and config.stretch:
            view = (view - view.min()) / (np.ptp(view) or 1)  # [h, w, C]
        pixels = torch.from_numpy(view).movedim(-1, 0)[None]  # [1, C, h, w]
        batch.append(resize_bilinear(pixels, (config.sample_size, config.sample_size)))  # [1, C, S, S]
        sizes.append(array.shape[:2])
        windows.append(window)
    return Views(torch.cat(batch).mul(2).sub(1).clamp(-1, 1), sizes, windows)


def field_of_view(spacing: tuple[float, float] | None, config) -> tuple[float, float]:
    """Height and width of what a point shows, in the image's own pixels: the size of the training crops, in mm where
    both the training data's pixel size and the image's spacing, between rows and between columns, are known."""
    side = config.region_size or config.sample_size
    if spacing is None or not config.pixel_size:
        return side, side
    return side * config.pixel_size / spacing[0], side * config.pixel_size / spacing[1]
