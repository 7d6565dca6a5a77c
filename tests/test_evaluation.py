"""The evaluation command with a tiny real pipeline on phantoms: sums, resuming, processes, plots, options."""

import json
import os
import resource
import shutil
import subprocess
from fnmatch import fnmatch
from pathlib import Path

import numpy as np
import pandas
import PIL.Image
import pytest
import torch
from conftest import TWO_PROCESSES
from diffusers import DDIMScheduler

from medseglatdiff import MedSegLatDiffPipeline, MedSegLatDiffUNet, MedSegLatDiffVAE, cli
from medseglatdiff.data.files import PREFIX
from medseglatdiff.data.phantom import phantom_rows
from medseglatdiff.evaluation import evaluate, measuring
from medseglatdiff.evaluation.contact_sheet import choose_examples
from medseglatdiff.evaluation.rows import measure_row, predict
from medseglatdiff.evaluation.summary import summarize
from medseglatdiff.hub.publish import PUBLISHED
from medseglatdiff.training.commands import public_command
from medseglatdiff.training.provenance import public

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
    return [str(word) for word in (*shared, "--no-pictures", *more)]


@pytest.fixture(scope="module")
def finished(pipeline_folder, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("evaluation") / "results.json"
    words = command_line(pipeline_folder, out, "--steps", "2", "3")
    evaluate.main([word for word in words if word != "--no-pictures"])
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
            assert entry["low"] < entry["value"] < entry["high"] and entry["interval"] == "t over groups"
            assert entry["num_groups"] == LIMIT
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
    before = measuring.parts_folder(options, 2, "no")
    assert measuring.parts_folder(options, 2, "no") == before
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {"spread": 0.75}))
    assert measuring.parts_folder(options, 2, "no") != before


def test_a_data_set_that_was_built_again_is_another_evaluation(pipeline_folder, tmp_path):
    shard = tmp_path / "data" / "data" / "test-00000-of-00001.parquet"
    shard.parent.mkdir(parents=True)
    shard.write_bytes(b"old")
    options = evaluate.parse_arguments(command_line(pipeline_folder, tmp_path / "results.json"))
    options.dataset = str(tmp_path / "data")
    before = measuring.parts_folder(options, 2, "no")
    assert measuring.parts_folder(options, 2, "no") == before
    shard.write_bytes(b"built again")
    assert measuring.parts_folder(options, 2, "no") != before


def test_interrupted_evaluation_resumes(finished, pipeline_folder, tmp_path, monkeypatch):
    folder = shutil.copytree(pipeline_folder, tmp_path / "pipeline")
    out = folder / "results.json"  # where a card reads it: what is written there must not look like another model
    monkeypatch.setattr(measuring, "IMAGES_PER_PART", 8)
    measured = []

    def interrupted(row, *arguments):
        if len(measured) == 9:
            raise KeyboardInterrupt
        measured.append(row["image_id"])
        return measure_row(row, *arguments)

    words = command_line(folder, out, "--steps", "3")
    monkeypatch.setattr(measuring, "measure_row", interrupted)
    with pytest.raises(KeyboardInterrupt):
        evaluate.main(words)
    assert not out.exists() and len(measured) == 9
    first_part = measured[:8]
    [part] = out.with_suffix(".parts").rglob("*.parquet")
    part.with_name(f"{PREFIX}0-{part.name}").write_bytes(b"half of a table")  # of a process that was killed
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
    "--num-masks 0": "argument --num-masks: must be a whole number of at least 1, but was '0'",
    "--limit none": "argument --limit: must be a whole number of at least 1, but was 'none'",
    "--steps 4 x": "argument --steps: must be a whole number of at least 1, but was 'x'",
    "--scheduler Euler": "`--scheduler` must be a class of diffusers, but was Euler.",
    "--num-candidates 3": "`--num-candidates` must be at least `--num-masks`, 16, but was 3.",
    "--noise pink": "argument --noise: invalid choice: 'pink'",
    "--split dev": "`split` must be one of train, validation, test, but was 'dev'.",
    "--unknown": "unrecognized arguments: --unknown",
}


@pytest.mark.parametrize("words", BAD_OPTIONS)
def test_bad_options_are_refused_by_one_sentence(words, capsys):
    assert cli.main(["evaluate", "--dataset", "phantom", *words.split()]) == 2
    error = capsys.readouterr().err
    assert BAD_OPTIONS[words] in error and error.count("\n") == 1


