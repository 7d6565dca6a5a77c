"""Results of many images: means, pooled values, strata and curves against values worked out by hand."""

import numpy as np
import pytest

from medseglatdiff.evaluation.rows import measure_prediction
from medseglatdiff.evaluation.summary import summarize
from medseglatdiff.metrics import diversity


def perfect_row(image_id: str, area: int, raters: int = 2) -> dict:
    mask = np.zeros((16, 16), bool)
    mask.flat[:area] = True
    copies = np.repeat(mask[None], raters, axis=0)
    row = measure_prediction(copies, mask.astype(np.float32), np.zeros((16, 16)), mask, copies)
    return row | {"image_id": image_id, "group_id": image_id, "reference_area": area, "content": image_id}


def test_a_perfect_model_gets_perfect_results():
    results = summarize([perfect_row(f"{area}", area) for area in (4, 30, 100, 200)], num_masks=2)
    best = {"dice": 1, "iou_pooled": 1, "ged": 0, "hm_iou": 1, "hd95": 0, "nsd": 1, "ece": 0, "aurc": 0, "missed": 0}
    best |= {"aurc_disagreement": 0}
    for name, value in best.items():
        entry = results["metrics"][name]
        assert entry["value"] == value, name
        assert (entry["low"], entry["high"], entry["interval"]) == (None,) * 3, name  # images that do not differ
        assert entry["num_groups"] == 4, name
    assert {label: values["dice"]["num_images"] for label, values in results["strata"].items()} == {
        "<=16": 1, "<=64": 2, "<=256": 4,
    }  # fmt: skip


