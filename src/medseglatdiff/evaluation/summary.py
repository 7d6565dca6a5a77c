"""From one dict of numbers per image to the results of an evaluation, as plain JSON values.

`summarize` returns what becomes results.json (evaluate.py adds settings, hardware and speed):

- `num_images`, `num_groups`, `num_masks`, `num_classes`, `seed`, `noise`, `data_fingerprint`;
- `metrics[name]`: `value`; `low` and `high`, the ends of its 95 % interval, and `interval`, the method that gave them
  ("t over groups", see metrics/intervals.py), all `None` with fewer than three groups or without any
  difference between them; `num_groups` and `num_images`; `averaging` ("per image" or "pooled"); and `num_infinite`,
  the number of images that were left out (HD95 with one empty mask);
- `classes["1" | "2" | ...][name]`: the same for each class, if there are several;
- `strata["<=16" | "<=64" | "<=256"][name]`: the same for references of at most this number of pixels, with `missed`,
  the share of references that the consensus does not touch;
- `degenerate[predictor][name]`: the same for predictors without a model, with the same number of masks;
- `by_num_masks["1" | "2" | "4" | ...]`: `ged` and `dice` of this number of masks, the first ones of each image;
- `curves["reliability"]`: `confidence`, `frequency`, `pixels` per bin; `curves["risk_coverage"]`: `coverage`, `risk`,
  with the images in the order of their mean uncertainty; `["risk_coverage_disagreement"]`: in the order of the mean
  IoU distance between their hypotheses, which, unlike the mean uncertainty, does not grow with the lesion. The areas
  under both are the metrics `aurc` and `aurc_disagreement`.
"""

import hashlib
import math
from collections.abc import Callable, Sequence

import numpy as np

from ..metrics import reliability
from ..metrics.intervals import METHOD, group_interval
from .rows import PREDICTORS, fewer_masks

STRATA = (16, 64, 256)
CURVE_POINTS = 200
RANKINGS = {"": "uncertainty", "_disagreement": "diversity"}  # what orders the images of a risk-coverage curve
NOT_METRICS = ("reference_area", "intersection", "areas", "uncertainty", "raters_diversity")
BOUNDS = {  # of metrics outside [0, 1]
    "ged": (0, 2),
    "ged_unbiased": (-math.inf, math.inf),
    "ncc": (-1, 1),
    "hd95": (0, math.inf),
    "nll": (0, math.inf),
    "diversity_ratio": (0, math.inf),
}


def metric_names(rows: Sequence[dict], prefix: str = "") -> list[str]:
    """The metrics among the columns that begin with `prefix`, without the prefix."""
    names = dict.fromkeys(name for row in rows for name, value in row.items() if isinstance(value, float))
    stripped = [name.removeprefix(prefix) for name in names if name.startswith(prefix)]
    return [name for name in stripped if not set(name) & set("@/") and name not in NOT_METRICS]


def summarize(rows: Sequence[dict], num_masks: int, seed: int = 0, noise: str = "fresh", num_classes: int = 1) -> dict:
    """The results of all rows, as this module's docstring describes them; the order of the rows does not matter."""
    rows = sorted(rows, key=lambda row: row["image_id"])
    names = metric_names(rows)
    degenerate = {
        predictor: {name: entry(part, name) for name in metric_names(part)}
        for predictor in PREDICTORS
        if (part := within(rows, f"{predictor}/"))
    }
    summary: dict = {
        "num_images": len(rows),
        "num_groups": len({row["group_id"] for row in rows}),
        "num_masks": num_masks,
        "num_classes": num_classes,
        "seed": seed,
        "noise": noise,
        "data_fingerprint": hashlib.sha256("".join(row["content"] for row in rows).encode()).hexdigest()[:16],
        "metrics": {name: entry(rows, name) for name in names},
        "degenerate": degenerate,
    }
    if "bins" not in rows[0]:  # no model was measured
        return summary
    summary["metrics"] |= pooled_entries(rows)
    if num_classes > 1:
        parts = {str(k): within(rows, f"class_{k}/") for k in range(1, num_classes + 1)}
        summary["classes"] = {
            label: {name: entry(part, name) for name in metric_names(part)} | pooled_entries(part)
            for label, part in parts.items()
        }
    strata = {f"<={area}": [row for row in rows if 0 < row["reference_area"] <= area] for area in STRATA}
    summary["strata"] = {
        label: {name: entry(members, name) for name in names} for label, members in strata.items() if members
    }
    summary["by_num_masks"] = {
        str(count): {
            name: entry(rows, f"{name}@{count}")
            for name in ("dice", "ged")
            if any(f"{name}@{count}" in row for row in rows)
        }
        for count in fewer_masks(num_masks)
    }
    return summary | {"curves": curves(rows)}


