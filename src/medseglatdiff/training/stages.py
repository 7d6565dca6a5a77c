"""What a stage of the training is, and what the stages share whose weights make a pipeline.

A stage holds a `module`, gives the loss of any stretch of the endless stream of training samples, and can be
validated. The randomness of a sample depends on the seed and on its position in that stream alone: resuming is
exact, and the number of processes changes nothing.
"""

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from ..data.augmentation import Augmentation
from ..data.batches import draw_batch
from ..data.splits import SegmentationSplit, rows_at, seeded_generator
from ..metrics.overlap import dice, generalized_energy_distance
from ..models.autoencoder import MedSegLatDiffVAE
from ..models.image_encoder import MedSegLatDiffImageEncoder
from ..models.unet import MedSegLatDiffUNet
from ..pipeline.pipeline import MedSegLatDiffPipeline
from .config import Config
from .inheritance import pipeline_settings


def augmentation_of(config: Config, affine: float) -> Augmentation:
    """How the settings change training samples, with this strength of the affine map."""
    return Augmentation(affine=affine, shift=config.shift, empty_windows=config.empty_windows, **config.augmentation)


class Stage:
    """What all stages share: the stream of training batches, and validation over rows split among processes.

    A subclass sets `name`, that of its folder, `salt`, which sets its random numbers apart, and `module`.
    """

    name: str
    salt: int
    module: nn.Module
    frozen: tuple[nn.Module, ...] = ()  # networks that it builds on and that are not in `module`

    def __init__(self, config: Config, train: SegmentationSplit, validation: SegmentationSplit):
        self.config, self.train, self.validation = config, train, validation

    def batch(
        self, positions: Sequence[int], device: torch.device
    ) -> tuple[torch.Tensor, torch.Tensor, list[torch.Generator]]:
        """Images and labels on the device, and generators (for whatever else is random), of the samples there."""
        generators = [seeded_generator(self.config.seed, self.salt, position) for position in positions]
        rows = rows_at(positions, len(self.train), self.config.seed)
        target = self.config.target if self.name == "unet" else "random_rater"  # autoencoders see every rater's masks
        augmentation = augmentation_of(self.config, self.config.affine)
        batch = draw_batch(self.train, rows, generators, augmentation, device, target)  # [B, C, S, S], [B, S, S]
        return *batch, generators

    def loss(self, module: nn.Module, positions: Sequence[int], device: torch.device) -> torch.Tensor:
        """The mean loss, a scalar, of the samples at these positions; `module` may be wrapped by Accelerate."""
        raise NotImplementedError

    def validate(self, rows: Sequence[int]) -> list[dict]:
        """For each row its measures by name, of which `score` is best when lowest."""
        raise NotImplementedError

    def fingerprint(self) -> str:
        """Of all images and masks that it learns from and is validated on."""
        digest = hashlib.sha256()
        for split in (self.train, self.validation):
            for tensor in (split.images, split.labels, split.first):
                digest.update(tensor.flatten().numpy().data)
        return digest.hexdigest()[:16]

    def validation_rows(self) -> list[int]:
        """A fixed random choice of rows of the validation split."""
        count = min(self.config.validation_images, len(self.validation))
        return torch.randperm(len(self.validation), generator=seeded_generator(0))[:count].tolist()


def check_start(pipeline: MedSegLatDiffPipeline, config: Config):
    """Raises a `ValueError` where a pipeline to train on is for other images than the run's."""
    wanted = (config.num_classes, config.num_channels, config.sample_size)
    found = (pipeline.num_classes, pipeline.image_encoder.config.in_channels, pipeline.config.sample_size)
    if found != wanted:
        raise ValueError(
            f"`start_from` must have {wanted[0]} classes for images of {wanted[1]} channels at {wanted[2]} "
            f"pixels, but has {found[0]}, {found[1]} and {found[2]}."
        )


class PipelineNetworks(nn.Module):
    """The networks of a pipeline that a `PipelineStage` trains; a subclass adds how its loss calls them."""

    def __init__(self, unet: MedSegLatDiffUNet, image_encoder: MedSegLatDiffVAE | MedSegLatDiffImageEncoder):
        super().__init__()
        self.unet, self.image_encoder = unet, image_encoder


class PipelineStage(Stage):
    """Trains a pipeline's U-Net and image encoder over its frozen mask autoencoder; validated by the masks it draws.

    A subclass sets `module` and `num_inference_steps`.
    """

    module: PipelineNetworks
    num_inference_steps: int

    def __init__(
        self, config: Config, train: SegmentationSplit, validation: SegmentationSplit, pipeline: MedSegLatDiffPipeline
    ):
        check_start(pipeline, config)
        super().__init__(config, train, validation)
        self.mask_vae, self.scheduler = pipeline.mask_vae.eval().requires_grad_(False), pipeline.scheduler
        self.frozen = (self.mask_vae,)
        self.kept = {name: pipeline.config[name] for name in ("threshold", "default_num_candidates")}
        pipeline.image_encoder.requires_grad_(config.train_image_encoder)
        if isinstance(pipeline.image_encoder, MedSegLatDiffVAE):
            pipeline.image_encoder.decoder.requires_grad_(False)  # not used from here on

    def pipeline(self) -> MedSegLatDiffPipeline:
        """The pipeline that these weights make, without what was chosen on validation for those before."""
        pipeline = MedSegLatDiffPipeline(
            image_encoder=self.module.image_encoder,
            mask_vae=self.mask_vae,
            unet=self.module.unet,
            scheduler=self.scheduler,
            **pipeline_settings(self.config) | {"default_num_inference_steps": self.num_inference_steps} | self.kept,
        )
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    def sample(self, row: int) -> np.ndarray:
        """Hypotheses for one validation row, bool `(M, S, S)`: foreground of any class; noise depends on the row."""
        image = (self.validation.pixels([row]) + 1) / 2  # [1, C, S, S]
        generator = seeded_generator(self.config.seed, self.salt, row)
        count = self.config.validation_masks
        return self.pipeline()(image, count, generator=[generator], return_dict=False)[0][0] > 0

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
