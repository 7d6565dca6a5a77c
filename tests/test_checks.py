"""A config that cannot be what was trained is refused by the name of the setting, when it is loaded."""

import json
from pathlib import Path

import pytest
from conftest import tiny_pipeline, tiny_unet, tiny_vae
from diffusers import DDIMScheduler, DiffusionPipeline, DPMSolverMultistepScheduler

from medseglatdiff import MedSegLatDiffImageEncoder, MedSegLatDiffPipeline, MedSegLatDiffUNet, MedSegLatDiffVAE
from medseglatdiff.cli import main
from medseglatdiff.models.checks import (
    arguments_of,
    flag,
    integer,
    number,
    one_of,
    optional,
    several,
    table_of,
)
from medseglatdiff.pipeline.checks import COMPONENTS, SCHEDULER, SETTINGS, check_folder

NAN, INFINITY = float("nan"), float("inf")
GONE = "the setting is deleted from the file"
FILES = {
    "index": "model_index.json",
    "image_encoder": "image_encoder/config.json",
    "mask_vae": "mask_vae/config.json",
    "unet": "unet/config.json",
    "scheduler": "scheduler/scheduler_config.json",
}
DAMAGE = [
    # 1. lost, of half of it
    ("mask_vae", {"latents_std": GONE}),
    ("mask_vae", {"latents_mean": GONE}),
    ("mask_vae", {"latents_std": None}),
    ("mask_vae", {"latents_mean": None}),
    ("image_encoder", {"latents_std": GONE}),
    ("mask_vae", {"bottleneck": GONE}),
    ("unet", {"attention_head_dim": GONE}),
    ("unet", {"norm_num_groups": GONE}),
    ("index", {"threshold": GONE}),
    ("index", {"stretch": GONE}),
    ("index", {"calibration": GONE}),
    ("scheduler", {"prediction_type": GONE}),
    ("scheduler", {"timestep_spacing": GONE}),
    ("scheduler", {"rescale_betas_zero_snr": GONE}),
    # 2. of another type
    ("index", {"threshold": True}),
    ("index", {"threshold": "0.5"}),
    ("index", {"default_num_masks": 3.0}),
    ("index", {"default_num_masks": True}),
    ("index", {"stretch": "false"}),
    ("index", {"stretch": 0}),
    ("index", {"symmetries": True}),
    ("index", {"sample_size": [32, 32]}),
    ("index", {"calibration": {"shares": ["0", "1"], "confidences": [0, 1]}}),
    ("index", {"calibration": {"shares": [False, True], "confidences": [0, 1]}}),
    ("index", {"calibration": [[0, 1], [0, 1]]}),
    ("mask_vae", {"latent_channels": "1"}),
    ("mask_vae", {"latents_std": [True]}),
    ("mask_vae", {"latents_std": 1.0}),
    ("mask_vae", {"block_out_channels": 8}),
    ("mask_vae", {"bottleneck": 1}),
    ("unet", {"attention": [0, 1]}),
    ("unet", {"dropout": False}),
    ("scheduler", {"beta_schedule": None}),
    ("scheduler", {"rescale_betas_zero_snr": 1}),
    ("scheduler", {"num_train_timesteps": "1000"}),
    # 3. out of range, or not finite
    ("index", {"threshold": NAN}),
    ("index", {"threshold": -0.1}),
    ("index", {"spread": INFINITY}),
    ("index", {"default_num_masks": -1}),
    ("index", {"default_num_masks": 10**9}),
    ("index", {"default_num_candidates": 0}),
    ("index", {"default_num_inference_steps": 0}),
    ("index", {"default_num_inference_steps": 10**6}),
    ("index", {"sample_size": 0}),
    ("index", {"sample_size": 10**6}),
    ("index", {"symmetries": 3}),
    ("index", {"calibration": {"shares": [0, NAN, 1], "confidences": [0, 0.5, 1]}}),
    ("index", {"calibration": {"shares": [0, 0.5, 1], "confidences": [0, NAN, 1]}}),
    ("index", {"calibration": {"shares": [0, 1]}}),
    ("mask_vae", {"latents_std": [0.0]}),
    ("mask_vae", {"latents_std": [-1.0]}),
    ("mask_vae", {"latents_std": [NAN]}),
    ("mask_vae", {"latents_mean": [INFINITY]}),
    ("mask_vae", {"block_out_channels": []}),
    ("mask_vae", {"block_out_channels": [0, 8]}),
    ("mask_vae", {"block_out_channels": [10**6, 8]}),
    ("mask_vae", {"block_out_channels": [8] * 40}),
    ("mask_vae", {"layers_per_block": 0}),
    ("mask_vae", {"norm_num_groups": 0}),
    ("mask_vae", {"num_codes": 10**9}),
    ("mask_vae", {"bottleneck": "none"}),
    ("unet", {"attention_head_dim": 0}),
    ("unet", {"condition_channels": -3}),
    ("unet", {"sample_size": 10**9}),
    ("unet", {"dropout": 1.5}),
    ("scheduler", {"num_train_timesteps": 0}),
    ("scheduler", {"num_train_timesteps": 10**9}),
    ("scheduler", {"num_train_timesteps": 1e9}),
    ("scheduler", {"beta_start": NAN}),
    ("scheduler", {"beta_end": -0.01}),
    ("scheduler", {"trained_betas": [0.1, NAN]}),
    ("scheduler", {"prediction_type": "noise"}),
    ("scheduler", {"timestep_spacing": "even"}),
    ("scheduler", {"beta_schedule": "cubic"}),
    # 4. what does not fit the rest
    ("mask_vae", {"latents_mean": [0.0, 0.0], "latents_std": [1.0, 1.0]}),
    ("mask_vae", {"norm_num_groups": 3}),
    ("unet", {"norm_num_groups": 5}),
    ("unet", {"attention": [True]}),
    ("unet", {"attention_head_dim": 7}),
    ("scheduler", {"beta_start": 0.5}),
    ("scheduler", {"trained_betas": [0.1, 0.2]}),
    ("index", {"sample_size": 30}),
    # 5. unknown
    ("index", {"treshold": 0.25}),
    ("mask_vae", {"latent_std": [1.0]}),
    ("unet", {"attention_heads": 2}),
]


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    pipeline = tiny_pipeline()
    pipeline.mask_vae.set_latent_statistics([0.25], [2.0])
    pipeline.image_encoder.set_latent_statistics([0.0] * 3, [1.0] * 3)
    folder = tmp_path_factory.mktemp("saved") / "pipeline"
    pipeline.save_pretrained(folder)
    return folder


