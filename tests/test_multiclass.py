"""Several classes from phantoms to results: a builder's data set, training, calibration, evaluation, card."""

import json
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from datasets import load_dataset

from medseglatdiff import MedSegLatDiffPipeline, cli
from medseglatdiff.data.splits import read_raters
from medseglatdiff.hub.publish import folder_card

PRESET = Path(__file__).parents[1] / "training" / "configs" / "phantom_multiclass.json"
SHORT = ["mask_vae", "image_vae", "unet", "energy"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """40 phantoms with two tissues, and a pipeline that the preset trained on them for two steps a stage."""
    folder = tmp_path_factory.mktemp("multiclass")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("datasets.config.HF_DATASETS_CACHE", str(folder / "cache"))
        words = "dataset phantom --out {0}/data --num-rows 40 --size 32 --num-classes 2 --num-raters 3"
        assert cli.main(words.format(folder).split()) == 0
        steps = " ".join(f"--{stage.replace('_', '-')}-steps 2" for stage in SHORT)
        words = f"train --config {PRESET} --dataset {folder}/data --output-dir {folder}/run --sample-size 32 {steps}"
        words += " --validation-images 2 --validation-masks 2 --batch-size 2 --energy-batch-size 2 --energy-masks 2"
        assert cli.main(f"{words} --default-num-masks 4 --mixed-precision no".split()) == 0
        shared = f"--pipeline {folder}/run/pipeline --dataset {folder}/data"
        assert cli.main(f"calibrate {shared} --num-candidates 6".split()) == 0
        words = f"evaluate {shared} --num-masks 4 --out {folder}/run/pipeline/results.json"
        assert cli.main(words.split()) == 0
    return folder


def test_masks_of_the_data_set_are_label_maps(folder):
    row = load_dataset(str(folder / "data"), split="test", cache_dir=str(folder / "cache"))[0]
    assert [mask.mode for mask in row["masks"]] == ["L"] * 3
    assert set(np.unique(read_raters(row, num_classes=2))) <= {0, 1, 2}


def test_the_pipeline_is_calibrated_for_all_classes(folder):
    pipeline = MedSegLatDiffPipeline.from_pretrained(folder / "run" / "pipeline")
    measured = json.loads((folder / "run" / "pipeline" / "calibration.json").read_text())
    assert pipeline.num_classes == measured["num_classes"] == 2
    assert pipeline.config.default_num_candidates == 6 and pipeline.config.spread == measured["spread"]
    assert pipeline.config.threshold == measured["threshold"]
    assert sum(measured["pixels"]) == measured["num_images"] * 2 * 32**2  # each pixel once for each class


def test_results_table_and_plots_have_each_class(folder):
    results = json.loads((folder / "run" / "pipeline" / "results.json").read_text())
    assert results["num_classes"] == 2 and set(results["classes"]) == {"1", "2"}
    for name in ("dice", "ged", "brier", "diversity", "nsd"):
        classes = [block[name] for block in results["classes"].values()]
        assert results["metrics"][name]["value"] == pytest.approx(np.mean([entry["value"] for entry in classes])), name
        assert all(entry["num_images"] == results["num_images"] for entry in classes)
    assert results["degenerate"]["majority"]["dice"]["value"] == 1
    for name in ("plot_classes", "plot_reliability", "plot_size", "contact_sheet"):
        with PIL.Image.open(folder / "run" / "pipeline" / f"{name}.png") as picture:
            assert len(np.unique(np.asarray(picture.convert("L")))) > 20  # not blank


def test_the_card_has_a_table_and_a_plot_of_the_classes(folder):
    card = str(folder_card(folder / "run" / "pipeline", "me/nodules"))
    dice = json.loads((folder / "run" / "pipeline" / "results.json").read_text())["classes"]["2"]["dice"]
    line = next(line for line in card.split("### By class")[1].splitlines() if line.startswith("| 2 |"))
    assert f"| {dice['value']:.{4 if 0 < dice['value'] < 0.1 else 3}f}" in line and "plot_classes.png" in card


def test_predictors_without_a_model_need_the_number_of_classes(folder, tmp_path, capsys):
    words = f"evaluate --dataset phantom --limit 2 --num-masks 2 --out {tmp_path}/results.json"
    assert cli.main(f"{words} --num-classes 3".split()) == 0
    degenerate = json.loads((tmp_path / "results.json").read_text())["degenerate"]
    assert degenerate["majority"]["dice"]["value"] == 1 > degenerate["random_rater"]["dice"]["value"]
    assert cli.main(words.replace("phantom", f"{folder}/data").split()) == 2
    assert "`masks` must hold 0 and 255, but held [0, 1, 2]" in capsys.readouterr().err
