"""Tiny real components that the tests share, and where the real data lies."""

import os
import signal
import sys
from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler
from torch.utils.flop_counter import FlopCounterMode
from training_fixtures import trained  # noqa: F401

from medseglatdiff import MedSegLatDiffPipeline, MedSegLatDiffUNet, MedSegLatDiffVAE

# a run in the background (`make test &`, nohup) ignores these, and so would the programs that tests start and end
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

TWO_PROCESSES = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]  # gloo
DEFAULT_PRESET = dict(
    beta_schedule="scaled_linear",
    prediction_type="v_prediction",
    rescale_betas_zero_snr=True,
    timestep_spacing="trailing",
    clip_sample=False,
)
PAPER_PRESET = dict(
    beta_start=1e-4, beta_end=2e-2, beta_schedule="linear", prediction_type="epsilon", clip_sample=False
)


def tiny_vae(channels: int = 2, latent_channels: int = 1, seed: int = 0, **options) -> MedSegLatDiffVAE:
    torch.manual_seed(seed)
    sizes = dict(block_out_channels=(8, 8), latent_channels=latent_channels, norm_num_groups=4)
    return MedSegLatDiffVAE(in_channels=channels, out_channels=channels, **sizes, **options).eval()


def tiny_unet(latent_channels: int = 1, condition_channels: int = 3, seed: int = 0, **options) -> MedSegLatDiffUNet:
    torch.manual_seed(seed)
    return MedSegLatDiffUNet(
        sample_size=8,
        latent_channels=latent_channels,
        condition_channels=condition_channels,
        block_out_channels=(8, 16),
        attention=(False, True),
        layers_per_block=1,
        attention_head_dim=8,
        norm_num_groups=4,
        **options,
    ).eval()


def table(model: type) -> list[dict[str, str]]:
    """The rows of the table in a model's docstring, by column; backquotes taken off."""
    lines = [line.strip().strip("|").replace("`", "") for line in model.__doc__.splitlines() if "|" in line]
    header, _, *rows = ([cell.strip() for cell in line.split("|")] for line in lines)
    return [dict(zip(header, row, strict=True)) for row in rows]


def costs(model: torch.nn.Module, call) -> tuple[str, str]:
    """A model's parameters in millions and the GFLOP of a call, as docstrings give them."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        call()
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return f"{parameters / 1e6:.2f} M", f"{counter.get_total_flops() / 1e9:.2f}"


def tiny_pipeline(
    num_classes: int = 1, image_channels: int = 1, scheduler: dict = DEFAULT_PRESET, **options
) -> MedSegLatDiffPipeline:
    bottleneck = "vq" if scheduler is PAPER_PRESET else "kl"
    pipeline = MedSegLatDiffPipeline(
        image_encoder=tiny_vae(image_channels, latent_channels=3, seed=1),
        mask_vae=tiny_vae(1 + num_classes, seed=2, bottleneck=bottleneck, num_codes=16),
        unet=tiny_unet(),
        scheduler=DDIMScheduler(**scheduler),
        **{"sample_size": 32, "default_num_masks": 3, "default_num_inference_steps": 2, **options},
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture
def pipeline() -> MedSegLatDiffPipeline:
    return tiny_pipeline()


@pytest.fixture(scope="session")
def real_data() -> Path:
    folder = Path(os.environ.get("MEDSEGLATDIFF_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not folder.is_dir():
        # their licences keep them out of the repository, and so out of CI
        pytest.skip(f"needs the real data sets in {folder} (MEDSEGLATDIFF_DATA)")
    return folder


# these train, start programs or serve pages: `make test-fast` leaves them out
SLOW = {
    "test_baselines",
    "test_benchmarks",
    "test_calibrate",
    "test_config_fuzzing",
    "test_dataset_builders",
    "test_dataset_ends",
    "test_dataset_hub",
    "test_dataset_real",
    "test_dataset_training",
    "test_demo_api",
    "test_demo_clicks",
    "test_demo_correct",
    "test_demo_page",
    "test_demo_results",
    "test_demo_storage",
    "test_evaluation",
    "test_hostile_inputs",
    "test_hub_faults",
    "test_hub_guard",
    "test_hub_index",
    "test_hub_loading",
    "test_hub_publish",
    "test_hub_training",
    "test_hub_wheel",
    "test_medseg_metrics",
    "test_multiclass",
    "test_packing",
    "test_phantom",
    "test_ray_example",
    "test_readme",
    "test_schedule",
    "test_segment_finding",
    "test_segment_folder",
    "test_settings",
    "test_think_once",
    "test_training",
    "test_training_checkpoints",
    "test_training_processes",
    "test_training_records",
    "test_training_resume",
    "test_training_start",
    "test_wheel_commands",
}


def pytest_collection_modifyitems(items: list[pytest.Item]):
    """Marks the tests of whole files as slow."""
    for item in items:
        if item.path.stem in SLOW:
            item.add_marker(pytest.mark.slow)
