"""Kills, signals and damage of a tiny training: resumed, it ends with the weights of one that nobody disturbed."""

import json
import random
import shutil
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from training_fixtures import TINY, weights

from .processes import KILLED, Running, interrupted, refused, start, timed

pytest.importorskip("accelerate", reason="needs the extra `train`")
KILLS, SAVES = 12, 12


class Training:
    """A tiny training in folders of its own, and what it ends with where nothing happens."""

    def __init__(self, folder: Path):
        self.folder = folder
        (folder / "run.json").write_text(json.dumps(TINY))
        self.seconds = timed(self.words(folder / "whole"), folder / "whole.log", folder / "whole")
        self.changes = int((folder / "whole.changes").read_text())
        self.weights = weights(folder / "whole")
        assert len(self.weights) > 50 and self.changes > 4 * SAVES

    def start(self, out: Path, watched: Path | None = None, last: int = 0) -> Running:
        """Starts or resumes a training in `out`."""
        return start(self.words(out), self.folder / f"{out.name}.log", watched, last)

    def words(self, out: Path) -> list:
        """The command."""
        return ["train", "--config", self.folder / "run.json", "--output-dir", out, "--resume"]

    def check(self, out: Path):
        """Raises an `AssertionError` unless the training in `out` has the weights of the undisturbed one."""
        found = weights(out)
        assert found.keys() == self.weights.keys(), "lost: not all weights are there"
        changed = [name for name, value in found.items() if not torch.equal(value, self.weights[name])]
        assert not changed, f"wrong in silence: {len(changed)} weights differ, such as {changed[0]}"

    def resume(self, out: Path):
        """Resumes and checks."""
        code, told = self.start(out).ended()
        assert code == 0, f"exit code {code}: {told.strip().splitlines()[-1]}"
        self.check(out)


@pytest.fixture(scope="module")
def training(tmp_path_factory) -> Training:
    return Training(tmp_path_factory.mktemp("trainings"))


def test_kills_at_random(training, tmp_path, ledger):
    what, moments = "training killed at a random moment, then resumed", random.Random(0)
    for index in range(KILLS):
        seconds, out = training.seconds * moments.uniform(0.05, 0.95), tmp_path / f"random-{index}"
        with ledger.case(what, f"after {seconds:.2f} s"):
            code, _ = interrupted(partial(training.start, out), out, seconds, signal.SIGKILL)
            assert code == KILLED
            training.resume(out)
    ledger.check(what, KILLS)


def test_kills_in_the_middle_of_a_save(training, tmp_path, ledger):
    """At the n-th time that a file or folder of the run is made, renamed or removed."""
    what, moments = "training killed in the middle of a save, then resumed", random.Random(1)
    for last in sorted(moments.sample(range(2, training.changes), SAVES)):
        out = tmp_path / f"save-{last}"
        with ledger.case(what, f"at change {last} of {training.changes}"):
            code, _ = training.start(out, out, last).ended()
            assert code == KILLED
            training.resume(out)
    ledger.check(what, SAVES)


def test_signals(training, tmp_path, ledger):
    what = "training stopped by a signal, then resumed"
    signals = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP] * 2
    for index, number in enumerate(signals):
        out = tmp_path / f"signal-{index}"
        with ledger.case(what, number.name):
            seconds = training.seconds * (index + 1) / (len(signals) + 1)
            code, told = interrupted(partial(training.start, out), out, seconds, number)
            assert code in ({130} if number == signal.SIGINT else {-number, 128 + number}), f"exit code {code}"
            assert "Traceback" not in told, "a traceback"
            training.resume(out)
    ledger.check(what, len(signals))


def flip(path: Path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 16
    path.write_bytes(bytes(data))


def cut(path: Path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def stray(name: str, is_file: bool = False) -> Callable[[Path], None]:
    """What lies beside the checkpoints and is none."""

    def make(checkpoint: Path):
        path = checkpoint.with_name(name)
        path.write_text("x") if is_file else path.mkdir()

    return make


STRAYS = {
    "an empty checkpoint-99": stray("checkpoint-99"),
    "checkpoint-abc": stray("checkpoint-abc"),
    "checkpoint-": stray("checkpoint-"),
    "checkpoint-4 (copy)": stray("checkpoint-4 (copy)"),
    "a file checkpoint-99": stray("checkpoint-99", is_file=True),
    "checkpoint-99.partial": stray("checkpoint-99.partial"),
    "the newest emptied": lambda checkpoint: [path.unlink() for path in checkpoint.iterdir() if path.is_file()],
}


@pytest.fixture(scope="module")
def stopped(training) -> Path:
    """The newest checkpoint of a training that was killed after it had written two."""
    out = training.folder / "stopped"
    running = training.start(out)
    newest = out / "mask_vae" / "checkpoint-4"
    while not newest.is_dir():
        assert running.process.is_alive()
        time.sleep(0.002)
    running.process.kill()
    running.ended()
    shutil.rmtree(out / "image_vae", ignore_errors=True)
    return newest


def test_damaged_checkpoints(training, stopped, tmp_path, ledger):
    """Resumed, it ends as the undisturbed one, from an older checkpoint where need be, or says what is damaged."""
    what, folder = "checkpoint damaged, then resumed", stopped.parents[1]
    damages = dict(STRAYS)
    for path in sorted(path for path in stopped.rglob("*") if path.is_file()):
        name = path.relative_to(stopped)
        for how in (flip, cut, Path.unlink):
            damages[f"{how.__name__} {name}"] = lambda checkpoint, name=name, how=how: how(checkpoint / name)
    for index, (name, damage) in enumerate(damages.items()):
        out = shutil.copytree(folder, tmp_path / f"damaged-{index}")
        with ledger.case(what, name):
            damage(out / stopped.relative_to(folder))
            code, told = training.start(out).ended()
            if code:
                refused(code, told, "checkpoint")
            else:
                training.check(out)
        shutil.rmtree(out)
    ledger.check(what, len(damages))


def test_the_judge_sees_what_is_lost_or_wrong(training, tmp_path):
    out = shutil.copytree(training.folder / "whole", tmp_path / "wrong")
    training.check(out)
    training.weights["unet.conv_in.bias"][0] += 1e-3
    try:
        with pytest.raises(AssertionError, match="wrong in silence: 1 weights"):
            training.check(out)
    finally:
        training.weights["unet.conv_in.bias"] = weights(training.folder / "whole")["unet.conv_in.bias"]
    shutil.rmtree(out / "pipeline" / "unet")
    with pytest.raises(AssertionError, match="lost"):
        training.check(out)
    with pytest.raises(AssertionError, match="exit code 1"):
        refused(1, "medseglatdiff: x")
    with pytest.raises(AssertionError, match="a traceback"):
        refused(2, "Traceback (most recent call last):\nmedseglatdiff: x")
