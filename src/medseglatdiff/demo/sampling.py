"""Sampling a few hypotheses at a time, so that a page can show progress and stop in between."""

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch

from .. import __version__
from ..pipeline.aggregation import convert
from ..pipeline.files import mean_pairwise_dice
from ..pipeline.pipeline import MedSegLatDiffPipeline
from .limits import Upload

CHUNK = 8  # hypotheses between two reports of progress: a multiple of the symmetries, to keep in step with them
NOT_A_DEVICE = "Not a medical device: for research and teaching only, never for diagnosis or treatment."
SAMPLING = threading.Lock()  # a pipeline's scheduler holds state: one call at a time


@dataclass(frozen=True)
class Segmentation:
    """One image's hypotheses and what follows from them; arrays as `MedSegLatDiffPipelineOutput` has them."""

    masks: np.ndarray
    confidence: np.ndarray
    uncertainty: np.ndarray
    consensus: np.ndarray
    threshold: float
    seconds: float


@dataclass
class Job:
    """One image to segment with checked settings."""

    upload: Upload
    pipeline: MedSegLatDiffPipeline
    model: str
    num_masks: int
    num_inference_steps: int
    seed: int
    started: float = field(default_factory=time.perf_counter)
    shares: list[torch.Tensor] = field(default_factory=list)  # what `decode` gives of each chunk

    @property
    def num_candidates(self) -> int:
        """How many hypotheses are drawn, of which the pipeline returns those that stand for all."""
        return self.pipeline.num_drawn(self.num_masks)

    def sample(self) -> Iterator[np.ndarray]:
        """The candidates so far, bool `(n, H, W)`, `CHUNK` more each time."""
        # 1. what one call of the pipeline with `batch_size=CHUNK` and a CPU generator of this seed starts from
        pipeline, generator = self.pipeline, torch.Generator().manual_seed(self.seed)
        noise = pipeline.prepare_latents(1, self.num_candidates, generator)  # [N, C, h, w]
        generators = pipeline.step_generators(1, self.num_candidates, generator)
        pixels, [size] = pipeline.preprocess([self.upload.image])  # [1, channels, S, S]
        with torch.no_grad():
            condition = pipeline.encode_image(pixels, self.num_candidates, CHUNK)  # [1, s, condition_channels, h, w]
        # 2. a chunk at a time
        drawn = []
        for first in range(0, len(noise), CHUNK):
            own = None if generators is None else generators[first : first + CHUNK]
            with SAMPLING, torch.no_grad():
                chunk = noise[first : first + CHUNK]  # [n, C, h, w]
                [latents] = pipeline.draw_latents(condition, chunk, self.num_inference_steps, CHUNK, own)
                self.shares.append(pipeline.decode(latents, CHUNK))  # [n, 2, S, S]
            drawn.append(pipeline.conclude(self.shares[-1], len(chunk), size)[0].bool().cpu().numpy())  # [n, H, W]
            yield np.concatenate(drawn)

    def finish(self) -> Segmentation:
        """The hypotheses that stand for all candidates, and what follows from them, as the pipeline returns them."""
        size = self.upload.image.shape[:2]
        output = convert(*self.pipeline.conclude(torch.cat(self.shares), self.num_masks, size), 1, "np")
        return Segmentation(*output, self.pipeline.config.threshold, time.perf_counter() - self.started)

    def numbers(self, segmentation: Segmentation) -> dict:
        """Settings and results as JSON; nothing of the file but the image's size and pixel spacing."""
        pixels = segmentation.masks.sum(axis=(1, 2)).tolist()
        consensus = int(segmentation.consensus.sum())
        pixel = pixel_area(self.upload.spacing)
        return {
            "note": NOT_A_DEVICE,
            "software": f"medseglatdiff {__version__}",
            "model": self.model,
            "settings": {
                "num_masks": self.num_masks,
                "num_candidates": self.num_candidates,
                "num_inference_steps": self.num_inference_steps,
                "seed": self.seed,
                "batch_size": CHUNK,
                "threshold": segmentation.threshold,
            },
            "image": {"size": list(segmentation.consensus.shape), "pixel_spacing_mm": self.upload.spacing},
            "areas_px": pixels,
            "areas_mm2": [area * pixel for area in pixels] if pixel else None,
            "consensus_area_px": consensus,
            "consensus_area_mm2": consensus * pixel if pixel else None,
            "empty_hypotheses": pixels.count(0),
            "agreement_mean_pairwise_dice": mean_pairwise_dice(segmentation.masks, 1),
            "seconds": round(segmentation.seconds, 2),
        }


def pixel_area(spacing: tuple[float, float] | None) -> float | None:
    """Of one pixel in mm², where the spacing is known."""
    return spacing[0] * spacing[1] if spacing else None
