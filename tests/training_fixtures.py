"""A tiny training run that several test files look at, and how to start others."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

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
# the same with an image network that runs once and a denoiser over patches
TINY_MODELS = {
    "mask_vae": {"block_out_channels": [8, 8], "norm_num_groups": 4, "latent_channels": 2},
    "unet": {"block_out_channels": [8, 16], "attention_head_dim": 8, "norm_num_groups": 4},
    "image_encoder": {"block_out_channels": [8, 16], "layers_per_block": 1, "norm_num_groups": 4},
}
TINY_RUN = dict(
    dataset="phantom", sample_size=32, mixed_precision="no", mask_vae_steps=2, unet_steps=2, energy_steps=2,
    batch_size=2, energy_batch_size=2, energy_masks=2, noise_levels=2, validation_every=2, validation_images=2,
    validation_masks=2, checkpoint_every=2, default_num_inference_steps=2, warmup_steps=1, symmetries=2,
)  # fmt: skip
SCRIPT = """
import json, sys
from medseglatdiff.training.config import Config
from medseglatdiff.training.train import run
run(Config(**json.loads(sys.argv[1])))
"""


def command(**settings) -> list[str]:
    return [sys.executable, "-c", SCRIPT, json.dumps({**TINY, **settings})]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of a run's pipeline."""
    return {
        f"{path.parent.name}.{name}": value
        for path in sorted((folder / "pipeline").rglob("*.safetensors"))
        for name, value in load_file(path).items()
    }


def snapshot(folder: Path) -> dict[str, tuple]:
    """What tells whether anything in a folder was written, made or deleted."""
    paths = [folder, *folder.rglob("*")] if folder.exists() else []
    return {str(path): (path.stat().st_ino, path.stat().st_mtime_ns, path.stat().st_size) for path in paths}


def flip(path: Path, position: int):
    """Changes one bit of a file."""
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


@pytest.fixture(scope="session")
def trained(tmp_path_factory) -> Path:
    """The folder of a run of all stages, as TINY says."""
    folder = tmp_path_factory.mktemp("run")
    subprocess.run(command(output_dir=str(folder)), check=True)
    return folder
