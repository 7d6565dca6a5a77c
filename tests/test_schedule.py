"""Stages that end by steps and by the clock."""

import itertools
import json

import pytest
from training_fixtures import TINY_MODELS, TINY_RUN

from medseglatdiff.training.config import Config
from medseglatdiff.training.progress import Progress
from medseglatdiff.training.schedule import learning_rate_factor, steps_until_the_end
from medseglatdiff.training.train import run


@pytest.mark.parametrize(
    "step, spent, minutes, expected",
    [
        (0, 0.0, 2.0, 100),  # nothing is known of the speed
        (10, 1.0, None, 100),
        (10, 1.0, 2.0, 20),  # half of the time for 10 steps
        (10, 1.0, 50.0, 100),  # the clock allows more than there are
        (10, 3.0, 2.0, 10),  # time is up: also where a resumed run begins
        (100, 1.0, 2.0, 100),
    ],
)
def test_the_clock_brings_the_end_forward(step, spent, minutes, expected):
    assert steps_until_the_end(step, 100, spent, minutes) == expected


def test_learning_rate_falls_to_zero_by_the_clock():
    """At a steady speed it is the rate of the steps that there will have been, however many were asked for."""
    minutes, per_step = 1.0, 1 / 50
    for step in range(1, 50):
        end = steps_until_the_end(step, 10**6, step * per_step, minutes)
        assert end == pytest.approx(50, abs=1)
        assert learning_rate_factor(step, 10, end) == pytest.approx(learning_rate_factor(step, 10, 50), abs=0.06)
    assert learning_rate_factor(50, 10, steps_until_the_end(50, 10**6, 1.0, minutes)) == pytest.approx(0)


def test_a_stage_ends_by_the_clock_and_not_again(tmp_path, monkeypatch):
    """With a clock on which every look takes six seconds."""
    ticks = itertools.count()

    def add_time(progress):
        progress.wall_hours += 6 / 3600 * bool(next(ticks))

    monkeypatch.setattr(Progress, "add_time", add_time)
    monkeypatch.setattr("medseglatdiff.data.splits.PHANTOM_ROWS", {"train": 8, "validation": 2})
    models = {"mask_vae": TINY_MODELS["mask_vae"]}
    options = dict(stage="mask_vae", minutes=0.5, checkpoint_every=2, output_dir=str(tmp_path))
    config = Config(**{**TINY_RUN, **models, **options, "mask_vae_steps": 1000, "resume": True})
    run(config)
    summary = json.loads((tmp_path / "mask_vae" / "summary.json").read_text())
    assert summary["step"] == 5 and (tmp_path / "mask_vae" / "model" / "config.json").exists()
    assert (tmp_path / "mask_vae" / "checkpoint-5").is_dir()
    run(config)
    assert json.loads((tmp_path / "mask_vae" / "summary.json").read_text())["step"] == 5


def test_minutes_are_above_zero():
    with pytest.raises(ValueError, match="`minutes` must be greater than 0, but was 0"):
        Config(minutes=0)
