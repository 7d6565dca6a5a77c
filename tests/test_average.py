"""The mean of pipelines that were trained on from one start."""

import importlib
import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from conftest import tiny_pipeline
from safetensors.torch import load_file

from medseglatdiff import MedSegLatDiffPipeline

TRAINING = Path(__file__).parents[1] / "training"


@pytest.fixture(scope="module")
def average():
    pytest.importorskip("accelerate")
    sys.path.append(str(TRAINING))  # at the end: training/evaluate.py must not hide the library
    yield importlib.import_module("average")
    sys.path.remove(str(TRAINING))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    parts = ("mask_vae", "image_encoder", "unet")
    files = {part: load_file(folder / part / "diffusion_pytorch_model.safetensors") for part in parts}
    return {f"{part}.{name}": value for part, file in files.items() for name, value in file.items()}


def trained_on(folder: Path, shift: float, start_hours: float = 1.0, **settings) -> Path:
    """A pipeline with the U-Net's weights shifted, and a record as train.py writes it."""
    pipeline = tiny_pipeline()
    with torch.no_grad():
        for parameter in pipeline.unet.parameters():
            parameter.add_(shift)
    pipeline.save_pretrained(folder)
    run = {"step": 10, "best_score": 0.5, "best_step": 10, "wall_hours": start_hours, "cpu_hours": 1.0}
    stages = {"mask_vae": run, "start/energy": run, "energy": run | {"wall_hours": 2 + shift}}
    config = {"dataset": "phantom", "start_from": "start", **settings}
    record = {"config": config, "stages": stages, "rows": {"train": 7}, "num_processes": 2, "git_commit": "abc"}
    (folder / "training.json").write_text(json.dumps(record))
    return folder


def test_weights_are_the_mean_and_every_run_is_told(average, tmp_path):
    one, two = trained_on(tmp_path / "one", 0.0, seed=1), trained_on(tmp_path / "two", 0.5, seed=2)
    average.main([str(one), str(two), "--out", str(tmp_path / "new" / "mean")])
    before, after = weights(one), weights(tmp_path / "new" / "mean")
    assert before.keys() == after.keys()
    for name, value in before.items():
        expected = value + (0.25 if name.startswith("unet.") else 0)
        torch.testing.assert_close(after[name].float(), expected.float(), atol=1e-3, rtol=1e-3)
    record = json.loads((tmp_path / "new" / "mean" / "training.json").read_text())
    assert list(record["stages"]) == ["mask_vae", "start/energy", "run 1/energy", "run 2/energy"]
    assert [record["stages"][f"run {number}/energy"]["wall_hours"] for number in (1, 2)] == [2.0, 2.5]
    second = record["stages"]["run 2/energy"]
    assert second["other_settings"] == {"seed": 2} and second["num_processes"] == 2 and record["config"]["seed"] == 1
    assert record["rows"] == {"train": 7}
    MedSegLatDiffPipeline.from_pretrained(tmp_path / "new" / "mean")


def test_of_one_pipeline_twice_it_is_itself(average, tmp_path):
    one = trained_on(tmp_path / "one", 0.0)
    average.main([str(one), str(shutil.copytree(one, tmp_path / "copy")), "--out", str(tmp_path / "mean")])
    for name, value in weights(one).items():
        assert torch.equal(weights(tmp_path / "mean")[name], value.half()), name


def test_other_starts_and_other_networks_are_refused(average, tmp_path):
    one, other = trained_on(tmp_path / "one", 0.0), trained_on(tmp_path / "other", 0.0, start_hours=1.5)
    with pytest.raises(ValueError, match="`pipelines` must be trained on from the same start .* 1.0.* 1.5"):
        average.main([str(one), str(other), "--out", str(tmp_path / "mean")])
    with pytest.raises(ValueError, match="`pipelines` must have weights of the same names and shapes"):
        average.average_weights([torch.nn.Linear(2, 2), torch.nn.Linear(2, 3)])
    with pytest.raises(SystemExit):
        average.main([str(one), "--out", str(tmp_path / "mean")])
    assert not (tmp_path / "mean").exists()
