"""Metrics for one-to-many medical image segmentation, as a module of the `evaluate` library."""

import datasets
import evaluate
import numpy as np

from medseglatdiff import metrics
from medseglatdiff.metrics import boundary, reliability

_DESCRIPTION = """
Overlap and boundaries of single masks (`binary`), agreement of several hypotheses with several raters (`multi_rater`),
and calibration of confidence maps (`confidence`). Two empty masks agree perfectly; conventions are in the card.
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions: one entry per image: a mask `(H, W)` of 0 and 1 (`binary`), hypotheses `(M, H, W)` (`multi_rater`), or
        a confidence map `(H, W)` in [0, 1] (`confidence`).
    references: one entry per image: a mask `(H, W)` (`binary`), or raters `(R, H, W)`; R may differ between images.

Returns:
    a dict of floats, means over images unless the name says `pooled`:
    `binary`: dice, iou, dice_pooled, iou_pooled, thresholded_jaccard, nsd (1 pixel), hd95 (mean of the finite ones, in
    pixels), hd95_infinite (how many images are not in it);
    `multi_rater`: ged, hm_iou, d_max, dice_match, soft_dice, diversity and ged_unbiased (from two hypotheses on);
    `confidence`: ece, ece_band (confidence in (0, 1) only), brier, nll.

Raises:
    ValueError: that names the row, for masks of different sizes, values that do not belong, NaN, or no mask at all.

Examples:
    >>> module = evaluate.load("medseg_metrics", "binary")  # doctest: +SKIP
    >>> results = module.compute(predictions=[[[1, 1, 0]], [[0, 0, 0]]], references=[[[0, 1, 1]], [[0, 0, 0]]])
    >>> results["dice"], results["dice_pooled"]
    (0.75, 0.5)
"""

_CITATION = """
@misc{medseglatdiff, title={MedSegLatDiff}, note={arXiv:2512.01292}, year={2025}}
"""


def binary_metrics(prediction: np.ndarray, reference: np.ndarray) -> dict[str, float]:
    return {
        "dice": metrics.dice(prediction, reference),
        "iou": metrics.iou(prediction, reference),
        "thresholded_jaccard": metrics.thresholded_jaccard(prediction, reference),
        "nsd": boundary.normalized_surface_distance(prediction, reference),
        "hd95": boundary.hausdorff_distance_95(prediction, reference),
    }


def multi_rater_metrics(samples: np.ndarray, raters: np.ndarray) -> dict[str, float]:
    row = {
        "ged": metrics.generalized_energy_distance(samples, raters),
        "hm_iou": metrics.hm_iou(samples, raters),
        "d_max": metrics.d_max(samples, raters),
        "dice_match": metrics.dice_match(samples, raters),
        "soft_dice": metrics.soft_dice(samples, raters),
    }
    if len(samples) > 1:
        row["ged_unbiased"] = metrics.generalized_energy_distance(samples, raters, unbiased=True)
        row["diversity"] = metrics.diversity(samples)
    return row


def confidence_metrics(confidence: np.ndarray, raters: np.ndarray) -> dict:
    return {
        "brier": reliability.brier_score(confidence, raters),
        "nll": reliability.negative_log_likelihood(confidence, raters),
        "bins": reliability.reliability_bins(confidence, raters),
        "band_bins": reliability.reliability_bins(confidence, raters, band=True),
    }


MEASURES = {"binary": binary_metrics, "multi_rater": multi_rater_metrics, "confidence": confidence_metrics}
MAP = datasets.List(datasets.List(datasets.Value("float32")))  # float, so that 0.5 is refused and not cut to 0
FEATURES = {"binary": (MAP, MAP), "multi_rater": (datasets.List(MAP), datasets.List(MAP))}
FEATURES["confidence"] = (MAP, datasets.List(MAP))


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class MedSegMetrics(evaluate.Metric):
    def _info(self):
        if self.config_name not in FEATURES:
            raise ValueError(f"`config_name` must be one of {sorted(FEATURES)}, but was {self.config_name!r}.")
        predictions, references = FEATURES[self.config_name]
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features({"predictions": predictions, "references": references}),
            reference_urls=["https://arxiv.org/abs/2512.01292"],
        )

    def _compute(self, predictions, references):
        rows, pairs = [], []
        for number, (prediction, reference) in enumerate(zip(predictions, references, strict=True)):
            try:
                pairs.append((np.array(prediction), np.array(reference)))
                rows.append(MEASURES[self.config_name](*pairs[-1]))
            except ValueError as error:
                raise ValueError(f"Row {number}: {error}") from error
        names = [name for name in rows[0] if all(name in row for row in rows) and "bins" not in name]
        values = {name: np.array([row[name] for row in rows]) for name in names}
        results = {name: float(column.mean()) for name, column in values.items() if name != "hd95"}
        if self.config_name == "binary":
            finite = np.isfinite(values["hd95"])
            results["hd95"] = float(values["hd95"][finite].mean()) if finite.any() else float("nan")
            results["hd95_infinite"] = int((~finite).sum())
            results |= {"dice_pooled": metrics.pooled_dice(pairs), "iou_pooled": metrics.pooled_iou(pairs)}
        if self.config_name == "confidence":
            for name, column in (("ece", "bins"), ("ece_band", "band_bins")):
                results[name] = reliability.expected_calibration_error(sum(row[column] for row in rows))
        return results
