"""Random changes of training samples, of a whole batch at once: symmetries of the square, zoom, turn and shift.

What is random of a sample is drawn from its generator, on the CPU; the batch is then changed on whatever device it is
on. So a sample does not depend on those that it shares a batch with.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F


@dataclass(frozen=True)
class Augmentation:
    """How far training samples are changed at random; 0 leaves them as they are, symmetries of the square aside.

    Strengths are the bounds of a uniform distribution around no change. The last six are for RGB.
    """

    affine: float = 0.0  # of zoom, aspect, turn, shift: at 0.3 up to 1.35 times as large, 27 degrees, 15 % of a side
    affine_share: float = 1.0  # of the samples that are changed so
    zoom: float = 0.0  # of the zoom alone, where it is to be greater: 0.69 from half to double
    shift: int = 0  # of the window over the image, in pixels
    empty_windows: float = 0.0  # share of samples that show a part of their image that no rater marked
    contrast: float = 0.0  # relative
    brightness: float = 0.0  # of values in [-1, 1]
    gamma: float = 0.0  # of the exponent's logarithm
    noise: float = 0.0  # greatest standard deviation, of values in [-1, 1]; half of the samples have any
    blur: float = 0.0  # share of samples in which each pixel becomes the mean of 3 x 3
    saturation: float = 0.0  # relative
    greying: float = 0.0  # share of samples that lose all colour
    hue: float = 0.0  # in half turns of the colour circle
    grey_balance: float = 0.0  # of each channel's gain
    vignette: float = 0.0  # greatest loss of light in the corners
    exchange: float = 0.0  # share of samples that take the colour statistics of another image


def draw(generators: Sequence[torch.Generator], *names: str) -> dict[str, torch.Tensor]:
    """A number for each name and generator, uniform in [0, 1): float32 `(B,)` by name."""
    values = torch.stack([torch.rand(len(names), generator=generator) for generator in generators])  # [B, names]
    return dict(zip(names, values.T, strict=True))


def dihedral(image: torch.Tensor, symmetry: int) -> torch.Tensor:
    """One of the square's eight symmetries over the last two dimensions: quarter turns, then a flip from 4 on."""
    turned = torch.rot90(image, symmetry % 4, dims=(-2, -1))
    return turned.flip(-1) if symmetry >= 4 else turned


def undo_dihedral(image: torch.Tensor, symmetry: int) -> torch.Tensor:
    """What `dihedral(image, symmetry)` was made from."""
    upright = image.flip(-1) if symmetry >= 4 else image
    return torch.rot90(upright, -(symmetry % 4), dims=(-2, -1))


def random_symmetries(planes: torch.Tensor, generators: Sequence[torch.Generator]) -> torch.Tensor:
    """All planes of a sample, `(B, N, S, S)`, under one of the square's symmetries."""
    drawn = (draw(generators, "symmetry")["symmetry"] * 8).long()  # [B]
    turned = planes.clone()
    for symmetry in range(1, 8):
        chosen = (drawn == symmetry).nonzero().flatten().to(planes.device)
        turned[chosen] = dihedral(planes[chosen], symmetry)
    return turned


def affine_matrix(
    zoom: torch.Tensor, aspect: torch.Tensor, angle: torch.Tensor, right: torch.Tensor, down: torch.Tensor
) -> torch.Tensor:
    """Where each output pixel looks in the input, as `torch.nn.functional.affine_grid` reads it: `(B, 2, 3)`.

    Args:
        zoom (`torch.Tensor` of shape `(B,)`, like all): what is shown `zoom` times as large,
        aspect: and `aspect` times as wide in relation to its height,
        angle: is turned by this angle in radians,
        right, down: and moved, in halves of the image's side.
    """
    cos, sin = angle.cos(), angle.sin()  # [B]
    width, height = zoom * aspect.sqrt(), zoom / aspect.sqrt()  # [B]
    first = torch.stack([cos / width, sin / width, -(cos * right + sin * down) / width], dim=1)  # [B, 3]
    second = torch.stack([-sin / height, cos / height, (sin * right - cos * down) / height], dim=1)  # [B, 3]
    return torch.stack([first, second], dim=1)  # [B, 2, 3]


def random_affine(
    planes: torch.Tensor, augmentation: Augmentation, generators: Sequence[torch.Generator]
) -> torch.Tensor:
    """All planes of a sample, float32 `(B, N, S, S)`, under one random affine map; beyond the border they reflect."""
    drawn = draw(generators, "share", "zoom", "aspect", "angle", "right", "down")
    strength = augmentation.affine * (drawn.pop("share") < augmentation.affine_share)  # [B]
    by = {name: (2 * value - 1) * strength for name, value in drawn.items()}  # [B] each
    if augmentation.zoom > augmentation.affine:
        by["zoom"] = (2 * drawn["zoom"] - 1) * augmentation.zoom
    matrix = affine_matrix(
        by["zoom"].exp(), (by["aspect"] / 2).exp(), by["angle"] * math.pi / 2, by["right"], by["down"]
    )
    grid = F.affine_grid(matrix.to(planes.device), list(planes.shape), align_corners=False)  # [B, S, S, 2]
    return F.grid_sample(planes, grid, padding_mode="reflection", align_corners=False)  # [B, N, S, S]
