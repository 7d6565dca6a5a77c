"""What is trained first: the mask autoencoder, the image autoencoder, and the denoiser with its condition.

A stage holds a `module`, gives the loss of any stretch of the endless stream of training samples, and can be
validated. The randomness of a sample depends on the seed and on its position in that stream alone: resuming is
exact, and the number of processes changes nothing.
"""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from config import Config
from diffusers import SchedulerMixin
from diffusers.utils.torch_utils import randn_tensor
from torch import nn

from medseglatdiff import MedSegLatDiffPipeline, MedSegLatDiffUNet, MedSegLatDiffVAE
from medseglatdiff.data import SegmentationSplit, one_hot, rows_at, seeded_generator
from medseglatdiff.losses import (
    class_weights_from_frequencies,
    diffusion_loss,
    image_mse,
    mask_dice,
    mask_mse,
    min_snr_weights,
    prediction_target,
    weighted_cross_entropy,
)
from medseglatdiff.metrics import dice, generalized_energy_distance


class Stage:
    """What the three stages share: the stream of training batches, and validation over rows split among processes."""

    def __init__(self, config: Config, train: SegmentationSplit, validation: SegmentationSplit):
        self.config, self.train, self.validation = config, train, validation

    def batch(self, positions: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor, list[torch.Generator]]:
        """Images, labels and generators (for whatever else is random) of the samples at these positions."""
        generators = [seeded_generator(self.config.seed, self.salt, position) for position in positions]
        rows = rows_at(positions, len(self.train), self.config.seed)
        target = self.config.target if self.name == "unet" else "random_rater"  # autoencoders see every rater's masks
        images, labels = self.train.batch(rows, generators, self.config.affine, target)  # [B, C, S, S], [B, S, S]
        return images, labels, generators

    def validation_rows(self) -> list[int]:
        """A fixed random choice of rows of the validation split."""
        count = min(self.config.validation_images, len(self.validation))
        return torch.randperm(len(self.validation), generator=seeded_generator(0))[:count].tolist()


class MaskAutoencoderStage(Stage):
    """Trains the autoencoder of masks; its reconstruction loss decides whether nodules of a few pixels survive."""

    name, salt = "mask_vae", 1

    def __init__(self, config: Config, train: SegmentationSplit, validation: SegmentationSplit):
        super().__init__(config, train, validation)
        channels = 1 + config.num_classes
        self.module = MedSegLatDiffVAE(in_channels=channels, out_channels=channels, **config.mask_vae)
        self.class_weights = torch.tensor([1.0] + [config.foreground_weight or 1.0] * config.num_classes)
        if config.foreground_weight is None:
            self.class_weights = class_weights_from_frequencies(train.labels.flatten().bincount(minlength=channels))

    def loss(self, module: nn.Module, positions: Sequence[int], device: torch.device) -> torch.Tensor:
        """Reconstruction plus bottleneck loss of the samples at these positions."""
        _, labels, generators = self.batch(positions)
        labels = labels.to(device)  # [B, S, S]
        inputs = one_hot(labels, self.config.num_classes)  # [B, 1+K, S, S]
        logits, _, bottleneck_loss = module(inputs, generators, return_dict=False)
        if self.config.mask_loss == "mse":
            reconstruction_loss = mask_mse(logits, labels)
        elif self.config.mask_loss == "dice":
            reconstruction_loss = mask_dice(logits, labels)
        else:
            reconstruction_loss = weighted_cross_entropy(logits, labels, self.class_weights.to(device))
        return reconstruction_loss + self.config.bottleneck_weight * bottleneck_loss

    def validate(self, rows: Sequence[int]) -> list[dict]:
        """1 - Dice of the first non-empty rater's reconstruction for each row: the score, lower is better."""
        results = []
        for row in rows:
            raters = self.validation.raters(row)  # [R, S, S]
            labels = raters[raters.flatten(1).sum(dim=1) > 0][:1].long()  # [1, S, S]
            latents = self.module.encode(one_hot(labels, self.config.num_classes).to(self.module.device))
            decoded = self.module.decode(latents).argmax(dim=1).cpu()  # [1, S, S]
            results.append({"score": 1 - dice(decoded[0].numpy() > 0, labels[0].numpy() > 0)})
        return results

    def measure_latents(self):
        """Sets the latents' mean and standard deviation from up to 4,096 of the training split's masks."""
        order = torch.randperm(len(self.train.labels), generator=seeded_generator(self.config.seed, self.salt))
        inputs = (one_hot(part.long(), self.config.num_classes) for part in self.train.labels[order[:4096]].split(64))
        set_latent_statistics(self.module, inputs)


