"""Publish, then load by id in a fresh process with an empty cache, by every route; the card on the Hub is ours."""

import json
import re

import numpy as np
import pytest
from conftest import tiny_pipeline
from diffusers import DiffusionPipeline
from hub_fixtures import MODEL, ROOT, TOKEN, folder, hub  # noqa: F401
from huggingface_hub import ModelCard

from medseglatdiff import MedSegLatDiffPipeline
from medseglatdiff.cli import main
from medseglatdiff.hub.command import main as command
from medseglatdiff.hub.publish import PIPELINE_SHIM, contents, publish

SEGMENT = """
import sys
import numpy as np, torch
def masks(pipeline):
    image = (np.arange(40 * 30).reshape(40, 30) % 251).astype(np.uint8)
    return pipeline(image, generator=[torch.Generator().manual_seed(0)], num_masks=4).masks[0]
"""
ROUTES = """
from diffusers import AutoModel, DiffusionPipeline
repo, folder, out = sys.argv[1:4]
import medseglatdiff
from medseglatdiff import MedSegLatDiffPipeline, MedSegLatDiffUNet, MedSegLatDiffVAE
expected = masks(MedSegLatDiffPipeline.from_pretrained(folder))
class_route = MedSegLatDiffPipeline.from_pretrained(repo)
routes = {
    "class": class_route,
    "local files only": MedSegLatDiffPipeline.from_pretrained(repo, local_files_only=True),
    "revision": MedSegLatDiffPipeline.from_pretrained(repo, revision=sys.argv[4]),
    "shards": MedSegLatDiffPipeline.from_pretrained("tester/shards"),
    "shim": DiffusionPipeline.from_pretrained(repo, custom_pipeline=repo, trust_remote_code=True),
    "parts": MedSegLatDiffPipeline(
        image_encoder=MedSegLatDiffVAE.from_pretrained(repo, subfolder="image_encoder"),
        mask_vae=AutoModel.from_pretrained(repo, subfolder="mask_vae"),
        unet=AutoModel.from_pretrained(repo, subfolder="unet"),
        scheduler=class_route.scheduler,
        sample_size=32,
    ),
}
routes["parts"].register_to_config(default_num_inference_steps=2)
assert type(routes["parts"].mask_vae) is MedSegLatDiffVAE and type(routes["parts"].unet) is MedSegLatDiffUNet
assert type(routes["shim"]).__name__ == "MedSegLatDiffPipeline"
for route, pipeline in routes.items():
    assert np.array_equal(masks(pipeline), expected), route
half = MedSegLatDiffPipeline.from_pretrained(repo, variant="fp16", torch_dtype=torch.float16)
assert half.unet.dtype == torch.float16
assert (masks(half.to(torch.float32)) != expected).mean() < 0.05
np.save(out, expected)
"""
OFFLINE = """
from medseglatdiff import MedSegLatDiffPipeline
from medseglatdiff.cli import main
assert np.array_equal(masks(MedSegLatDiffPipeline.from_pretrained(sys.argv[1])), np.load(sys.argv[2]))
"""
AGAIN = """
import sys
from medseglatdiff.hub.publish import publish
publish(sys.argv[1], "tester/again")
publish(sys.argv[2], "tester/again")
publish(sys.argv[1], "tester/again", revision="half", private=True)
from medseglatdiff.hub import command
command.main(["--space", "spaces/medseg_metrics", "--repo-id", "tester/medseg_metrics"])
command.main(["--space", "spaces/demo", "--repo-id", "tester/demo"])
"""


@pytest.fixture(scope="module")
def published(hub, folder, tmp_path_factory):  # noqa: F811
    hub.publish(tmp_path_factory.mktemp("home"), folder, "--repo-id", MODEL[1], "--message", "First light")
    return hub


def test_every_route_gives_the_folders_masks(published, folder, tmp_path):  # noqa: F811
    sha = published.repos[MODEL].refs["main"]
    out = tmp_path / "expected.npy"
    tiny_pipeline().save_pretrained(tmp_path / "shards", max_shard_size="50KB")
    published.put("tester/shards", tmp_path / "shards")
    published.python(SEGMENT + ROUTES, tmp_path / "home", MODEL[1], folder, out, sha)
    published.python(
        SEGMENT + OFFLINE, tmp_path / "home", MODEL[1], out, HF_HUB_OFFLINE="1", HF_ENDPOINT="http://x.invalid"
    )
    assert np.load(out).shape == (4, 40, 30) and 0 < np.load(out).mean() < 1


def test_one_commit_holds_our_card_and_the_shim(published):
    commits = published.repos[MODEL].commits
    assert [title for _, title, _ in commits] == ["initial commit", "First light"]
    files = published.files(*MODEL)
    assert {"model_index.json", "README.md", "pipeline.py", "unet/diffusion_pytorch_model.fp16.safetensors"} <= set(
        files
    )
    assert ".secret" not in files
    assert files["pipeline.py"] == PIPELINE_SHIM.encode()
    shims = [path.read_text("utf-8") for path in ROOT.glob("pipelines/*/pipeline.py")]
    assert shims == [PIPELINE_SHIM] * 3
    card = ModelCard(files["README.md"].decode())
    assert card.data.library_name == "diffusers" and card.data.pipeline_tag == "image-segmentation"
    assert f'from_pretrained("{MODEL[1]}")' in card.text and "Not a medical device" in card.text


