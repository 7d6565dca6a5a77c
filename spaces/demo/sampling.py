"""Sampling a few hypotheses at a time, so that a page can show progress and stop in between."""

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from limits import Upload

from medseglatdiff import MedSegLatDiffPipeline, __version__
from medseglatdiff.aggregation import aggregate
from medseglatdiff.cli import mean_pairwise_dice

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

    def sample(self) -> Iterator[np.ndarray]:
        """The hypotheses so far, bool `(m, H, W)`, `CHUNK` more each time.

        They are those of one call of the pipeline with `batch_size=CHUNK` and a CPU generator of this seed.
        """
        generator = torch.Generator().manual_seed(self.seed)
        masks = []
        for latents in self.pipeline.prepare_latents(1, self.num_masks, generator).split(CHUNK):
            with SAMPLING:
                output = self.pipeline(
                    self.upload.image, len(latents), self.num_inference_steps, generator, latents=latents
                )
            masks.append(output.masks[0])  # [CHUNK, H, W]
            yield np.concatenate(masks)

    def finish(self, masks: np.ndarray) -> Segmentation:
        """Confidence, uncertainty and consensus of all hypotheses, as the pipeline aggregates them."""
        threshold, calibration = self.pipeline.config.threshold, self.pipeline.config.calibration
        maps = aggregate(torch.from_numpy(masks), 1, threshold, calibration)  # [1, H, W], [1, H, W], [H, W]
        confidence, uncertainty, consensus = (array.numpy() for array in maps)
        seconds = time.perf_counter() - self.started
        return Segmentation(masks, confidence[0], uncertainty[0], consensus.astype(bool), threshold, seconds)

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
