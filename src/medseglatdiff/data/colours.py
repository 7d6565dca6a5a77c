"""Random changes of light and colour in training images, a whole batch at once."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F

from .augmentation import Augmentation, draw

LIGHT = ("contrast", "brightness", "gamma", "noise", "noisy", "blur", "vignette")
CHANNELS = ("red", "green", "blue")
COLOURS = ("exchange", "greying", "saturation", "hue", *CHANNELS)


def random_colours(
    images: torch.Tensor,
    augmentation: Augmentation,
    generators: Sequence[torch.Generator],
    statistics: tuple[torch.Tensor, torch.Tensor] | None,
) -> torch.Tensor:
    """Images, float32 `(B, C, S, S)` in [-1, 1], under other light; colours change in RGB images only.

    Args:
        statistics: for each sample the means and standard deviations of another image's channels, `(B, C)` each;
            `None` exchanges none.
    """
    # 1. random numbers, [B, 1, 1, 1] each: in [-1, 1] around no change, or in [0, 1) for shares
    drawn = draw(generators, *LIGHT, *COLOURS)
    drawn = {name: value.to(images.device)[:, None, None, None] for name, value in drawn.items()}
    change = {name: (2 * value - 1) * getattr(augmentation, name, 1.0) for name, value in drawn.items()}
    chosen = {name: drawn[name] < getattr(augmentation, name) for name in ("exchange", "greying", "blur")}
    # 2. colours; -1 is black
    if images.shape[1] == 3:
        if statistics is not None:
            mean, std = (value.to(images.device)[:, :, None, None] for value in statistics)  # [B, C, 1, 1]
            images = torch.where(chosen["exchange"], with_statistics(images, mean, std), images)  # [B, C, S, S]
        saturation = (1 + change["saturation"]) * ~chosen["greying"]  # [B, 1, 1, 1]
        images = turned_colours(images, saturation.flatten(), math.pi * change["hue"].flatten())
        gains = 1 + augmentation.grey_balance * torch.cat([change[name] for name in CHANNELS], dim=1)  # [B, 3, 1, 1]
        images = (images + 1) * gains - 1  # [B, C, S, S]
    # 3. light
    if augmentation.contrast or augmentation.brightness:
        mean = images.mean(dim=(1, 2, 3), keepdim=True)  # [B, 1, 1, 1]
        images = (images - mean) * (1 + change["contrast"]) + mean + change["brightness"]  # [B, C, S, S]
    if augmentation.gamma:
        light = (images.clamp(-1, 1) + 1) / 2  # [B, C, S, S]
        images = 2 * light.clamp(min=1e-4) ** change["gamma"].exp() - 1
    if augmentation.vignette:
        loss = augmentation.vignette * drawn["vignette"] * corner_distance(images)  # [B, 1, S, S]
        images = (images + 1) * (1 - loss) - 1
    # 4. the camera
    if augmentation.blur:
        blurred = F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), 3, stride=1)  # [B, C, S, S]
        images = torch.where(chosen["blur"], blurred, images)
    if augmentation.noise:
        deviation = augmentation.noise * drawn["noise"] * (drawn["noisy"] < 0.5)  # [B, 1, 1, 1]
        images = images + deviation * normal_like(images, deviation, generators)
    return images.clamp(-1, 1)


def with_statistics(images: torch.Tensor, mean: torch.Tensor, std: torch.Tensor) -> torch.Tensor:
    """Images whose channels have this mean and standard deviation, `(B, C, 1, 1)` (Reinhard et al. 2001; on polyps:
    Wei et al. 2021, SANet, arXiv 2108.00882)."""
    before = images.std(dim=(2, 3), keepdim=True).clamp(min=1e-3)  # [B, C, 1, 1]
    return (images - images.mean(dim=(2, 3), keepdim=True)) / before * std + mean


def turned_colours(images: torch.Tensor, saturation: torch.Tensor, angle: torch.Tensor) -> torch.Tensor:
    """RGB images, `(B, 3, S, S)`, with their colours scaled by `saturation` and rotated by `angle` around the grey
    axis, `(B,)` each: a saturation of 0 gives grey, a third of a turn takes red to green.

    With P the projection on the grey axis and K the cross product with it: P + s (cos a (1 - P) + sin a K)
    (Rodrigues' formula).
    """
    grey = images.new_full((3, 3), 1 / 3)
    cross = images.new_tensor([[0.0, -1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 1.0, 0.0]]) / math.sqrt(3)  # [3, 3]
    chroma = torch.eye(3, dtype=images.dtype, device=images.device) - grey  # [3, 3]
    saturation, angle = saturation[:, None, None], angle[:, None, None]
    matrix = grey + saturation * (angle.cos() * chroma + angle.sin() * cross)  # [B, 3, 3]
    return torch.einsum("bij,bjhw->bihw", matrix, images)


def corner_distance(images: torch.Tensor) -> torch.Tensor:
    """Squared distance of each pixel from the centre, 1 in the corners: `(H, W)`."""
    rows, columns = (torch.linspace(-1, 1, side, device=images.device) for side in images.shape[2:])
    return (rows[:, None] ** 2 + columns**2) / 2


def normal_like(images: torch.Tensor, deviation: torch.Tensor, generators: Sequence[torch.Generator]) -> torch.Tensor:
    """Standard normal noise where the sample's `deviation` is not 0, `(B, C, S, S)`."""
    noise = torch.zeros_like(images)
    for index in deviation.flatten().nonzero().flatten().tolist():
        noise[index] = torch.randn(images.shape[1:], generator=generators[index]).to(images.device)
    return noise
