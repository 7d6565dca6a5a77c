"""The model card: a function of pipeline, settings and results, that says nothing they do not."""

import dataclasses
import json
import re
import string
import sys
from pathlib import Path

import pytest
from conftest import tiny_pipeline
from huggingface_hub import DatasetCard, ModelCard

from medseglatdiff.data.phantom import phantom_rows
from medseglatdiff.evaluation.rows import measure_row, predict
from medseglatdiff.evaluation.summary import summarize
from medseglatdiff.hub.cards import training_facts
from medseglatdiff.hub.publish import folder_card, model_card
from medseglatdiff.hub.result_cards import result_facts

ROOT = Path(__file__).resolve().parents[1]
PIPELINES = sorted(path.parent for path in ROOT.glob("pipelines/*/model_index.json"))


def evaluated(num_raters: int) -> dict:
    """Results of a real evaluation of the tiny pipeline on phantoms, with what evaluate.py adds to them."""
    pipeline, rows = tiny_pipeline(), list(phantom_rows(6, size=32, num_raters=num_raters))
    by_steps = {}
    for steps in (1, 2):
        predictions = predict(pipeline, rows, 4, steps, seed=0)
        measured = [measure_row(row, 4, 0, prediction) for row, prediction in zip(rows, predictions, strict=True)]
        by_steps[str(steps)] = summarize(measured, 4) | {"masks_per_second": 25 / steps}
    around = dict(dataset="data/lidc-idri", split="test", limit=None, num_inference_steps=2, scheduler="DDIMScheduler")
    return {**around, **by_steps["2"], "device": "test CPU", "mixed_precision": "bf16", "by_steps": by_steps}


@pytest.fixture(scope="module")
def results() -> dict:
    return evaluated(num_raters=4)


@pytest.fixture(scope="module")
def settings() -> dict:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "training"))
        from medseglatdiff.training.config import Config
    run = {"step": 1234, "best_score": 0.5, "best_step": 1100, "wall_hours": 1.25, "cpu_hours": 2.5}
    return {
        "config": dataclasses.asdict(Config(mixed_precision="no")),
        "stages": {"mask_vae": run, "image_vae": run, "unet": {**run, "step": 5678}, "energy": {**run, "step": 910}},
        "rows": {"train": 9641, "validation": 1410},
        "num_processes": 2,
        "hardware": "test CPU, 2 threads",
    }


def test_a_pipeline_trained_on_tells_where_it_started(settings):
    run = settings["stages"]["unet"]
    others = {"unet_learning_rate": 0.123, "batch_size": 7}
    before = {"start/unet": run | {"step": 321, "other_settings": others}}
    fine_tuned = settings | {"stages": before | settings["stages"]}
    fine_tuned["config"] = settings["config"] | {"start_from": "tester/start"}
    facts = training_facts(fine_tuned)
    assert "all initial weights come from `tester/start`" in facts["summary"]
    assert "| denoiser, of the start | 321 | 14 | 0.123 |" in facts["stages"]
    assert "| denoiser | 5,678 | 32 | 0.0005 |" in facts["stages"]
    assert "start" not in training_facts(settings)["summary"]
    before["start/unet"] |= {"num_processes": 5, "git_commit": "0123456789"}
    facts = training_facts(fine_tuned | {"stages": {"start/start/unet": run} | before | settings["stages"]})
    assert "come from `tester/start`, trained at commit 0123456." in facts["summary"]
    assert "| denoiser, of the start | 321 | 35 | 0.123 |" in facts["stages"]
    assert "| denoiser, of the start, of the start | 5,678 |" in facts["stages"]


def test_each_mask_stage_tells_its_foreground_weight_and_decay(settings):
    run = settings["stages"]["mask_vae"] | {"other_settings": {"foreground_weight": None, "ema_decay": 0.9}}
    stages = settings["stages"] | {"mask_vae": run, "mask_decoder": settings["stages"]["mask_vae"]}
    told = training_facts(settings | {"stages": stages})["stages"]
    assert "| mask autoencoder | 1,234 | 32 | 0.002 | by pixel frequencies | 0.9 | 1,100 |" in told
    assert "| mask decoder, with a frozen encoder | 1,234 | 32 | 0.002 | 10.0 | 0.995 | 1,100 |" in told
    assert "| image autoencoder | 1,234 | 32 | 0.002 |  | 0.995 |" in told


