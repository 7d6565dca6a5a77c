"""Calibration on a validation split: counts and fits in closed form, and the command on a tiny pipeline."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import tiny_pipeline

from medseglatdiff import MedSegLatDiffPipeline

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def calibrate_module():
    sys.path.append(str(ROOT / "training"))  # at the end: training/evaluate.py must not hide the library
    try:
        import calibrate

        yield calibrate
    finally:
        sys.path.remove(str(ROOT / "training"))


def test_pixels_are_counted_by_the_masks_that_hold_them(calibrate_module):
    masks = np.array([[[1, 1, 0, 0]], [[1, 0, 0, 0]]], bool)
    raters = np.array([[[1, 1, 0, 0]], [[1, 0, 0, 1]]], bool)
    assert calibrate_module.count_held(masks, raters).tolist() == [[2, 1, 1], [0.5, 0.5, 1]]
    assert calibrate_module.dice_by_count(masks, raters) == pytest.approx([2 * 2 / 5, 2 * 1 / 4])


def test_fit_is_isotonic_and_pins_the_empty_end(calibrate_module):
    counts = np.array([[1000, 10, 10, 20], [50, 4, 2, 16]], float)  # frequencies .05, .4, .2, .8
    calibration, threshold = calibrate_module.fit(counts, np.array([0.5, 0.9, 0.7]))
    assert calibration["confidences"] == [0, 0.3, 0.3, 0.8] and calibration["shares"] == pytest.approx(
        [0, 1 / 3, 2 / 3, 1]
    )
    assert threshold == pytest.approx((0.3 + 0.8) / 2)  # "at least 2" would be best, but 1 and 2 are not told apart


def test_command_changes_the_maps_and_not_the_masks(tmp_path):
    pipeline = tiny_pipeline()
    pipeline.save_pretrained(tmp_path / "pipeline")
    command = [sys.executable, str(ROOT / "training" / "calibrate.py"), "--pipeline", "pipeline"]
    subprocess.run([*command, "--dataset", "phantom", "--limit", "4"], check=True, cwd=tmp_path, capture_output=True)
    measured = json.loads((tmp_path / "pipeline" / "calibration.json").read_text())
    loaded = MedSegLatDiffPipeline.from_pretrained(tmp_path / "pipeline")
    assert loaded.config.calibration == measured["calibration"] and loaded.config.threshold == measured["threshold"]
    assert len(measured["pixels"]) == 4 and sum(measured["pixels"]) == 4 * 128**2
    assert measured["num_images"] == 4 and len(measured["dice"]) == 3