@pytest.fixture
def edited(saved):
    """Changes one file of the folder that the tests share, and restores it at the end."""
    before = {}

    def edit(file: str, change: dict) -> Path:
        path = saved / FILES[file]
        before.setdefault(path, path.read_text())
        config = json.loads(path.read_text()) | change
        path.write_text(json.dumps({name: value for name, value in config.items() if value != GONE}))
        return saved

    yield edit
    for path, text in before.items():
        path.write_text(text)


@pytest.mark.parametrize("file, change", DAMAGE, ids=lambda value: str(value)[:60])
def test_damaged_config_is_refused_by_name(edited, file, change):
    with pytest.raises(ValueError) as caught:
        MedSegLatDiffPipeline.from_pretrained(edited(file, change))
    name = "`scheduler`" if "beta_schedule" in change else list(change)[0]  # diffusers says which it knows
    assert name in str(caught.value) and len(str(caught.value)) < 600


@pytest.mark.parametrize("file", ["image_encoder", "mask_vae", "unet"])
def test_each_model_refuses_its_own_config(edited, file):
    """Without the pipeline around it as well: `AutoModel` and training load models alone."""
    classes = {"image_encoder": MedSegLatDiffVAE, "mask_vae": MedSegLatDiffVAE, "unet": MedSegLatDiffUNet}
    folder = edited(file, {"norm_num_groups": 0})
    with pytest.raises(
        ValueError, match="`norm_num_groups` of MedSegLatDiff.* must be an integer from 1 to 256, but was 0"
    ):
        classes[file].from_pretrained(folder, subfolder=file)
    with pytest.raises(ValueError, match="`norm_num_groups`"):
        classes[file].from_config({"norm_num_groups": 0})


@pytest.mark.parametrize("content", ["[]", "null", "7", '"x"', "{", "", "\x00", "[" * 50_000], ids=repr)
@pytest.mark.parametrize("file", FILES)
def test_what_is_no_table_of_settings_is_refused(saved, file, content, tmp_path):
    path = saved / FILES[file]
    before = path.read_text()
    try:
        path.write_text(content)
        with pytest.raises((ValueError, OSError)) as caught:
            MedSegLatDiffPipeline.from_pretrained(saved)
    finally:
        path.write_text(before)
    assert len(str(caught.value)) < 600


def test_the_command_line_says_it_in_one_sentence(edited, capsys):
    folder = edited("mask_vae", {"latents_std": None})
    assert main(["info", str(folder)]) == 2
    (line,) = capsys.readouterr().err.splitlines()[-1:]
    assert "`latents_std` of MedSegLatDiffVAE must be given if `latents_mean` is" in line


def test_unscaled_latents_are_an_intent_that_both_settings_state(tmp_path):
    """As `scale_latents: false` leaves them: both null, and both in the file."""
    tiny_pipeline().save_pretrained(tmp_path)
    stored = json.loads((tmp_path / "mask_vae" / "config.json").read_text())
    assert stored["latents_mean"] is None and stored["latents_std"] is None
    assert MedSegLatDiffPipeline.from_pretrained(tmp_path).mask_vae.config.latents_std is None