def test_the_mean_of_runs_tells_each(settings):
    *others, (_, run) = settings["stages"].items()
    averaged = dict(others) | {"run 1/energy": run, "run 2/energy": run | {"num_processes": 3}}
    facts = training_facts(settings | {"stages": averaged})
    assert "The weights are the mean over 2 runs." in facts["summary"]
    assert "with the energy score and 1 - IoU" in facts["summary"]
    assert "| sampler, with the energy score, of run 1 | 910 | 16 |" in facts["stages"]
    assert "| sampler, with the energy score, of run 2 | 910 | 24 |" in facts["stages"]
    assert "mean of those" not in training_facts(settings)["summary"]


def test_chosen_masks_are_told(results):
    told = result_facts(results | {"num_candidates": 12, "spread": 0.8}, "Nodules")
    assert "representative of 12 candidates (spread 0.8)" in told["summary"]
    assert "GED without the bias" not in told["tables"]["All metrics"]
    drawn = result_facts(results | {"num_candidates": results["num_masks"], "spread": 1.0}, "Nodules")
    assert "representative" not in drawn["summary"] and "GED without the bias" in drawn["tables"]["All metrics"]


@pytest.fixture(scope="module")
def dataset_card() -> DatasetCard:
    template = (ROOT / "src" / "medseglatdiff" / "builders" / "card_lidc_idri.md").read_text("utf-8")
    facts = dict(
        splits="| split | rows |\n|---|---|\n| train | 9,641 |", built="", dropped="", skipped="", duplicates=""
    )
    return DatasetCard(string.Template(template).safe_substitute(facts))


@pytest.fixture(scope="module")
def card(results, settings, dataset_card) -> ModelCard:
    return model_card(tiny_pipeline(), settings, results, repo_id="tester/nodules", dataset_card=dataset_card)


