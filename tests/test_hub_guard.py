"""What publishing never does: overwrite somebody's repository, or upload what is none of the folder's."""

import json
import os
import shutil
from pathlib import Path

import local_hub
import pytest
from conftest import tiny_pipeline
from hub_fixtures import ROOT, Hub, folder, hub  # noqa: F401

from medseglatdiff.builders import phantom
from medseglatdiff.cli import main
from medseglatdiff.data.names import printable
from medseglatdiff.hub.publish import contents, published_files

START = """
import json, sys, urllib.request
import huggingface_hub.constants as constants
from huggingface_hub.utils import _http
from medseglatdiff.hub.publish import publish
_http.time.sleep = lambda seconds: None

def fault(*faults):
    urllib.request.urlopen(constants.ENDPOINT + "/faults", data=json.dumps(faults).encode())

def error_of(folder, name, kind, **options):
    try:
        publish(folder, name, repo_type=kind, **options)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "none"

found = {}
for folder, name, kind in json.loads(sys.argv[1]):
    found[f"{kind} {name}"] = error_of(folder, name, kind)
"""
CODE = """
folder, dataset = sys.argv[2:]
fault(["POST", "/commit/", "403"])
found["no right"] = error_of(dataset, "tester/rights", "dataset")
fault(["POST", "/commit/", "503", 1000])
found["down"] = error_of(dataset, "tester/down", "dataset")
fault(["GET", "/api/models/tester/down", "500", 1000])
found["down at once"] = error_of(folder, "tester/down", "model")
constants.ENDPOINT = "http://127.0.0.1:9"  # where nothing listens
found["away"] = error_of(dataset, "tester/away", "dataset")
constants.HF_HUB_OFFLINE = True
found["offline"] = error_of(dataset, "tester/away", "dataset")
print("FOUND", json.dumps(found))
"""
THEIRS = {  # files of a repository that this package did not publish
    "weights": {"pytorch_model.bin": b"x"},
    "another pipeline": {"model_index.json": b'{"_class_name": "StableDiffusionPipeline"}', "unet/config.json": b"{}"},
    "an index that is none": {"model_index.json": b"\xff[", "unet/config.json": b"{}"},
    "an index that is a list": {"model_index.json": b'["MedSegLatDiffPipeline"]'},
    "a report of something else": {"report.json": b'{"built_from": {"versions": "other 1.0"}}'},
    "an app": {"app.py": b"import gradio", "README.md": b"---\nsdk: gradio\n---\n"},
}
OURS = {
    "empty": {},
    "new": {".gitattributes": b"x", "README.md": b"# mine"},
}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("data") / "phantoms"
    phantom.main(["--num-rows", "10", "--out", str(out)])
    return out


@pytest.fixture(scope="module")
def space() -> Path:
    return ROOT / "spaces" / "medseg_metrics"


def put(hub: Hub, kind: str, name: str, files: dict):  # noqa: F811
    repo = hub.repos[kind, name] = local_hub.Repo()
    repo.commit("put", files, "main")


@pytest.fixture(scope="module")
def found(hub, folder, dataset, space, tmp_path_factory) -> dict:  # noqa: F811
    """Each kind of folder published to repositories of others, new ones, its own kind's, and another kind's."""
    folders, jobs = {"model": folder, "dataset": dataset, "space": space}, []
    for kind, source in folders.items():
        for label, files in {**THEIRS, **OURS}.items():
            name = f"tester/{label.replace(' ', '-')}"
            put(hub, kind, name, files)
            jobs.append((str(source), name, kind))
        jobs += [(str(source), "tester/shared-name", kind), (str(source), "tester/shared-name", kind)]
    arguments = (json.dumps(jobs), folder, dataset)
    done = hub.python(START + CODE, tmp_path_factory.mktemp("home"), *arguments)
    return json.loads(done.stdout.split("FOUND ")[1])


@pytest.mark.parametrize("kind", ["model", "dataset", "space"])
@pytest.mark.parametrize("label", THEIRS)
def test_somebody_elses_repository_stays_as_it_is(hub, found, kind, label):  # noqa: F811
    name = f"tester/{label.replace(' ', '-')}"
    assert found[f"{kind} {name}"].startswith("ValueError: `repo_id` must be free or name a ")
    assert (
        f"but {name} holds something else ({sorted(THEIRS[label].keys() - {'README.md'})[0]}"
        in found[f"{kind} {name}"]
    )
    assert hub.files(kind, name) == THEIRS[label]


@pytest.mark.parametrize("kind", ["model", "dataset", "space"])
@pytest.mark.parametrize("label", [*OURS, "shared-name"])
def test_what_is_new_or_ours_is_replaced(hub, found, kind, label):  # noqa: F811
    """And the Hub keeps a model, a data set and a Space of one name apart."""
    assert found[f"{kind} tester/{label}"] == "none"
    mark = {"model": "model_index.json", "dataset": "report.json", "space": "app.py"}[kind]
    assert mark in hub.files(kind, f"tester/{label}")


