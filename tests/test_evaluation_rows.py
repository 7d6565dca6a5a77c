"""Numbers of one image: where its noise comes from, degenerate predictors, and rows that cannot be measured."""

import numpy as np
import PIL.Image
import pytest
from conftest import tiny_pipeline

from medseglatdiff.data.phantom import phantom_rows
from medseglatdiff.evaluation.rows import (
    degenerate_samples,
    measure_row,
    measure_samples,
    noise_seed,
    predict,
    read_raters,
)
from medseglatdiff.metrics import diversity


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
