"""From one dict of numbers per image to the results of an evaluation, as plain JSON values.

`summarize` returns what becomes results.json (training/evaluate.py adds where, how and how fast it was measured):

- `num_images`, `num_groups`, `num_masks`, `seed`, `noise`, `data_fingerprint`;
- `metrics[name]`: `value`, `low`, `high` (95 % bootstrap interval over groups), `averaging` ("per image" or "pooled"),
  `num_images` that the value is a mean of, and `num_infinite` that were left out of it (HD95 with one mask empty);
- `strata["<=16" | "<=64" | "<=256"][name]`: the same for references of 1 to so many pixels, with `missed`, the share
  of references that the consensus does not touch;
- `degenerate[predictor][name]`: the same for predictors that need no model, with as many masks;
- `by_num_masks["1" | "2" | "4" | ...]`: `ged` and `dice` of the first so many hypotheses;
- `curves["reliability"]`: `confidence`, `frequency`, `pixels` per bin; `curves["risk_coverage"]`: `coverage`, `risk`,
  with the images in the order of their mean uncertainty; `["risk_coverage_disagreement"]`: in the order of the mean
  IoU distance between their hypotheses, which does not grow with the lesion as the mean uncertainty does. The areas
  under both are the metrics `aurc` and `aurc_disagreement`.
"""

import hashlib
import math
from collections.abc import Sequence

import numpy as np

from ..metrics import reliability
from ..metrics.bootstrap import bootstrap_counts, bootstrap_interval
from .rows import PREDICTORS, fewer_masks

STRATA = (16, 64, 256)
CURVE_POINTS = 200
RANKINGS = {"": "uncertainty", "_disagreement": "diversity"}  # what orders the images of a risk-coverage curve
NOT_METRICS = ("reference_area", "intersection", "areas", "uncertainty", "raters_diversity")


def summarize(rows: Sequence[dict], num_masks: int, seed: int = 0, noise: str = "fresh") -> dict:
    """The results of all rows, as this module's docstring describes them; the order of the rows does not matter."""
    rows = sorted(rows, key=lambda row: row["image_id"])
    names = list(dict.fromkeys(name for row in rows for name, value in row.items() if isinstance(value, float)))
    plain = [name for name in names if "@" not in name and "/" not in name and name not in NOT_METRICS]
    degenerate = {
        predictor: {
            name.removeprefix(f"{predictor}/"): entry(rows, name) for name in names if name.startswith(f"{predictor}/")
        }
        for predictor in PREDICTORS
    }
    summary = {
        "num_images": len(rows),
        "num_groups": len({row["group_id"] for row in rows}),
        "num_masks": num_masks,
        "seed": seed,
        "noise": noise,
        "data_fingerprint": hashlib.sha256("".join(row["content"] for row in rows).encode()).hexdigest()[:16],
        "metrics": {name: entry(rows, name) for name in plain},
        "degenerate": {predictor: values for predictor, values in degenerate.items() if values},
    }
    if "bins" not in rows[0]:  # no model was measured
        return summary
    summary["metrics"] |= pooled_entries(rows)
    strata = {f"<={area}": [row for row in rows if 0 < row["reference_area"] <= area] for area in STRATA}
    summary["strata"] = {
        label: {name: entry(members, name) for name in plain} for label, members in strata.items() if members
    }
    summary["by_num_masks"] = {
        str(count): {name: entry(rows, f"{name}@{count}") for name in ("dice", "ged") if f"{name}@{count}" in names}
        for count in fewer_masks(num_masks)
    }
    return summary | {"curves": curves(rows)}


def entry(rows: Sequence[dict], name: str, weights: str | None = None) -> dict:
    """One entry of the results: the mean of a column, or the sum of it over the sum of the column `weights`.

    Rows without the column, or where it is NaN, do not count; infinite values are left out and counted. `value` is
    `None` where nothing is left.
    """
    kept = [row for row in rows if not math.isnan(row.get(name, math.nan))]
    finite = [row for row in kept if math.isfinite(row[name])]
    result = {"value": None, "low": None, "high": None, "averaging": "pooled" if weights else "per image"}
    result |= {"num_images": len(finite), "num_infinite": len(kept) - len(finite)}
    totals = [row[weights] if weights else 1.0 for row in finite]
    if sum(totals) > 0:
        values, groups = np.array([row[name] for row in finite], float), [row["group_id"] for row in finite]
        low, high = bootstrap_interval(values, groups, np.array(totals))
        result |= {"value": float(values.sum() / sum(totals)), "low": low, "high": high}
    return result


def resampled_entry(rows: Sequence[dict], statistic, averaging: str = "pooled") -> dict:
    """An entry whose value is `statistic(counts)`, where `counts`, `(N,)`, says how often each row occurs."""
    counts = bootstrap_counts([row["group_id"] for row in rows])  # [B, N]
    low, high = np.nanpercentile([statistic(count) for count in counts], (2.5, 97.5))
    value = statistic(np.ones(len(rows), int))
    result = {"value": value, "low": float(low), "high": float(high), "averaging": averaging}
    return result | {"num_images": len(rows), "num_infinite": 0}


def pooled_entries(rows: Sequence[dict]) -> dict[str, dict]:
    """What is no mean over images: pooled overlap, diversity against the raters', calibration, risk and coverage."""
    risks = 1 - np.array([row["dice"] for row in rows])
    rows = [row | {"twice": 2 * row["intersection"], "union": row["areas"] - row["intersection"]} for row in rows]
    entries = {
        "dice_pooled": entry(rows, "twice", weights="areas"),
        "iou_pooled": entry(rows, "intersection", weights="union"),
    }
    for suffix, order in RANKINGS.items():
        if all(order in row for row in rows):
            keys = np.array([row[order] for row in rows])
            entries[f"aurc{suffix}"] = resampled_entry(
                rows,
                lambda counts, keys=keys: reliability.area_under_risk_coverage(
                    risks.repeat(counts), keys.repeat(counts)
                ),
                "per image",
            )
    several = [row for row in rows if "raters_diversity" in row and "diversity" in row]
    if several:
        entries["diversity_ratio"] = entry(several, "diversity", weights="raters_diversity")
    for name, column in (("ece", "bins"), ("ece_band", "band_bins")):
        bins = np.array([row[column] for row in rows])  # [N, 3 * NUM_BINS]
        if bins.any():
            entries[name] = resampled_entry(
                rows, lambda counts, bins=bins: reliability.expected_calibration_error((counts @ bins).reshape(3, -1))
            )
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
            coverage, risk = reliability.risk_coverage_curve(
                [1 - row["dice"] for row in rows], [row[order] for row in rows]
            )
            result[f"risk_coverage{suffix}"] = {"coverage": coverage[points].tolist(), "risk": risk[points].tolist()}
    return result
