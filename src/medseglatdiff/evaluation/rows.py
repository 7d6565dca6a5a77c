"""One flat dict of numbers per image, from a pipeline and rows of the column contract; summary.py aggregates them.

The reference of single-mask metrics is the raters' majority (at least half of them; with several classes the most
frequent label). Metrics of several raters are given for rows with more than one. Distances are in pixels.

With several classes, each is measured as a binary mask, in the columns `class_1/dice`, `class_1/ged`, ...; `dice`,
`ged`, ... are means over the classes that have the number. Only in metrics that match masks (`hm_iou`, `d_max`,
`dice_match`) a label map is matched as a whole, by its mean overlap over the classes.
"""

import hashlib
from collections.abc import Iterator, Sequence

import numpy as np
import torch

from .. import metrics
from ..data.splits import noise_seed, read_raters
from ..metrics import boundary, reliability
from ..pipeline.pipeline import MedSegLatDiffPipeline

Prediction = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]  # masks, confidence, uncertainty, consensus

PREDICTORS = ("always_empty", "union", "majority", "random_rater")
SUMS = ("intersection", "areas", "bins", "band_bins")  # added up, over classes too


def degenerate_samples(
    predictor: str, raters: np.ndarray, num_masks: int, seed: int, num_classes: int = 1
) -> np.ndarray:
    """`num_masks` masks `(M, H, W)` of one of `PREDICTORS`, made from the raters' masks `(R, H, W)`."""
    if predictor == "random_rater":
        return raters[np.random.default_rng(seed).integers(len(raters), size=num_masks)]
    votes = np.stack([(raters == label).sum(axis=0) for label in range(num_classes, 0, -1)])  # [K, H, W]
    masks = {
        "always_empty": np.zeros_like(raters[0]),
        "union": np.where(votes.any(axis=0), num_classes - votes.argmax(axis=0), 0).astype(raters.dtype),
        "majority": metrics.majority(raters, num_classes),
    }
    return np.repeat(masks[predictor][None], num_masks, axis=0)


def measure_class(samples, consensus, raters, reference) -> dict[str, float]:
    """Metrics of any predictor for one class: its masks `(M, H, W)` and their consensus `(H, W)` against the raters
    `(R, H, W)` and their majority `(H, W)`; all bool."""
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


