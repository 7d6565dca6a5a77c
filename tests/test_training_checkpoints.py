"""Checkpoints: whole, and safe to open whoever made them."""

import json
import os
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from training_fixtures import TINY, flip

pytest.importorskip("accelerate")

from medseglatdiff.data.files import file_sha256
from medseglatdiff.training import checkpoints as module
from medseglatdiff.training.checkpoints import checkpoints, damage, newest_whole, write_checkpoint
from medseglatdiff.training.config import Config
from medseglatdiff.training.train import run

FILES = ["average.safetensors", "optimizer.safetensors", "random.safetensors", "state.json", "weights.safetensors"]


def written(folder: Path, step: int) -> Path:
    """A small checkpoint with best weights."""
    folder.mkdir(exist_ok=True)
    save_file({"a": torch.full((3,), float(step))}, folder / "best.safetensors")
    tensors = {name: {"0": torch.full((4,), float(step))} for name in module.TENSORS}
    write_checkpoint(folder, step, tensors, {"progress": {"step": step}})
    return folder / f"checkpoint-{step}"


@pytest.mark.parametrize("position", [0, 7, -1, "middle"])
@pytest.mark.parametrize("name", [*FILES, "best.safetensors", "manifest.json"])
def test_a_changed_bit_is_noticed(tmp_path, name, position):
    checkpoint = written(tmp_path / "stage", 2)
    path = checkpoint / name
    assert damage(checkpoint) is None
    flip(path, path.stat().st_size // 2 if position == "middle" else position)
    expected = f"{name} is damaged"
    assert damage(checkpoint) == expected or name == "manifest.json" and damage(checkpoint).endswith("is damaged")


@pytest.mark.parametrize("rest", [0, 0.5, None], ids=["emptied", "cut", "missing"])
@pytest.mark.parametrize("name", [*FILES, "best.safetensors", "manifest.json"])
def test_cut_and_missing_files_are_named(tmp_path, name, rest):
    path = written(tmp_path / "stage", 2) / name
    if rest is None:
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[: int(rest * path.stat().st_size)])
    assert damage(path.parent) == f"{name} is {'missing' if rest is None else 'damaged'}"


@pytest.mark.parametrize("manifest", ["[]", "{}", '{"state.json": 3}', "null", "\ud800", '{"../../secret": "00"}'])
def test_a_manifest_that_is_none_is_damage(tmp_path, manifest):
    checkpoint = written(tmp_path / "stage", 2)
    (checkpoint / "manifest.json").write_bytes(manifest.encode("utf-8", "surrogatepass"))
    assert damage(checkpoint) == "manifest.json is damaged"


def test_the_newest_whole_checkpoint_is_taken_and_what_was_skipped_is_named(tmp_path):
    first, second = written(tmp_path, 9), written(tmp_path, 10)
    assert newest_whole(tmp_path) == (second, [])
    flip(second / "weights.safetensors", -1)
    assert newest_whole(tmp_path) == (first, ["weights.safetensors is damaged in checkpoint-10"])
    (first / "state.json").unlink()
    with pytest.raises(ValueError, match="No checkpoint in .* is whole: weights.* in checkpoint-10, state.json is"):
        newest_whole(tmp_path)


STRAYS = ["checkpoint-abc", "checkpoint-5.partial", "checkpoint-", "checkpoint-5 (copy)", "checkpoint--7"]
STRAYS += ["checkpoint-٣", ".partial-00-checkpoint-5"]


def test_stray_folders_and_files_are_no_checkpoints(tmp_path):
    checkpoint = written(tmp_path, 3)
    for name in STRAYS:
        (tmp_path / name).mkdir()
    (tmp_path / "checkpoint-99").write_text("a file")
    assert checkpoints(tmp_path) == [checkpoint] and newest_whole(tmp_path) == (checkpoint, [])
    assert newest_whole(tmp_path / "checkpoint-abc") == (None, [])


def test_two_are_kept_and_newer_ones_that_were_skipped_go(tmp_path):
    for step in (1, 2, 3, 9):
        written(tmp_path, step)
    assert [path.name for path in checkpoints(tmp_path)] == ["checkpoint-3", "checkpoint-9"]
    flip(tmp_path / "checkpoint-9" / "state.json", 0)
    written(tmp_path, 4)
    assert [path.name for path in checkpoints(tmp_path)] == ["checkpoint-3", "checkpoint-4"]


class Evil:
    def __init__(self, target: Path):
        self.target = target

    def __reduce__(self):
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("name", [*FILES, "best.safetensors", "custom_checkpoint_0.pkl", "optimizer.bin"])
def test_a_pickle_in_a_checkpoint_runs_nothing(trained, tmp_path, name):
    folder, target = shutil.copytree(trained / "mask_vae", tmp_path / "run" / "mask_vae"), tmp_path / "ran"
    for checkpoint in checkpoints(folder):
        (checkpoint / name).write_bytes(pickle.dumps(Evil(target)))
        manifest = json.loads((checkpoint / "manifest.json").read_text())
        manifest[name] = file_sha256(checkpoint / name)  # as a stranger would
        (checkpoint / "manifest.json").write_text(json.dumps(manifest))
    settings = {**TINY, "output_dir": str(tmp_path / "run"), "stage": "mask_vae", "resume": True}
    if name in FILES or name == "best.safetensors":
        with pytest.raises(ValueError, match="checkpoint-4 is no checkpoint of this training"):
            run(Config(**settings))
    else:
        run(Config(**settings))
    assert not target.exists()