def test_help_explains_every_option(capsys):
    with pytest.raises(SystemExit):
        evaluate.parse_arguments(["--help"])
    told = capsys.readouterr().out.partition("options:")[2]
    for entry in told.split("\n  --")[1:]:
        assert len(entry.split()) > 4, entry  # its name, a sentence, its default
    assert told.count("(default:") >= 12


def test_files_hold_no_paths_and_what_is_printed_says_where_they_are(pipeline_folder, tmp_path, capsys):
    folder = tmp_path / "somebody" / "nodules"
    shutil.copytree(pipeline_folder, folder)
    out = folder / "results.json"
    words = f"--pipeline {folder} --out={out} --dataset phantom --num-masks 2 --limit 2 --steps 1"
    evaluate.main(words.split())
    results = json.loads(out.read_text())
    assert results["pipeline"] == "nodules" and results["dataset"] == "phantom"
    words = "--pipeline nodules --out=results.json --dataset phantom --num-masks 2 --limit 2 --steps 1"
    assert results["command"] == f"accelerate launch -m medseglatdiff evaluate {words}"
    table = pandas.read_parquet(out.with_suffix(".parquet"))
    assert "somebody" not in out.read_text() + table.to_csv()
    printed, progress = capsys.readouterr()
    assert "image 2 of 2" in progress and "95 % interval" in printed and "Dice of the consensus ↑" in printed
    assert f"written: {out}" in printed and f"next: medseglatdiff publish {folder} --card-only" in printed


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("/home/somebody/models/nodules/", "nodules"),
        ("ORG/NAME", "ORG/NAME"),
        ("../data/mine", "mine"),
        ("outputs/lidc/pipeline", "pipeline"),
        ("~/images", "images"),
        (None, None),
        ("phantom", "phantom"),
    ],
)
def test_names_are_public_without_paths(given, shown):
    assert public(given) == shown


def test_this_folder_has_a_name_too(tmp_path, monkeypatch):
    (tmp_path / "nodules").mkdir()
    monkeypatch.chdir(tmp_path / "nodules")
    assert public(".") == "nodules"
    assert public_command("evaluate", ["--pipeline", ".", "--seed", "3"]).endswith("--pipeline nodules --seed 3")


def test_contact_sheet_shows_random_best_worst_and_disagreement(finished):
    with PIL.Image.open(finished.parent / "contact_sheet.png") as picture:
        assert picture.size == (4 * 232 + 8, 12 * 254 + 30)
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    tiles = [pixels[44 + 254 * line : 44 + 254 * line + 224, 8:232] for line in range(12)]
    assert all(np.ptp(tile) > 50 and (np.ptp(tile, axis=2) == 0).all() for tile in tiles)  # the images, grey
    readers = [pixels[44 + 254 * line : 44 + 254 * line + 224, 240:464] for line in range(12)]
    assert all(np.ptp(tile, axis=2).max() > 100 for tile in readers)  # coloured outlines
    table = pandas.read_parquet(finished.with_suffix(".parquet"))
    rows = table[table["steps"] == 3].to_dict("records")
    empty = rows[0] | {"image_id": "empty", "dice": 1.0, "reference_area": 0}  # right, but no lesion
    examples = choose_examples([*rows, empty])
    assert list(examples) == ["random", "best Dice", "worst Dice", "most disagreement"]
    assert len({row["image_id"] for row in examples["random"]}) == 3
    best = [row["dice"] for row in rows if row["reference_area"] > 0]
    assert [row["dice"] for row in examples["best Dice"]] == sorted(best, reverse=True)[:3]
    assert empty not in examples["best Dice"]
    assert [row["dice"] for row in examples["worst Dice"]] == sorted(row["dice"] for row in rows)[:3]
    disagreements = [row["diversity"] for row in examples["most disagreement"]]
    assert disagreements == sorted((row["diversity"] for row in rows), reverse=True)[:3]
    assert examples == choose_examples([empty, *rows[::-1]])  # whatever process measured which image


def test_pictures_are_left_out_where_data_must_not_be_shown(pipeline_folder, tmp_path):
    evaluate.main(command_line(pipeline_folder, tmp_path / "results.json", "--limit", "2", "--steps", "1"))
    assert (tmp_path / "plot_size.png").is_file() and not (tmp_path / "contact_sheet.png").exists()
    assert not any(fnmatch("contact_sheet.png", pattern) for pattern in PUBLISHED["model"])


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
    assert "GED without the bias of few masks ↓" in capsys.readouterr().out
