"""A data set made by hand trains: `training/train.py --dataset imagefolder --data-dir FOLDER`."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from test_data import imagefolder
from test_training import TINY

ROOT = Path(__file__).resolve().parent.parent


def arguments(settings: dict) -> list[str]:
    texts = {name: json.dumps(value) if isinstance(value, dict) else str(value) for name, value in settings.items()}
    return [word for name, text in texts.items() for word in (f"--{name.replace('_', '-')}", text)]


def test_imagefolder_made_by_hand_trains(tmp_path):
    pytest.importorskip("accelerate")
    for split, names in {"train": "abcdef", "validation": "xy"}.items():
        lines = [{"file_name": f"{n}.png", "mask_file_names": [f"masks/{n}.png"], "group_id": n} for n in names]
        imagefolder(tmp_path / "own" / split, lines)
    steps = {"mask_vae_steps": 1, "image_vae_steps": 1, "unet_steps": 1}
    folders = {"data_dir": tmp_path / "own", "output_dir": tmp_path / "run"}
    settings = {**TINY, **steps, **folders, "dataset": "imagefolder"}
    command = [sys.executable, str(ROOT / "training" / "train.py"), *arguments(settings)]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "HF_HOME": str(tmp_path / "home")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    training = json.loads((tmp_path / "run" / "pipeline" / "training.json").read_text())
    assert training["rows"] == {"train": 6, "validation": 2}

    from medseglatdiff import MedSegLatDiffPipeline

    pipeline = MedSegLatDiffPipeline.from_pretrained(tmp_path / "run" / "pipeline")
    pipeline.set_progress_bar_config(disable=True)
    assert pipeline(np.zeros((16, 20), np.uint8), num_masks=2).masks[0].shape == (2, 16, 20)
