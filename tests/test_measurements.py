"""Measurements against closed forms, and what is written and printed of them."""

import csv
import math

import numpy as np
import pytest

from medseglatdiff.pipeline.finding import FindingResult
from medseglatdiff.pipeline.measurements import measure_finding, measure_masks, measurement_table, write_measurements


def ellipsoid(radii_mm, spacing, shape) -> np.ndarray:
    grid = np.meshgrid(
        *((np.arange(n) - (n - 1) / 2) * mm for n, mm in zip(shape, spacing, strict=True)), indexing="ij"
    )
    return sum((axis / radius) ** 2 for axis, radius in zip(grid, radii_mm, strict=True)) < 1


@pytest.mark.parametrize("spacing", ((0.5, 0.5, 0.5), (1.25, 0.4, 0.8)))
def test_an_ellipsoid_has_the_measures_of_its_formula(spacing):
    """Volume 4/3 pi abc, and in its largest slice area pi bc and axes 2b and 2c, whatever the voxels' shape."""
    shape = tuple(int(30 / mm) for mm in spacing)
    body = ellipsoid((8, 12, 6), spacing, shape)
    row = measure_masks(body[None], body, spacing)
    expected = {
        "volume_mm3": 4 / 3 * math.pi * 8 * 12 * 6,
        "area_mm2": math.pi * 12 * 6,
        "long_axis_mm": 24,
        "short_axis_mm": 12,
    }
    for name, value in expected.items():
        for key in (f"consensus_{name}", f"{name}_median", f"{name}_p5", f"{name}_p95"):
            assert row[key] == pytest.approx(value, rel=0.02), key
    assert (row["empty_share"], row["agreement_dice"], row["hypotheses"]) == (0, 1, 1)


def test_median_and_range_are_those_of_hypotheses_that_are_not_empty():
    masks = np.zeros((6, 10, 20), bool)
    for index, length in enumerate((2, 4, 6, 8, 20), start=1):  # the first is empty
        masks[index, 3, :length] = True
    row = measure_masks(masks, masks[2])
    assert row["empty_share"] == pytest.approx(1 / 6)
    assert row["area_px2_median"] == 6
    assert row["area_px2_p5"] == pytest.approx(2 + 0.2 * 2)  # a fifth of the way from the 1st to the 2nd of five
    assert row["area_px2_p95"] == pytest.approx(8 + 0.8 * 12)
    assert row["consensus_area_px2"] == 4
    # nested strips a < b have Dice 2a / (a + b), empty ones 0 with all others
    lengths = (0, 2, 4, 6, 8, 20)
    pairs = [2 * min(a, b) / (a + b) for i, a in enumerate(lengths) for b in lengths[:i]]
    assert row["agreement_dice"] == pytest.approx(np.mean(pairs))


def test_nothing_found_is_not_measured():
    empty = np.zeros((3, 4, 5, 6), bool)
    row = measure_masks(empty, empty[0], (2, 1, 1))
    assert row["empty_share"] == 1 and row["agreement_dice"] == 1
    assert {row[key] for key in row if key.endswith(("median", "p5", "p95")) or key.startswith("consensus")} == {None}
    assert "100%" in measurement_table([row])


def test_areas_are_of_the_largest_slice():
    body = np.zeros((3, 8, 8), bool)
    body[0, 0, 0], body[1, 2:6, 2:5], body[2, :2, :2] = True, True, True
    row = measure_masks(body[None], body, (2.0, 0.5, 0.25))
    assert row["consensus_area_mm2"] == pytest.approx(12 * 0.125)
    assert row["consensus_volume_mm3"] == pytest.approx((1 + 12 + 4) * 0.25)


def result(masks: np.ndarray, offset=(4, 10, 20), point=(22.0, 13.0, 5.0)) -> FindingResult:
    share = masks.mean(axis=0, dtype=np.float32)
    return FindingResult("1.2.3", point, offset, (2.0, 0.5, 0.5), masks, share, share, share >= 0.5, 0.5)


def test_a_findings_row_says_where_it_lies():
    masks = np.zeros((2, 5, 6, 7), bool)
    masks[:, 1, 2, 3], masks[:, 2, 2:5, 2:5], masks[0, 3, 2, 2] = True, True, True
    row = measure_finding(result(masks))
    assert (row["uid"], row["slice"], row["slices"]) == ("1.2.3", 4 + 2, 3)
    assert measure_finding(result(np.zeros((2, 5, 6, 7), bool)))["slice"] == 5  # the point's


def test_csv_has_a_row_per_finding_and_the_table_shows_it(tmp_path):
    masks = np.zeros((2, 5, 6, 7), bool)
    masks[:, 2, 2:5, 2:5] = True
    volume = {"case": "patient/ct", "finding": 1} | measure_finding(result(masks))
    image = {"case": "mole", "finding": 1} | measure_masks(masks[:, 2], masks[0, 2])
    write_measurements(tmp_path / "measurements.csv", [volume, image])
    with (tmp_path / "measurements.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0])[:4] == ["case", "finding", "uid", "slice"]
    assert (rows[0]["case"], rows[0]["slice"], rows[0]["consensus_volume_mm3"]) == ("patient/ct", "6", "4.5")
    assert (rows[1]["uid"], rows[1]["consensus_area_px2"], rows[1]["consensus_area_mm2"]) == ("", "9", "")
    assert [path.name for path in tmp_path.iterdir()] == ["measurements.csv"]
    head, first, second = measurement_table([volume, image]).splitlines()
    assert "area (mm²)" in head and "volume (mm³)" in head and "area (px²)" in head and "2.2 [2.2, 2.2]" in first
    assert "9.0 [9.0, 9.0]" in second and second.split()[1] == "-"