class ImageAutoencoderStage(Stage):
    """Trains the autoencoder of images, whose latent becomes the condition."""

    name, salt = "image_vae", 2

    def __init__(self, config: Config, train: SegmentationSplit, validation: SegmentationSplit):
        super().__init__(config, train, validation)
        channels = config.num_channels
        self.module = MedSegLatDiffVAE(in_channels=channels, out_channels=channels, **config.image_vae)

    def loss(self, module: nn.Module, positions: Sequence[int], device: torch.device) -> torch.Tensor:
        """Reconstruction plus bottleneck loss of the samples at these positions."""
        images, _, generators = self.batch(positions)
        images = images.to(device)  # [B, C, S, S]
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


class ConditionalDenoiser(nn.Module):
    """The U-Net with its image encoder, and a head that asks the condition for a segmentation (in training only)."""

    def __init__(self, unet: MedSegLatDiffUNet, image_encoder: nn.Module, num_classes: int, factor: int):
        super().__init__()
        self.unet, self.image_encoder = unet, image_encoder
        self.head = nn.Conv2d(image_encoder.condition_channels, (1 + num_classes) * factor**2, 3, padding=1)
        self.factor = factor

    def forward(
        self, images: torch.Tensor, noisy_latents: torch.Tensor, timesteps: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The denoiser's prediction, `(B*n, C, h, w)` for `n` noise levels of each image, and the head's logits,
        `(B, 1 + K, S, S)`."""
        condition = self.image_encoder.condition(images)  # [B, condition_channels, h, w]
        repeated = condition.repeat_interleave(len(noisy_latents) // len(images), dim=0)  # [B*n, cond. channels, h, w]
        prediction = self.unet(noisy_latents, timesteps, repeated).sample  # [B*n, C, h, w]
        return prediction, F.pixel_shuffle(self.head(condition), self.factor)


class DenoiserStage(Stage):
    """Trains the U-Net to denoise a random rater's mask latent, and the image encoder with it."""

    name, salt = "unet", 3

    def __init__(
        self,
        config: Config,
        train: SegmentationSplit,
        validation: SegmentationSplit,
        mask_vae: MedSegLatDiffVAE,
        image_encoder: nn.Module,
        scheduler: SchedulerMixin,
    ):
        super().__init__(config, train, validation)
        self.mask_vae, self.scheduler = mask_vae.eval().requires_grad_(False), scheduler
        image_encoder.requires_grad_(config.train_image_encoder)
        if isinstance(image_encoder, MedSegLatDiffVAE):
            image_encoder.decoder.requires_grad_(False)  # not used from here on
        unet = MedSegLatDiffUNet(
            sample_size=config.sample_size // mask_vae.downsampling_factor,
            latent_channels=mask_vae.config.latent_channels,
            condition_channels=image_encoder.condition_channels,
            **config.unet,
        )
        self.module = ConditionalDenoiser(unet, image_encoder, config.num_classes, mask_vae.downsampling_factor)
        self.num_inference_steps = config.default_num_inference_steps

    def loss(self, module: nn.Module, positions: Sequence[int], device: torch.device) -> torch.Tensor:
        """Denoising loss plus the head's cross entropy for the samples at these positions."""
        # 1. a random rater's mask of each image
        images, labels, generators = self.batch(positions)  # [B, C, S, S], [B, S, S]
        labels = labels.to(device)
        # 2. its latent, noised to random levels
        count, levels = self.config.noise_levels, self.scheduler.config.num_train_timesteps
        with torch.no_grad():
            latents = self.mask_vae.encode(one_hot(labels, self.config.num_classes)).float()  # [B, C, h, w]
        latents = latents.repeat_interleave(count, dim=0)  # [B*n, C, h, w]
        shape, options = (count, *latents.shape[1:]), dict(device=device, dtype=latents.dtype)
        noise = torch.cat([randn_tensor(shape, generator=g, **options) for g in generators])  # [B*n, C, h, w]
        timesteps = torch.cat([torch.randint(levels, (count,), generator=g) for g in generators]).to(device)  # [B*n]
        noisy_latents = self.scheduler.add_noise(latents, noise, timesteps)  # [B*n, C, h, w]
        # 3. predict and compare
        prediction, logits = module(images.to(device), noisy_latents, timesteps)
        target = prediction_target(self.scheduler, latents, noise, timesteps)  # [B*n, C, h, w]
        gamma = self.config.min_snr_gamma
        weights = None if gamma is None else min_snr_weights(self.scheduler, timesteps, gamma)  # [B*n]
        auxiliary = weighted_cross_entropy(logits, labels, torch.ones(logits.shape[1], device=device))
        return diffusion_loss(prediction, target, weights) + self.config.auxiliary_weight * auxiliary

    def pipeline(self) -> MedSegLatDiffPipeline:
        """The pipeline that these weights make."""
        pipeline = MedSegLatDiffPipeline(
            image_encoder=self.module.image_encoder,
            mask_vae=self.mask_vae,
            unet=self.module.unet,
            scheduler=self.scheduler,
            sample_size=self.config.sample_size,
            default_num_masks=self.config.default_num_masks,
            default_num_inference_steps=self.num_inference_steps,
            stretch=self.config.stretch,
            symmetries=self.config.symmetries,
            antithetic=self.config.antithetic,
        )
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    def sample(self, row: int) -> np.ndarray:
        """Hypotheses for one validation row, bool `(M, S, S)`: foreground of any class; noise depends on the row."""
        image = (self.validation.pixels([row]) + 1) / 2  # [1, C, S, S]
        generator = seeded_generator(self.config.seed, self.salt, row)
        return self.pipeline()(image, self.config.validation_masks, generator=[generator]).masks[0] > 0

    def validate(self, rows: Sequence[int]) -> list[dict]:
        """GED (the score) and Dice of the majority of hypotheses against the majority of raters, for each row."""
        results = []
        for row in rows:
            samples, raters = self.sample(row), self.validation.raters(row).numpy() > 0  # [M, S, S], [R, S, S]
            majority = dice(samples.mean(axis=0) >= 0.5, raters.mean(axis=0) >= 0.5)
            results.append({"score": generalized_energy_distance(samples, raters), "dice": majority})
        return results

    def picture(self, rows: Sequence[int]) -> np.ndarray:
        """A line per image: the image, its raters (up to four), then the hypotheses; uint8 `(1, H, W, 3)`."""
        lines = []
        for row in rows:
            raters = self.validation.raters(row)[:4].numpy() > 0  # [R, S, S]
            blanks = np.zeros((4 - len(raters), *raters.shape[1:]), bool)
            tiles = np.concatenate([raters, blanks, self.sample(row)])  # [4 + M, S, S]
            image = self.validation.images[row].float().mean(dim=0).numpy()  # [S, S]
            lines.append(np.concatenate([image, *(tiles * 255.0)], axis=1))  # [S, (5 + M) * S]
        return np.concatenate(lines).astype(np.uint8)[None, :, :, None].repeat(3, axis=-1)


@torch.no_grad()
def set_latent_statistics(vae: MedSegLatDiffVAE, inputs):
    """Measures mean and standard deviation per channel of the raw latents of `inputs` and keeps them in the config."""
    vae.register_to_config(latents_mean=None, latents_std=None)
    latents = torch.cat([vae.encode(batch.to(vae.device)).float() for batch in inputs])  # [N, C, h, w]
    vae.set_latent_statistics(latents.mean(dim=(0, 2, 3)).tolist(), latents.std(dim=(0, 2, 3)).tolist())
