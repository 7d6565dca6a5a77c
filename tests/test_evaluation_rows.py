"""Numbers of one image: where its noise comes from, degenerate predictors, and rows that cannot be measured."""

import numpy as np
import PIL.Image
import pytest
import torch
from conftest import tiny_pipeline

from medseglatdiff.data.phantom import phantom_rows
from medseglatdiff.evaluation.rows import (
    degenerate_samples,
    measure_prediction,
    measure_row,
    measure_samples,
    noise_seed,
    predict,
    read_raters,
)
from medseglatdiff.losses import jaccard_distances
from medseglatdiff.metrics import dice, diversity, generalized_energy_distance, hm_iou, majority, pairwise_iou
from medseglatdiff.metrics.reliability import brier_score


def test_noise_depends_on_image_and_seed_alone(pipeline):
    rows = list(phantom_rows(3, size=32))
    together = list(predict(pipeline, rows, 4, 2, seed=0))
    alone = list(predict(pipeline, rows[1:2], 4, 2, seed=0))
    assert (together[1][0] == alone[0][0]).mean() > 0.999
    other = list(predict(pipeline, rows[1:2], 4, 2, seed=1))
    assert (other[0][0] != alone[0][0]).any()
    assert noise_seed("a", 0) != noise_seed("b", 0) and 0 <= noise_seed("a", 0) < 2**63


def test_zero_noise_gives_equal_hypotheses_and_same_noise_equal_images(pipeline):
    row = next(iter(phantom_rows(1, size=32)))
    twins = [row, row | {"image_id": "another"}]
    masks = next(predict(pipeline, twins, 4, 2, seed=0, noise="zero"))[0]
    assert (masks == masks[0]).all()
    (first, *_), (second, *_) = predict(pipeline, twins, 4, 2, seed=0, noise="same")
    assert (first == second).mean() > 0.999 and (first != first[0]).any()
    (first, *_), (second, *_) = predict(pipeline, twins, 4, 2, seed=0)
    assert (first != second).any()


def test_masks_are_chosen_where_noise_is_fresh_and_come_as_drawn_otherwise():
    pipeline, row = tiny_pipeline(default_num_candidates=9), next(iter(phantom_rows(1, size=32)))
    chosen, drawn, everything = (
        next(predict(pipeline, [row], masks, 2, seed=0, num_candidates=candidates))[0]
        for masks, candidates in ((3, None), (3, 3), (9, 9))
    )  # [M, H, W] each
    assert np.array_equal(drawn, everything[:3]) and not np.array_equal(chosen, drawn)
    assert all(any(np.array_equal(mask, other) for other in everything) for mask in chosen)
    masks = next(predict(pipeline, [row], 3, 2, seed=0, noise="same"))[0]
    assert np.array_equal(masks, next(predict(pipeline, [row], 3, 2, seed=0, noise="same", num_candidates=3))[0])


def test_masks_may_be_chosen_under_the_same_noise_too():
    pipeline, row = tiny_pipeline(), next(iter(phantom_rows(1, size=32)))
    chosen = next(predict(pipeline, [row], 3, 2, seed=0, noise="same", num_candidates=9))[0]
    everything = next(predict(pipeline, [row], 9, 2, seed=0, noise="same"))[0]
    assert len(chosen) == 3 and all(any(np.array_equal(mask, other) for other in everything) for mask in chosen)


def test_random_rater_follows_its_closed_form():
    raters = np.stack([np.asarray(mask) > 127 for mask in next(iter(phantom_rows(1)))["masks"]])
    draws = [degenerate_samples("random_rater", raters, 4, seed) for seed in range(300)]
    values = [measure_samples(draw, draw.mean(axis=0) >= 0.5, raters)["ged"] for draw in draws]
    expected = diversity(raters) * 3 / 4 / 4  # D_YY / M, D_YY over all 16 pairs of 4 raters
    assert np.mean(values) == pytest.approx(expected, rel=0.15)


