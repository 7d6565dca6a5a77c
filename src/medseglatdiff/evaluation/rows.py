"""From a pipeline and rows of the column contract to one flat dict of numbers per image; summary.py sums them up.

The reference of single-mask metrics is the raters' majority (at least half of them). Metrics of several raters are
there where rows have more than one. Distances are in pixels.
"""

import hashlib
from collections.abc import Iterator, Sequence

import numpy as np
import torch

from .. import metrics
from ..data.splits import noise_seed, read_raters
from ..metrics import boundary, reliability
from ..pipeline.pipeline import MedSegLatDiffPipeline

PREDICTORS = ("always_empty", "union", "majority", "random_rater")


def degenerate_samples(predictor: str, raters: np.ndarray, num_masks: int, seed: int) -> np.ndarray:
    """The `num_masks` masks `(M, H, W)` of one of `PREDICTORS`, from the raters `(R, H, W)` themselves."""
    if predictor == "random_rater":
        return raters[np.random.default_rng(seed).integers(len(raters), size=num_masks)]
    masks = {
        "always_empty": np.zeros_like(raters[0]),
        "union": raters.any(axis=0),
        "majority": raters.mean(axis=0) >= 0.5,
    }
    return np.repeat(masks[predictor][None], num_masks, axis=0)


def measure_samples(samples: np.ndarray, consensus: np.ndarray, raters: np.ndarray) -> dict[str, float]:
    """What any predictor is judged by: its masks `(M, H, W)`, their consensus `(H, W)`, the raters `(R, H, W)`."""
    reference = raters.mean(axis=0) >= 0.5  # [H, W]
    overlap = metrics.dice(consensus, reference)
    row = {"dice": overlap, "iou": metrics.iou(consensus, reference)}
    if reference.any():
        row |= {"dice_non_empty": overlap, "iou_non_empty": row["iou"], "missed": float(overlap == 0)}
    if len(samples) > 1:
        row["diversity"] = metrics.diversity(samples)
    if len(raters) == 1:
        return row | {"thresholded_jaccard": metrics.thresholded_jaccard(consensus, reference)}
    row["ged"] = metrics.generalized_energy_distance(samples, raters)
    if len(samples) > 1:
        row["ged_unbiased"] = metrics.generalized_energy_distance(samples, raters, unbiased=True)
    return row | {
        "hm_iou": metrics.hm_iou(samples, raters),
        "d_max": metrics.d_max(samples, raters),
        "dice_match": metrics.dice_match(samples, raters),
        "soft_dice": metrics.soft_dice(samples, raters),
    }


def measure_prediction(samples, confidence, uncertainty, consensus, raters) -> dict:
    """Every number of one image: what `measure_samples` gives, boundaries, calibration, and sums for pooled values.

    Args:
        samples, confidence, uncertainty, consensus: what the pipeline returns for the image.
        raters (`np.ndarray` of shape `(R, H, W)`): its masks, bool.
    """
    reference = raters.mean(axis=0) >= 0.5  # [H, W]
    row = measure_samples(samples, consensus, raters)
    row |= {
        "ncc": metrics.normalized_cross_correlation(samples, raters),
        "hd95": boundary.hausdorff_distance_95(consensus, reference),
        "nsd": boundary.normalized_surface_distance(consensus, reference),
        "brier": reliability.brier_score(confidence, raters),
        "nll": reliability.negative_log_likelihood(confidence, raters),
        "uncertainty": float(uncertainty.mean()),
        "intersection": float((consensus & reference).sum()),
        "areas": float(consensus.sum() + reference.sum()),
        "bins": reliability.reliability_bins(confidence, raters).ravel().tolist(),
        "band_bins": reliability.reliability_bins(confidence, raters, band=True).ravel().tolist(),
    }
    for count in fewer_masks(len(samples)):
        first = samples[:count]
        row[f"dice@{count}"] = metrics.dice(first.mean(axis=0) >= 0.5, reference)
        if len(raters) > 1:
            row[f"ged@{count}"] = metrics.generalized_energy_distance(first, raters)
    return row


def fewer_masks(num_masks: int) -> list[int]:
    """The powers of two up to `num_masks`: how many hypotheses quality is also measured with."""
    return [2**power for power in range(num_masks.bit_length()) if 2**power <= num_masks]


def measure_row(row: dict, num_masks: int, seed: int, prediction: Sequence[np.ndarray] | None) -> dict:
    """One image's numbers, flat, from a row of the column contract and the model's prediction, if there is a model.

    Raises:
        ValueError: that names the row, for masks and confidence that do not fit.
    """
    try:
        raters = read_raters(row)
        result = {} if prediction is None else measure_prediction(*prediction, raters)
        for predictor in PREDICTORS if len(raters) > 1 else ():
            samples = degenerate_samples(predictor, raters, num_masks, noise_seed(row["image_id"], seed))
            values = measure_samples(samples, samples.mean(axis=0) >= 0.5, raters)
            result |= {f"{predictor}/{name}": value for name, value in values.items()}
    except ValueError as error:
        raise ValueError(f"Row {row['image_id']!r}: {error}") from error
    if len(raters) > 1:
        result["raters_diversity"] = metrics.diversity(raters)
    pixels = np.asarray(row["image"]).tobytes() + raters.tobytes()
    return result | {
        "image_id": row["image_id"],
        "group_id": row["group_id"],
        "reference_area": int((raters.mean(axis=0) >= 0.5).sum()),
        "content": hashlib.sha256(pixels).hexdigest(),
    }


def predict(
    pipeline: MedSegLatDiffPipeline,
    rows: Sequence[dict],
    num_masks: int,
    steps: int,
    seed: int,
    noise: str = "fresh",
    num_candidates: int | None = None,
) -> Iterator[tuple]:
    """The pipeline's (masks, confidence, uncertainty, consensus) of each row.

    Args:
        noise (`str`, *optional*, defaults to `"fresh"`): where each image's initial noise comes from: its own seed,
            `"same"` for one draw for all images, `"zero"` for none at all.
        num_candidates (`int`, *optional*): of how many the masks are chosen. If `None`: the checkpoint's own default,
            or `num_masks` where the noise is not fresh.
    """
    generators = [torch.Generator().manual_seed(noise_seed(row["image_id"], seed)) for row in rows]
    side = pipeline.config.sample_size // pipeline.mask_vae.downsampling_factor
    shape = (num_candidates or num_masks, pipeline.unet.config.latent_channels, side, side)
    latents = {
        "fresh": None,
        "same": torch.randn(shape, generator=torch.Generator().manual_seed(seed)).repeat(len(rows), 1, 1, 1),
        "zero": torch.zeros(shape).repeat(len(rows), 1, 1, 1),
    }[noise]  # [B*M, C, h, w]
    images = [row["image"] for row in rows]
    options = dict(latents=latents, return_dict=False, num_candidates=num_candidates)
    return zip(*pipeline(images, num_masks, steps, generators, **options), strict=True)
