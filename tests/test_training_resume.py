"""Resuming: to the bit, with the settings and the data that a stage began with, or not at all."""

import dataclasses
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch
from conftest import TWO_PROCESSES
from training_fixtures import TINY, command, flip, snapshot, weights

pytest.importorskip("accelerate")

from medseglatdiff import MedSegLatDiffPipeline
from medseglatdiff.cli import main
from medseglatdiff.training.checkpoints import checkpoints, damage, newest_whole
from medseglatdiff.training.config import Config
from medseglatdiff.training.resuming import OUTSIDE, checkpoint_to_resume, shapes
from medseglatdiff.training.train import run


def behind(folder: Path, stage: str, checkpoint: str):
    """Takes a stage back to where its run was killed after this checkpoint."""
    for path in (folder / stage).iterdir():
        if path.name not in (checkpoint, "logs"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    shutil.rmtree(folder / "pipeline", ignore_errors=True)


UNET = {**TINY["unet"], "dropout": 0.3}
EXACT = [
    {"stage": "unet", "energy_steps": 0, "unet": UNET},
    {"stage": "unet", "energy_steps": 0, "gradient_accumulation_steps": 2, "batch_size": 2},
    {"stage": "unet", "energy_steps": 0, "mixed_precision": "bf16"},
    {"stage": "energy", "energy_steps": 4},
    {"stage": "mask_vae", "mask_vae": {**TINY["mask_vae"], "bottleneck": "vq", "num_codes": 8}},
]


@pytest.fixture
def fresh_accelerate():
    """Accelerate keeps the first precision that a process asks for."""
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state()
    yield
    AcceleratorState._reset_state()


@pytest.mark.usefixtures("fresh_accelerate")
@pytest.mark.parametrize("settings", EXACT, ids=["dropout", "accumulation", "bf16", "energy", "codes"])
def test_a_resumed_run_equals_an_uninterrupted_one(trained, tmp_path, settings):
    whole = shutil.copytree(trained, tmp_path / "whole")
    for name in ("energy", "pipeline", settings["stage"]):
        shutil.rmtree(whole / name, ignore_errors=True)
    options = {**TINY, **settings, "resume": True}
    run(Config(**options, output_dir=str(whole)))
    part = shutil.copytree(whole, tmp_path / "part")
    behind(part, settings["stage"], "checkpoint-2")
    run(Config(**options, output_dir=str(part)))
    names = {path.relative_to(whole) for path in whole.rglob("*.safetensors")}
    assert names == {path.relative_to(part) for path in part.rglob("*.safetensors")} and len(names) > 10
    assert [name for name in names if (whole / name).read_bytes() != (part / name).read_bytes()] == []


def test_resume_after_kill_equals_an_uninterrupted_run(trained, tmp_path):
    arguments = command(output_dir=str(tmp_path), resume=True)
    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (tmp_path / "mask_vae" / "checkpoint-2").exists() and time.monotonic() < deadline:
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert newest_whole(tmp_path / "mask_vae")[0] is not None and not (tmp_path / "pipeline").exists()
    subprocess.run(arguments, check=True)
    expected, actual = weights(trained), weights(tmp_path)
    assert expected.keys() == actual.keys() and len(expected) > 50
    assert [name for name in expected if not torch.equal(expected[name], actual[name])] == []
    assert not [path for path in tmp_path.rglob("*") if "partial" in path.name]


@pytest.mark.slow
def test_two_processes_resume_to_the_bit(trained, tmp_path):
    whole = shutil.copytree(trained, tmp_path / "whole")
    for name in ("energy", "pipeline", "unet"):
        shutil.rmtree(whole / name)
    settings = dict(stage="unet", energy_steps=0, unet=UNET, batch_size=2, resume=True)
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}

    def launch(folder: Path):
        arguments = command(output_dir=str(folder), **settings)
        (tmp_path / "script.py").write_text(arguments[2])
        subprocess.run([*TWO_PROCESSES, str(tmp_path / "script.py"), arguments[3]], check=True, env=environment)

    launch(whole)
    part = shutil.copytree(whole, tmp_path / "part")
    behind(part, "unet", "checkpoint-2")
    launch(part)
    files = [path.relative_to(whole) for path in (whole / "unet").rglob("*.safetensors")]
    assert [name for name in files if (whole / name).read_bytes() != (part / name).read_bytes()] == []
    with pytest.raises(ValueError, match="`num_processes` was 2 and is 1"):
        run(Config(**{**TINY, **settings, "output_dir": str(part)}))


def test_training_goes_on_from_the_checkpoint_before_a_damaged_one(trained, tmp_path, capsys):
    folder = shutil.copytree(trained, tmp_path / "run")
    flip(folder / "unet" / "checkpoint-4" / "weights.safetensors", -1)
    run(Config(**{**TINY, "stage": "unet", "resume": True, "output_dir": str(folder)}))
    said = capsys.readouterr().out
    assert "weights.safetensors is damaged in checkpoint-4; checkpoint-2 is used." in said
    one, two = ((root / "unet" / "best.safetensors").read_bytes() for root in (trained, folder))
    assert one == two and damage(folder / "unet" / "checkpoint-4") is None


# What may not resume

