"""Random changes of a training sample: symmetries of the square, colours, and zoom, turn and shift."""

import math

import torch
import torch.nn.functional as F


def dihedral(image: torch.Tensor, symmetry: int) -> torch.Tensor:
    """One of the square's eight symmetries over the last two dimensions: quarter turns, then a flip from 4 on."""
    turned = torch.rot90(image, symmetry % 4, dims=(-2, -1))
    return turned.flip(-1) if symmetry >= 4 else turned


def undo_dihedral(image: torch.Tensor, symmetry: int) -> torch.Tensor:
    """What `dihedral(image, symmetry)` was made from."""
    upright = image.flip(-1) if symmetry >= 4 else image
    return torch.rot90(upright, -(symmetry % 4), dims=(-2, -1))


def colour_jitter(image: torch.Tensor, generator: torch.Generator, strength: float = 0.2) -> torch.Tensor:
    """Random brightness, contrast and saturation of an RGB image in [-1, 1], `(3, H, W)`; grey stays grey."""
    if image.shape[0] != 3:
        return image
    brightness, contrast, saturation = (torch.rand(3, generator=generator) * 2 - 1) * strength
    grey = image.mean(dim=0, keepdim=True)  # [1, H, W]
    image = grey + (image - grey) * (1 + saturation)  # [3, H, W]
    return ((image - image.mean()) * (1 + contrast) + image.mean() + brightness).clamp(-1, 1)  # [3, H, W]


def affine_matrix(zoom: float, aspect: float, angle: float, shift: tuple[float, float]) -> torch.Tensor:
    """Where each output pixel looks in the input, as `torch.nn.functional.affine_grid` reads it: float32 `(2, 3)`.

    Args:
        zoom (`float`): what is shown `zoom` times as large.
        aspect (`float`): and `aspect` times as wide in relation to its height.
        angle (`float`): turned by so many radians.
        shift (`tuple[float, float]`): and moved in x and y, in halves of the image's side.
    """
    cos, sin = math.cos(angle), math.sin(angle)
    width, height = zoom * math.sqrt(aspect), zoom / math.sqrt(aspect)
    return torch.tensor(
        [
            [cos / width, sin / width, -(cos * shift[0] + sin * shift[1]) / width],
            [-sin / height, cos / height, (sin * shift[0] - cos * shift[1]) / height],
        ]
    )


def random_affine(planes: torch.Tensor, strength: float, generator: torch.Generator) -> torch.Tensor:
    """All planes, float32 `(N, S, S)`, under one random zoom, aspect, turn and shift; beyond the border they reflect.

    At strength 0.3 the zoom is 1.35 at most, or its inverse, the turn 27 degrees, the shift 15 % of the side.
    """
    zoom, aspect, angle, right, down = ((torch.rand(5, generator=generator) * 2 - 1) * strength).tolist()
    matrix = affine_matrix(math.exp(zoom), math.exp(aspect / 2), angle * math.pi / 2, (right, down))  # [2, 3]
    grid = F.affine_grid(matrix[None], [1, *planes.shape], align_corners=False)  # [1, S, S, 2]
    return F.grid_sample(planes[None], grid, padding_mode="reflection", align_corners=False)[0]  # [N, S, S]