def test_a_data_set_goes_up_in_one_commit(hub, found, dataset):  # noqa: F811
    repo = hub.repos["dataset", "tester/empty"]
    assert [title for _, title, _ in repo.commits][2:] == ["Publish with medseglatdiff"]
    files = hub.files("dataset", "tester/empty")
    shards = {f"data/{path.name}" for path in dataset.glob("data/*.parquet")}
    assert len(shards) == 3 and set(files) == {"README.md", "report.json", *shards}
    assert 'load_dataset("tester/empty", split' in files["README.md"].decode()
    assert all(files[name] == (dataset / name).read_bytes() for name in [*shards, "report.json"])


def test_errors_name_the_repository_in_one_sentence(hub, found):  # noqa: F811
    assert found["no right"].startswith("PermissionError: The token may not write to tester/rights")
    assert found["down"].startswith("ConnectionError: The Hub answered 503 for tester/down: ")
    assert found["down at once"].startswith("ConnectionError: The Hub answered 500 for tester/down: ")
    assert found["away"].startswith("ConnectionError: The Hub could not be reached for tester/away: ")
    assert "tester/away" in found["offline"] and found["offline"].startswith("ConnectionError")
    assert hub.files("dataset", "tester/rights") == hub.files("dataset", "tester/down") == {}
    assert not any("\n" in error for error in found.values())


def test_the_command_publishes_a_data_set(hub, dataset, tmp_path, capsys):  # noqa: F811
    done = hub.publish(tmp_path, dataset, "--dataset", "--repo-id", "tester/by-command")
    assert "/commit/" in done.stdout and "report.json" in hub.files("dataset", "tester/by-command")
    assert main(["publish", str(dataset), "--repo-id", "tester/by-command"]) == 2
    assert "must be a model and contain model_index.json" in capsys.readouterr().err


PRIVATE = [
    ".env",
    ".cache/token",
    "contact_sheet.png",
    "patient.png",
    "notes.txt",
    "README.md.partial",
    "unet.partial/config.json",
    "checkpoint-100/model.safetensors",
    "unet/optimizer.bin",
    "unet/.hidden.json",
    "unet/._config.json",
    "unet/notes.json",
    "logs/events.json",
    "evil.py",
    "unet/evil.py",
    "data/train-0.partial",
]


@pytest.mark.parametrize("kind", ["model", "dataset"])
def test_only_what_belongs_to_it_is_uploaded(folder, dataset, tmp_path, kind):  # noqa: F811
    source = {"model": folder, "dataset": dataset}[kind]
    shutil.copytree(source, tmp_path / "copy")
    before = contents(source, "tester/x", kind)
    for name in PRIVATE:
        (tmp_path / "copy" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "copy" / name).write_text("a patient's")
    assert contents(tmp_path / "copy", "tester/x", kind).keys() == before.keys() and "manifest.json" not in before


def test_a_space_leaves_out_what_is_hidden_or_unfinished(space, tmp_path):
    shutil.copytree(space, tmp_path / "space", ignore=shutil.ignore_patterns("__pycache__"))
    before = published_files(tmp_path / "space", "space")
    for name in (".env", "__pycache__/app.pyc", "x.partial", "checkpoint-1/state.json", ".git/config"):
        (tmp_path / "space" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "space" / name).write_text("x")
    assert published_files(tmp_path / "space", "space") == before and len(before) == 4


@pytest.mark.parametrize(
    "name", ["README.md", "unet/config.json", "unet", "notes.txt", "deep/er/link", "plot_size.png"]
)
@pytest.mark.parametrize("target", ["file", "folder", "nothing"])
def test_links_are_refused_by_name(tmp_path, name, target):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("a patient's")
    tiny = tmp_path / "pipeline"
    tiny_pipeline().save_pretrained(tiny)
    link = tiny / name
    shutil.rmtree(link, ignore_errors=True)
    link.unlink(missing_ok=True)
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to({"file": outside / "secret", "folder": outside, "nothing": outside / "none"}[target])
    with pytest.raises(ValueError, match=f"but {name} is one: replace it by the file"):
        published_files(tiny, "model")


def test_names_that_would_act_on_a_terminal_are_escaped(tmp_path, capsys):
    tiny_pipeline().save_pretrained(tmp_path)
    (tmp_path / "plot_\x1b[2J.png").write_bytes(b"x")
    assert main(["publish", str(tmp_path), "--repo-id", "tester/x", "--dry-run"]) == 2
    error = capsys.readouterr().err
    assert "plot_\\x1b[2J.png" in error and "\x1b" not in error


@pytest.mark.parametrize(
    "name, shown",
    [
        ("scan.png", "scan.png"),
        ("Aufnahme über 3 µm – №5.png", "Aufnahme über 3 µm – №5.png"),
        ("病灶.png", "病灶.png"),
        ("a\x1b[31mb", "a\\x1b[31mb"),
        ("a\rb\nc\x07", "a\\rb\\nc\\x07"),
        ("a\u202egnp.exe", "a\\u202egnp.exe"),
        ("a\u200b\u2066b", "a\\u200b\\u2066b"),
        ("a\x9b31mb", "a\\x9b31mb"),
        (os.fsdecode(b"a\xff.png"), "a\\udcff.png"),
        ("a\u2028b", "a\\u2028b"),
    ],
)
def test_printable(name, shown):
    assert printable(name) == printable(Path(name)) == shown and shown.isprintable()
