"""The third stage: the U-Net learns to denoise the latents of masks under an image's condition."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from diffusers import DDIMScheduler
from diffusers.utils.torch_utils import randn_tensor
from torch import nn

from ..data.splits import SegmentationSplit, one_hot
from ..losses import diffusion_loss, prediction_target, weighted_cross_entropy
from ..models.autoencoder import MedSegLatDiffVAE
from ..models.image_encoder import MedSegLatDiffImageEncoder
from ..models.unet import MedSegLatDiffUNet
from ..pipeline.pipeline import MedSegLatDiffPipeline
from .config import Config
from .stages import PipelineNetworks, PipelineStage


class ConditionalDenoiser(PipelineNetworks):
    """The U-Net with its image encoder, of which a head asks for a segmentation: the encoder's, or else a new one that
    serves training only."""

    def __init__(
        self,
        unet: MedSegLatDiffUNet,
        image_encoder: MedSegLatDiffVAE | MedSegLatDiffImageEncoder,
        num_classes: int,
        factor: int,
    ):
        super().__init__(unet, image_encoder)
        self.factor, self.head = factor, None
        if image_encoder.config.get("num_classes") is None:
            self.head = nn.Conv2d(image_encoder.condition_channels, (1 + num_classes) * factor**2, 3, padding=1)

    def forward(
        self, images: torch.Tensor, noisy_latents: torch.Tensor, timesteps: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The denoiser's prediction, `(B*n, C, h, w)` for `n` noise levels of each image, and the head's logits,
        `(B, 1 + K, S, S)`."""
        # [B, condition_channels, h, w], [B, 1 + K, S, S]: once for all noise levels
        condition, logits = self.image_encoder.condition_and_logits(images)
        repeated = condition.repeat_interleave(len(noisy_latents) // len(images), dim=0)  # [B*n, cond. channels, h, w]
        prediction = self.unet(noisy_latents, timesteps, repeated).sample  # [B*n, C, h, w]
        if self.head is not None:
            logits = F.pixel_shuffle(self.head(condition), self.factor)  # [B, 1 + K, S, S]
        return prediction, logits


def untrained_pipeline(
    config: Config, mask_vae: MedSegLatDiffVAE, image_encoder: MedSegLatDiffVAE | MedSegLatDiffImageEncoder
) -> MedSegLatDiffPipeline:
    """A pipeline of these two and a new U-Net, for `DenoiserStage` to train."""
    unet = MedSegLatDiffUNet(
        sample_size=config.sample_size // mask_vae.downsampling_factor,
        latent_channels=mask_vae.config.latent_channels,
        condition_channels=image_encoder.condition_channels,
        **config.unet,
    )
    scheduler = DDIMScheduler(**config.scheduler)
    return MedSegLatDiffPipeline(image_encoder, mask_vae, unet, scheduler, sample_size=config.sample_size)


class DenoiserStage(PipelineStage):
    """Trains the U-Net to denoise a random rater's mask latent, and the image encoder with it."""

    name, salt = "unet", 3

    def __init__(
        self, config: Config, train: SegmentationSplit, validation: SegmentationSplit, pipeline: MedSegLatDiffPipeline
    ):
        super().__init__(config, train, validation, pipeline)
        unet, encoder, factor = pipeline.unet, pipeline.image_encoder, pipeline.mask_vae.downsampling_factor
        if unet.config.initial_noise:
            unet.noise_mean.requires_grad_(False)  # sampling alone uses them: the stage energy trains them
            unet.noise_log_std.requires_grad_(False)
        self.module = ConditionalDenoiser(unet, encoder, config.num_classes, factor)
        self.num_inference_steps = config.default_num_inference_steps

    def loss(self, module: nn.Module, positions: Sequence[int], device: torch.device) -> torch.Tensor:
        """Denoising loss plus the head's cross entropy for the samples at these positions."""
        # 1. a random rater's mask of each image
        images, labels, generators = self.batch(positions, device)  # [B, C, S, S], [B, S, S]
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
        prediction, logits = module(images, noisy_latents, timesteps)
        target = prediction_target(self.scheduler, latents, noise, timesteps)  # [B*n, C, h, w]
        auxiliary = weighted_cross_entropy(logits, labels, torch.ones(logits.shape[1], device=device))
        return diffusion_loss(prediction, target) + self.config.auxiliary_weight * auxiliary
