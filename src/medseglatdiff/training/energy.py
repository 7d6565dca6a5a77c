"""The last stage: the sampler itself, few steps long, is trained on by the energy score of the masks that it draws.

The denoising loss asks for the right latents, a step at a time; users look at masks, after a few steps. So this stage
draws several hypotheses as the pipeline does, decodes them, and compares them with the raters and with one another by
a proper score of the metric's own distance. (Scores as losses of generative models: Bouchacourt et al. 2016, DISCO
Nets, arXiv 1606.02556; in diffusion: De Bortoli et al. 2025, arXiv 2502.02483.)
"""

from collections.abc import Sequence

import torch
from diffusers import SchedulerMixin
from diffusers.utils.torch_utils import randn_tensor
from torch import nn

from ..data.splits import SegmentationSplit, one_hot, rows_at, seeded_generator
from ..losses import energy_score, straight_through
from ..models.unet import MedSegLatDiffUNet
from ..pipeline.pipeline import MedSegLatDiffPipeline
from ..pipeline.sampling import denoise
from .config import Config
from .stages import PipelineStage


class FewStepSampler(nn.Module):
    """What the pipeline does with its U-Net and image encoder, as one function that gradients pass through."""

    def __init__(self, unet: MedSegLatDiffUNet, image_encoder: nn.Module, scheduler: SchedulerMixin, num_steps: int):
        super().__init__()
        self.unet, self.image_encoder, self.scheduler = unet, image_encoder, scheduler
        self.num_steps = num_steps

    def forward(self, images: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """Clean latents `(B*M, C, h, w)` from `noise` of that shape under images `(B, channels, S, S)`."""
        condition = self.image_encoder.condition(images)  # [B, condition_channels, h, w]
        repeated = condition.repeat_interleave(len(noise) // len(images), dim=0)  # [B*M, condition_channels, h, w]
        return denoise(self.unet, self.scheduler, noise, repeated, self.num_steps)  # [B*M, C, h, w]


class EnergyStage(PipelineStage):
    """Trains U-Net and image encoder of a pipeline on."""

    name, salt = "energy", 4

    def __init__(
        self, config: Config, train: SegmentationSplit, validation: SegmentationSplit, pipeline: MedSegLatDiffPipeline
    ):
        super().__init__(config, train, validation, pipeline)
        self.num_inference_steps = config.energy_inference_steps
        self.module = FewStepSampler(pipeline.unet, pipeline.image_encoder, self.scheduler, self.num_inference_steps)

    def loss(self, module: nn.Module, positions: Sequence[int], device: torch.device) -> torch.Tensor:
        """Mean energy score of the samples at these positions."""
        # 1. images, all their raters, noise
        generators = [seeded_generator(self.config.seed, self.salt, position) for position in positions]
        rows = rows_at(positions, len(self.train), self.config.seed)
        # [B, C, S, S], and of each image [R, S, S]
        images, raters = self.train.batch_of_raters(rows, generators, self.config.energy_affine)
        side = self.config.sample_size // self.mask_vae.downsampling_factor
        shape = (self.config.energy_masks, self.mask_vae.config.latent_channels, side, side)
        noise = torch.cat([randn_tensor(shape, generator=g, device=device) for g in generators])  # [B*M, C, h, w]
        # 2. hypotheses
        latents = module(images.to(device), noise)  # [B*M, C, h, w]
        masks = straight_through(self.mask_vae.decode(latents).float().softmax(dim=1))  # [B*M, K, S, S]
        # 3. their score
        scores = []
        for samples, labels in zip(masks.split(self.config.energy_masks), raters, strict=True):
            truth = one_hot(labels.to(device), self.config.num_classes)[:, 1:]  # [R, K, S, S]
            scores.append(energy_score(samples, truth))
        return torch.stack(scores).mean()
