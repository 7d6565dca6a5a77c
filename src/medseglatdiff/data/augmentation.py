"""Random augmentation of training samples, a whole batch at once: symmetries of the square, zoom, rotation and shift.

A sample's random numbers come from its own generator, on the CPU; the batch is then changed on its device. So a sample
does not depend on the rest of its batch.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F


@dataclass(frozen=True)
class Augmentation:
    """Strength of the random augmentation; at 0 samples do not change, except by symmetries of the square.

    Strengths are the bounds of a uniform distribution around no change. The last six are for RGB.
    """

    affine: float = 0.0  # of zoom, aspect, rotation, shift; 0.3: up to 1.35 times as large, 27 degrees, 15 % of a side
    affine_share: float = 1.0  # share of samples that `affine` changes
    zoom: float = 0.0  # of the zoom alone, if greater than `affine`; 0.69: from half to double
    shift: int = 0  # of the window, in pixels
    empty_windows: float = 0.0  # share of samples that show an unmarked part of their image
    contrast: float = 0.0  # relative
    brightness: float = 0.0  # of values in [-1, 1]
    gamma: float = 0.0  # of the exponent's logarithm
    noise: float = 0.0  # largest standard deviation, for values in [-1, 1]; half of the samples get none
    blur: float = 0.0  # share of samples smoothed by the mean of 3 x 3 pixels
    saturation: float = 0.0  # relative
    greying: float = 0.0  # share of samples that become grey
    hue: float = 0.0  # in half turns of the colour circle
    grey_balance: float = 0.0  # of each channel's gain
    vignette: float = 0.0  # largest loss of light in the corners
    exchange: float = 0.0  # share of samples that take the colour statistics of another image


def draw(generators: Sequence[torch.Generator], *names: str) -> dict[str, torch.Tensor]:
    """Uniform random numbers in [0, 1), one from each generator: float32 `(B,)` for each name."""
    values = torch.stack([torch.rand(len(names), generator=generator) for generator in generators])  # [B, names]
    return dict(zip(names, values.T, strict=True))


def dihedral(image: torch.Tensor, symmetry: int) -> torch.Tensor:
    """One of the eight symmetries of the square, 0 to 7, on the last two dimensions; 4 and more are flipped."""
    turned = torch.rot90(image, symmetry % 4, dims=(-2, -1))
    return turned.flip(-1) if symmetry >= 4 else turned


def undo_dihedral(image: torch.Tensor, symmetry: int) -> torch.Tensor:
    """The inverse of `dihedral`."""
    upright = image.flip(-1) if symmetry >= 4 else image
    return torch.rot90(upright, -(symmetry % 4), dims=(-2, -1))


def random_symmetries(planes: torch.Tensor, generators: Sequence[torch.Generator]) -> torch.Tensor:
    """Planes `(B, N, S, S)` under random symmetries of the square, one for all planes of a sample."""
    drawn = (draw(generators, "symmetry")["symmetry"] * 8).long()  # [B]
    turned = planes.clone()
    for symmetry in range(1, 8):
        chosen = (drawn == symmetry).nonzero().flatten().to(planes.device)
        turned[chosen] = dihedral(planes[chosen], symmetry)
    return turned


def affine_matrix(
    zoom: torch.Tensor, aspect: torch.Tensor, angle: torch.Tensor, right: torch.Tensor, down: torch.Tensor
) -> torch.Tensor:
    """From output to input positions, as `torch.nn.functional.affine_grid` takes it: `(B, 2, 3)`.

    Args:
        zoom (`torch.Tensor` of shape `(B,)`, as all arguments): magnification.
        aspect: horizontal over vertical magnification.
        angle: rotation in radians.
        right, down: shift in halves of the image's side.
    """
    cos, sin = angle.cos(), angle.sin()  # [B]
    width, height = zoom * aspect.sqrt(), zoom / aspect.sqrt()  # [B]
    first = torch.stack([cos / width, sin / width, -(cos * right + sin * down) / width], dim=1)  # [B, 3]
    second = torch.stack([-sin / height, cos / height, (sin * right - cos * down) / height], dim=1)  # [B, 3]
    return torch.stack([first, second], dim=1)  # [B, 2, 3]


def random_affine(
    planes: torch.Tensor, augmentation: Augmentation, generators: Sequence[torch.Generator]
) -> torch.Tensor:
    """Planes, float32 `(B, N, S, S)`, reflected at the border, under random affine maps, one for each sample."""
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
