"""What a reader could use in the pipeline's place: networks with one loss and one way to draw probabilities."""

import torch
import torch.nn.functional as F
from monai.networks.nets import DynUNet
from torch import nn

from medseglatdiff import MedSegLatDiffImageEncoder

ENCODER_WIDTHS = (16, 24, 40, 112, 320)  # of EfficientNet-Lite0 at strides 2 to 32
DROPOUT = 0.2


class Baseline(nn.Module):
    """A network from images in [-1, 1], `(B, C, S, S)`, to two logits a pixel, `(B, 2, S, S)`."""

    random = False  # whether draws differ

    def loss(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Cross entropy plus 1 - soft Dice over the batch, which nnU-Net uses (Isensee et al. 2021)."""
        logits = self(images).float()  # [B, 2, S, S]
        foreground = logits.softmax(dim=1)[:, 1]  # [B, S, S]
        overlap = (2 * (foreground * labels).sum() + 1) / (foreground.sum() + labels.sum() + 1)
        return F.cross_entropy(logits, labels) + 1 - overlap

    def draw(self, images: torch.Tensor) -> torch.Tensor:
        """Probability of the foreground, `(B, S, S)`; another draw each time where the network is random."""
        return self(images).float().softmax(dim=1)[:, 1]


def conv_block(in_channels: int, out_channels: int) -> nn.Sequential:
    """Two 3 x 3 convolutions, each with group normalisation and SiLU."""
    layers = []
    for channels in (in_channels, out_channels):
        layers += [nn.Conv2d(channels, out_channels, 3, padding=1), nn.GroupNorm(8, out_channels), nn.SiLU()]
    return nn.Sequential(*layers)


class PretrainedUNet(Baseline):
    """The pipeline's own ImageNet encoder under a U-Net decoder that joins its five scales."""

    def __init__(self, in_channels: int, widths: tuple[int, ...] = (32, 32, 64, 96)):
        super().__init__()
        self.encoder = MedSegLatDiffImageEncoder(in_channels=in_channels)
        self.encoder.load_imagenet_weights()
        inner = (*widths, ENCODER_WIDTHS[-1])
        self.blocks = nn.ModuleList(
            conv_block(inner[level + 1] + ENCODER_WIDTHS[level], widths[level]) for level in range(len(widths))
        )
        self.head = nn.Conv2d(widths[0], 2, 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        *features, hidden_states = self.encoder.features(images)  # [B, width, S/stride, S/stride]
        for feature, block in zip(reversed(features), reversed(self.blocks), strict=True):
            hidden_states = F.interpolate(hidden_states, scale_factor=2, mode="bilinear")
            hidden_states = block(torch.cat([hidden_states, feature], dim=1))  # [B, width, S/stride, S/stride]
        return F.interpolate(self.head(hidden_states), images.shape[2:], mode="bilinear")  # [B, 2, S, S]


def dynamic_unet(in_channels: int, out_channels: int, dropout: float = 0.0) -> DynUNet:
    """nnU-Net's architecture (MONAI's DynUNet) of five levels, half as wide as nnU-Net's own to suit a CPU.

    Dropout acts in the innermost blocks alone, as in the best variant of Bayesian SegNet (Kendall et al. 2015, arXiv
    1511.02680): MONAI puts it everywhere, onto the logits too.
    """
    network = DynUNet(
        spatial_dims=2,
        in_channels=in_channels,
        out_channels=out_channels,
        kernel_size=[3] * 5,
        strides=[1, 2, 2, 2, 2],
        upsample_kernel_size=[2] * 4,
        filters=[16, 32, 64, 128, 256],
        dropout=("dropout", {"p": dropout}) if dropout else None,
    )
    inner = (network.downsamples[-1], network.bottleneck, network.upsamples[0])
    kept = {module for block in inner for module in block.modules()}
    for module in network.modules():
        if isinstance(module, nn.Dropout) and module not in kept:
            module.p = 0.0
    return network


class DynamicUNet(Baseline):
    """nnU-Net's architecture, trained with dropout in its innermost blocks."""

    def __init__(self, in_channels: int):
        super().__init__()
        self.network = dynamic_unet(in_channels, 2, DROPOUT)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.network(images)  # [B, 2, S, S]

    def leave_dropout_on(self):
        """From now on every draw drops other units (Monte Carlo dropout; Gal & Ghahramani 2016)."""
        self.random = True
        for module in self.modules():
            if isinstance(module, nn.Dropout):
                module.train()


class SegFormer(Baseline):
    """SegFormer-B0 of transformers (Xie et al. 2021) from random weights."""

    def __init__(self, in_channels: int):
        super().__init__()
        from transformers import SegformerConfig, SegformerForSemanticSegmentation

        self.network = SegformerForSemanticSegmentation(SegformerConfig(num_channels=in_channels, num_labels=2))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return F.interpolate(self.network(images).logits, images.shape[2:], mode="bilinear")  # [B, 2, S, S]


class ConditionalVAE(Baseline):
    """A small Probabilistic U-Net (Kohl et al. 2018): a code drawn from a Gaussian joins the U-Net's last features."""

    random = True

    def __init__(self, in_channels: int, code_channels: int = 6, features: int = 16, kl_weight: float = 10.0):
        super().__init__()
        self.unet, self.kl_weight = dynamic_unet(in_channels, features), kl_weight
        self.prior, self.posterior = (
            self._gaussian(channels, code_channels) for channels in (in_channels, in_channels + 2)
        )
        self.combine = nn.Sequential(
            nn.Conv2d(features + code_channels, features, 1), nn.SiLU(),
            nn.Conv2d(features, features, 1), nn.SiLU(), nn.Conv2d(features, 2, 1),
        )  # fmt: skip

    @staticmethod
    def _gaussian(in_channels: int, code_channels: int) -> nn.Sequential:
        widths, layers = (in_channels, 16, 32, 64, 128), []
        for narrow, wide in zip(widths[:-1], widths[1:], strict=True):
            layers += [conv_block(narrow, wide), nn.AvgPool2d(2)]
        return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 2 * code_channels))

    @staticmethod
    def _distribution(parameters: torch.Tensor) -> torch.distributions.Normal:
        mean, log_std = parameters.float().chunk(2, dim=1)  # [B, code_channels] each
        return torch.distributions.Normal(mean, log_std.clamp(-7, 3).exp())

    def _decode(self, images: torch.Tensor, code: torch.Tensor) -> torch.Tensor:
        features = self.unet(images)  # [B, features, S, S]
        tiled = code[:, :, None, None].expand(-1, -1, *images.shape[2:])  # [B, code_channels, S, S]
        return self.combine(torch.cat([features, tiled.to(features.dtype)], dim=1))  # [B, 2, S, S]

    def loss(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Cross entropy summed over an image's pixels plus the weighted KL divergence (eq. 4), per pixel."""
        masks = F.one_hot(labels, 2).movedim(-1, 1).to(images.dtype)  # [B, 2, S, S]
        prior = self._distribution(self.prior(images))
        posterior = self._distribution(self.posterior(torch.cat([images, masks], dim=1)))
        logits = self._decode(images, posterior.rsample()).float()  # [B, 2, S, S]
        divergence = torch.distributions.kl_divergence(posterior, prior).sum(dim=1).mean()
        return F.cross_entropy(logits, labels) + self.kl_weight * divergence / labels[0].numel()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self._decode(images, self._distribution(self.prior(images)).sample())  # [B, 2, S, S]


NETWORKS = {
    "pretrained_unet": PretrainedUNet,
    "dynunet": DynamicUNet,
    "segformer": SegFormer,
    "conditional_vae": ConditionalVAE,
}