def within(rows: Sequence[dict], prefix: str) -> list[dict]:
    """The rows with columns that begin with `prefix`: these columns, without the prefix, and the group."""
    parts = (
        {name.removeprefix(prefix): value for name, value in row.items() if name.startswith(prefix)} for row in rows
    )
    return [part | {"group_id": row["group_id"]} for part, row in zip(parts, rows, strict=True) if part]


def measured(rows: Sequence[dict], statistic: Callable[[np.ndarray], float], **options) -> dict:
    """`value`, interval and counts of a statistic of the chosen rows, bool `(N,)`; options are `group_interval`'s."""
    groups = [row["group_id"] for row in rows]
    low, high = group_interval(statistic, groups, **options) or (None, None)
    return {
        "value": float(statistic(np.ones(len(rows), bool))),
        "low": low,
        "high": high,
        "interval": None if low is None else METHOD,
        "num_groups": len(set(groups)),
        "num_images": len(rows),
    }


def entry(rows: Sequence[dict], name: str, weights: str | None = None, metric: str | None = None) -> dict:
    """One entry of the results: the mean of a column, or its sum divided by the sum of the column `weights`.

    Rows without the column or with NaN are ignored; infinite values are left out and counted. `value` is `None` if no
    value remains. `metric` is the entry's name if it differs from the column's.
    """
    kept = [row for row in rows if not math.isnan(row.get(name, math.nan))]
    finite = [row for row in kept if math.isfinite(row[name])]
    around = {"averaging": "pooled" if weights else "per image", "num_infinite": len(kept) - len(finite)}
    totals = np.array([row[weights] if weights else 1.0 for row in finite])  # [N]
    if not totals.sum() > 0:
        none = dict.fromkeys(("value", "low", "high", "interval"))
        return none | {"num_groups": len({row["group_id"] for row in finite}), "num_images": len(finite)} | around
    values = np.array([row[name] for row in finite], float)  # [N]

    def ratio(chosen: np.ndarray) -> float:
        total = totals[chosen].sum()
        return values[chosen].sum() / total if total > 0 else math.nan

    bounds = BOUNDS.get(metric or name.partition("@")[0], (0, 1))
    return measured(finite, ratio, weights=totals, bounds=bounds) | around


def pooled_entries(rows: Sequence[dict]) -> dict[str, dict]:
    """Metrics that are not means over images: pooled overlap, diversity ratio, calibration, risk and coverage."""
    risks = 1 - np.array([row["dice"] for row in rows])  # [N]
    rows = [row | {"twice": 2 * row["intersection"], "union": row["areas"] - row["intersection"]} for row in rows]
    entries = {
        "dice_pooled": entry(rows, "twice", weights="areas"),
        "iou_pooled": entry(rows, "intersection", weights="union"),
    }
    for suffix, order in RANKINGS.items():
        if all(order in row for row in rows):
            keys = np.array([row[order] for row in rows])  # [N]

            def area(kept: np.ndarray, keys=keys) -> float:
                return reliability.area_under_risk_coverage(risks[kept], keys[kept])

            around = {"averaging": "per image", "num_infinite": 0}
            entries[f"aurc{suffix}"] = measured(rows, area, bounds=(0, 1)) | around
    several = [row for row in rows if "raters_diversity" in row and "diversity" in row]
    if several:
        entries["diversity_ratio"] = entry(several, "diversity", "raters_diversity", "diversity_ratio")
    for name, column in (("ece", "bins"), ("ece_band", "band_bins")):
        bins = np.array([row[column] for row in rows]).reshape(len(rows), 3, -1)  # [N, 3, NUM_BINS]
        if bins.any():

            def error(kept: np.ndarray, bins=bins) -> float:
                return reliability.expected_calibration_error(bins[kept].sum(axis=0))

            around = {"averaging": "pooled", "num_infinite": 0}
            entries[name] = measured(rows, error, weights=bins[:, 0].sum(axis=1), bounds=(0, 1)) | around
    return entries


def curves(rows: Sequence[dict]) -> dict:
    """The reliability diagram over all pixels, and the risk-coverage curves at `CURVE_POINTS` points at most."""
    pixels, confidence, frequency = np.sum([row["bins"] for row in rows], axis=0).reshape(3, -1)  # [NUM_BINS] each
    filled = pixels > 0
    result = {
        "reliability": {
            "confidence": (confidence[filled] / pixels[filled]).tolist(),
            "frequency": (frequency[filled] / pixels[filled]).tolist(),
            "pixels": pixels[filled].tolist(),
        }
    }
    points = np.unique(np.linspace(0, len(rows) - 1, CURVE_POINTS).round().astype(int))
    for suffix, order in RANKINGS.items():
        if all(order in row for row in rows):
            risks = np.array([1 - row["dice"] for row in rows])  # [N]
            keys = np.array([row[order] for row in rows])  # [N]
            coverage, risk = reliability.risk_coverage_curve(risks, keys)
            result[f"risk_coverage{suffix}"] = {"coverage": coverage[points].tolist(), "risk": risk[points].tolist()}
    return result
