"""The first two stages, the autoencoder of masks and the autoencoder of images; and masks decoded better later on."""

from collections.abc import Sequence
from typing import Self

import torch
from torch import nn

from ..data.splits import SegmentationSplit, one_hot, seeded_generator
from ..losses import (
    class_weights_from_frequencies,
    image_mse,
    mask_dice,
    mask_mse,
    weighted_cross_entropy,
)
from ..metrics.overlap import dice
from ..models.autoencoder import MedSegLatDiffVAE
from ..pipeline.pipeline import MedSegLatDiffPipeline
from .config import Config
from .stages import Stage, check_start


class MaskAutoencoderStage(Stage):
    """Trains the autoencoder of masks; its reconstruction loss decides whether nodules of a few pixels survive."""

    name, salt = "mask_vae", 1

    def __init__(
        self,
        config: Config,
        train: SegmentationSplit,
        validation: SegmentationSplit,
        vae: MedSegLatDiffVAE | None = None,
    ):
        """Trains `vae` on, or a new one of the configured shape."""
        super().__init__(config, train, validation)
        channels = 1 + config.num_classes
        if vae is None:
            vae = MedSegLatDiffVAE(in_channels=channels, out_channels=channels, **config.mask_vae)
        self.module = self.vae = vae
        self.class_weights = torch.tensor([1.0] + [config.foreground_weight or 1.0] * config.num_classes)
        if config.foreground_weight is None:
            self.class_weights = class_weights_from_frequencies(train.labels.flatten().bincount(minlength=channels))

    def loss(self, module: nn.Module, positions: Sequence[int], device: torch.device) -> torch.Tensor:
        """Reconstruction plus bottleneck loss of the samples at these positions."""
        _, labels, generators = self.batch(positions, device)  # [B, S, S]
        inputs = one_hot(labels, self.config.num_classes)  # [B, 1+K, S, S]
        logits, _, bottleneck_loss = module(inputs, generators, return_dict=False)
        return self.reconstruction_loss(logits, labels) + self.config.bottleneck_weight * bottleneck_loss

    def reconstruction_loss(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The configured loss of logits, `(B, 1 + K, S, S)`, against labels, `(B, S, S)`."""
        if self.config.mask_loss == "mse":
            return mask_mse(logits, labels)
        if self.config.mask_loss == "dice":
            return mask_dice(logits, labels)
        return weighted_cross_entropy(logits, labels, self.class_weights.to(logits.device))

    def validate(self, rows: Sequence[int]) -> list[dict]:
        """1 - Dice of the first non-empty rater's reconstruction for each row, or of the first where all are empty:
        the score, lower is better."""
        results = []
        for row in rows:
            raters = self.validation.raters(row)  # [R, S, S]
            first = (raters.flatten(1).sum(dim=1) > 0).int().argmax()  # 0 where all are empty
            labels = raters[first][None].long()  # [1, S, S]
            latents = self.vae.encode(one_hot(labels, self.config.num_classes).to(self.vae.device))  # [1, C, h, w]
            decoded = self.vae.decode(latents).argmax(dim=1).cpu()  # [1, S, S]
            results.append({"score": 1 - dice(decoded[0].numpy() > 0, labels[0].numpy() > 0)})
        return results

    def measure_latents(self):
        """Sets the latents' mean and standard deviation from up to 4,096 of the training split's masks."""
        order = torch.randperm(len(self.train.labels), generator=seeded_generator(self.config.seed, self.salt))
        inputs = (one_hot(part.long(), self.config.num_classes) for part in self.train.labels[order[:4096]].split(64))
        set_latent_statistics(self.vae, inputs)


class MaskDecoder(nn.Module):
    """A mask autoencoder of which the decoder alone learns: latents are means, codes stay."""

    def __init__(self, vae: MedSegLatDiffVAE):
        super().__init__()
        self.vae = vae.requires_grad_(False)
        vae.decoder.requires_grad_(True)

    def train(self, mode: bool = True) -> Self:
        """Stays in evaluation mode, in which nothing but weights with gradients can change."""
        return super().train(False)

    def forward(self, masks: torch.Tensor) -> torch.Tensor:
        """Logits of the reconstruction of one-hot masks, both `(B, 1 + K, S, S)`."""
        return self.vae.decode(self.vae.encode(masks))


class MaskDecoderStage(MaskAutoencoderStage):
    """Trains the mask decoder of a pipeline on, or a new one of the configured shape in its place.

    The encoder stays, so that latents keep the meaning that the denoiser has learned. The decoder alone may take a
    greater foreground weight than both together: it brings small masks back that were lost.
    """

    name, salt = "mask_decoder", 5

    def __init__(
        self, config: Config, train: SegmentationSplit, validation: SegmentationSplit, pipeline: MedSegLatDiffPipeline
    ):
        check_start(pipeline, config)
        if config.mask_decoder is not None:
            pipeline.register_modules(mask_vae=pipeline.mask_vae.with_new_decoder(**config.mask_decoder))
        super().__init__(config, train, validation, pipeline.mask_vae)
        self.module, self.frozen = MaskDecoder(self.vae), (pipeline.unet, pipeline.image_encoder)

    def loss(self, module: nn.Module, positions: Sequence[int], device: torch.device) -> torch.Tensor:
        """Reconstruction loss of the samples at these positions."""
        _, labels, _ = self.batch(positions, device)  # [B, S, S]
        return self.reconstruction_loss(module(one_hot(labels, self.config.num_classes)), labels)


class ImageAutoencoderStage(Stage):
    """Trains the autoencoder of images, whose latent becomes the condition."""

    name, salt = "image_vae", 2
    module: MedSegLatDiffVAE

    def __init__(self, config: Config, train: SegmentationSplit, validation: SegmentationSplit):
        super().__init__(config, train, validation)
        channels = config.num_channels
        self.module = MedSegLatDiffVAE(in_channels=channels, out_channels=channels, **config.image_vae)

    def loss(self, module: nn.Module, positions: Sequence[int], device: torch.device) -> torch.Tensor:
        """Reconstruction plus bottleneck loss of the samples at these positions."""
        images, _, generators = self.batch(positions, device)  # [B, C, S, S]
        reconstruction, _, bottleneck_loss = module(images, generators, return_dict=False)
        return image_mse(reconstruction, images) + self.config.bottleneck_weight * bottleneck_loss

    def validate(self, rows: Sequence[int]) -> list[dict]:
        """Mean squared error of each row's reconstruction, of images in [-1, 1]."""
        results = []
        for row in rows:
            image = self.validation.pixels([row]).to(self.module.device)  # [1, C, S, S]
            error = image_mse(self.module.decode(self.module.encode(image)), image)
            results.append({"score": error.item()})
        return results

    def measure_latents(self):
        """Sets the latents' mean and standard deviation from up to 2,048 of the training split's images."""
        order = torch.randperm(len(self.train), generator=seeded_generator(self.config.seed, self.salt))[:2048]
        set_latent_statistics(self.module, (self.train.pixels(part) for part in order.split(64)))


@torch.no_grad()
def set_latent_statistics(vae: MedSegLatDiffVAE, inputs):
    """Measures mean and standard deviation per channel of the raw latents of `inputs` and keeps them in the config."""
    vae.register_to_config(latents_mean=None, latents_std=None)
    latents = torch.cat([vae.encode(batch.to(vae.device)).float() for batch in inputs])  # [N, C, h, w]
    vae.set_latent_statistics(latents.mean(dim=(0, 2, 3)).tolist(), latents.std(dim=(0, 2, 3)).tolist())
