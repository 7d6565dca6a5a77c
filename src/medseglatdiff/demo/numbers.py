"""Settings and results of a run as JSON."""

import numpy as np

from .. import __version__
from ..pipeline.files import mean_pairwise_dice
from .sampling import CHUNK, Job, Segmentation

NOT_A_DEVICE = "Not a medical device: for research and teaching only, never for diagnosis or treatment."


def numbers(job: Job, segmentation: Segmentation) -> dict:
    """Settings and results; nothing of the file but the image's size and pixel spacing."""
    pixels = areas(segmentation.masks).tolist()
    classes, pixel = range(1, segmentation.num_classes + 1), pixel_area(job.upload.spacing)
    found = {
        "areas_px": pixels,
        "areas_mm2": [area * pixel for area in pixels] if pixel else None,
        "consensus_area_px": (consensus := int((segmentation.consensus > 0).sum())),
        "consensus_area_mm2": consensus * pixel if pixel else None,
        "empty_hypotheses": pixels.count(0),
        "agreement_mean_pairwise_dice": mean_pairwise_dice(segmentation.masks, segmentation.num_classes),
        "seconds": round(segmentation.seconds, 2),
    }
    if len(classes) > 1:
        found["class_areas_px"] = {str(k): areas(segmentation.masks == k).tolist() for k in classes}
    return {
        "note": NOT_A_DEVICE,
        "software": f"medseglatdiff {__version__}",
        "model": job.model,
        "settings": {
            "num_masks": job.num_masks,
            "num_candidates": job.num_drawn,
            "num_inference_steps": job.num_inference_steps,
            "seed": job.seed,
            "rounds": job.rounds,  # each with the seed after that of the one before
            "batch_size": CHUNK,
            "threshold": segmentation.threshold,
            "point": job.region,
            **{name: points[0] for name, points in job.points.items()},
        },
        "image": {
            "size": list(segmentation.consensus.shape),
            "uploaded_size": list(job.upload.size),
            "pixel_spacing_mm": job.upload.spacing,
        },
    } | found


def areas(masks: np.ndarray) -> np.ndarray:
    """Foreground pixels of each mask, `(M, H, W)` -> `(M,)`."""
    return (masks > 0).sum(axis=(1, 2))


def pixel_area(spacing: tuple[float, float] | None) -> float | None:
    """Of one pixel in mm², where the spacing is known."""
    return spacing[0] * spacing[1] if spacing else None
