"""What is measured of a finding: area, axes and volume of each hypothesis, and how far the hypotheses differ."""

import csv
import io
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from ..data.files import write_text
from .files import mean_pairwise_dice
from .finding import FindingResult

FIRST = ("case", "finding", "uid", "slice", "slices", "hypotheses", "empty_share", "agreement_dice")


def measure_finding(result: FindingResult) -> dict:
    """The measurements of a finding in a volume: one row of `measurements.csv`, without `case` and `finding`.

    `uid`, `slice` (where the consensus is largest, from 0, in the order of the volume) and `slices` (those that the
    consensus lies on) come before what `measure_masks` gives.
    """
    slices = int(result.consensus.any(axis=(1, 2)).sum())
    place = {"uid": result.uid, "slice": result.main_slice, "slices": slices}
    return place | measure_masks(result.masks, result.consensus, result.spacing)


def measure_masks(masks: np.ndarray, consensus: np.ndarray, spacing: Sequence[float] | None = None) -> dict:
    """The measurements of hypotheses of an image or a volume; units stand in the names.

    For each mask: `area` of its largest slice; there, `long_axis` and `short_axis` of the ellipse with the same second
    moments (scikit-image's `axis_major_length` and `axis_minor_length`); in volumes its `volume`. Each comes as
    `consensus_NAME`, and as `NAME_median`, `NAME_p5` and `NAME_p95` over the hypotheses that are not empty
    (percentiles between neighbours by straight lines); `None` where there is nothing to measure.

    Args:
        masks (`np.ndarray`, bool `(M, H, W)` or `(M, d, h, w)`): hypotheses.
        consensus (`np.ndarray`, bool `(H, W)` or `(d, h, w)`): likewise.
        spacing (`Sequence[float]`, *optional*): in mm, between (slices,) rows and columns; in pixels where unknown.

    Returns:
        `hypotheses`, their number; `empty_share`, of those that are empty; `agreement_dice`, the mean Dice over pairs
        (two empty ones agree); and the measurements.

    Raises:
        ImportError: without the extra `volumes`.
    """
    unit = "px" if spacing is None else "mm"
    spacing = (1.0,) * consensus.ndim if spacing is None else tuple(map(float, spacing))
    empty = ~masks.reshape(len(masks), -1).any(axis=1)  # [M]
    row: dict[str, float | None] = {"hypotheses": len(masks), "empty_share": float(empty.mean())}
    row["agreement_dice"] = mean_pairwise_dice(masks, 1)
    agreed = _measure(consensus, spacing, unit) if consensus.any() else {}
    measured = [_measure(mask, spacing, unit) for mask in masks[~empty]]
    for name in _names(unit, masks.ndim == 4):
        row[f"consensus_{name}"] = agreed.get(name)
        values = [entry[name] for entry in measured]
        for suffix, percent in (("median", 50), ("p5", 5), ("p95", 95)):
            row[f"{name}_{suffix}"] = float(np.percentile(values, percent)) if values else None
    return row


def measurement_table(rows: Sequence[dict]) -> str:
    """Rows of measurements as text for a terminal: medians with their 5 to 95 % range over the hypotheses."""
    columns: list[tuple[str, Callable[[dict], str]]] = [("finding", lambda row: str(row.get("finding", "")))]
    units = ["mm", "px"] if any("area_px2_median" in row for row in rows) else ["mm"]
    for unit in units:
        for name in _names(unit, volume=unit == "mm"):
            if any(row.get(f"{name}_median") is not None for row in rows):
                columns.append((_heading(name), partial(_range, name=name)))
    columns.append(("empty", lambda row: f"{row['empty_share']:.0%}"))
    columns.append(("agreement", lambda row: f"{row['agreement_dice']:.2f}"))
    cells = [[heading for heading, _ in columns], *([cell(row) for _, cell in columns] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ("  ".join(f"{text:<{width}}" for text, width in zip(line, widths, strict=True)) for line in cells)
    return "\n".join(f"  {line.rstrip()}" for line in lines)


def write_measurements(path: str | Path, rows: Sequence[dict]):
    """Writes rows as CSV, whole or not at all: `case`, `finding`, `uid`, `slice` first; empty where not measured.

    Raises:
        OSError: if it cannot be written.
    """
    present = dict.fromkeys(name for row in rows for name in row)
    columns = [name for name in FIRST if name in present] + [name for name in present if name not in FIRST]
    table = io.StringIO()
    writer = csv.DictWriter(table, columns, restval="", lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({name: f"{value:.4g}" if isinstance(value, float) else value for name, value in row.items()})
    write_text(path, table.getvalue())


def _names(unit: str, volume: bool) -> list[str]:
    names = [f"area_{unit}2", f"long_axis_{unit}", f"short_axis_{unit}"]
    return [*names, f"volume_{unit}3"] if volume else names


def _measure(mask: np.ndarray, spacing: tuple[float, ...], unit: str) -> dict[str, float]:
    """Of one mask that is not empty, `(H, W)` or `(d, h, w)`."""
    try:
        from skimage.measure import regionprops
    except ImportError as error:
        raise ImportError('Measuring needs `pip install "medseglatdiff[volumes]"`.') from error
    slices = mask if mask.ndim == 3 else mask[None]  # [d, h, w]
    largest = slices[slices.sum(axis=(1, 2)).argmax()]  # [h, w]
    region = regionprops(largest.astype(np.uint8), spacing=spacing[-2:])[0]
    sizes = [region.area, region.axis_major_length, region.axis_minor_length, mask.sum() * np.prod(spacing)]
    return {name: float(size) for name, size in zip(_names(unit, mask.ndim == 3), sizes, strict=False)}


def _heading(name: str) -> str:
    what, unit = name.rsplit("_", 1)
    return f"{what.replace('_', ' ')} ({unit.replace('2', '²').replace('3', '³')})"


def _range(row: dict, name: str) -> str:
    values = [value for part in ("median", "p5", "p95") if (value := row.get(f"{name}_{part}")) is not None]
    if len(values) < 3:
        return "-"
    median, low, high = (f"{value:.0f}" if value >= 100 else f"{value:.1f}" for value in values)
    return f"{median} [{low}, {high}]"
