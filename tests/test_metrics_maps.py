"""Calibration against scikit-learn and loops, boundaries against MONAI and closed forms."""

import numpy as np
import pytest
import torch
from monai.metrics import compute_hausdorff_distance, compute_surface_dice
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss, log_loss

from medseglatdiff.metrics import boundary, intervals, overlap, reliability


@pytest.fixture
def maps():
    """Confidence of 16 hypotheses and the masks of four raters who follow it."""
    rng = np.random.default_rng(0)
    confidence = rng.binomial(16, rng.beta(0.5, 0.5, (40, 50))) / 16
    return confidence, rng.random((4, 40, 50)) < confidence**1.5


def test_proper_scores_equal_scikit_learn(maps):
    confidence, raters = maps
    labels, repeated = raters.ravel(), np.tile(confidence, (4, 1, 1)).ravel()
    assert reliability.brier_score(*maps) == pytest.approx(brier_score_loss(labels, repeated))
    clipped = repeated.clip(1e-6, 1 - 1e-6)
    assert reliability.negative_log_likelihood(*maps) == pytest.approx(log_loss(labels, clipped))


def test_reliability_and_its_error_equal_scikit_learn(maps):
    confidence, raters = maps
    bins = reliability.reliability_bins(confidence, raters)
    filled = bins[0] > 0
    labels, repeated = raters.ravel(), np.tile(confidence, (4, 1, 1)).ravel()
    frequency, mean = calibration_curve(labels, repeated, n_bins=15)
    assert np.allclose(bins[1][filled] / bins[0][filled], mean)
    assert np.allclose(bins[2][filled] / bins[0][filled], frequency)
    expected = np.average(np.abs(frequency - mean), weights=bins[0][filled])
    assert reliability.expected_calibration_error(bins) == pytest.approx(expected)


def test_band_leaves_certain_pixels_out(maps):
    confidence, raters = maps
    bins = reliability.reliability_bins(confidence, raters, band=True)
    assert bins[0].sum() == ((confidence > 0) & (confidence < 1)).sum() < confidence.size
    certain = reliability.reliability_bins(np.ones((2, 2)), np.ones((1, 2, 2)), band=True)
    assert np.isnan(reliability.expected_calibration_error(certain))


def test_bins_of_images_add_up(maps):
    confidence, raters = maps
    halves = reliability.reliability_bins(confidence[:20], raters[:, :20])
    halves += reliability.reliability_bins(confidence[20:], raters[:, 20:])
    assert np.allclose(halves, reliability.reliability_bins(confidence, raters))


def test_perfect_calibration_has_no_error():
    confidence = np.full((2, 2), 0.5)
    bins = reliability.reliability_bins(confidence, np.stack([np.zeros((2, 2)), np.ones((2, 2))]))
    assert reliability.expected_calibration_error(bins) == 0


def test_risk_coverage_equals_a_loop_and_knows_its_bounds():
    rng = np.random.default_rng(1)
    risks, uncertainties = rng.random(30), rng.random(30)
    order = sorted(range(30), key=lambda index: uncertainties[index])
    expected = np.mean([np.mean([risks[index] for index in order[:kept]]) for kept in range(1, 31)])
    area = reliability.area_under_risk_coverage
    assert area(risks, uncertainties) == pytest.approx(expected)
    assert area(risks, risks) <= area(risks, uncertainties) <= area(risks, -risks)
    assert area(risks, np.ones(30)) == pytest.approx(risks.mean())  # ties share their mean, whatever the order


@pytest.mark.parametrize(
    ("confidence", "message"),
    [
        (np.full((2, 2), 1.5), r"`confidence` must be in \[0, 1\]"),
        (np.full((2, 2), np.nan), r"`confidence` must be in \[0, 1\]"),
        (np.zeros((2, 3)), "`confidence` must have the raters' size"),
    ],
)
def test_bad_confidence_is_refused(confidence, message):
    for function in (reliability.brier_score, reliability.negative_log_likelihood, reliability.reliability_bins):
        with pytest.raises(ValueError, match=message):
            function(confidence, np.ones((1, 2, 2)))


def test_bad_risks_are_refused():
    with pytest.raises(ValueError, match="must have the same length"):
        reliability.area_under_risk_coverage([0.1], [0.1, 0.2])
    with pytest.raises(ValueError, match="NaN"):
        reliability.area_under_risk_coverage([np.nan], [0.1])


def blobs(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Two overlapping ellipses, the first cut by the border of the image."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:40, :48]
    first = ((y - 4) / rng.uniform(6, 12)) ** 2 + ((x - 22) / rng.uniform(6, 12)) ** 2 < 1
    second = ((y - 9) / rng.uniform(6, 12)) ** 2 + ((x - 25) / rng.uniform(6, 12)) ** 2 < 1
    return first, second


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("spacing", [(1.0, 1.0), (0.7, 1.3)])
def test_boundary_metrics_equal_monai(seed, spacing):
    a, b = blobs(seed)
    tensors = [torch.from_numpy(mask)[None, None].float() for mask in (a, b)]
    distance = compute_hausdorff_distance(*tensors, include_background=True, percentile=95, spacing=spacing)
    assert boundary.hausdorff_distance_95(a, b, spacing) == pytest.approx(distance.item(), abs=1e-4)
    surface = compute_surface_dice(*tensors, [1.5], include_background=True, spacing=spacing)
    assert boundary.normalized_surface_distance(a, b, 1.5, spacing) == pytest.approx(surface.item(), abs=1e-6)


def test_shifted_squares_and_nested_discs():
    first, second = np.zeros((2, 30, 30), bool)
    first[5:15, 5:15], second[5:15, 11:21] = True, True
    assert boundary.hausdorff_distance_95(first, second) == 6
    assert boundary.hausdorff_distance_95(first, second, spacing=(1.0, 0.5)) == 3
    y, x = np.mgrid[-60:61, -60:61]
    inner, outer = np.hypot(y, x) < 20, np.hypot(y, x) < 50
    assert boundary.hausdorff_distance_95(inner, outer) == pytest.approx(30, abs=1)
    assert boundary.normalized_surface_distance(inner, outer, tolerance=28) == 0
    assert boundary.normalized_surface_distance(inner, outer, tolerance=32) == 1


def test_boundaries_of_empty_masks():
    empty, full = np.zeros((4, 4), bool), np.ones((4, 4), bool)
    assert boundary.hausdorff_distance_95(empty, empty) == 0
    assert boundary.hausdorff_distance_95(empty, full) == boundary.hausdorff_distance_95(full, empty) == np.inf
    assert boundary.normalized_surface_distance(empty, empty) == 1
    assert boundary.normalized_surface_distance(empty, full) == 0


@pytest.mark.parametrize("module", [boundary, intervals, overlap, reliability])
def test_every_function_has_a_worked_example(module):
    own = [value for value in vars(module).values() if getattr(value, "__module__", "") == module.__name__]
    public = [function for function in own if callable(function) and not function.__name__.startswith("_")]
    assert public
    for function in public:
        assert ">>> " in function.__doc__, function.__name__


def test_bad_boundary_arguments_are_refused():
    mask = np.ones((4, 4), bool)
    with pytest.raises(ValueError, match="same height and width"):
        boundary.hausdorff_distance_95(mask, np.ones((4, 5), bool))
    with pytest.raises(ValueError, match="`spacing` must be two positive numbers"):
        boundary.hausdorff_distance_95(mask, mask, spacing=(1.0, 0.0))
    with pytest.raises(ValueError, match="`tolerance` must be at least 0, but was -1"):
        boundary.normalized_surface_distance(mask, mask, tolerance=-1)
