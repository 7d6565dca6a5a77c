"""Backbones of the image encoder: networks with feature maps at several scales.

Each takes images in [-1, 1], `(B, in_channels, H, W)`, and returns a list of feature maps,
`(B, channels[i], H / strides[i], W / strides[i])`, or as close to these sides as the network's patches allow.
"""

import json
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from diffusers.models.resnet import ResnetBlock2D
from torch import nn

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of RGB in [0, 1]
# parameters that feature maps do not depend on: for masked pretraining, and for a classifier
UNUSED = ("mask_token", "swin.layernorm.weight", "swin.layernorm.bias")


class ResidualBlock(ResnetBlock2D):
    """Two 3 x 3 convolutions with group normalisation, added to their input; without a timestep."""

    def __init__(self, in_channels: int, norm_num_groups: int, dropout: float = 0.0):
        super().__init__(
            in_channels=in_channels, temb_channels=None, groups=norm_num_groups, dropout=dropout, eps=1e-5
        )

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return super().forward(hidden_states, None)  # [B, C, h, w]


def residual_blocks(count: int, channels: int, norm_num_groups: int, dropout: float) -> nn.Sequential:
    """`count` residual blocks of the same width."""
    return nn.Sequential(*(ResidualBlock(channels, norm_num_groups, dropout) for _ in range(count)))


class UNetBackbone(nn.Module):
    """The encoder of a U-Net over pixel-unshuffled images, so that no layer is finer than a quarter of their sides."""

    def __init__(
        self,
        in_channels: int,
        block_out_channels: tuple[int, ...],
        layers_per_block: int,
        norm_num_groups: int,
        dropout: float,
        patch_size: int = 4,
    ):
        super().__init__()
        widths = self.channels = tuple(block_out_channels)
        self.patch_size = patch_size
        self.strides = tuple(patch_size * 2**level for level in range(len(widths)))
        self.conv_in = nn.Conv2d(patch_size**2 * in_channels, widths[0], 3, padding=1)
        self.downsamplers, self.blocks = nn.ModuleList(), nn.ModuleList()
        for level, width in enumerate(widths):
            if level:
                self.downsamplers.append(nn.Conv2d(widths[level - 1], width, 3, stride=2, padding=1))
            self.blocks.append(residual_blocks(layers_per_block, width, norm_num_groups, dropout))

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        hidden_states = self.conv_in(F.pixel_unshuffle(images, self.patch_size))  # [B, width, H/4, W/4]
        features = [self.blocks[0](hidden_states)]  # [B, width, H/4, W/4]
        for downsampler, blocks in zip(self.downsamplers, self.blocks[1:], strict=True):
            features.append(blocks(downsampler(features[-1])))  # [B, width, H/stride, W/stride]
        return features


class TransformersBackbone(nn.Module):
    """Any `transformers.AutoBackbone`, such as DINOv2, ConvNeXt or Swin, with ImageNet's normalisation.

    Args:
        config (`str` or `dict`): Hub id or folder of a backbone, or its configuration with its `model_type`. If it
            selects only the last stage, the default of transformers, up to four evenly spaced stages are used.
        strides (`Sequence[int]`, *optional*): strides of its feature maps, rounded to powers of two; measured
            on a blank image if `None`.
    """

    def __init__(self, config: str | dict, strides: Sequence[int] | None = None):
        super().__init__()
        try:
            from transformers import AutoBackbone, AutoConfig
        except ImportError as error:
            raise ImportError('Backbones of transformers need `pip install "medseglatdiff[backbones]"`.') from error
        stored: dict = AutoConfig.from_pretrained(config).to_dict() if isinstance(config, str) else config
        settings = AutoConfig.for_model(**{**stored, "dtype": "float32"})
        last = len(settings.stage_names) - 1
        if list(settings.out_indices) == [last]:
            settings.out_indices = sorted({math.ceil(part * last / 4) for part in range(1, 5)})
        self.model = AutoBackbone.from_config(settings)
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_(not name.endswith(UNUSED))
        self.model_config = json.loads(settings.to_json_string(use_diff=False))
        self.model_config.pop("_name_or_path", None)  # may be a local folder
        self.channels = tuple(self.model.channels)
        self.strides = tuple(strides or self.measured_strides())

    @torch.no_grad()
    def measured_strides(self, side: int = 256) -> list[int]:
        """Strides of the feature maps of a blank image, rounded to powers of two."""
        features = self.model.eval()(torch.zeros(1, 3, side, side)).feature_maps
        return [2 ** round(math.log2(side / feature.shape[-1])) for feature in features]

    def load_weights(self, name_or_path: str):
        """Loads weights from a Hub id or folder."""
        options = dict(config=self.model.config, use_safetensors=True)
        self.model.load_state_dict(type(self.model).from_pretrained(name_or_path, **options).state_dict())

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        pixels = (images.expand(-1, 3, -1, -1) + 1) / 2  # [B, 3, H, W]
        mean, std = torch.tensor([IMAGENET_MEAN, IMAGENET_STD]).to(pixels)[:, :, None, None]  # [3, 1, 1] each
        return list(self.model((pixels - mean) / std).feature_maps)
