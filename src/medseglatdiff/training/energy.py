"""The last stage: the sampler itself, few steps long, is trained on by the energy score of the masks that it draws.

The denoising loss asks for the right latents, a step at a time; users look at masks, after a few steps. So this stage
draws several hypotheses as the pipeline does, decodes them, and compares them with the raters and with one another by
a proper score of the metric's own distance. (Scores as losses of generative models: Bouchacourt et al. 2016, DISCO
Nets, arXiv 1606.02556; in diffusion: De Bortoli et al. 2025, arXiv 2502.02483.)
"""

from collections.abc import Sequence
from typing import Self

import torch
import torch.nn.functional as F
from diffusers import SchedulerMixin
from diffusers.utils.torch_utils import randn_tensor
from torch import nn

from ..data.batches import draw_batch_of_raters
from ..data.splits import SegmentationSplit, one_hot, rows_at, seeded_generator
from ..losses import energy_score, straight_through
from ..models.autoencoder import MedSegLatDiffVAE
from ..models.image_encoder import MedSegLatDiffImageEncoder
from ..models.unet import MedSegLatDiffUNet
from ..pipeline.pipeline import MedSegLatDiffPipeline
from ..pipeline.sampling import denoise
from .config import Config
from .stages import PipelineNetworks, PipelineStage, augmentation_of


class FewStepSampler(PipelineNetworks):
    """What the pipeline does with its U-Net and image encoder, as one function that gradients pass through."""

    def __init__(
        self,
        unet: MedSegLatDiffUNet,
        image_encoder: MedSegLatDiffVAE | MedSegLatDiffImageEncoder,
        scheduler: SchedulerMixin,
        num_steps: int,
    ):
        super().__init__(unet, image_encoder)
        self.scheduler, self.num_steps = scheduler, num_steps

    def train(self, mode: bool = True) -> Self:
        """Training mode for everything but dropout, of which the score's gradients have noise enough."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.Dropout):
                module.eval()
        return self

    def forward(self, images: torch.Tensor, noise: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Clean latents `(B*M, C, h, w)` from `noise` of that shape under images `(B, channels, S, S)`, and the image
        encoder's logits, `(B, 1 + K, S, S)`, if it has a head."""
        # [B, condition_channels, h, w], [B, 1 + K, S, S]
        condition, logits = self.image_encoder.condition_and_logits(images)
        repeated = condition.repeat_interleave(len(noise) // len(images), dim=0)  # [B*M, condition_channels, h, w]
        start = self.unet.initial_latents(noise, repeated)  # [B*M, C, h, w]
        return denoise(self.unet, self.scheduler, start, repeated, self.num_steps), logits


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
        """Mean energy score of the samples at these positions, and the head's cross entropy with the raters' share."""
        # 1. images, all their raters, noise
        generators = [seeded_generator(self.config.seed, self.salt, position) for position in positions]
        rows = rows_at(positions, len(self.train), self.config.seed)
        augmentation = augmentation_of(self.config, self.config.energy_affine)
        # [B, C, S, S], [B, R, S, S], [B, R]
        images, labels, weights = draw_batch_of_raters(self.train, rows, generators, augmentation, device)
        truth = one_hot(labels.flatten(0, 1), self.config.num_classes).unflatten(0, labels.shape[:2])
        side = self.config.sample_size // self.mask_vae.downsampling_factor
        shape = (self.config.energy_masks, self.mask_vae.config.latent_channels, side, side)
        noise = torch.cat([randn_tensor(shape, generator=g, device=device) for g in generators])  # [B*M, C, h, w]
        # 2. hypotheses
        latents, logits = module(images, noise)  # [B*M, C, h, w], [B, 1 + K, S, S]
        masks = straight_through(self.mask_vae.decode(latents).float().softmax(dim=1))  # [B*M, K, S, S]
        # 3. their score, and the head's
        score = energy_score(masks.unflatten(0, (len(images), -1)), truth[:, :, 1:], weights).mean()
        if logits is None:
            return score
        share = (truth * weights[:, :, None, None, None]).sum(dim=1)  # [B, 1 + K, S, S]: of the raters
        return score + self.config.energy_auxiliary_weight * F.cross_entropy(logits.float(), share)
