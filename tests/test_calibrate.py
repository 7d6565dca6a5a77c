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

from medseglatdiff import MedSegLatDiffPipeline, cli
from medseglatdiff.data.splits import open_split, read_raters
from medseglatdiff.evaluation.rows import predict
from medseglatdiff.metrics import dice, generalized_energy_distance
from medseglatdiff.pipeline.aggregation import aggregate, calibrate
from medseglatdiff.training import calibrate as command
from medseglatdiff.training import calibration, tally

ROOT = Path(__file__).parents[1]


def test_pixels_are_counted_by_the_masks_that_hold_them():
    masks = np.array([[[1, 1, 0, 0]], [[1, 0, 0, 0]]], bool)
    raters = np.array([[[1, 1, 0, 0]], [[1, 0, 0, 1]]], bool)
    levels = tally.levels_of(masks, 1)
    assert levels.tolist() == [[[2, 1, 0, 0]]]
    assert tally.count_levels(levels, 2, raters).tolist() == [[2, 1, 1], [0.5, 0.5, 1]]


def test_classes_are_counted_together():
    masks = np.array([[[1, 2, 0]], [[1, 1, 0]]], np.uint8)
    raters = np.array([[[1, 2, 0]], [[2, 2, 2]]], np.uint8)
    levels = tally.levels_of(masks, 2)
    assert levels.tolist() == [[[2, 1, 0]], [[0, 1, 0]]]
    assert tally.count_levels(levels, 2, raters).tolist() == [[3, 2, 1], [0 + 0.5 + 0.5, 0 + 1, 0.5]]