def test_bad_rows_are_named():
    row = next(iter(phantom_rows(1, size=32)))
    with pytest.raises(ValueError, match="Row 'phantom-0-00000': `masks` must hold at least one rater"):
        measure_row(row | {"masks": []}, 4, 0, None)
    bad = {
        r"`masks` must hold 0 and 255, but held \[1\]": [PIL.Image.new("L", (32, 32), 1)],
        "same shape": [row["masks"][0], PIL.Image.new("L", (32, 31))],
        "3 dimensions": [PIL.Image.new("RGB", (32, 32))] * 2,
    }
    for message, masks in bad.items():
        with pytest.raises(ValueError, match=f"Row 'phantom-0-00000': .*{message}"):
            measure_row(row | {"masks": masks}, 4, 0, None)
    raters = read_raters(row)
    wrong = (raters[:, 1:], raters[0], raters[0], raters[0])
    with pytest.raises(ValueError, match="Row 'phantom-0-00000'"):
        measure_row(row, 4, 0, wrong)
    nan = (raters, np.full(raters[0].shape, np.nan), raters[0], raters[0])
    with pytest.raises(ValueError, match=r"Row 'phantom-0-00000': `confidence` must be in \[0, 1\]"):
        measure_row(row, 4, 0, nan)


def test_a_class_is_measured_as_a_binary_mask_is():
    """One class of label maps gives the numbers of its masks, but for the other's pixels."""
    rng = np.random.default_rng(0)
    samples, raters = (rng.integers(0, 3, (count, 10, 11)).astype(np.uint8) for count in (4, 3))
    shares = np.stack([(samples == k).mean(axis=0) for k in (1, 2)])  # [K, H, W]
    consensus = majority(samples, 2)
    row = measure_prediction(samples, shares, shares, consensus, raters, 2)
    reference = majority(raters, 2)
    for k in (1, 2):
        masks, marked = samples == k, raters == k
        assert row[f"class_{k}/ged"] == generalized_energy_distance(masks, marked)
        assert row[f"class_{k}/hm_iou"] == hm_iou(masks, marked)
        assert row[f"class_{k}/dice"] == dice(consensus == k, reference == k)
        assert row[f"class_{k}/brier"] == brier_score(shares[k - 1], marked)
    for name in ("ged", "dice", "brier", "soft_dice", "diversity", "nsd"):
        assert row[name] == pytest.approx((row[f"class_1/{name}"] + row[f"class_2/{name}"]) / 2), name
    assert (
        row["hm_iou"] == hm_iou(samples, raters, num_classes=2) < (row["class_1/hm_iou"] + row["class_2/hm_iou"]) / 2
    )
    assert row["ged"] == pytest.approx(generalized_energy_distance(samples, raters, num_classes=2))
    assert (
        row["dice@4"] == pytest.approx(row["dice"]) and row["areas"] == (consensus > 0).sum() + (reference > 0).sum()
    )


def test_distance_of_label_maps_is_that_of_the_energy_stage():
    rng = np.random.default_rng(0)
    maps = rng.integers(0, 4, (5, 30, 30))
    masks = torch.nn.functional.one_hot(torch.from_numpy(maps), 4).movedim(-1, 1)[:, 1:]  # [N, K, H, W]
    ours = 1 - pairwise_iou(maps, maps, num_classes=3)
    assert ours == pytest.approx(jaccard_distances(masks, masks).numpy(), abs=0.01)  # it has one pixel more


def test_label_maps_of_raters_are_read_and_others_refused():
    row = next(iter(phantom_rows(1, size=32, num_classes=3)))
    raters = read_raters(row, 3)
    assert raters.dtype == np.uint8 and raters.max() == 3 and raters.shape == (4, 32, 32)
    assert np.array_equal(raters[1], np.asarray(row["masks"][1]))
    with pytest.raises(ValueError, match="`masks` must hold labels from 0 to 2, but held"):
        read_raters(row, 2)
    with pytest.raises(ValueError, match="`masks` must hold 0 and 255"):
        read_raters(row)


@pytest.mark.parametrize("num_classes", [2, 3])
def test_degenerate_predictors_of_several_classes(num_classes):
    raters = read_raters(next(iter(phantom_rows(1, size=32, num_classes=num_classes))), num_classes)
    values = {}
    for predictor in ("always_empty", "union", "majority", "random_rater"):
        samples = degenerate_samples(predictor, raters, 5, 0, num_classes)
        assert samples.shape == (5, 32, 32) and samples.dtype == np.uint8
        values[predictor] = measure_samples(samples, majority(samples, num_classes), raters, num_classes)
    assert values["majority"]["dice"] == 1 and values["always_empty"]["missed"] == 1
    union = degenerate_samples("union", raters, 1, 0, num_classes)[0]
    assert np.array_equal(union > 0, (raters > 0).any(axis=0))
    assert values["random_rater"]["ged"] < values["always_empty"]["ged"]
