"""Combines feature maps at several scales into one at the resolution of the mask latents."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from .backbones import residual_blocks


def matched(in_channels: int, out_channels: int) -> nn.Module:
    """A 1 x 1 convolution if the channels differ, else nothing."""
    return nn.Identity() if in_channels == out_channels else nn.Conv2d(in_channels, out_channels, 1)


class TopDownDecoder(nn.Module):
    """From the coarsest scale up, each finer one is added and refined (Lin et al. 2017, arXiv 1612.03144; with
    residual blocks as in a U-Net, Ronneberger et al. 2015, arXiv 1505.04597).

    Scales finer than the latents join at the last level, by convolutions as large as a latent pixel, so that they keep
    the position of edges within it.

    Args:
        channels (`Sequence[int]`): channels of the feature maps.
        strides (`Sequence[int]`): their strides, powers of two, not necessarily distinct.
        widths (`dict[int, int]`): channels of each level by its stride, from the coarsest to `downsampling_factor`.
        downsampling_factor (`int`): stride of the result.
        condition_channels (`int`): channels of the result.
        layers_per_block (`int`): residual blocks per level; one at the coarsest.
        norm_num_groups (`int`): groups of the group normalisation.
        dropout (`float`): dropout inside the residual blocks.
    """

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        widths: dict[int, int],
        downsampling_factor: int,
        condition_channels: int,
        layers_per_block: int,
        norm_num_groups: int,
        dropout: float,
    ):
        super().__init__()
        self.levels = list(widths)
        self.joins = [max(stride, downsampling_factor) for stride in strides]  # the level that each map joins
        self.laterals, self.upsamplers, self.blocks = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        for in_channels, stride, level in zip(channels, strides, self.joins, strict=True):
            cell = level // stride
            if cell > 1:
                self.laterals.append(nn.Conv2d(in_channels, widths[level], cell, stride=cell))
            else:
                self.laterals.append(matched(in_channels, widths[level]))
        for index, width in enumerate(widths.values()):
            if index:
                self.upsamplers.append(matched(widths[self.levels[index - 1]], width))
            self.blocks.append(residual_blocks(layers_per_block if index else 1, width, norm_num_groups, dropout))
        self.norm_out = nn.GroupNorm(norm_num_groups, width)
        self.conv_out = nn.Conv2d(width, condition_channels, 3, padding=1)

    def forward(self, features: list[torch.Tensor], size: tuple[int, int]) -> torch.Tensor:
        """`(B, condition_channels, h, w)` from feature maps of an image of `size`, height and width in pixels."""
        hidden_states = None
        for index, (level, blocks) in enumerate(zip(self.levels, self.blocks, strict=True)):
            # 1. up from the coarser level
            if index:
                hidden_states = self.upsamplers[index - 1](hidden_states)  # [B, width, h'/2, w'/2]
                hidden_states = F.interpolate(hidden_states, scale_factor=2.0)  # [B, width, h', w']
            # 2. with the feature maps of this one
            for feature, lateral, join in zip(features, self.laterals, self.joins, strict=True):
                if join == level:
                    joined = fitted(lateral(feature), [side // level for side in size])  # [B, width, h', w']
                    hidden_states = joined if hidden_states is None else hidden_states + joined
            # 3. refined
            hidden_states = blocks(hidden_states)  # [B, width, h', w']
        return self.conv_out(F.silu(self.norm_out(hidden_states)))  # [B, condition_channels, h, w]


def fitted(feature: torch.Tensor, size: list[int]) -> torch.Tensor:
    """A feature map `(B, C, h, w)` resized to `size` if need be, as for patches of 14 pixels."""
    return feature if list(feature.shape[2:]) == size else F.interpolate(feature, size, mode="bilinear")