def measure_maps(samples, confidence, uncertainty, consensus, raters, reference) -> dict:
    """Further metrics of a model for one class: boundaries, calibration, and sums for pooled values."""
    return {
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


def over_classes(classes: Sequence[dict], samples: np.ndarray, raters: np.ndarray) -> dict:
    """The numbers of an image from those of its classes: sums, means over the classes that have the number, and
    matchings of the label maps `samples` `(M, H, W)` and `raters` `(R, H, W)` as a whole."""
    if len(classes) == 1:
        return classes[0]
    row = {}
    for name in dict.fromkeys(name for numbers in classes for name in numbers):
        values = [numbers[name] for numbers in classes if name in numbers and not np.isnan(numbers[name]).any()]
        if values:
            row[name] = (np.sum if name in SUMS else np.mean)(values, axis=0).tolist()
    matchings = {name: getattr(metrics, name) for name in ("hm_iou", "d_max", "dice_match") if name in row}
    return row | {name: match(samples, raters, num_classes=len(classes)) for name, match in matchings.items()}


def measure_samples(
    samples: np.ndarray, consensus: np.ndarray, raters: np.ndarray, num_classes: int = 1
) -> dict[str, float]:
    """What any predictor is judged by: its masks `(M, H, W)`, their consensus `(H, W)`, the raters `(R, H, W)`."""
    reference = metrics.majority(raters, num_classes)  # [H, W]
    labels = range(1, num_classes + 1)
    classes = [measure_class(samples == k, consensus == k, raters == k, reference == k) for k in labels]
    return over_classes(classes, samples, raters)


def measure_prediction(samples, confidence, uncertainty, consensus, raters, num_classes: int = 1) -> dict:
    """All metrics of one image; with several classes, those of each class too.

    Args:
        samples, confidence, uncertainty, consensus: the pipeline's output for the image.
        raters (`np.ndarray` of shape `(R, H, W)`): the raters' masks, bool; label maps with several classes.
        num_classes (`int`, *optional*, defaults to 1): foreground classes.
    """
    samples, consensus = metrics.as_labels(samples, "samples", num_classes), np.asarray(consensus)
    confidence, uncertainty = (np.reshape(a, (num_classes, *np.shape(a)[-2:])) for a in (confidence, uncertainty))
    reference = metrics.majority(raters, num_classes)  # [H, W]
    # 1. class by class
    classes = []
    for k in range(1, num_classes + 1):
        masks = {"consensus": consensus == k, "raters": raters == k, "reference": reference == k}
        maps = {"confidence": confidence[k - 1], "uncertainty": uncertainty[k - 1]}  # [H, W] each
        classes.append(measure_class(samples == k, **masks) | measure_maps(samples == k, **maps, **masks))
        if len(raters) > 1:
            classes[-1]["raters_diversity"] = metrics.diversity(raters == k)
    row = over_classes(classes, samples, raters)
    # 2. with the first masks alone
    for count in fewer_masks(len(samples)):
        first = samples[:count]  # [count, H, W]
        agreed = metrics.majority(first, num_classes)[None]  # [1, H, W]
        row[f"dice@{count}"] = float(metrics.pairwise_dice(agreed, reference[None], num_classes)[0, 0])
        if len(raters) > 1:
            row[f"ged@{count}"] = metrics.generalized_energy_distance(first, raters, num_classes=num_classes)
    if num_classes == 1:
        return row
    return row | {
        f"class_{k}/{name}": value for k, numbers in enumerate(classes, 1) for name, value in numbers.items()
    }


def fewer_masks(num_masks: int) -> list[int]:
    """The powers of two up to `num_masks`: numbers of hypotheses for which quality is measured too."""
    return [2**power for power in range(num_masks.bit_length()) if 2**power <= num_masks]


def measure_row(row: dict, num_masks: int, seed: int, prediction: Prediction | None, num_classes: int = 1) -> dict:
    """One image's numbers, flat, from a row of the column contract and the model's prediction, if any.

    Raises:
        ValueError: for masks and confidence that do not fit; names the row.
    """
    try:
        raters = read_raters(row, num_classes)
        result = {} if prediction is None else measure_prediction(*prediction, raters, num_classes)
        for predictor in PREDICTORS if len(raters) > 1 else ():
            image_seed = noise_seed(row["image_id"], seed)
            samples = degenerate_samples(predictor, raters, num_masks, image_seed, num_classes)
            values = measure_samples(samples, metrics.majority(samples, num_classes), raters, num_classes)
            result |= {f"{predictor}/{name}": value for name, value in values.items()}
    except ValueError as error:
        raise ValueError(f"Row {row['image_id']!r}: {error}") from error
    if len(raters) > 1:
        result["raters_diversity"] = metrics.diversity(raters, num_classes)
    pixels = np.asarray(row["image"]).tobytes() + raters.tobytes()
    return result | {
        "image_id": row["image_id"],
        "group_id": row["group_id"],
        "reference_area": int(metrics.majority(raters, num_classes).astype(bool).sum()),
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
) -> Iterator[Prediction]:
    """The pipeline's (masks, confidence, uncertainty, consensus) of each row.

    Args:
        noise (`str`, *optional*, defaults to `"fresh"`): initial noise of each image: seeded by its id, `"same"`
            for all images, or `"zero"`.
        num_candidates (`int`, *optional*): candidates from which the masks are chosen. If `None`: the checkpoint's
            default, or `num_masks` if the noise is not fresh.
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
    columns = pipeline(
        images, num_masks, steps, generators, latents=latents, return_dict=False, num_candidates=num_candidates
    )
    return zip(*columns, strict=True)
