"""The wheel alone in a fresh environment, the `hf` command, and a package whose modules have other names."""

import json
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hub_fixtures import MODEL, ROOT, Hub, folder, hub, linked, needed_by, wheel  # noqa: F401
from PIL import Image

from medseglatdiff import MedSegLatDiffPipeline

ALONE = """
import importlib.util, sys
import numpy as np, torch
import medseglatdiff
from medseglatdiff import MedSegLatDiffPipeline
from medseglatdiff.hub.publish import model_card
assert medseglatdiff.__file__.startswith(sys.prefix), medseglatdiff.__file__
assert not any(map(importlib.util.find_spec, ("accelerate", "datasets", "scipy", "gradio", "matplotlib")))
pipeline = MedSegLatDiffPipeline.from_pretrained(sys.argv[1])
masks = pipeline(np.eye(40, dtype=np.uint8) * 255, generator=[torch.Generator().manual_seed(0)]).masks[0]
assert masks.shape == (3, 40, 40)
if importlib.util.find_spec("jinja2"):  # an extra, but torch may bring it
    assert sys.argv[1] in str(model_card(pipeline, {}, {}))
"""
RENAMED = """
import sys
import medseglatdiff
assert medseglatdiff.__file__.startswith(sys.argv[2]), medseglatdiff.__file__
from medseglatdiff import MedSegLatDiffPipeline
from diffusers import AutoModel
assert type(MedSegLatDiffPipeline.from_pretrained(sys.argv[1]).unet).__module__ == "medseglatdiff.networks.denoiser"
assert type(AutoModel.from_pretrained(sys.argv[1], subfolder="unet")).__module__ == "medseglatdiff.networks.denoiser"
"""
STORED_INDEX = {
    "_class_name": "MedSegLatDiffPipeline",
    "image_encoder": ["medseglatdiff", "MedSegLatDiffVAE"],
    "mask_vae": ["medseglatdiff", "MedSegLatDiffVAE"],
    "scheduler": ["diffusers", "DDIMScheduler"],
    "unet": ["medseglatdiff", "MedSegLatDiffUNet"],
}


def test_wheel_holds_the_package_and_nothing_else(wheel):  # noqa: F811
    names = zipfile.ZipFile(wheel).namelist()
    files = [path for path in (ROOT / "src").rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    modules = {path.relative_to(ROOT / "src").as_posix() for path in files}
    assert modules == {name for name in names if not name.split("/")[0].endswith(".dist-info")}
    expected = {"py.typed", "hub/model_card.md", "builders/card_folder.md", "training/configs/phantom.json"}
    assert {f"medseglatdiff/{name}" for name in expected} <= modules


def test_wheel_alone_loads_by_id_and_segments(wheel, hub: Hub, folder, tmp_path):  # noqa: F811
    """Its dependencies are linked, not downloaded: those that its metadata names, and theirs, and no more."""
    # 1. a fresh environment
    environment = tmp_path / "environment"
    venv.create(environment, with_pip=False, symlinks=True)
    python = environment / "bin" / "python"
    linked(environment, needed_by("medseglatdiff", {}))
    command = [sys.executable, "-m", "pip", "--python", python, "install", "-q", "--no-deps", "--no-index", wheel]
    subprocess.run(command, check=True, timeout=100)
    # 2. load by id, from Python and from the command line
    hub.put(MODEL[1], folder)
    hub.run([str(python), "-c", ALONE, MODEL[1]], tmp_path / "home", PYTHONPATH="")
    Image.fromarray(np.eye(40, dtype=np.uint8) * 255).save(tmp_path / "image.png")
    segment = [environment / "bin" / "medseglatdiff", "segment", tmp_path / "image.png", "--model", MODEL[1]]
    hub.run([*map(str, segment), "--out", str(tmp_path / "out")], tmp_path / "home", PYTHONPATH="")
    assert len(list((tmp_path / "out" / "image").glob("mask-*.png"))) == 3


def test_a_stored_checkpoint_outlives_the_renaming_of_a_module(folder, tmp_path, hub: Hub):  # noqa: F811
    # 1. today's index is the stored one
    index = json.loads((folder / "model_index.json").read_text())
    assert {name: index[name] for name in STORED_INDEX} == STORED_INDEX
    # 2. a package in which models/unet.py is called networks/denoiser.py
    package = tmp_path / "medseglatdiff"
    shutil.copytree(ROOT / "src" / "medseglatdiff", package)
    (package / "models" / "unet.py").rename(package / "models" / "denoiser.py")
    (package / "models").rename(package / "networks")
    for path in package.rglob("*.py"):
        text = path.read_text("utf-8").replace(".models.unet import", ".networks.denoiser import")
        path.write_text(text.replace("from .models.", "from .networks.").replace("from ..models.", "from ..networks."))
    hub.python(RENAMED, tmp_path / "home", folder, tmp_path, PYTHONPATH=str(tmp_path))


@pytest.fixture
def hf() -> str:
    return shutil.which("hf", path=Path(sys.executable).parent) or pytest.skip("the hf command is not here")


def test_hf_command_finds_weights_that_were_tampered_with(hf, hub: Hub, folder, tmp_path):  # noqa: F811
    """No format notices a flipped bit: the checksums of the Hub do."""
    hub.put("tester/checked", folder)
    hub.run([hf, "download", "tester/checked"], tmp_path)
    hub.run([hf, "cache", "verify", "tester/checked"], tmp_path)
    (weights,) = tmp_path.rglob("unet/diffusion_pytorch_model.safetensors")
    content = bytearray(weights.read_bytes())
    content[-5] ^= 1
    weights.resolve().write_bytes(content)
    done = hub.run([hf, "cache", "verify", "tester/checked"], tmp_path, check=False)
    assert done.returncode and "unet/diffusion_pytorch_model.safetensors: expected" in done.stdout + done.stderr


def test_hf_command_round_trip(hf, hub: Hub, folder, tmp_path):  # noqa: F811
    source = tmp_path / "source"
    shutil.copytree(folder, source, ignore=shutil.ignore_patterns(".*"))
    hub.run([hf, "upload", "tester/by-hand", str(source), "."], tmp_path / "home")
    hub.run([hf, "download", "tester/by-hand", "--local-dir", str(tmp_path / "back")], tmp_path / "home")
    for path in source.rglob("*"):
        assert path.is_dir() or path.read_bytes() == (tmp_path / "back" / path.relative_to(source)).read_bytes()
    assert MedSegLatDiffPipeline.from_pretrained(tmp_path / "back").config.sample_size == 32
