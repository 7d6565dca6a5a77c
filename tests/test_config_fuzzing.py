"""Whatever a config or model_index.json holds: a class that can be built, or a sentence; never another error."""

import json
from pathlib import Path

import pytest
from conftest import tiny_pipeline
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medseglatdiff import MedSegLatDiffImageEncoder, MedSegLatDiffPipeline, MedSegLatDiffUNet, MedSegLatDiffVAE
from medseglatdiff.models.checks import check_model, table_of
from medseglatdiff.pipeline.checks import SCHEDULER, SETTINGS, check_folder

CLASSES = {"mask_vae": MedSegLatDiffVAE, "image_encoder": MedSegLatDiffImageEncoder, "unet": MedSegLatDiffUNet}
FILES = ("model_index.json", "scheduler/scheduler_config.json")
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.text(max_size=12),
    st.sampled_from(["medseglatdiff", "diffusers", "DDIMScheduler", "os", "../evil", "vq", "linear", 0, 1, 8, 10**9]),
)
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("fuzzed")
    tiny_pipeline().save_pretrained(folder)
    return folder


@st.composite
def changed(draw, config: dict, known: tuple[str, ...] = ()) -> dict:
    """A config with settings replaced, added and deleted."""
    names = st.sampled_from(sorted({*config, *known})) | st.text(max_size=10)
    replaced = draw(st.dictionaries(names, JSON, max_size=3))
    gone = draw(st.sets(st.sampled_from(sorted(config)), max_size=1))
    return {name: value for name, value in (config | replaced).items() if name not in gone}


@st.composite
def changed_text(draw, text: str) -> str:
    """A file with characters replaced, or cut."""
    characters = list(text)
    for at in draw(st.lists(st.integers(0, len(text) - 1), max_size=4)):
        characters[at] = draw(st.sampled_from([*'{}[]",:-+.eE0123456789 ', "\0", "\\", "ü", "NaN", "true", "null"]))
    return "".join(characters)[: draw(st.integers(1, len(text)))] if draw(st.booleans()) else "".join(characters)


def build_or_refuse_model(data: st.DataObject):
    name = data.draw(st.sampled_from(list(CLASSES)))
    model_class = CLASSES[name]
    config = {"_class_name": model_class.__name__, "norm_num_groups": 8}
    change = data.draw(changed(config, tuple(table_of(model_class)[0])) | JSON)
    try:
        check_model(change, model_class)
    except ValueError as error:
        assert 10 < len(str(error)) < 600 and "\n" not in str(error)
    else:
        rules, _ = table_of(model_class)
        assert all(rule.holds(change[name]) for name, rule in rules.items() if name in change)


def load_or_refuse_folder(data: st.DataObject, folder: Path):
    path = folder / data.draw(st.sampled_from(FILES))
    before = path.read_text("utf-8")
    rules = SETTINGS if path.name == "model_index.json" else SCHEDULER
    config = json.loads(before)
    texts = changed(config, tuple(rules)).map(json.dumps) | JSON.map(json.dumps) | changed_text(before)
    text = data.draw(texts)
    path.write_text(text, "utf-8")
    try:
        check_folder(folder, MedSegLatDiffPipeline)
    except (ValueError, OSError) as error:
        assert not isinstance(error, UnicodeError) and 10 < len(str(error)) < 600
    else:
        loaded = json.loads(text)
        assert all(rule.holds(loaded[name]) for name, rule in rules.items() if name in loaded)
        if path.name == "model_index.json":
            kept = ("image_encoder", "mask_vae", "unet", "_class_name")
            assert all(loaded[name] == config[name] for name in kept)
            assert loaded["scheduler"][0] == "diffusers"
    finally:
        path.write_text(before, "utf-8")


OPTIONS = dict(deadline=None, suppress_health_check=list(HealthCheck))


@settings(max_examples=80, **OPTIONS)
@given(st.data())
def test_configs_of_models(data):
    build_or_refuse_model(data)


@settings(max_examples=80, **OPTIONS)
@given(st.data())
def test_indexes_and_schedulers(folder, data):
    load_or_refuse_folder(data, folder)


@pytest.mark.slow
@settings(max_examples=10_000, **OPTIONS)
@given(st.data())
def test_ten_thousand_configs_of_models(data):
    build_or_refuse_model(data)


@pytest.mark.slow
@settings(max_examples=10_000, **OPTIONS)
@given(st.data())
def test_ten_thousand_indexes_and_schedulers(folder, data):
    load_or_refuse_folder(data, folder)
