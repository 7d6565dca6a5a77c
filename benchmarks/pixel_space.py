"""Diffusion on the mask's own pixels, with the pipeline's other parts: what the latent space is compared with."""

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import nn

UNET = {
    "block_out_channels": [16, 32, 48, 96, 192],
    "attention": [False, False, False, False, True],
    "layers_per_block": 1,
}  # two levels more than the preset's, so that its coarsest level is the same 8 x 8


class PixelMasks(ModelMixin, ConfigMixin):
    """In the place of the mask autoencoder: one channel, the foreground, with zero mean and unit variance.

    Args:
        share (`float`): of foreground among the pixels of the training split.
    """

    @register_to_config
    def __init__(self, share: float, in_channels: int = 2, latent_channels: int = 1, out_channels: int = 2):
        super().__init__()
        self.register_buffer("mean", torch.tensor(share))
        self.register_buffer("std", torch.tensor((share * (1 - share)) ** 0.5))

    @property
    def downsampling_factor(self) -> int:
        return 1

    def encode(self, sample: torch.Tensor) -> torch.Tensor:
        """One-hot masks, `(B, 2, S, S)`, as `(B, 1, S, S)`."""
        return (sample[:, 1:] - self.mean) / self.std

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """`(B, 1, S, S)` as logits, `(B, 2, S, S)`: foreground from half-way between the two values on."""
        foreground = latents * self.std + self.mean - 0.5  # [B, 1, S, S]
        return torch.cat([-foreground, foreground], dim=1)


class PixelCondition(ModelMixin, ConfigMixin):
    """In the place of the image encoder: two convolutions at full resolution."""

    @register_to_config
    def __init__(self, in_channels: int = 1, condition_channels: int = 16):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(in_channels, condition_channels, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(condition_channels, condition_channels, 3, padding=1),
        )

    @property
    def condition_channels(self) -> int:
        return self.config.condition_channels

    @property
    def downsampling_factor(self) -> int:
        return 1

    def condition(self, images: torch.Tensor) -> torch.Tensor:
        """`(B, condition_channels, S, S)` from `(B, in_channels, S, S)`."""
        return self.layers(images)

    def condition_and_logits(self, images: torch.Tensor) -> tuple[torch.Tensor, None]:
        """The condition; there is no head."""
        return self.condition(images), None
