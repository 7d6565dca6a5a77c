"""The `evaluate` module, loaded from its folder as users load it, and its page."""

import doctest
import json
import runpy
from pathlib import Path
from types import SimpleNamespace

import evaluate
import gradio as gr
import numpy as np
import PIL.Image
import pytest
from hub_fixtures import hub  # noqa: F401 (a fixture)

from medseglatdiff import metrics
from medseglatdiff.data.phantom import phantom_rows
from medseglatdiff.metrics.names import NAMES

FOLDER = Path(__file__).parents[1] / "spaces" / "medseg_metrics"


@pytest.fixture
def load(tmp_path):
    return lambda config: evaluate.load(str(FOLDER), config, cache_dir=str(tmp_path))


@pytest.fixture(scope="module")
def raters() -> list[np.ndarray]:
    return [np.stack([np.asarray(mask) > 127 for mask in row["masks"]]) for row in phantom_rows(3, size=32)]


def test_docstring_runs(load):
    module = load("binary")
    test = doctest.DocTestParser().get_doctest(module.inputs_description, {"module": module}, "card", None, 0)
    assert doctest.DocTestRunner().run(test).failed == 0 and len(test.examples) == 3


def test_examples_of_the_card_run(monkeypatch, tmp_path):
    monkeypatch.chdir(FOLDER.parents[1])
    monkeypatch.setattr("evaluate.config.HF_METRICS_CACHE", str(tmp_path))
    done = doctest.testfile(str(FOLDER / "README.md"), module_relative=False)
    assert done.failed == 0 and done.attempted == 10


def test_loads_by_id_from_a_space(hub, tmp_path):  # noqa: F811
    hub.publish(tmp_path, "--space", "spaces/medseg_metrics", "--repo-id", "tester/medseg_metrics")
    code = """
import evaluate
metric = evaluate.load("tester/medseg_metrics", "multi_rater")
print(metric.compute(predictions=[[[[1, 1]], [[0, 1]]]], references=[[[[0, 1]], [[1, 1]]]])["diversity"])
"""
    assert hub.python(code, tmp_path).stdout.splitlines()[-1] == "0.5"


def test_multi_rater_is_the_mean_of_the_package(load, raters):
    samples = [array[::-1][:2] for array in raters]
    ragged = [raters[0], raters[1][:3], raters[2][:1]]
    results = load("multi_rater").compute(predictions=samples, references=ragged)
    pairs = list(zip(samples, ragged, strict=True))
    assert results["ged"] == pytest.approx(np.mean([metrics.generalized_energy_distance(*pair) for pair in pairs]))
    assert results["hm_iou"] == pytest.approx(np.mean([metrics.hm_iou(*pair) for pair in pairs]))
    assert results["diversity"] == pytest.approx(np.mean([metrics.diversity(array) for array in samples]))
    one = load("multi_rater").compute(predictions=[array[:1] for array in samples], references=ragged)
    assert "ged_unbiased" not in one


def test_binary_counts_infinite_distances(load):
    disc, empty = np.zeros((2, 8, 8), np.uint8)
    disc[2:5, 2:5] = 1
    results = load("binary").compute(predictions=[disc, disc], references=[disc, empty])
    assert results["dice"] == 0.5 and results["dice_pooled"] == pytest.approx(2 / 3)
    assert results["hd95"] == 0 and results["hd95_infinite"] == 1


def test_confidence(load, raters):
    share = [array.mean(axis=0) for array in raters]
    results = load("confidence").compute(predictions=share, references=raters)
    assert results["ece"] == pytest.approx(0, abs=1e-6)
    assert results["brier"] == pytest.approx(np.mean([(p * (1 - p)).mean() for p in share]), abs=1e-6)


