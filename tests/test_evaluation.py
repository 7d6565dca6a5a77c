"""The evaluation command with a tiny real pipeline on phantoms: sums, resuming, processes, plots, options."""

import json
import os
import resource
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pandas
import PIL.Image
import pytest
import torch
from conftest import TWO_PROCESSES
from diffusers import DDIMScheduler

from medseglatdiff import MedSegLatDiffPipeline, MedSegLatDiffUNet, MedSegLatDiffVAE
from medseglatdiff.data.phantom import phantom_rows
from medseglatdiff.evaluation import evaluate
from medseglatdiff.evaluation.rows import measure_row, predict
from medseglatdiff.evaluation.summary import summarize

TRAINING = Path(__file__).parents[1] / "training"
LIMIT = 11  # no multiple of the batch of 8, nor of two processes


@pytest.fixture(scope="module")
def pipeline_folder(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    small = dict(block_out_channels=(8, 8), norm_num_groups=4)
    unet = MedSegLatDiffUNet(
        sample_size=16, condition_channels=1, attention=(False, False), layers_per_block=1, **small
    )
    with torch.no_grad():  # a new U-Net predicts zero: let it depend on its input
        for parameter in unet.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    pipeline = MedSegLatDiffPipeline(
        image_encoder=MedSegLatDiffVAE(in_channels=1, out_channels=1, **small),
        mask_vae=MedSegLatDiffVAE(**small),
        unet=unet,
        scheduler=DDIMScheduler(prediction_type="v_prediction", clip_sample=False),
        sample_size=32,
    )
    folder = tmp_path_factory.mktemp("pipeline")
    pipeline.save_pretrained(folder)
    return folder


def command_line(folder: Path, out: Path, *more: str) -> list[str]:
    shared = ["--pipeline", folder, "--dataset", "phantom", "--num-masks", "4", "--limit", LIMIT, "--out", out]
    return [str(word) for word in (*shared, *more)]


@pytest.fixture(scope="module")
def finished(pipeline_folder, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("evaluation") / "results.json"
    evaluate.main(command_line(pipeline_folder, out, "--steps", "2", "3"))
    return out


@pytest.fixture(scope="module")
def pipeline(pipeline_folder) -> MedSegLatDiffPipeline:
    pipeline = MedSegLatDiffPipeline.from_pretrained(pipeline_folder)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def test_results_are_the_means_of_the_table(finished):
    results, table = json.loads(finished.read_text()), pandas.read_parquet(finished.with_suffix(".parquet"))
    assert results["num_images"] == LIMIT and results["num_masks"] == 4 and results["num_inference_steps"] == 3
    assert set(results["by_steps"]) == {"2", "3"}
    for steps, block in results["by_steps"].items():
        rows = table[table["steps"] == int(steps)]
        assert len(rows) == LIMIT and rows["image_id"].is_unique
        for name in ("ged", "hm_iou", "dice", "soft_dice", "brier"):
            entry = block["metrics"][name]
            assert entry["value"] == pytest.approx(rows[name].mean())
            assert entry["low"] <= entry["value"] <= entry["high"]
        pooled = 2 * rows["intersection"].sum() / rows["areas"].sum()
        assert block["metrics"]["dice_pooled"]["value"] == pytest.approx(pooled)
        assert block["metrics"]["hd95"]["num_images"] + block["metrics"]["hd95"]["num_infinite"] == LIMIT
    assert results["metrics"] == results["by_steps"]["3"]["metrics"]
    assert results["by_num_masks"]["4"]["ged"] == results["metrics"]["ged"]
    assert results["versions"]["torch"] == torch.__version__ and len(results["git_commit"] or "0" * 40) == 40
    assert min(results[name] for name in ("masks_per_second", "wall_seconds", "peak_memory_bytes")) > 0
    assert results["command"].startswith("accelerate launch -m medseglatdiff evaluate --pipeline ")
    assert results["seed"] == 0 and len(results["data_fingerprint"]) == 16


def test_degenerate_predictors_stand_beside_the_model(finished):
    degenerate = json.loads(finished.read_text())["degenerate"]
    assert degenerate["majority"]["dice"]["value"] == 1
    assert degenerate["majority"]["diversity"]["value"] == 0
    assert degenerate["random_rater"]["ged"]["value"] < degenerate["majority"]["ged"]["value"]
    assert degenerate["majority"]["ged"]["value"] < degenerate["always_empty"]["ged"]["value"]


def test_plots_are_written(finished):
    for name in ("reliability", "risk_coverage", "samples", "size", "steps"):
        with PIL.Image.open(finished.parent / f"plot_{name}.png") as picture:
            assert min(picture.size) > 400
            assert len(np.unique(np.asarray(picture.convert("L")))) > 20  # not blank


def test_a_full_disk_leaves_nothing_half_written(pipeline_folder, tmp_path):
    """No file may grow beyond 4 kB, so the table of the images cannot be written."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4000, limits[1]))
    try:
        with pytest.raises(OSError, match="[Ff]ile too large"):
            evaluate.main(command_line(pipeline_folder, tmp_path / "results.json", "--limit", "2"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_one_rater_gets_plots_too(pipeline, tmp_path):
    from medseglatdiff.evaluation.plots import save_plots

    rows = [row | {"masks": row["masks"][:1]} for row in phantom_rows(5, size=32, num_raters=1)]
    predictions = predict(pipeline, rows, 2, 1, seed=0)
    measured = [measure_row(row, 2, 0, prediction) for row, prediction in zip(rows, predictions, strict=True)]
    results = summarize(measured, 2) | {"num_inference_steps": 1}
    assert "thresholded_jaccard" in results["metrics"] and "ged" not in results["by_num_masks"]["2"]
    assert results["degenerate"] == {}
    table = pandas.DataFrame(measured).assign(steps=1)
    assert [path.name for path in save_plots(results, table, tmp_path)] == [
        "plot_reliability.png", "plot_risk_coverage.png", "plot_samples.png", "plot_size.png",
    ]  # fmt: skip


def test_two_processes_give_the_numbers_of_one(finished, pipeline_folder, tmp_path):
    folder = shutil.copytree(pipeline_folder, tmp_path / "pipeline")
    out = folder / "results.json"
    environment = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    words = command_line(folder, out, "--steps", "3")
    subprocess.run([*TWO_PROCESSES, str(TRAINING / "evaluate.py"), *words], env=environment, check=True)
    one, two = json.loads(finished.read_text()), json.loads(out.read_text())
    assert two["num_processes"] == 2 and two["num_images"] == LIMIT
    assert two["data_fingerprint"] == one["data_fingerprint"]
    for name, entry in one["metrics"].items():
        if entry["value"] is not None:
            assert two["metrics"][name]["value"] == pytest.approx(entry["value"], abs=5e-4), name


def test_other_settings_of_a_pipeline_are_another_evaluation(pipeline_folder, tmp_path):
    """What calibrate.py changes lies in model_index.json alone; finished images of before must not count."""
    folder = shutil.copytree(pipeline_folder, tmp_path / "pipeline")
    options = evaluate.parse_arguments(command_line(folder, tmp_path / "results.json"))
    before = evaluate.parts_folder(options, 2, "no")
    assert evaluate.parts_folder(options, 2, "no") == before
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {"spread": 0.75}))
    assert evaluate.parts_folder(options, 2, "no") != before


def test_interrupted_evaluation_resumes(finished, pipeline_folder, tmp_path, monkeypatch):
    folder = shutil.copytree(pipeline_folder, tmp_path / "pipeline")
    out = folder / "results.json"  # where a card reads it: what is written there must not look like another model
    monkeypatch.setattr(evaluate, "IMAGES_PER_PART", 8)
    measured = []

    def interrupted(row, *arguments):
        if len(measured) == 9:
            raise KeyboardInterrupt
        measured.append(row["image_id"])
        return measure_row(row, *arguments)

    words = command_line(folder, out, "--steps", "3")
    monkeypatch.setattr(evaluate, "measure_row", interrupted)
    with pytest.raises(KeyboardInterrupt):
        evaluate.main(words)
    assert not out.exists() and len(measured) == 9
    first_part = measured[:8]
    measured.clear()
    evaluate.main(words)
    assert len(measured) == LIMIT - 8 and not set(measured) & set(first_part)
    resumed, whole = json.loads(out.read_text())["metrics"], json.loads(finished.read_text())["metrics"]
    assert resumed.keys() == whole.keys()
    for name, entry in whole.items():
        assert resumed[name] == pytest.approx(entry, abs=5e-4), name
    assert not out.with_suffix(".parts").exists()


def test_degenerate_predictors_alone_need_no_model(tmp_path):
    out = tmp_path / "results.json"
    evaluate.main(["--dataset", "phantom", "--limit", "3", "--num-masks", "4", "--out", str(out)])
    results = json.loads(out.read_text())
    assert results["metrics"] == {} and results["pipeline"] is None
    assert results["degenerate"]["random_rater"]["ged"]["num_images"] == 3


BAD_OPTIONS = {
    "--num-masks 0": "`--num-masks` must be at least 1, but was 0",
    "--limit 0": "`--limit` must be at least 1, but was 0",
    "--steps 4 -1": "`--steps` must be at least 1, but was -1",
    "--scheduler Euler": "`--scheduler` must be a class of diffusers, but was Euler",
}


@pytest.mark.parametrize("words", BAD_OPTIONS)
def test_bad_options_are_refused(words, capsys):
    with pytest.raises(SystemExit):
        evaluate.parse_arguments(["--dataset", "phantom", *words.split()])
    assert BAD_OPTIONS[words] in capsys.readouterr().err


def test_scheduler_noise_and_own_steps_of_the_checkpoint(pipeline_folder, tmp_path, capsys):
    results = {}
    for noise in ("zero", "same"):
        out = tmp_path / noise / "results.json"
        options = ["--scheduler", "DPMSolverMultistepScheduler", "--noise", noise, "--limit", "3"]
        evaluate.main(command_line(pipeline_folder, out, *options))
        results[noise] = json.loads(out.read_text())
        assert results[noise]["scheduler"] == "DPMSolverMultistepScheduler" and results[noise]["noise"] == noise
        assert results[noise]["num_inference_steps"] == 10 and "by_steps" not in results[noise]
    assert results["zero"]["metrics"]["diversity"]["value"] == 0 < results["same"]["metrics"]["diversity"]["value"]
    assert "ged_unbiased" in capsys.readouterr().out
