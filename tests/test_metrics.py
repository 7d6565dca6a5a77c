"""Overlap, distributions and matching against loops, MONAI, scikit-learn, closed forms and properties."""

import tracemalloc
from itertools import permutations, product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from monai.metrics import DiceMetric, MeanIoU
from sklearn.metrics import f1_score, jaccard_score

from medseglatdiff import metrics


def masks(most: int = 5) -> st.SearchStrategy:
    return st.integers(1, most).flatmap(lambda count: arrays(bool, (count, 4, 5)))


def random_masks(seed: int, count: int, size: int = 24) -> np.ndarray:
    """Discs around the middle, some of them empty."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size]
    centres, radii = rng.uniform(size * 0.3, size * 0.7, (count, 2)), rng.uniform(-2, size * 0.3, count)
    return np.stack([np.hypot(y - cy, x - cx) < r for (cy, cx), r in zip(centres, radii, strict=True)])


def loop_iou(a: np.ndarray, b: np.ndarray) -> float:
    both, either = set(zip(*np.nonzero(a), strict=True)), set(zip(*np.nonzero(b), strict=True))
    return len(both & either) / len(both | either) if both | either else 1.0


def loop_ged(samples, raters) -> float:
    def mean(first, second):
        return np.mean([1 - loop_iou(a, b) for a, b in product(first, second)])

    return 2 * mean(samples, raters) - mean(samples, samples) - mean(raters, raters)


@given(masks(), masks())
@settings(max_examples=40, deadline=None)
def test_pairwise_iou_and_ged_equal_loops(samples, raters):
    expected = [[loop_iou(sample, rater) for rater in raters] for sample in samples]
    assert np.allclose(metrics.pairwise_iou(samples, raters), expected)
    assert metrics.generalized_energy_distance(samples, raters) == pytest.approx(loop_ged(samples, raters), abs=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_dice_and_iou_equal_monai_and_scikit_learn(seed):
    a, b = random_masks(seed, 2) | random_masks(100 + seed, 2)
    a[0, 0] = b[0, 1] = True  # MONAI's answer for empty masks is not ours
    tensors = [torch.from_numpy(mask)[None, None].float() for mask in (a, b)]
    assert metrics.dice(a, b) == pytest.approx(DiceMetric()(*tensors).item(), abs=1e-6)
    assert metrics.iou(a, b) == pytest.approx(MeanIoU()(*tensors).item(), abs=1e-6)
    assert metrics.dice(a, b) == pytest.approx(f1_score(b.ravel(), a.ravel()))
    assert metrics.iou(a, b) == pytest.approx(jaccard_score(b.ravel(), a.ravel()))


def test_two_squares_and_nested_discs():
    first, second = np.zeros((2, 20, 20), bool)
    first[2:10, 2:10], second[6:14, 2:10] = True, True  # 64 pixels each, 32 in common
    assert metrics.dice(first, second) == 0.5 and metrics.iou(first, second) == pytest.approx(1 / 3)
    y, x = np.mgrid[-150:151, -150:151]
    inner, outer = np.hypot(y, x) < 60, np.hypot(y, x) < 120
    assert metrics.iou(inner, outer) == pytest.approx(1 / 4, rel=1e-2)  # (60 / 120)^2


def test_conventions_for_empty_masks():
    empty, full = np.zeros((3, 3), bool), np.ones((3, 3), bool)
    for score in (metrics.dice, metrics.iou, metrics.thresholded_jaccard):
        assert score(empty, empty) == 1 and score(empty, full) == 0 and score(full, empty) == 0
    assert metrics.generalized_energy_distance(empty[None], empty[None]) == 0
    assert metrics.generalized_energy_distance(empty[None], full[None]) == 2
    assert metrics.hm_iou(empty[None], np.stack([empty, full])) == 0.5
    assert metrics.pooled_dice([(empty, empty)]) == 1 == metrics.pooled_iou([(empty, empty)])


@given(masks(), masks(), st.randoms())
@settings(max_examples=40, deadline=None)
def test_ged_is_a_distance_of_distributions(samples, raters, random):
    ged = metrics.generalized_energy_distance
    value = ged(samples, raters)
    shuffled = [array[random.sample(range(len(array)), len(array))] for array in (samples, raters)]
    assert ged(*shuffled) == pytest.approx(value, abs=1e-12)
    assert ged(raters, samples) == pytest.approx(value, abs=1e-12)
    assert -1e-12 <= value <= 2
    assert ged(samples.repeat(2, axis=0), samples[::-1]) == pytest.approx(0, abs=1e-12)
    same_support = {mask.tobytes() for mask in samples} == {mask.tobytes() for mask in raters}
    assert same_support or value > 1e-9


def test_bias_of_ged_and_expectation_of_the_unbiased_value():
    raters = random_masks(1, 4)
    spread = 1 - metrics.pairwise_iou(raters, raters).mean()  # D of two independent draws
    rng = np.random.default_rng(0)
    draws = [raters[rng.integers(4, size=3)] for _ in range(3000)]
    biased = np.mean([metrics.generalized_energy_distance(draw, raters) for draw in draws])
    unbiased = np.mean([metrics.generalized_energy_distance(draw, raters, unbiased=True) for draw in draws])
    assert biased == pytest.approx(spread / 3, rel=0.05)
    assert unbiased == pytest.approx(0, abs=0.01)


def best_matching(scores: np.ndarray) -> float:
    """By trying all of them, on both sides replicated to a common count."""
    common = np.lcm(*scores.shape)
    rows = [row for row in range(scores.shape[0]) for _ in range(common // scores.shape[0])]
    columns = [column for column in range(scores.shape[1]) for _ in range(common // scores.shape[1])]
    return max(np.mean([scores[r, c] for r, c in zip(rows, order, strict=True)]) for order in permutations(columns))


@pytest.mark.parametrize(("num_samples", "num_raters"), [(1, 4), (2, 3), (4, 4), (6, 2), (3, 1)])
def test_matching_equals_trying_all(num_samples, num_raters):
    samples, raters = random_masks(2, num_samples), random_masks(3, num_raters)
    assert metrics.hm_iou(samples, raters) == pytest.approx(best_matching(metrics.pairwise_iou(samples, raters)))
    assert metrics.dice_match(samples, raters) == pytest.approx(best_matching(metrics.pairwise_dice(samples, raters)))


@given(masks(4), masks(4))
@settings(max_examples=40, deadline=None)
def test_hm_iou_is_one_only_for_a_perfect_matching(samples, raters):
    value = metrics.hm_iou(samples, raters)
    assert metrics.hm_iou(samples, samples[::-1]) == pytest.approx(1)
    common = np.lcm(len(samples), len(raters))
    ours = sorted(mask.tobytes() for mask in samples.repeat(common // len(samples), axis=0))
    theirs = sorted(mask.tobytes() for mask in raters.repeat(common // len(raters), axis=0))
    assert (value == pytest.approx(1)) == (ours == theirs)


def test_rectangular_matching_grows_with_samples_and_balanced_does_not():
    raters, noise = random_masks(4, 3), np.zeros((9, 24, 24), bool)
    noise[:, :2, :2] = True
    many = np.concatenate([raters, noise])
    assert metrics.hm_iou(many, raters, balanced=False) == 1
    assert metrics.hm_iou(many, raters) == pytest.approx(0.25)
    with pytest.raises(ValueError, match="`samples` must be at least as many as the 3 raters, but were 2"):
        metrics.hm_iou(raters[:2], raters, balanced=False)


def test_d_max_diversity_and_soft_dice_equal_loops():
    samples, raters = random_masks(5, 5), random_masks(6, 4)
    best = [max(metrics.dice(sample, rater) for sample in samples) for rater in raters]
    assert metrics.d_max(samples, raters) == pytest.approx(np.mean(best))
    distinct = [1 - loop_iou(samples[i], samples[j]) for i, j in product(range(5), range(5)) if i != j]
    assert metrics.diversity(samples) == pytest.approx(np.mean(distinct))
    cuts = [metrics.dice(samples.mean(0) > cut, raters.mean(0) > cut) for cut in (0.1, 0.3, 0.5, 0.7, 0.9)]
    assert metrics.soft_dice(samples, raters) == pytest.approx(np.mean(cuts))


def test_ncc_equals_its_definition_by_cross_entropies():
    samples, raters = random_masks(7, 6), random_masks(9, 3)
    epsilon = 1e-8
    classes = [np.stack([1 - array, array], axis=-1) for array in (samples.astype(float), raters.astype(float))]
    ours, theirs = classes
    mean = ours.mean(axis=0)
    own = -(mean * np.log(ours + epsilon)).sum(axis=-1).mean(axis=0)
    scores = []
    for rater in theirs:
        cross = -(rater * np.log(ours + epsilon)).sum(axis=-1).mean(axis=0)
        a, v = (own - own.mean()) / (own.std() * own.size), (cross - cross.mean()) / cross.std()
        scores.append((a * v).sum())
    assert metrics.normalized_cross_correlation(samples, raters) == pytest.approx(np.mean(scores), abs=1e-6)
    assert np.isnan(metrics.normalized_cross_correlation(samples[:1], raters))


def test_pooled_values_are_those_of_one_large_image():
    a, b = random_masks(10, 4), random_masks(11, 4)
    pairs = list(zip(a, b, strict=True))
    assert metrics.pooled_dice(pairs) == pytest.approx(metrics.dice(np.hstack(a), np.hstack(b)))
    assert metrics.pooled_iou(pairs) == pytest.approx(metrics.iou(np.hstack(a), np.hstack(b)))


def test_official_isic_score_cuts_below_and_keeps_the_threshold():
    """The challenge's published rule; its scorer, isic-challenge-scoring, needs Python 3.13 and is not run here."""
    reference = np.ones((1, 100), bool)
    for pixels, score in ((64, 0), (65, 0.65), (100, 1)):
        assert metrics.thresholded_jaccard(np.arange(100)[None] < pixels, reference) == pytest.approx(score)