GOOD = [[0, 1]]
BAD = {
    "non-binary": ("binary", [GOOD, [[0.5, 1]]], [GOOD, GOOD], "Row 1: `a` must be binary"),
    "NaN": ("binary", [GOOD, [[float("nan"), 1]]], [GOOD, GOOD], "Row 1: `a` must be binary"),
    "shapes": ("binary", [GOOD, [[0, 1, 1]]], [GOOD, GOOD], "Row 1: .* must have the same height and width"),
    "no sample": ("multi_rater", [[GOOD], []], [[GOOD], [GOOD]], "Row 1: `samples` must be a non-empty array"),
    "no rater": ("multi_rater", [[GOOD], [GOOD]], [[GOOD], []], "Row 1: `raters` must be a non-empty array"),
    "range": ("confidence", [GOOD, [[0, 1.5]]], [[GOOD], [GOOD]], r"Row 1: `confidence` must be in \[0, 1\]"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_rows_are_named(load, case):
    config, predictions, references, message = BAD[case]
    with pytest.raises(ValueError, match=message):
        load(config).compute(predictions=predictions, references=references)


def test_unknown_configuration_is_refused(load):
    with pytest.raises(ValueError, match="`config_name` must be one of"):
        load("ternary")


@pytest.fixture(scope="module")
def app():
    return SimpleNamespace(**runpy.run_path(str(FOLDER / "app.py"), run_name="app"))


def test_page_measures_png_and_npz(app, raters, tmp_path):
    np.savez(tmp_path / "samples.npz", masks=raters[0])
    files = [str(tmp_path / f"{index}.png") for index in range(len(raters[0]))]
    for file, mask in zip(files, raters[0], strict=True):
        PIL.Image.fromarray(mask.astype(np.uint8) * 255).save(file)
    numbers, figure = app.measure([str(tmp_path / "samples.npz")], files)
    values = {name: value for name, value, _ in numbers}
    assert values[NAMES["ged"]] == 0 and values[NAMES["hm_iou"]] == 1 and values[NAMES["dice"]] == 1
    assert all(meaning.strip() for *_, meaning in numbers) and "Dice of the consensus ↑" in values
    assert len(figure.axes) == 2
    assert isinstance(app.build_demo(), gr.Blocks)


def save_png(path: Path, array: np.ndarray) -> str:
    PIL.Image.fromarray(array.astype(np.uint8)).save(path)
    return str(path)


def save_npz(path: Path, array: np.ndarray) -> str:
    np.savez(path, masks=array)
    return str(path)


def test_page_refuses_what_are_no_masks(app, tmp_path):
    good = save_png(tmp_path / "good.png", np.eye(8) * 255)
    ones = save_png(tmp_path / "ones.png", np.eye(8))  # 0 and 1 mean the same as 0 and 255
    assert [row[1] for row in app.measure([good], [ones])[0] if row[0] == NAMES["dice"]] == [1]
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "text.npz").write_text("no archive")
    bad = {
        "at least one mask as predictions": None,
        "grey.png must hold 0 and one other value": [save_png(tmp_path / "grey.png", np.arange(64).reshape(8, 8))],
        "soft.npz must hold 0 and one other value": [save_npz(tmp_path / "soft.npz", np.linspace(0, 1, 4)[None])],
        "flat.npz must hold masks": [save_npz(tmp_path / "flat.npz", np.zeros(4))],
        "predictions must have one size": [good, save_png(tmp_path / "small.png", np.eye(4) * 255)],
        "Predictions and references must have one size": [str(tmp_path / "small.png")],
        "text.png cannot be read": [str(tmp_path / "text.png")],
        "text.npz cannot be read": [str(tmp_path / "text.npz")],
        "objects.npz cannot be read": [save_npz(tmp_path / "objects.npz", np.array([[None, 1]], dtype=object))],
    }
    for message, files in bad.items():
        with pytest.raises(gr.Error, match=message) as told:
            app.measure(files, [good])
        assert str(tmp_path) not in told.value.message


def test_the_example_of_the_page_can_be_measured(app, tmp_path):
    numbers, _ = app.measure(*app.write_example(tmp_path))
    values = {name: value for name, value, _ in numbers}
    assert 0.5 < values[NAMES["dice"]] < 1 and 0 < values[NAMES["ged"]] < 0.5


def test_page_answers_over_http(app, tmp_path):
    gradio_client = pytest.importorskip("gradio_client", reason="needs the extra `demo`")
    file = gradio_client.handle_file(save_png(tmp_path / "mask.png", np.eye(8) * 255))
    demo = app.build_demo()
    _, address, _ = demo.launch(prevent_thread_lock=True, quiet=True, server_name="127.0.0.1")
    try:
        client = gradio_client.Client(address, verbose=False)
        numbers, picture = client.predict([file], [file], api_name="/measure")
    finally:
        demo.close()
    assert numbers["data"][0][:2] == [NAMES["dice"], 1] and picture["type"] == "matplotlib"


def test_card_numbers_come_from_the_results_file():
    card = (FOLDER / "README.md").read_text()
    results = json.loads((FOLDER.parents[1] / "benchmarks" / "lidc_degenerate.json").read_text())
    labels = {
        "always_empty": "always empty",
        "union": "union of the raters",
        "majority": "majority of the raters, repeated",
        "random_rater": "a rater at random",
    }
    for name, label in labels.items():
        ged, hm_iou = (results["degenerate"][name][metric]["value"] for metric in ("ged", "hm_iou"))
        assert f"| {label} | {ged:.3f} | {hm_iou:.3f} |".replace(" 0.", " .") in card
    for entry in json.loads((FOLDER.parents[1] / "benchmarks" / "published.json").read_text())["lidc-idri"]:
        quoted = f"{entry['method']} {entry['ged']:.3f}" + (f" ({entry['hm_iou']:.3f}" if "hm_iou" in entry else "")
        assert quoted.replace("0.", ".") in " ".join(card.split())
    assert f"{results['num_images']:,} slices of {results['num_groups']} patients" in card