def sections(text: str) -> dict[str, str]:
    parts = re.split(r"^#{2,3} (.+)$", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_metadata(card):
    data = card.data.to_dict()
    assert data["library_name"] == "diffusers" and data["pipeline_tag"] == "image-segmentation"
    assert data["license"] == "cc-by-3.0" and data["datasets"] == ["lidc-idri"]
    assert {"medseglatdiff", "arxiv:2512.01292", "multi-rater"} <= set(data["tags"])
    assert data["metrics"] == [entry["metric"]["type"] if "metric" in entry else entry["type"] for entry in
                               data["model-index"][0]["results"][0]["metrics"]]  # fmt: skip


def test_model_index_parses_back_to_the_same_numbers(card, results):
    parsed = ModelCard(str(card)).data
    assert parsed.model_name == "nodules"
    numbers = {entry.metric_type: entry.metric_value for entry in parsed.eval_results}
    assert set(numbers) == {"ged", "hm_iou", "dice", "dice_non_empty", "iou", "ece"}
    assert numbers == {name: results["metrics"][name]["value"] for name in numbers}
    assert {(entry.dataset_name, entry.dataset_split) for entry in parsed.eval_results} == {
        ("LIDC-IDRI nodules with four readers", "test")
    }


def test_card_survives_being_read_again(card):
    assert str(ModelCard(str(card))) == str(card)


def test_no_section_is_empty_and_nothing_is_left_open(card):
    text = card.text
    assert len(str(card).splitlines()) < 200
    assert all(re.search(r"\w", body) for body in sections(text).values())
    assert not re.search(r"None|\bnan\b|\{\{|\{%|\n\n\n|[ \t]\n", text)
    assert {"Use", "Intended use", "Training", "Results", "Limits", "Citation", "By number of denoising steps"} <= set(
        sections(text)
    )
    assert "Not a medical device" in text and "cc-by-3.0" in text and "Armato" in text


def test_tables_hold_the_numbers_of_the_results(card, results):
    parts = sections(card.text)
    ged = results["metrics"]["ged"]
    cell = f"{ged['value']:.3f} [{ged['low']:.3f}, {ged['high']:.3f}]"
    assert f"| generalised energy distance (GED) ↓ | {cell} | per image | 6 |" in parts["All metrics"]
    assert f"| **this model** | {cell} |" in parts["Compared with predictors that need no model"]
    assert f"| 2 | {cell} |" in parts["By number of denoising steps"]
    assert "| masks per second |" in parts["By number of denoising steps"] and " | 12.5 |" in card.text
    assert f"| 4 | {cell} |" in parts["By number of masks (the first of each image): Dice of their majority"]
    always_empty = results["degenerate"]["always_empty"]["ged"]["value"]
    assert f"| always empty | {always_empty:.3f} [" in parts["Compared with predictors that need no model"]
    assert "| denoiser | 5,678 | 32 | 0.0005 |  | 0.995 | 1,100 | 1.25 | 2.50 |" in parts["Training"]
    assert (
        "| sampler, with the energy score | 910 | 16 | 0.0002 |  | 0.995 | 1,100 | 1.25 | 2.50 |" in parts["Training"]
    )
    assert "9,641 training and 1,410 validation rows" in parts["Training"]


def test_card_follows_the_results(results, settings):
    changed = json.loads(json.dumps(results))
    changed["metrics"]["dice"]["value"] = 0.123456
    before, after = (str(model_card(tiny_pipeline(), settings, r, repo_id="a/b")) for r in (results, changed))
    assert "0.123 [" in after and "value: 0.123456" in after and before != after


def test_what_is_unknown_has_no_section():
    titles = set(sections(model_card(tiny_pipeline(), {}, {}, repo_id="a/b").text))
    assert titles == {"Use", "Intended use", "Limits", "Citation"}


def test_one_rater_and_three_classes():
    card = model_card(tiny_pipeline(), {}, evaluated(num_raters=1), repo_id="a/b")
    assert "GED" not in card.text and "Against" not in card.text and "ISIC score" in card.text
    card = model_card(tiny_pipeline(num_classes=3, image_channels=3), {}, {}, repo_id="a/b")
    assert "| **foreground classes** | 3 |" in card.text and "RGB images" in card.text


def test_a_licence_without_a_known_name_keeps_its_own(results):
    data = DatasetCard((ROOT / "src" / "medseglatdiff" / "builders" / "card_cvc_clinicdb.md").read_text("utf-8"))
    card = model_card(tiny_pipeline(), {}, results, repo_id="a/b", dataset_card=data)
    assert (card.data.license, card.data.license_name) == ("other", "research-and-education-only")
    assert "**Licence of the training data.** research-and-education-only; its terms" in card.text


def test_local_paths_stay_private(results):
    elsewhere = results | {"dataset": "/home/somebody/secret/my-images/", "pipeline": "/home/somebody/secret/model"}
    text = str(model_card(tiny_pipeline(), {}, elsewhere, repo_id="a/b"))
    assert "somebody" not in text and "`my-images`" in text
    hub = str(model_card(tiny_pipeline(), {}, results | {"dataset": "org/images"}, repo_id="a/b"))
    assert "- org/images" in hub


def test_jinja_is_asked_for_by_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(ImportError, match=r"medseglatdiff\[hub\]"):
        model_card(tiny_pipeline(), {}, {}, repo_id="a/b")


@pytest.mark.parametrize("folder", PIPELINES, ids=lambda folder: folder.name)
def test_committed_card_is_current(folder):
    """`python training/publish.py pipelines/NAME --card-only` mends a failure."""
    written = (folder / "README.md").read_text("utf-8")
    (repo_id,) = re.findall(r'MedSegLatDiffPipeline.from_pretrained\("(.+)"\)', written)
    assert repo_id == f"pipelines/{folder.name}" or re.fullmatch(r"[\w.-]+/[\w.-]+", repo_id)
    assert written == str(folder_card(folder, repo_id))
    assert all((folder / picture).is_file() for picture in re.findall(r"!\[.+\]\((.+)\)", written))


def test_antithetic_masks_are_told(results, settings, dataset_card):
    told = "Half of the masks start from the negated noise"
    options = dict(repo_id="tester/nodules", dataset_card=dataset_card)
    for antithetic in (False, True):
        card = model_card(tiny_pipeline(), settings, {**results, "antithetic": antithetic}, **options)
        assert (told in str(card)) == antithetic


def without_methods(entry):
    """Results as they were before entries named the method of their interval."""
    if isinstance(entry, dict):
        return {name: without_methods(value) for name, value in entry.items() if name != "interval"}
    return entry


def test_intervals_are_named_and_those_that_cover_too_little_are_left_out(results):
    facts = result_facts(results, "Nodules")
    assert "95 % intervals, Student's t over 6 groups" in facts["summary"] and "[" in facts["tables"]["All metrics"]
    old = without_methods(results)
    facts = result_facts(old | {"num_groups": 5}, "Nodules")
    assert "No intervals: 5 groups are too few" in facts["summary"]
    assert not any("[" in table for table in facts["tables"].values())
    facts = result_facts(old | {"num_groups": 10}, "Nodules")
    assert "95 % bootstrap intervals over 10 groups" in facts["summary"] and "[" in facts["tables"]["All metrics"]