def shifted_row(image_id: str, area: int, found: int, uncertainty: float) -> dict:
    """A reference of `area` pixels of which the consensus holds the first `found`, and which a third rater halves."""
    raters = np.zeros((3, 16, 16), bool)
    raters.reshape(3, -1)[:, :area] = True
    raters[2].flat[: area // 2] = False
    consensus = np.zeros((16, 16), bool)
    consensus.flat[:found] = True
    samples = np.stack([consensus, consensus, np.zeros_like(consensus)])
    uncertainties = np.full((16, 16), uncertainty)
    row = measure_prediction(samples, samples.mean(axis=0), uncertainties, consensus, raters)
    return row | {
        "image_id": image_id,
        "group_id": image_id[0],
        "reference_area": area,
        "content": image_id,
        "raters_diversity": diversity(raters),
    }


def test_strata_ratios_and_infinite_distances_by_hand():
    rows = [shifted_row("a1", 8, 0, 0.1), shifted_row("a2", 16, 8, 0.3), shifted_row("b1", 100, 100, 0.2)]
    results = summarize(rows, num_masks=3)
    small, all_ = results["strata"]["<=16"], results["metrics"]
    assert small["missed"]["value"] == 0.5 and all_["missed"]["value"] == pytest.approx(1 / 3)
    assert small["dice"]["value"] == pytest.approx((0 + 2 / 3) / 2)
    assert all_["dice_pooled"]["value"] == pytest.approx(2 * 108 / (8 + 16 + 100 + 108))
    assert all_["iou_pooled"]["value"] == pytest.approx(108 / 124)
    assert (all_["hd95"]["num_images"], all_["hd95"]["num_infinite"]) == (2, 1)
    ours, theirs = [0, 2 / 3, 2 / 3], [1 / 3] * 3  # means of the three distinct pairs' distances
    assert all_["diversity"]["value"] == pytest.approx(np.mean(ours))
    assert all_["diversity_ratio"]["value"] == pytest.approx(sum(ours) / sum(theirs))
    assert all_["aurc"]["value"] == pytest.approx(np.mean([1, 1 / 2, (1 + 0 + 1 / 3) / 3]))
    by_disagreement = [1, (1 + 1 / 6) / 2, (1 + 0 + 1 / 3) / 3]  # the two that disagree alike share their error
    assert all_["aurc_disagreement"]["value"] == pytest.approx(np.mean(by_disagreement))
    assert results["curves"]["risk_coverage_disagreement"]["risk"] == pytest.approx(by_disagreement)
    assert results["curves"]["risk_coverage"]["risk"] == pytest.approx([1, 1 / 2, 4 / 9])
    assert results["num_groups"] == 2 and results["num_images"] == 3


def test_one_rater_has_no_distribution():
    results = summarize([perfect_row("a", 9, raters=1)], num_masks=1)
    assert "ged" not in results["metrics"] and results["metrics"]["thresholded_jaccard"]["value"] == 1


def test_order_of_rows_does_not_matter():
    rows = [perfect_row(str(area), area) for area in (3, 50, 90)]
    rows[0]["dice"], rows[0]["uncertainty"] = 0.2, 0.5
    assert summarize(rows, 2) == summarize(rows[::-1], 2)


def test_every_entry_names_its_method_and_stays_within_its_range():
    rng = np.random.default_rng(0)
    rows = []
    for index in range(12):
        area = int(rng.integers(20, 120))
        rows.append(
            shifted_row(f"{'abcd'[index % 4]}{index:02d}", area, int(rng.integers(area // 2, area)), rng.random())
        )
    results = summarize(rows, num_masks=3)
    names = {"dice", "dice_pooled", "diversity_ratio", "ece", "ece_band", "aurc", "ged", "hd95", "nll"}
    assert names <= {name for name, entry in results["metrics"].items() if entry["interval"] == "t over groups"}
    for name, entry in results["metrics"].items():
        assert entry["num_groups"] == 4 and (entry["interval"] is None) == (entry["low"] is None), name
        if entry["interval"]:
            assert entry["low"] < entry["value"] < entry["high"], name
            assert entry["low"] >= (-1 if name in ("ncc", "ged_unbiased") else 0), name
            assert entry["high"] <= 1 or name in ("ged", "ged_unbiased", "hd95", "nll", "diversity_ratio"), name


def test_two_groups_give_no_interval():
    rows = [shifted_row("a1", 8, 0, 0.1), shifted_row("a2", 16, 8, 0.3), shifted_row("b1", 100, 100, 0.2)]
    entries = summarize(rows, num_masks=3)["metrics"].values()
    assert all(entry["low"] is entry["high"] is entry["interval"] is None for entry in entries)


def labelled_row(image_id: str, shift: int) -> dict:
    """Two classes: the first found exactly, the second moved by `shift` pixels of four."""
    reference = np.zeros((12, 12), np.uint8)
    reference[2:6, 2:6], reference[7:11, 2:6] = 1, 2
    consensus = np.where(reference == 2, 0, reference)
    consensus[7:11, 2 + shift : 6 + shift] = 2
    confidence = np.stack([consensus == k for k in (1, 2)]).astype(np.float32)
    samples, raters = np.stack([consensus] * 2), np.stack([reference] * 3)
    row = measure_prediction(samples, confidence, np.zeros((2, 12, 12)), consensus, raters, num_classes=2)
    around = {"image_id": image_id, "group_id": image_id, "reference_area": 32, "content": image_id}
    return row | around | {"raters_diversity": 0.0}


def test_classes_stand_beside_their_mean():
    results = summarize([labelled_row("a", 0), labelled_row("b", 1), labelled_row("c", 2)], 2, num_classes=2)
    first, second = results["classes"]["1"], results["classes"]["2"]
    assert first["dice"]["value"] == 1 and second["dice"]["value"] == pytest.approx((1 + 3 / 4 + 1 / 2) / 3)
    assert results["metrics"]["dice"]["value"] == pytest.approx((1 + 3 / 4) / 2)
    assert second["ged"]["value"] == pytest.approx(2 * (0 + 2 / 5 + 2 / 3) / 3)  # 2 (1 - IoU)
    assert results["metrics"]["ged"]["value"] == pytest.approx(second["ged"]["value"] / 2)
    assert results["metrics"]["hm_iou"]["value"] == pytest.approx((1 + 3 / 5 + 1 / 3) / 3 / 2 + 1 / 2)
    assert second["dice_pooled"]["value"] == pytest.approx(2 * (16 + 12 + 8) / (6 * 16))
    assert results["metrics"]["dice_pooled"]["value"] == pytest.approx(2 * (48 + 36) / (12 * 16))
    assert second["ece"]["value"] == pytest.approx(2 * (0 + 4 + 8) / 3 / 144)  # pixels wrongly sure, of all
    assert results["num_classes"] == 2 and second["dice"]["interval"] == "t over groups"
    assert all("class_" not in name for name in results["metrics"])
