"""Training a pipeline on: what it hands down, what may not be otherwise, and what is dropped."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch
from conftest import tiny_pipeline
from training_fixtures import TINY, snapshot, weights

pytest.importorskip("accelerate")

from medseglatdiff.training import config as config_module
from medseglatdiff.training.config import Config
from medseglatdiff.training.inheritance import drop_choices, inherit, parent_settings
from medseglatdiff.training.parsing import given_settings
from medseglatdiff.training.train import run

PIPELINES = Path(__file__).resolve().parents[1] / "pipelines"
OPTIONS = {"stage": "energy", "energy_steps": 1, "energy_batch_size": 1, "validation_images": 1, "validation_masks": 2}


def parsed(*words: str) -> Config:
    given = given_settings(list(words))
    return inherit(Config(**given), given)


@pytest.mark.parametrize("name", ["cvc-clinicdb", "isic2018", "lidc-idri"])
def test_a_published_pipeline_hands_down_what_its_weights_need(name):
    folder = PIPELINES / f"medseglatdiff-{name}"
    index = json.loads((folder / "model_index.json").read_text())
    config = parsed("--start-from", str(folder), "--stage", "energy")
    for setting in ("sample_size", "stretch", "symmetries", "antithetic", "default_num_masks"):
        assert getattr(config, setting) == index[setting], setting
    assert config.default_num_inference_steps == config.energy_inference_steps == 2
    assert config.num_channels == (1 if name == "lidc-idri" else 3) and config.num_classes == 1
    record = json.loads((folder / "training.json").read_text())["config"]
    assert config.unet.items() >= record["unet"].items() and config.mask_vae.items() >= record["mask_vae"].items()
    assert config.scheduler.items() >= record["scheduler"].items() and config.scale_latents
    assert (config.image_encoder is None) == (name == "lidc-idri")
    assert config.seed == 0 and config.stage == "energy" and config.start_from == str(folder)


GIVEN = [
    ("--symmetries", "2", "symmetries", 2),
    ("--stretch", "false", "stretch", False),
    ("--default-num-masks", "8", "default_num_masks", 8),  # the default of Config, but given
    ("--antithetic", "false", "antithetic", False),
    ("--default-num-inference-steps", "7", "default_num_inference_steps", 7),
    ("--energy-inference-steps", "3", "energy_inference_steps", 3),
    ("--sample-size", "128", "sample_size", 128),
    ("--unet", '{"layers_per_block": 1}', "unet", None),
]


@pytest.mark.parametrize(("option", "word", "name", "value"), GIVEN)
def test_what_is_given_counts(option, word, name, value):
    config = parsed("--start-from", str(PIPELINES / "medseglatdiff-lidc-idri"), "--stage", "energy", option, word)
    if value is None:
        assert config.unet["block_out_channels"] == [48, 96, 192]
    else:
        assert getattr(config, name) == value


def test_a_file_of_settings_gives_them_as_well(tmp_path):
    (tmp_path / "config.json").write_text('{"symmetries": 4, "sample_size": 64}')
    words = ["--start-from", str(PIPELINES / "medseglatdiff-lidc-idri"), "--stage", "energy"]
    with pytest.raises(ValueError, match="`sample_size` must be 128, but was 64"):
        parsed(*words, "--config", str(tmp_path / "config.json"))
    (tmp_path / "config.json").write_text('{"symmetries": 4}')
    assert parsed(*words, "--config", str(tmp_path / "config.json")).symmetries == 4


CONTRADICTIONS = [
    ("--sample-size", "64", "`sample_size` must be 128, but was 64"),  # the default of Config, but given
    ("--num-channels", "3", "`num_channels` must be 1, but was 3"),
    ("--num-classes", "2", "`num_classes` must be 1, but was 2"),
    ("--unet", '{"layers_per_block": 2}', "`unet` must have {'layers_per_block': 1}, but had {'layers_per_block': 2}"),
    ("--mask-vae", '{"latent_channels": 3}', "`mask_vae` must have {'latent_channels': 2}"),
    ("--image-vae", '{"latent_channels": 3}', "`image_vae` must have {'latent_channels': 16}"),
    ("--image-encoder", '{"condition_channels": 3}', "`image_encoder` must be None"),
    ("--scheduler", '{"prediction_type": "epsilon"}', "`scheduler` must have {'prediction_type': 'v_prediction'}"),
    ("--scale-latents", "false", "`scale_latents` must be True, but was False"),
]


@pytest.mark.parametrize(("option", "word", "named"), CONTRADICTIONS)
@pytest.mark.parametrize("stage", ["unet", "mask_decoder"])
def test_what_contradicts_the_weights_is_refused_by_name(tmp_path, stage, option, word, named):
    start = str(PIPELINES / "medseglatdiff-lidc-idri")
    given = given_settings(
        ["--start-from", start, "--stage", stage, option, word, "--output-dir", str(tmp_path / "o")]
    )
    with pytest.raises(ValueError) as caught:
        run(Config(**given), given)
    assert named in str(caught.value) and start in str(caught.value) and not (tmp_path / "o").exists()


PRESETS = [
    ("cvc_clinicdb", "isic2018"),
    ("lidc_idri_decoder", "lidc-idri"),
    ("lidc_idri_more", "lidc-idri"),
]


@pytest.mark.parametrize(("preset", "start"), PRESETS)
def test_presets_agree_with_what_they_start_from(preset, start):
    path = Path(config_module.__file__).parent / "configs" / f"{preset}.json"
    settings = json.loads(path.read_text())
    config = parsed("--config", str(path), "--start-from", str(PIPELINES / f"medseglatdiff-{start}"))
    for name in settings.keys() - {"start_from", "unet", "mask_vae", "image_vae", "image_encoder", "scheduler"}:
        assert getattr(config, name) == settings[name], name


def test_settings_of_a_program_are_given_where_they_differ_from_the_defaults(trained):
    start = str(trained / "pipeline")
    config = inherit(Config(seed=5, start_from=start, stage="energy"))
    assert config.unet.items() >= TINY["unet"].items() and config.mask_vae.items() >= TINY["mask_vae"].items()
    assert (config.sample_size, config.seed) == (32, 5) and inherit(Config()) == Config()
    with pytest.raises(ValueError, match="`num_channels` must be 1, but was 3"):
        inherit(Config(num_channels=3, start_from=start, stage="energy"))


DAMAGED = [
    ("model_index.json", {"sample_size": None}),
    ("model_index.json", {"image_encoder": None}),
    ("mask_vae/config.json", {"out_channels": None}),
    ("image_encoder/config.json", {"in_channels": None}),
    ("unet/config.json", "[]"),
    ("scheduler/scheduler_config.json", "cut {"),
]


@pytest.mark.parametrize(("name", "change"), DAMAGED, ids=str)
def test_a_pipeline_with_damaged_files_is_no_start(tmp_path, name, change):
    tiny_pipeline().save_pretrained(tmp_path)
    path = tmp_path / name
    if isinstance(change, str):
        path.write_text(change)
    else:
        config = json.loads(path.read_text())
        path.write_text(json.dumps({key: value for key, value in config.items() if key not in change}))
    with pytest.raises(ValueError, match="`start_from` must be a pipeline"):
        inherit(Config(start_from=str(tmp_path), stage="energy"))


CHOSEN = {"threshold": 0.25, "default_num_candidates": 12, "spread": 0.8}
CALIBRATION = {"calibration": {"shares": [0.0, 1.0], "confidences": [0.0, 1.0]}}
DROPPED = [
    ({}, False, {}),
    ({"threshold": 0.25}, False, {}),  # an author's choice
    ({"threshold": 0.25, "default_num_candidates": 12}, False, {}),
    ({"threshold": 0.25}, True, {"threshold": 0.25}),
    (CHOSEN, False, CHOSEN),
    (CHOSEN, True, CHOSEN),
    (CALIBRATION, False, CALIBRATION),
    ({}, True, {}),
]


@pytest.mark.parametrize(("settings", "calibrated", "dropped"), DROPPED)
def test_what_was_chosen_for_other_weights_is_set_back(tmp_path, settings, calibrated, dropped):
    pipeline = tiny_pipeline(**settings)
    if calibrated:
        (tmp_path / "calibration.json").write_text("{}")
    assert drop_choices(pipeline, tmp_path) == dropped
    fresh = tiny_pipeline(**({} if dropped else settings))
    for name in (*CHOSEN, "calibration"):
        assert pipeline.config[name] == fresh.config[name], name


# Whole runs


def test_a_calibrated_pipeline_is_trained_on(trained, tmp_path, capsys):
    start = shutil.copytree(trained / "pipeline", tmp_path / "start" / "pipeline")
    index = json.loads((start / "model_index.json").read_text())
    index |= {"symmetries": 2, "stretch": True, "default_num_masks": 5} | CHOSEN
    (start / "model_index.json").write_text(json.dumps(index))
    run(Config(**{**OPTIONS, "start_from": str(start), "output_dir": str(tmp_path / "out"), "mixed_precision": "no"}))
    before, after = weights(tmp_path / "start"), weights(tmp_path / "out")
    changed = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert before.keys() == after.keys() and changed <= {"unet", "image_encoder"} and changed
    new = json.loads((tmp_path / "out" / "pipeline" / "model_index.json").read_text())
    kept = ("symmetries", "stretch", "default_num_masks", "sample_size", "default_num_inference_steps", "antithetic")
    assert {name: new[name] for name in kept} == {name: index[name] for name in kept}
    assert (new["threshold"], new["spread"], new["default_num_candidates"]) == (0.5, 1.0, 1)
    record = json.loads((tmp_path / "out" / "pipeline" / "training.json").read_text())
    stages = record["stages"]
    assert list(stages) == ["mask_vae", "image_vae", "unet", "start/energy", "energy"]
    assert stages["energy"]["set_back"] == CHOSEN and stages["start/energy"]["step"] == TINY["energy_steps"]
    assert stages["unet"]["settings"]["unet"] == TINY["unet"] and stages["energy"]["settings"]["stretch"] is True
    assert str(tmp_path) not in json.dumps(record)
    said = capsys.readouterr().out.strip().splitlines()
    assert any("set back: threshold, default_num_candidates, spread" in line for line in said)
    folder = tmp_path / "out" / "pipeline"
    assert said[-2:] == [f"Saved to {folder}", f"Next: medseglatdiff calibrate --pipeline {folder} --dataset phantom"]


def test_mask_decoder_alone_is_trained_on(trained, tmp_path):
    start = shutil.copytree(trained / "pipeline", tmp_path / "start" / "pipeline")
    index = json.loads((start / "model_index.json").read_text()) | {"threshold": 0.25, "symmetries": 4}
    (start / "model_index.json").write_text(json.dumps(index))
    options = {"stage": "mask_decoder", "start_from": str(start), "foreground_weight": 50.0, "mask_vae_steps": 2}
    run(Config(**{**TINY, **options, "output_dir": str(tmp_path / "run")}))
    before, after = weights(tmp_path / "start"), weights(tmp_path / "run")
    changed = [name for name in before if not torch.equal(before[name], after[name])]
    assert changed and all(name.startswith("mask_vae.decoder.") for name in changed)
    assert json.loads((tmp_path / "run" / "pipeline" / "model_index.json").read_text()).items() >= index.items()
    stages = json.loads((tmp_path / "run" / "pipeline" / "training.json").read_text())["stages"]
    assert list(stages) == ["mask_vae", "image_vae", "unet", "energy", "mask_decoder"]
    assert stages["mask_vae"]["settings"]["foreground_weight"] == 10
    assert stages["mask_decoder"]["settings"]["foreground_weight"] == 50


def test_denoiser_and_sampler_are_trained_on(trained, tmp_path):
    rates = {"unet_learning_rate": 1e-12, "energy_learning_rate": 1e-3}
    options = {"start_from": str(trained / "pipeline"), "output_dir": str(tmp_path), "target": "consensus", **rates}
    run(Config(**{**TINY, **options}))
    before, between, after = weights(trained), weights(tmp_path / "unet"), weights(tmp_path)
    assert before.keys() == between.keys() == after.keys()
    assert [name for name in before if not torch.allclose(before[name], between[name], atol=1e-3)] == []
    assert {name.split(".")[0] for name in before if not torch.equal(between[name], after[name])} >= {"unet"}
    stages = json.loads((tmp_path / "pipeline" / "training.json").read_text())["stages"]
    assert list(stages) == ["mask_vae", "image_vae", "start/unet", "start/energy", "unet", "energy"]
    assert stages["start/unet"]["git_commit"] is None or len(stages["start/unet"]["git_commit"]) == 40
    assert stages["start/unet"]["settings"]["unet_learning_rate"] == Config().unet_learning_rate
    assert stages["start/unet"]["settings"]["target"] == "random_rater"
    assert stages["unet"]["settings"]["target"] == "consensus" and not (tmp_path / "mask_vae").exists()


# Refusals change nothing


REFUSED = [
    ({"stage": "unet"}, "`stage` must be mask_vae first, or all, but was unet"),
    ({"stage": "energy"}, "`stage` must be unet first, or all, but was energy"),
    ({"stage": "image_vae", "image_encoder": {}}, "`stage` must be one that these settings have, but was image_vae"),
    (
        {"stage": "energy", "start_from": "/not/there"},
        "`start_from` must be a folder or a Hub id, but there is no folder",
    ),
    ({"dataset": "/not/there"}, "/not/there"),
    ({"push_to_hub": True, "hub_model_id": "a/b"}, "token"),
]


@pytest.mark.parametrize("exists", [False, True])
@pytest.mark.parametrize(("settings", "named"), REFUSED, ids=str)
def test_a_refused_run_changes_nothing(tmp_path, monkeypatch, settings, named, exists):
    monkeypatch.setattr("medseglatdiff.hub.repository.get_token", lambda: None)
    monkeypatch.setattr("medseglatdiff.training.train.load_split", lambda *_: pytest.fail("data were loaded"))
    out = tmp_path / "out"
    if exists:
        out.mkdir()
        (out / "notes.txt").write_text("mine")
    before = snapshot(tmp_path)
    with pytest.raises((ValueError, OSError), match=named):
        run(Config(**{**TINY, **settings, "output_dir": str(out)}))
    left = {name: facts for name, facts in snapshot(tmp_path).items() if not name.endswith(".training.lock")}
    assert left.keys() == before.keys()
    assert all(left[name] == facts for name, facts in before.items() if Path(name).is_file())
    assert not exists or (out / "notes.txt").read_text() == "mine"


def test_whatever_a_parent_has_is_inherited():
    folder = PIPELINES / "medseglatdiff-isic2018"
    config, parents = vars(parsed("--start-from", str(folder), "--stage", "all")), parent_settings(folder)
    assert parents.keys() <= {entry.name for entry in dataclasses.fields(Config)}
    assert {name: config[name] for name in parents} == parents