def test_hundred_samples_of_128_pixels():
    samples, raters = random_masks(12, 100, size=128), random_masks(13, 4, size=128)
    assert metrics.pairwise_iou(samples, raters)[37, 2] == pytest.approx(loop_iou(samples[37], raters[2]))
    tracemalloc.start()
    assert metrics.generalized_energy_distance(samples, raters) > 0 and metrics.hm_iou(samples, raters) > 0
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 40e6  # a loop over pairs held as arrays would take 100 * 100 * 128 * 128 bytes


BAD = {
    "zero samples": (np.zeros((0, 3, 3)), "`samples` must be a non-empty array of 3 dimensions"),
    "one mask": (np.zeros((3, 3)), "`samples` must be a non-empty array of 3 dimensions"),
    "grey values": (np.full((1, 3, 3), 255), "`samples` must be binary"),
    "NaN": (np.full((1, 3, 3), np.nan), "`samples` must be binary"),
    "another size": (np.zeros((1, 3, 4)), "`samples` and `raters` must have the same height and width"),
}


@pytest.mark.parametrize("case", BAD)
@pytest.mark.parametrize("name", ["generalized_energy_distance", "hm_iou", "d_max", "dice_match"])
def test_bad_samples_are_refused(name, case):
    samples, message = BAD[case]
    with pytest.raises(ValueError, match=message):
        getattr(metrics, name)(samples, np.zeros((2, 3, 3), bool))


def test_bad_arguments_are_refused():
    mask = np.zeros((3, 3), bool)
    with pytest.raises(ValueError, match="`raters` must be a non-empty array"):
        metrics.generalized_energy_distance(mask[None], np.zeros((0, 3, 3)))
    with pytest.raises(ValueError, match="same height and width"):
        metrics.dice(mask, np.zeros((3, 4)))
    with pytest.raises(ValueError, match="`masks` must hold at least two masks, but held 1"):
        metrics.generalized_energy_distance(mask[None], mask[None], unbiased=True)