def test_older_checkpoints_lack_later_settings_and_load(edited):
    pipeline = MedSegLatDiffPipeline.from_pretrained(edited("index", {"spread": GONE, "default_num_candidates": GONE}))
    assert pipeline.config.spread == 1.0 and pipeline.config.default_num_candidates == 1


def test_every_setting_has_a_rule():
    for model_class in (MedSegLatDiffVAE, MedSegLatDiffImageEncoder, MedSegLatDiffUNet):
        assert set(arguments_of(model_class)) <= set(table_of(model_class)[0]), model_class
    settings = set(arguments_of(MedSegLatDiffPipeline)) - set(COMPONENTS) - {"scheduler"}
    assert settings <= set(SETTINGS)
    assert set(arguments_of(DDIMScheduler)) - set(SCHEDULER) == {"beta_schedule"}  # building it decides


def test_swapped_schedulers_survive_saving(tmp_path):
    """A scheduler made from another's config keeps names that are none of its own."""
    pipeline = tiny_pipeline()
    pipeline.scheduler = DPMSolverMultistepScheduler.from_config(pipeline.scheduler.config)
    pipeline.save_pretrained(tmp_path)
    loaded = MedSegLatDiffPipeline.from_pretrained(tmp_path)
    assert type(loaded.scheduler) is DPMSolverMultistepScheduler
    assert loaded.scheduler.config.prediction_type == "v_prediction"


def test_a_pipeline_from_parts_is_checked_as_well():
    parts = dict(image_encoder=tiny_vae(1, 3), mask_vae=tiny_vae(2), unet=tiny_unet(), scheduler=DDIMScheduler())
    assert MedSegLatDiffPipeline(**parts, sample_size=32)
    with pytest.raises(ValueError, match="`sample_size` must be a multiple of 8"):
        MedSegLatDiffPipeline(**parts, sample_size=36)
    with pytest.raises(ValueError, match="`mask_vae` must take and return background and at least one class"):
        MedSegLatDiffPipeline(**parts | {"mask_vae": tiny_vae(1)}, sample_size=32)
    with pytest.raises(ValueError, match="`image_encoder` must take 1 or 3 channels, but takes 2"):
        MedSegLatDiffPipeline(**parts | {"image_encoder": tiny_vae(2, 3)}, sample_size=32)
    wide = MedSegLatDiffVAE(1, 1, (8, 8, 8), latent_channels=3, norm_num_groups=4)
    with pytest.raises(
        ValueError, match="`image_encoder` must downsample by 4, as `mask_vae` does, but downsamples by 8"
    ):
        MedSegLatDiffPipeline(**parts | {"image_encoder": wide}, sample_size=32)
    with pytest.raises(ValueError, match="`default_num_inference_steps` must be at most 5, but was 10"):
        MedSegLatDiffPipeline(**parts | {"scheduler": DDIMScheduler(num_train_timesteps=5)}, sample_size=32)


def test_plain_diffusers_is_told_as_well(edited):
    with pytest.raises(ValueError, match="`threshold` must be above 0 and at most 1, but was True"):
        DiffusionPipeline.from_pretrained(edited("index", {"threshold": True}))


@pytest.mark.parametrize(
    "rule, good, bad",
    [
        (integer(1, 9), [1, 9], [0, 10, True, 1.0, "1", None, NAN]),
        (number(0, 1), [0, 1, 0.5], [-1e-9, 1.1, NAN, INFINITY, -INFINITY, True, "0.5", None, [0.5]]),
        (number(0, above=True), [1e-9, 10**9], [0, -1, INFINITY, NAN]),
        (flag(), [True, False], [0, 1, None, "true"]),
        (one_of(1, 3), [1, 3], [True, 1.0, "1", 2]),
        (one_of("kl", "vq"), ["kl"], ["KL", None, ["kl"]]),
        (several(integer(1, 9), 1, 3), [[1], (1, 2, 3)], [[], [1] * 4, [0], "123", {1: 1}, None, [[1]]]),
        (optional(flag()), [None, True], [0, "null"]),
    ],
    ids=lambda value: getattr(value, "wanted", None),
)
def test_rules(rule, good, bad):
    assert all(map(rule.holds, good)) and not any(map(rule.holds, bad))


def test_published_pipelines_keep_the_rules():
    folders = [path.parent for path in (Path(__file__).parents[1] / "pipelines").glob("*/model_index.json")]
    assert len(folders) == 3
    for folder in folders:
        check_folder(folder, MedSegLatDiffPipeline)
        for name, model in MedSegLatDiffPipeline.from_pretrained(folder).components.items():
            assert name == "scheduler" or model.num_parameters() > 0
