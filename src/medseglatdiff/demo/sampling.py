"""Sampling a few hypotheses at a time, so that a page can show progress and stop in between."""

import math
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from queue import SimpleQueue

import numpy as np
import torch

from .. import __version__
from ..pipeline.files import mean_pairwise_dice
from ..pipeline.pipeline import MedSegLatDiffPipeline
from ..pipeline.sampling import MedSegLatDiffCandidates
from .limits import Upload

CHUNK = 8  # hypotheses between two reports of progress: a multiple of the symmetries, to keep in step with them
NOT_A_DEVICE = "Not a medical device: for research and teaching only, never for diagnosis or treatment."


@dataclass(frozen=True)
class Segmentation:
    """One image's hypotheses and what follows from them; arrays as `MedSegLatDiffPipelineOutput` has them."""

    masks: np.ndarray
    confidence: np.ndarray
    uncertainty: np.ndarray
    consensus: np.ndarray
    threshold: float
    seconds: float


@dataclass(eq=False)
class Job:
    """One image to segment with checked settings."""

    upload: Upload
    pipeline: MedSegLatDiffPipeline
    model: str
    num_masks: int
    num_inference_steps: int
    seed: int
    started: float = field(default_factory=time.perf_counter)
    gone: Callable[[], bool] = lambda: False  # whether nobody waits for the result any more
    cancelled: threading.Event = field(default_factory=threading.Event)
    probabilities: list[torch.Tensor] = field(default_factory=list)  # of each finished batch of candidates
    candidates: MedSegLatDiffCandidates | None = None

    @property
    def num_candidates(self) -> int:
        """How many candidates are drawn, of which the pipeline returns representative ones."""
        return self.pipeline.num_drawn(self.num_masks)

    def sample(self) -> Iterator[np.ndarray]:
        """The candidates so far, bool `(n, H, W)`, `CHUNK` more each time; sampling stops where the caller does."""
        batches, size = math.ceil(self.num_candidates / CHUNK), self.upload.image.shape[:2]
        finished: SimpleQueue = SimpleQueue()

        def after_step(pipeline: MedSegLatDiffPipeline, step: int, timestep: torch.Tensor, tensors: dict):
            pipeline._interrupt = self.cancelled.is_set() or self.gone()
            if (step + 1) % (pipeline.num_timesteps // batches) == 0:
                finished.put(tensors["latents"])

        def work():
            try:
                settings = dict(num_inference_steps=self.num_inference_steps, seed=self.seed, batch_size=CHUNK)
                settings |= dict(num_candidates=self.num_candidates, callback_on_step_end=after_step)
                finished.put(self.pipeline.sample([self.upload.image], **settings))
            except BaseException as error:  # handed to the thread that waits, which raises it
                finished.put(error)

        threading.Thread(target=work, name="sampling", daemon=True).start()
        drawn = []
        try:
            while not isinstance(latents := finished.get(), MedSegLatDiffCandidates):  # [n, C, h, w]
                if isinstance(latents, BaseException):
                    raise latents
                with torch.no_grad():
                    self.probabilities.append(self.pipeline.decode(latents, CHUNK))  # [n, 2, S, S]
                labels = self.pipeline.representative_labels(self.probabilities[-1], len(latents), size)  # [n, H, W]
                drawn.append(labels.bool().cpu().numpy())
                yield np.concatenate(drawn)
            self.candidates = latents
        finally:
            self.cancelled.set()

    def finish(self) -> Segmentation:
        """The representative masks and what follows from them, as the pipeline returns them."""
        self.candidates.probabilities = [torch.cat(self.probabilities)]  # [N, 2, S, S]
        output = self.pipeline.select(self.candidates, self.num_masks, return_dict=False)
        masks = (column[0] for column in output)
        return Segmentation(*masks, self.pipeline.config.threshold, time.perf_counter() - self.started)

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
