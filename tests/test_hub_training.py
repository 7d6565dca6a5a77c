"""Training that publishes: each best pipeline in the background, the last one at the end."""

import json

import pytest
from hub_fixtures import ROOT, Hub, hub  # noqa: F401
from huggingface_hub import ModelCard

from medseglatdiff import MedSegLatDiffPipeline
from medseglatdiff.hub.cards import training_facts

REPO = ("model", "tester/trained")
SETTINGS = dict(
    sample_size=32,
    mixed_precision="no",
    mask_vae={"block_out_channels": [8, 8], "norm_num_groups": 4},
    image_vae={"block_out_channels": [8, 8], "norm_num_groups": 4, "latent_channels": 2},
    unet={"block_out_channels": [8, 16], "attention": [False, False], "layers_per_block": 1, "norm_num_groups": 4},
    mask_vae_steps=2,
    image_vae_steps=2,
    unet_steps=4,
    energy_steps=2,
    batch_size=4,
    validation_every=2,
    validation_images=2,
    validation_masks=2,
    hub_model_id=REPO[1],
    push_to_hub=True,
    push_best=True,
)
TRAIN = """
import json, sys
from medseglatdiff.training.config import Config
from medseglatdiff.training.train import run
run(Config(**json.loads(sys.argv[1])))
"""


@pytest.fixture(scope="module")
def run(hub, tmp_path_factory):  # noqa: F811
    folder = tmp_path_factory.mktemp("run")
    hub.python(TRAIN, folder / "home", json.dumps({**SETTINGS, "output_dir": str(folder)}))
    return folder


def test_best_and_last_are_published(run, hub: Hub):  # noqa: F811
    titles = [title for _, title, _ in hub.repos[REPO].commits]
    assert titles[:2] == ["initial commit", "Best so far, after 2 steps"] and titles[-1] == "Trained to the end"
    files = hub.files(*REPO)
    for path in (run / "pipeline").rglob("*"):
        published = files.get(path.relative_to(run / "pipeline").as_posix())
        if path.suffix == ".json":
            own = json.loads(path.read_text())
            own.pop("_name_or_path", None)  # the folder it was loaded from stays private
            assert json.loads(published) == own, path
        elif path.is_file() and path.name != "README.md":
            assert published == path.read_bytes(), path
    best = hub.repos[REPO].commits[1][2]
    assert json.loads(best["mask_vae/config.json"]) == json.loads(files["mask_vae/config.json"])
    assert MedSegLatDiffPipeline.from_pretrained(run / "best-pipeline").config.sample_size == 32


def test_card_tells_how_it_was_trained(run, hub: Hub):  # noqa: F811
    card = ModelCard(hub.files(*REPO)["README.md"].decode())
    assert "| denoiser | 4 | 4 |" in card.text and "| sampler, with the energy score | 2 | 8 |" in card.text
    assert "## Results" not in card.text
    assert "256 training and 32 validation rows" in card.text


def test_a_start_on_the_hub_keeps_its_history(run, hub: Hub, tmp_path):  # noqa: F811
    settings = {"stage": "energy", "start_from": REPO[1], "energy_steps": 1, "output_dir": str(tmp_path / "out")}
    settings |= {name: SETTINGS[name] for name in ("mixed_precision", "validation_images", "validation_masks")}
    hub.python(TRAIN, tmp_path / "home", json.dumps(settings))
    record = json.loads((tmp_path / "out" / "pipeline" / "training.json").read_text())
    assert list(record["stages"]) == ["mask_vae", "image_vae", "unet", "start/energy", "energy"]
    assert record["config"]["start_from"] == REPO[1] and record["config"]["sample_size"] == 32
    before = json.loads((run / "pipeline" / "training.json").read_text())["stages"]
    assert record["stages"]["start/energy"] == before["energy"] and record["stages"]["unet"] == before["unet"]
    assert f"initial weights come from `{REPO[1]}`" in training_facts(record)["summary"]


def test_a_start_that_the_hub_does_not_have_is_named(hub: Hub, tmp_path):  # noqa: F811
    settings = {"stage": "energy", "start_from": "tester/nowhere", "output_dir": str(tmp_path / "out")}
    done = hub.python(TRAIN, tmp_path / "home", json.dumps(settings), check=False)
    assert "`start_from` must be a folder or a Hub id, but there is no folder tester/nowhere" in done.stderr
    assert done.returncode and not (tmp_path / "out").exists()


def test_settings_that_do_not_fit_are_refused(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(ROOT / "training"))
    from medseglatdiff.training.config import Config

    with pytest.raises(ValueError, match="`hub_model_id` must be"):
        Config(push_to_hub=True)
    with pytest.raises(ValueError, match="`push_to_hub` must be"):
        Config(push_best=True, hub_model_id="a/b")