CHANGED = [
    ("mask_vae", {"seed": 9}, "`seed` was 0 and is 9"),
    ("mask_vae", {"mask_loss": "mse"}, "`mask_loss` was 'weighted_cross_entropy' and is 'mse'"),
    ("mask_vae", {"vae_learning_rate": 0.1}, "`vae_learning_rate` was 0.002 and is 0.1"),
    ("mask_vae", {"mask_vae_steps": 6}, "`mask_vae_steps` was 4 and is 6.*`--start-from`"),
    ("mask_vae", {"dataset": "elsewhere/phantom2"}, "`dataset` was 'phantom' and is 'elsewhere/phantom2'"),
    ("unet", {"unet_learning_rate": 0.02, "unet_steps": 6}, "`unet_steps` .*, `unet_learning_rate` was"),
    ("unet", {"target": "consensus"}, "`target` was 'random_rater' and is 'consensus'"),
    ("unet", {"symmetries": 8}, "`symmetries` was 1 and is 8"),
    ("unet", {"batch_size": 2}, "`batch_size` was 4 and is 2"),
    ("energy", {"energy_masks": 3}, "`energy_masks` was 2 and is 3"),
    ("all", {"energy_learning_rate": 1.0}, "`energy_learning_rate` .* settings of .*energy|energy.*energy_learning"),
]


@pytest.mark.parametrize(("stage", "change", "named"), CHANGED, ids=str)
def test_other_settings_are_refused_by_name_and_nothing_is_written(trained, stage, change, named):
    before = snapshot(trained)
    with pytest.raises(ValueError, match=named):
        run(Config(**{**TINY, "output_dir": str(trained), "stage": stage, "resume": True, **change}))
    assert snapshot(trained) == before


def test_the_refusal_names_a_damaged_checkpoint_as_well(trained, tmp_path):
    folder = shutil.copytree(trained / "mask_vae", tmp_path / "run" / "mask_vae")
    (folder / "checkpoint-4" / "optimizer.safetensors").write_bytes(b"")
    settings = {**TINY, "output_dir": str(tmp_path / "run"), "stage": "mask_vae", "resume": True, "seed": 1}
    with pytest.raises(ValueError, match="`seed` was 0 and is 1.*optimizer.safetensors is damaged in checkpoint-4"):
        run(Config(**settings))


HONOURED = [
    {"checkpoint_every": 1},
    {"tracker": "all"},
    {"hub_model_id": "a/b"},
    {"output_dir": "elsewhere"},
    {"stage": "all"},
]


@pytest.mark.parametrize("change", HONOURED, ids=str)
def test_settings_that_shape_nothing_may_change(trained, change):
    config = Config(**{**TINY, "output_dir": str(trained), "resume": True, **change})
    for stage in ("mask_vae", "image_vae", "unet", "energy"):
        checkpoint, notice = checkpoint_to_resume(trained / stage, config, 1)
        assert checkpoint == checkpoints(trained / stage)[-1] and notice == ""


def test_every_setting_shapes_some_stage_or_none():
    names = {entry.name for entry in dataclasses.fields(Config)}
    assert names >= OUTSIDE
    for name in names:
        stages = {
            stage for stage in ("mask_vae", "image_vae", "unet", "energy", "mask_decoder") if shapes(name, stage)
        }
        assert stages == set() if name in OUTSIDE else "energy" in stages, name
    assert not shapes("unet_steps", "mask_vae") and shapes("mask_vae_steps", "unet")
    assert not shapes("energy_masks", "unet") and shapes("a_setting_to_come", "mask_vae")


def test_other_data_under_the_same_name_is_refused(trained, tmp_path, monkeypatch):
    folder = shutil.copytree(trained / "mask_vae", tmp_path / "run" / "mask_vae")
    monkeypatch.setattr("medseglatdiff.data.splits.PHANTOM_ROWS", {"train": 40, "validation": 8, "test": 8})
    with pytest.raises(ValueError, match="`dataset` must be what .*checkpoint-4 was trained on"):
        run(Config(**{**TINY, "output_dir": str(folder.parent), "stage": "mask_vae", "resume": True}))


@pytest.mark.parametrize("stage", ["energy", "mask_decoder"])
@pytest.mark.usefixtures("fresh_accelerate")
def test_another_start_under_the_same_name_is_refused(trained, tmp_path, stage):
    start = shutil.copytree(trained / "pipeline", tmp_path / "a" / "pipeline")
    options = {**TINY, "stage": stage, "start_from": str(start), "output_dir": str(tmp_path / "run")}
    run(Config(**options))
    shutil.copytree(start, tmp_path / "b" / "pipeline")
    pipeline = MedSegLatDiffPipeline.from_pretrained(tmp_path / "b" / "pipeline")
    for parameter in (pipeline.unet if stage == "mask_decoder" else pipeline.mask_vae).parameters():
        parameter.data += 0.5
    pipeline.save_pretrained(tmp_path / "b" / "pipeline")
    before = weights(tmp_path / "run")
    with pytest.raises(ValueError, match="`start_from` must be the pipeline that .* was trained from"):
        run(Config(**{**options, "start_from": str(tmp_path / "b" / "pipeline"), "resume": True}))
    after = weights(tmp_path / "run")
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    run(Config(**{**options, "resume": True}))  # the same one


def test_checkpoints_of_another_run_are_neither_used_nor_lost(trained):
    before = snapshot(trained)
    with pytest.raises(ValueError, match="`--resume` must be given to go on from the checkpoints in .*unet"):
        run(Config(**{**TINY, "stage": "unet", "output_dir": str(trained)}))
    assert snapshot(trained) == before


def test_the_reason_is_the_last_line(trained, capsys):
    words = ["train", "--output-dir", str(trained), "--stage", "mask_vae", "--resume", "--sample-size", "32"]
    assert main(words) == 2
    assert "`mask_vae` was" in capsys.readouterr().err.strip().splitlines()[-1]
