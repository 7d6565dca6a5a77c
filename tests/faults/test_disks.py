"""Full disks: a sentence that names the disk, nothing half-written, and what was there stays."""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from conftest import tiny_pipeline
from demo_fixtures import phantom_png
from safetensors.torch import load_file
from training_fixtures import TINY

from medseglatdiff.data.files import PREFIX

from .processes import refused, start, tree

pytest.importorskip("accelerate", reason="needs the extra `train`")
DISK, LEFT = 16 * 2**20, (0, 8, 40, 160)  # bytes in all, and KiB that are left


@pytest.fixture
def disk(tmp_path) -> Iterator[Path]:
    """A small disk of its own: a tmpfs, which root may mount."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("mounting a small disk needs root")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def commands(tmp_path: Path, disk: Path) -> dict[str, list]:
    """What writes, by name: each to the full disk."""
    (tmp_path / "image.png").write_bytes(phantom_png())
    big = {**TINY, "mask_vae_steps": 2, "image_vae_steps": 1, "unet_steps": 1, "energy_steps": 0}
    (tmp_path / "run.json").write_text(json.dumps(big))
    few = ["--dataset", "phantom", "--num-masks", "2"]
    return {
        "segment": ["segment", tmp_path / "image.png", "--model", tmp_path / "model", "--out", disk / "out"],
        "dataset": ["dataset", "phantom", "--num-rows", "60", "--out", disk / "out"],
        "train": ["train", "--config", tmp_path / "run.json", "--output-dir", disk / "out"],
        "calibrate": ["calibrate", "--pipeline", disk / "model", "--dataset", "phantom", "--limit", "4"],
        "evaluate": [
            "evaluate",
            "--pipeline",
            tmp_path / "model",
            *few,
            "--limit",
            "2",
            "--out",
            disk / "results.json",
        ],
        "publish": ["publish", disk / "model", "--card-only"],
    }


def judge(code: int, told: str, before: dict[str, bytes], disk: Path):
    """Raises an `AssertionError` unless a command had room enough, or said that it had not and left all whole."""
    if code == 0:
        return
    refused(code, told, "no space left on")
    after = tree(disk)
    assert before.items() <= after.items(), "lost or half-written: what was there has changed"
    new = [
        name for name in after.keys() - before.keys() if not any(part.startswith(PREFIX) for part in Path(name).parts)
    ]
    broken = [
        name for name in new if name.endswith((".json", ".png", ".npz", ".safetensors")) and unreadable(disk / name)
    ]
    assert not broken, f"half-written: {broken[0]}"


def unreadable(path: Path) -> bool:
    """Whether a new file is cut short."""
    readers = {
        ".json": lambda: json.loads(path.read_text()),
        ".png": lambda: PIL.Image.open(path).load(),
        ".npz": lambda: [np.load(path)[name] for name in np.load(path)],
        ".safetensors": lambda: load_file(path),
    }
    try:
        readers[path.suffix]()
    except Exception:  # whatever a reader raises for half a file
        return True
    return False


def test_full_disks(disk, tmp_path, ledger):
    what, told_full = "command on a full disk", set()
    tiny_pipeline().save_pretrained(tmp_path / "model")
    for name, words in commands(tmp_path, disk).items():
        for left in LEFT:
            with ledger.case(what, f"{name}, {left} KiB left"):
                subprocess.run(f"rm -rf {disk}/*; cp -r {tmp_path}/model {disk}/model", shell=True, check=True)
                free = os.statvfs(disk)
                (disk / "filler").write_bytes(bytes(max(0, free.f_bavail * free.f_frsize - left * 1024)))
                before = tree(disk)
                code, told = start(words, tmp_path / "log").ended()
                judge(code, told, before, disk)
                told_full |= {name} if code else set()
    ledger.check(what, 4 * len(commands(tmp_path, disk)))
    assert told_full == set(commands(tmp_path, disk)), "the disk was never full for some command"


def test_the_judge_sees_half_files(tmp_path):
    full = "medseglatdiff: no space left on /disk for /disk/x"
    judge(2, full, {}, tmp_path)
    (tmp_path / "x.json").write_text('{"half": ')
    with pytest.raises(AssertionError, match="half-written: x.json"):
        judge(2, full, {}, tmp_path)
    with pytest.raises(AssertionError, match="lost or half-written"):
        judge(2, full, {"gone": b"x"}, tmp_path)
    with pytest.raises(AssertionError, match="exit code 1"):
        judge(1, full, {}, tmp_path)
