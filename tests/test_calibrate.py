"""Calibration on a validation split: counts and fits in closed form, and the command on a tiny pipeline."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TWO_PROCESSES, tiny_pipeline

from medseglatdiff import MedSegLatDiffPipeline
from medseglatdiff.data.splits import open_split, read_raters
from medseglatdiff.evaluation.rows import predict
from medseglatdiff.metrics import generalized_energy_distance
from medseglatdiff.pipeline.aggregation import calibrate
from medseglatdiff.training import calibrate as calibrate_module
from medseglatdiff.training import tally

ROOT = Path(__file__).parents[1]


def test_pixels_are_counted_by_the_masks_that_hold_them():
    masks = np.array([[[1, 1, 0, 0]], [[1, 0, 0, 0]]], bool)
    raters = np.array([[[1, 1, 0, 0]], [[1, 0, 0, 1]]], bool)
    assert tally.count_held(masks, raters).tolist() == [[2, 1, 1], [0.5, 0.5, 1]]


def test_a_group_that_two_processes_share_is_counted_whole():
    masks, raters = (np.random.default_rng(0).random((4, size, 6, 6)) < 0.5 for size in (3, 2))
    whole, first, second = (tally.Tally() for _ in range(3))
    for index, group in enumerate("abba"):
        for own in (whole, (first, second)[index // 2]):
            own.add(masks[index], raters[index], group)
    first.extend(second)
    assert {group: counts.tolist() for group, counts in first.counts_of.items()} == {
        group: counts.tolist() for group, counts in whole.counts_of.items()
    }
    assert first.counts_of["a"][0].sum() == 2 * 36 and first.groups == list("abba")
    assert (first.distances, first.matched, first.scores) == (whole.distances, whole.matched, whole.scores)


def test_fit_is_isotonic_and_pins_the_empty_end():
    counts = np.array([[1000, 10, 10, 10, 20], [50, 4, 2, 6, 16]], float)  # frequencies .05, .4, .2, .6, .8
    calibration = calibrate_module.fit(counts)
    assert calibration["shares"] == [0, 0.25, 0.5, 0.75, 1]
    assert calibration["confidences"] == pytest.approx([0, 0.3, 0.3, 0.6, 0.8], abs=1e-3)
    confidence = calibrate(torch.tensor(calibration["shares"]), calibration)
    assert (confidence.diff() > 0).all()  # every number of hypotheses keeps a threshold of its own


def test_groups_that_agree_calibrate_and_groups_that_differ_do_not():
    overconfident = np.array([[100, 10, 10, 10, 20], [0, 1, 3, 5, 12]], float)
    before, after = calibrate_module.cross_validate({str(group): overconfident for group in range(4)})
    confidences = np.array(calibrate_module.fit(overconfident)["confidences"])
    assert after == pytest.approx(calibrate_module.brier_sum(overconfident, confidences) / 150) and after < before
    never = np.array([[100, 10, 10, 10, 10], [0, 0, 0, 0, 0]], float)
    always = np.array([[100, 10, 10, 10, 10], [0, 10, 10, 10, 10]], float)
    before, after = calibrate_module.cross_validate({"never": never, "always": always})
    assert after > before  # each learns the other's ways: 40 pixels wholly wrong in both
    assert after == pytest.approx(80 / 280, rel=0.01)


def test_dice_by_number_of_hypotheses():
    masks = np.array([[[1, 1, 0, 0]], [[1, 0, 0, 0]]], bool)
    raters = np.array([[[1, 0, 0, 0]]], bool)
    assert tally.dice_by_number(masks, raters) == pytest.approx([2 / 3, 1])


def test_consensus_asks_for_fewer_hypotheses_where_that_finds_lesions_at_no_cost():
    generator = np.random.default_rng(0)
    groups, non_empty = [str(index) for index in range(40)], np.arange(40) % 2 == 0
    scores = np.full((40, 4), 0.5) + generator.normal(0, 0.01, (40, 1))
    scores[non_empty, 0], scores[~non_empty, 0] = 0.9, 0.0  # finds most, at a cost
    scores[non_empty, 1], scores[~non_empty, 1] = 0.6, 0.4 + generator.normal(0, 0.05, 20)  # majority: 2 of 4
    scores[non_empty, 2] = 0.3
    assert calibrate_module.choose_number(scores, non_empty, groups) == 2
    scores[~non_empty, 0] = 0.1 + generator.normal(0, 0.05, 20)  # as good as the majority over all images
    assert calibrate_module.choose_number(scores, non_empty, groups) == 1
    assert calibrate_module.choose_number(scores, non_empty, ["one", "two"] * 20) == 2  # too few groups to tell


def test_spread_matches_best_among_those_as_near_as_the_nearest():
    generator = np.random.default_rng(0)
    groups = [str(index) for index in range(40)]
    noise = generator.normal(0, 0.05, (40, 3)) * [1, 1, 0]
    distances = noise - noise.mean(axis=0) + [0.3, 0.203, 0.2]  # the second is worse by less than an error, .008
    matched = np.tile([0.7, 0.6, 0.5], (40, 1))
    assert calibrate_module.choose_spread(distances, matched, groups) == 1
    assert calibrate_module.choose_spread(distances + [0, 0.1, 0], matched, groups) == 2
    assert calibrate_module.choose_spread(distances, matched, ["one", "two"] * 20) == 2  # too few groups to tell


def test_spread_of_few_groups_is_the_one_nearest_to_the_raters(tmp_path):
    tiny_pipeline().save_pretrained(tmp_path / "pipeline")
    command = [sys.executable, str(ROOT / "training" / "calibrate.py"), "--pipeline", "pipeline"]
    command += ["--dataset", "phantom", "--limit", "4", "--num-candidates", "12"]
    subprocess.run(command, check=True, cwd=tmp_path)
    measured = json.loads((tmp_path / "pipeline" / "calibration.json").read_text())
    loaded = MedSegLatDiffPipeline.from_pretrained(tmp_path / "pipeline")
    loaded.set_progress_bar_config(disable=True)
    distances = {float(spread): own["ged"] for spread, own in measured["by_spread"].items()}
    assert distances[loaded.config.spread] == min(distances.values()) and len(set(distances.values())) > 1
    assert loaded.config.default_num_candidates == measured["num_candidates"] == 12
    assert measured["mixed_precision"] == "no"
    rows = list(open_split("phantom", "validation"))
    order = np.random.default_rng(1).permutation(len(rows))[:4]
    predictions = predict(loaded, [rows[index] for index in order], 3, 2, seed=1)
    pairs = zip(predictions, order, strict=True)
    again = np.mean([generalized_energy_distance(own[0], read_raters(rows[index])) for own, index in pairs])
    assert again == pytest.approx(min(distances.values()))


def test_command_changes_the_maps_and_not_the_masks(tmp_path):
    pipeline = tiny_pipeline()
    pipeline.save_pretrained(tmp_path / "pipeline")
    command = [sys.executable, str(ROOT / "training" / "calibrate.py"), "--pipeline", "pipeline"]
    command += ["--dataset", "phantom", "--limit", "4"]
    environment = os.environ | {"ACCELERATE_MIXED_PRECISION": "bf16"}
    subprocess.run(command, check=True, cwd=tmp_path, env=environment)
    measured = json.loads((tmp_path / "pipeline" / "calibration.json").read_text())
    loaded = MedSegLatDiffPipeline.from_pretrained(tmp_path / "pipeline")
    assert loaded.config.calibration == measured["calibration"] and loaded.config.threshold == measured["threshold"]
    assert len(measured["pixels"]) == 4 and sum(measured["pixels"]) == 4 * 128**2
    assert (measured["brier"] > measured["brier_cross_validated"]) == (loaded.config.calibration is not None)
    assert measured["num_images"] == 4 and loaded.config.default_num_masks == 3
    assert loaded.config.default_num_candidates == 1 and measured["num_candidates"] == 3
    assert measured["mixed_precision"] == "bf16"
    before, after = (p(np.zeros((32, 32)), 3, generator=torch.Generator().manual_seed(0)) for p in (pipeline, loaded))
    assert np.array_equal(before.masks[0], after.masks[0])
    held = before.masks[0].sum(axis=0) >= measured["number"]
    assert np.array_equal(after.consensus[0], held)


def test_two_processes_find_what_one_finds(tmp_path):
    measured = {}
    for name, start in {"one": [sys.executable], "two": TWO_PROCESSES}.items():
        tiny_pipeline().save_pretrained(tmp_path / name)
        command = [*start, str(ROOT / "training" / "calibrate.py"), "--pipeline", name, "--dataset", "phantom"]
        environment = os.environ | {"ACCELERATE_USE_CPU": "true"}
        arguments = ["--limit", "5", "--num-candidates", "12"]
        subprocess.run([*command, *arguments], check=True, cwd=tmp_path, env=environment)
        measured[name] = json.loads((tmp_path / name / "calibration.json").read_text())
    one, two = measured.values()
    assert one["num_images"] == 5 and sum(one["pixels"]) == 5 * 128**2
    for own in (one, two):
        own |= own.pop("by_spread") | (own.pop("calibration") or {})
    assert one.keys() == two.keys() and "0.5" in one
    for name in one.keys() - {"command"}:
        assert two[name] == pytest.approx(one[name]), name