def test_snippet_runs_as_written(published, tmp_path):
    (snippet,) = re.findall(r"```python\n(.+?)```", published.files(*MODEL)["README.md"].decode(), re.DOTALL)
    done = published.python(snippet + "\nprint('SHAPE', masks.shape, consensus.shape)", tmp_path)
    assert "SHAPE (3, 128, 128) (128, 128)" in done.stdout


@pytest.fixture(scope="module")
def again(hub, folder, tmp_path_factory):  # noqa: F811
    """Two folders one after the other, the first to a branch as well, and a Space."""
    home = tmp_path_factory.mktemp("home")
    tiny_pipeline(threshold=0.25).save_pretrained(home / "new")
    hub.python(AGAIN, home, folder, home / "new")
    return hub


def test_publishing_again_replaces_everything(again):
    name = ("model", "tester/again")
    files, branch = again.files(*name), again.files(*name, "half")
    assert json.loads(files["model_index.json"])["threshold"] == 0.25
    assert not [path for path in files if "fp16" in path] and [path for path in branch if "fp16" in path]
    assert len(again.repos[name].commits) == 4  # the empty one and three


@pytest.mark.parametrize("name", ["medseg_metrics", "demo"])
def test_space_is_published_with_the_namespace_in_its_readme(again, name):
    space = ROOT / "spaces" / name
    files = dict(again.files("space", f"tester/{name}"))
    readme = files.pop("README.md").decode()
    assert readme == (space / "README.md").read_text("utf-8").replace("ORG/", "tester/")
    assert files == {
        path: (space / path).read_bytes()
        for path in (entry.relative_to(space).as_posix() for entry in space.rglob("*") if entry.is_file())
        if path != "README.md" and "__pycache__" not in path
    }


def test_where_a_pipeline_was_loaded_from_stays_private(tmp_path):
    secret = tmp_path / "somebody"
    tiny_pipeline().save_pretrained(secret)
    DiffusionPipeline.save_pretrained(MedSegLatDiffPipeline.from_pretrained(secret), tmp_path / "again")
    held = contents(tmp_path / "again", "tester/name", "model")
    texts = [content for content in held.values() if isinstance(content, bytes)]
    assert len(texts) == 6 and not any(b"somebody" in text for text in texts)
    assert "somebody" in (tmp_path / "again" / "model_index.json").read_text()
    for name, content in held.items():  # what is downloaded still is what was saved
        (tmp_path / "down" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "down" / name).write_bytes(content if isinstance(content, bytes) else content.read_bytes())
    assert MedSegLatDiffPipeline.from_pretrained(tmp_path / "down")
    scheduler = held["scheduler/scheduler_config.json"]
    assert "somebody" not in scheduler.read_text() and json.loads(held["unet/config.json"])["layers_per_block"] == 1


def test_dry_run_writes_the_card_and_uploads_nothing(hub, folder, capsys):  # noqa: F811
    requests = len(hub.log)
    command([str(folder), "--repo-id", "tester/dry", "--dry-run"])
    listed = capsys.readouterr().out
    assert re.search(r"^ +\d[\d,]*  unet/diffusion_pytorch_model.safetensors$", listed, re.MULTILINE)
    assert "README.md" in listed and ".secret" not in listed and len(hub.log) == requests
    assert 'from_pretrained("tester/dry")' in (folder / "README.md").read_text("utf-8")


def test_cards_of_several_folders_at_once(tmp_path):
    for name in ("one", "two"):
        tiny_pipeline().save_pretrained(tmp_path / name)
    data = ROOT / "src" / "medseglatdiff" / "builders" / "card_phantom.md"
    command([str(tmp_path / "one"), str(tmp_path / "two"), "--card-only", "--dataset-card", str(data)])
    for name in ("one", "two"):
        assert (tmp_path / name / "dataset.md").read_bytes() == data.read_bytes()
        card = ModelCard.load(tmp_path / name / "README.md")
        assert f"# {name}\n" in card.text and card.data.license == "apache-2.0"
        assert "Trained on Multi-rater phantoms: Synthetic lesions" in card.text


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["FOLDER"], "`--repo-id` must be given"),
        (["no/such/folder", "--repo-id", "a/b"], "must be a model and contain model_index.json"),
        (["--space", "FOLDER", "--repo-id", "a/b", "--card-only"], "Spaces and data sets already have a card"),
        (["FOLDER", "FOLDER", "--repo-id", "a/b"], "`folder` must be one folder"),
    ],
)
def test_wrong_use_is_told_in_a_line(folder, arguments, message, capsys):  # noqa: F811
    arguments = [str(folder) if argument == "FOLDER" else argument for argument in arguments]
    try:
        assert main(["publish", *arguments]) == 2
    except SystemExit as error:  # argparse
        assert error.code == 2
    assert message in capsys.readouterr().err


def test_a_missing_token_is_named(folder, monkeypatch, tmp_path):  # noqa: F811
    import huggingface_hub.constants as constants

    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.delenv("HUGGING_FACE_HUB_TOKEN", raising=False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    with pytest.raises(PermissionError, match="hf auth login"):
        publish(folder, "tester/nodules")


def test_the_token_was_used_but_is_in_no_file(published, folder):  # noqa: F811
    assert f"Bearer {TOKEN}" in published.tokens
    stored = [data for repo in published.repos.values() for _, _, files in repo.commits for data in files.values()]
    stored += [path.read_bytes() for path in folder.rglob("*") if path.is_file()]
    assert not any(TOKEN.encode() in data for data in stored)