def test_a_group_that_two_processes_share_is_counted_whole():
    masks, raters = (np.random.default_rng(0).random((4, size, 6, 6)) < 0.5 for size in (3, 2))
    whole, first, second = (tally.Tally(3) for _ in range(3))
    for index, group in enumerate("abba"):
        for own in (whole, (first, second)[index // 2]):
            own.add_masks(masks[index], raters[index], group, num_classes=1)
    first.extend(second)
    assert {group: counts.tolist() for group, counts in first.counts_of.items()} == {
        group: counts.tolist() for group, counts in whole.counts_of.items()
    }
    assert first.counts_of["a"][0].sum() == 2 * 36 and first.groups == list("abba")
    assert (first.distances, first.matched) == (whole.distances, whole.matched)
    assert np.array_equal(first.scores, whole.scores)
    assert np.array_equal(first.scores_non_empty, whole.scores_non_empty)


def test_fit_is_isotonic_and_pins_the_empty_end():
    counts = np.array([[1000, 10, 10, 10, 20], [50, 4, 2, 6, 16]], float)  # frequencies .05, .4, .2, .6, .8
    fitted = calibration.fit(counts)
    assert fitted["shares"] == [0, 0.25, 0.5, 0.75, 1]
    assert fitted["confidences"] == pytest.approx([0, 0.3, 0.3, 0.6, 0.8], abs=1e-3)
    confidence = calibrate(torch.tensor(fitted["shares"]), fitted)
    assert (confidence.diff() > 0).all()  # every number of hypotheses keeps a threshold of its own


def test_groups_that_agree_calibrate_and_groups_that_differ_do_not():
    overconfident = np.array([[100, 10, 10, 10, 20], [0, 1, 3, 5, 12]], float)
    before, after = calibration.cross_validate({str(group): overconfident for group in range(4)})
    confidences = np.array(calibration.fit(overconfident)["confidences"])
    assert after == pytest.approx([calibration.brier_sum(overconfident, confidences) / 150 / 4] * 4)
    assert after.sum() < before.sum()
    never = np.array([[100, 10, 10, 10, 10], [0, 0, 0, 0, 0]], float)
    always = np.array([[100, 10, 10, 10, 10], [0, 10, 10, 10, 10]], float)
    before, after = calibration.cross_validate({"never": never, "always": always})
    assert after.sum() > before.sum()  # each learns the other's ways: 40 pixels wholly wrong in both
    assert after == pytest.approx([40 / 280] * 2, rel=0.01)  # in the order of the names


def test_parts_of_groups_keep_their_order_across_folds():
    rng = np.random.default_rng(0)
    counts = {f"{index:02d}": rng.uniform(1, 9, (2, 4)) * [[9], [1]] for index in range(23)}
    before, _ = calibration.cross_validate(counts)
    pixels = sum(own[0].sum() for own in counts.values())
    plain = np.linspace(0, 1, 4)
    assert before == pytest.approx([calibration.brier_sum(own, plain) / pixels for own in counts.values()])


def test_dice_by_level():
    masks = np.array([[[1, 1, 0, 0]], [[1, 0, 0, 0]]], bool)
    scores, there = tally.dice_by_level(tally.levels_of(masks, 1), 2, np.array([[1, 0, 0, 0]], bool))
    assert scores == pytest.approx(np.array([[2 / 3, 1]])) and there.tolist() == [True]
    scores, there = tally.dice_by_level(tally.levels_of(masks, 1), 2, np.zeros((1, 4), bool))
    assert scores.tolist() == [[0, 0]] and there.tolist() == [False]


@pytest.mark.parametrize("num_classes", [1, 2, 3])
def test_dice_by_level_is_that_of_the_pipelines_consensus(num_classes):
    """`aggregate` with the threshold of each level gives the very consensus that the Dice is of."""
    rng = np.random.default_rng(num_classes)
    masks = rng.integers(0, num_classes + 1, (5, 8, 9)) * (rng.random((5, 8, 9)) < 0.7)
    reference = rng.integers(0, num_classes + 1, (8, 9))
    scores, _ = tally.dice_by_level(tally.levels_of(masks, num_classes), 5, reference)
    for level in range(1, 6):
        threshold = np.floor(1e5 * level / 5) / 1e5
        consensus = aggregate(torch.from_numpy(masks), num_classes, threshold)[2].numpy()
        expected = [dice(consensus == k, reference == k) for k in range(1, num_classes + 1)]
        assert scores[:, level - 1] == pytest.approx(expected)


def test_consensus_is_the_best_over_all_images_unless_half_is_as_good():
    rng = np.random.default_rng(0)
    groups = [str(index) for index in range(40)]
    scores = 0.5 + rng.normal(0, 0.1, (40, 1)) + rng.normal(0, 0.02, (40, 4))
    scores[:, 0] += 0.05  # surely better than half: 2 of 4
    assert calibration.choose_level(scores, groups) == 1
    assert calibration.choose_level(scores, ["one", "two"] * 20) == 2  # too few groups to tell
    scores[:, 0] -= 0.05
    noise = rng.normal(0, 0.3, 40)
    scores[:, 2] += 0.02 + noise - noise.mean()  # perhaps better: within its standard error
    assert scores.mean(axis=0).argmax() == 2 and calibration.choose_level(scores, groups) == 2


def test_empty_images_count_for_the_consensus():
    """Marking more finds half of the lesions and costs all of the empty images: it was chosen by lesions alone."""
    scores = np.array([[0.9, 0.6, 0.3, 0.1]] * 20 + [[0.0, 1.0, 1.0, 1.0]] * 20)
    groups = [str(index) for index in range(40)]
    assert calibration.choose_level(scores, groups) == 2 != 1 + scores[:20].mean(axis=0).argmax()


def test_confidence_is_chosen_by_brier_score_then_dice():
    rng = np.random.default_rng(0)
    briers = 1e-4 * (1 + rng.uniform(0, 0.5, (30, 1)) + rng.normal(0, 0.01, (30, 2)))
    assert calibration.choose_confidence(briers, np.array([0.6, 0.61])) == 1
    assert calibration.choose_confidence(briers, np.array([0.6, 0.6])) == 0  # the plain share, if nothing is better
    assert calibration.choose_confidence(briers * [1, 2], np.array([0.6, 0.9])) == 0
    assert calibration.choose_confidence(briers * [2, 1], np.array([0.9, 0.6])) == 1
    assert calibration.choose_confidence(briers[:9] * [2, 1], np.array([0.6, 0.9])) == 0  # too few groups to tell


def test_spread_matches_best_among_those_as_near_as_the_nearest():
    generator = np.random.default_rng(0)
    groups = [str(index) for index in range(40)]
    noise = generator.normal(0, 0.05, (40, 3)) * [1, 1, 0]
    distances = noise - noise.mean(axis=0) + [0.3, 0.203, 0.2]  # the second is worse by less than an error, .008
    matched = np.tile([0.7, 0.6, 0.5], (40, 1))
    assert calibration.choose_spread(distances, matched, groups) == 1
    assert calibration.choose_spread(distances + [0, 0.1, 0], matched, groups) == 2
    assert calibration.choose_spread(distances, matched, ["one", "two"] * 20) == 2  # too few groups to tell


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
    assert measured["mixed_precision"] == "bf16" and measured["preferred_confidence"] == "share"  # of four groups
    assert measured["number"] == 2 and measured["dice"] == measured["dice_of_half"]
    assert measured["num_non_empty"] <= 4 and len(measured["probability"]["dice_by_number"]) == tally.STEPS
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
        own |= {f"probability/{name}": value for name, value in own.pop("probability").items()}
    assert one.keys() == two.keys() and "0.5" in one and "probability/brier" in one
    for name in one.keys() - {"command"}:
        assert two[name] == pytest.approx(one[name]), name


BAD_OPTIONS = {
    "--limit 0": "argument --limit: must be a whole number of at least 1, but was '0'",
    "--num-candidates many": "argument --num-candidates: must be a whole number of at least 1, but was 'many'",
    "--split test": "argument --split: invalid choice: 'test'",
    "--seed -3": "argument --seed: ",
    "--pipeline nowhere": "`--pipeline` must be a folder with a model_index.json, but was nowhere",
}


@pytest.mark.parametrize("words", BAD_OPTIONS)
def test_bad_options_are_refused_by_one_sentence(words, tmp_path, capsys):
    tiny_pipeline().save_pretrained(tmp_path)
    arguments = ["calibrate", "--pipeline", str(tmp_path), "--dataset", "phantom", *words.split()]
    assert cli.main(arguments) == 2
    error = capsys.readouterr().err
    assert BAD_OPTIONS[words] in error and error.count("\n") == 1


def test_help_explains_every_option(capsys):
    with pytest.raises(SystemExit):
        command.parse_arguments(["--help"])
    told = " ".join(capsys.readouterr().out.split())
    for option in ("--pipeline", "--dataset", "--split", "--num-candidates", "--limit", "--seed"):
        assert f"{option} " in told
    assert told.count("(default:") == 4  # all but the two that must be given


def test_files_and_command_hold_no_paths(tmp_path, capsys):
    folder = tmp_path / "somebody" / "nodules"
    tiny_pipeline().save_pretrained(folder)
    command.main(["--pipeline", str(folder), "--dataset", "phantom", "--limit", "2"])
    text = (folder / "calibration.json").read_text()
    assert "somebody" not in text and str(tmp_path) not in text
    words = "accelerate launch -m medseglatdiff calibrate --pipeline nodules --dataset phantom --limit 2"
    assert json.loads(text)["command"] == words
    out, err = capsys.readouterr()
    assert "image 2 of 2" in err and "Brier ↓" in out and f"written: {folder}" in out and "next: medseglatdiff" in out
