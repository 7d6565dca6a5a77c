"""Records are true: what each stage did, from which start, at which commit, and nobody's paths."""

import dataclasses
import json
import subprocess
from pathlib import Path

import pytest
from conftest import tiny_pipeline
from training_fixtures import TINY

pytest.importorskip("accelerate")

from medseglatdiff.hub.cards import training_facts
from medseglatdiff.training import provenance
from medseglatdiff.training.config import Config
from medseglatdiff.training.history import read_record, stages_of, start_folder, with_stage
from medseglatdiff.training.progress import Progress
from medseglatdiff.training.provenance import git_commit, public
from medseglatdiff.training.records import read_stages, save_pipeline, settings_record, write_stage

ROOT = Path(__file__).resolve().parents[1]
ROWS = {"train": 7, "validation": 3}


def published(name: str) -> dict:
    return json.loads((ROOT / "pipelines" / f"medseglatdiff-{name}" / "training.json").read_text())


# training.json of version 0.1.0


@pytest.mark.parametrize("name", ["cvc-clinicdb", "isic2018", "lidc-idri"])
def test_published_records_are_read_with_full_settings(name):
    old = published(name)
    new = read_record(old)
    assert list(new["stages"]) == list(old["stages"]) and new["config"] == old["config"]
    for stage, run in new["stages"].items():
        before = dict(old["stages"][stage])
        others = before.pop("other_settings", {})
        assert "other_settings" not in run and run["settings"].keys() == old["config"].keys() | others.keys()
        for setting, value in run["settings"].items():
            assert value == others.get(setting, old["config"].get(setting)), (stage, setting)
        assert run.items() >= before.items() and run["num_processes"] == 1
    assert read_record(new) == new, "read twice"


WEIGHTS = [
    ("lidc-idri", "mask_vae", 2.0, "0d2956369ec822a7f53637b7fc9ef3aca498d6b6", False),
    ("lidc-idri", "mask_decoder", 5.0, "48861e4b4d8feaa89e361858e76d9813c3d6b49c", True),
    ("isic2018", "mask_vae", 2.0, "b20aa46a105a7d22ad8201f66719974551c445eb", True),
    ("cvc-clinicdb", "start/unet", 2.0, None, False),  # of another run, whose commit the file does not have
]


@pytest.mark.parametrize(("name", "stage", "weight", "commit", "of_this_run"), WEIGHTS)
def test_each_stage_has_its_settings_and_no_commit_but_its_own(name, stage, weight, commit, of_this_run):
    run = read_record(published(name))["stages"][stage]
    assert run["settings"]["foreground_weight"] == weight and run.get("git_commit") == commit
    assert ("rows" in run) == ("versions" in run) == of_this_run


def test_the_start_of_a_start_is_kept():
    stages = with_stage({"mask_vae": {"step": 1}, "unet": {"step": 2}, "energy": {"step": 3}}, "energy", {"step": 4})
    stages = with_stage(stages, "energy", {"step": 5})
    assert {name: run["step"] for name, run in stages.items()} == {
        "mask_vae": 1, "unet": 2, "start/start/energy": 3, "start/energy": 4, "energy": 5,
    }  # fmt: skip


@pytest.mark.parametrize(
    "text", ["[]", "{}", '{"stages": 3, "config": {}}', "cut {", '{"stages": {"a": 1}, "config": {}}']
)
def test_a_record_that_is_none_is_named(tmp_path, text):
    (tmp_path / "training.json").write_text(text)
    with pytest.raises(ValueError, match="training.json of .* is not what training writes"):
        stages_of(tmp_path)


NO_STARTS = [
    ("/somewhere/that/is/not", "there is no folder /somewhere/that/is/not"),
    ("./no-such-folder", "there is no folder ./no-such-folder"),
    ("outputs/deep/pipeline", "there is no folder outputs/deep/pipeline"),
    (".", "holds no model_index.json"),
]


@pytest.mark.parametrize(("start", "reason"), NO_STARTS)
def test_a_start_that_is_none_is_named(tmp_path, monkeypatch, start, reason):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=f"`start_from` must be a .*{reason}"):
        start_folder(start)


# What is recorded now


def test_every_stage_records_all_its_settings(trained):
    record = json.loads((trained / "pipeline" / "training.json").read_text())
    assert list(record["stages"]) == ["mask_vae", "image_vae", "unet", "energy"]
    names = {entry.name for entry in dataclasses.fields(Config)}
    for stage, run in record["stages"].items():
        assert run["settings"].keys() == names and run["step"] == TINY[f"{stage}_steps"]
        assert run["settings"]["mask_vae"] == TINY["mask_vae"] and run["rows"] == {"train": 256, "validation": 32}
        assert run["num_processes"] == 1 and run["versions"].keys() >= {"torch", "medseglatdiff"}
    facts = training_facts(record)
    assert "A random rater's mask at every step" in facts["summary"] and "reset" not in facts["summary"]
    assert "| denoiser | 4 | 4 | 0.0005 |" in facts["stages"] and "data set" not in facts["stages"]


def test_a_finished_stage_keeps_its_entry(tmp_path):
    progress, config = Progress(1), Config(**TINY)
    progress.step, progress.best_score, progress.best_step = 4, 0.5, 2
    (tmp_path / "unet").mkdir()
    write_stage(tmp_path / "unet", progress, config, ROWS)
    path = tmp_path / "unet" / "summary.json"
    entry = json.loads(path.read_text())
    path.write_text(json.dumps(entry | {"git_commit": "of then"}))
    write_stage(tmp_path / "unet", progress, dataclasses.replace(config, checkpoint_every=1), ROWS)
    assert read_stages(tmp_path, "unet", "energy") == {"unet": entry | {"git_commit": "of then"}}
    progress.step = 6
    write_stage(tmp_path / "unet", progress, config, ROWS)
    assert read_stages(tmp_path, "unet")["unet"]["git_commit"] != "of then"


PUBLIC = [
    ("ORG/NAME", "ORG/NAME"),
    ("/home/jane.doe/data/lidc-idri", "lidc-idri"),
    ("/home/jane.doe/data/lidc-idri/", "lidc-idri"),
    ("~/jane/pipeline", "pipeline"),
    ("../jane/pipeline", "pipeline"),
    ("./pipeline", "pipeline"),
    ("C:\\Users\\Jane\\pipeline", "pipeline"),
    ("\\\\server\\jane\\pipeline", "pipeline"),
    ("a/b/c", "c"),
    ("phantom", "phantom"),
    ("here/data", "data"),  # is a folder
    (["--pipeline", "/home/jane/p", "--limit", "3"], ["--pipeline", "p", "--limit", "3"]),
    ({"path": "/home/jane/p", "n": 3, "none": None}, {"path": "p", "n": 3, "none": None}),
]


@pytest.mark.parametrize(("value", "expected"), PUBLIC, ids=str)
def test_paths_keep_their_last_name_only(tmp_path, monkeypatch, value, expected):
    (tmp_path / "here" / "data").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert public(value) == expected


def test_nobodys_paths_get_into_a_saved_pipeline(tmp_path):
    home = tmp_path / "home" / "jane.doe"
    pipeline = tiny_pipeline()
    pipeline.mask_vae.save_pretrained(home / "model")
    pipeline.register_modules(mask_vae=type(pipeline.mask_vae).from_pretrained(home / "model"))
    places = {"dataset": str(home / "data"), "output_dir": str(home / "out"), "start_from": str(home / "start")}
    config = Config(**{**TINY, **places, "data_dir": str(home / "files"), "stage": "unet"})
    save_pipeline(pipeline, config, home / "out" / "pipeline", ROWS, {"unet": {"settings": settings_record(config)}})
    files = [path for path in (home / "out" / "pipeline").rglob("*") if path.suffix == ".json"]
    assert len(files) == 7 and not [path for path in files if "jane" in path.read_text()]
    record = json.loads((home / "out" / "pipeline" / "training.json").read_text())
    assert (record["config"]["dataset"], record["config"]["start_from"]) == ("data", "start")


def test_saving_says_nothing(tmp_path, capfd):
    save_pipeline(tiny_pipeline(), Config(**TINY), tmp_path / "pipeline", ROWS, {})
    assert "float32" not in "".join(capfd.readouterr())


# The commit


def git(folder: Path, *arguments: str):
    names = ["-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run(["git", *names, *arguments], cwd=folder, check=True, capture_output=True)


@pytest.mark.parametrize("kind", ["checkout", "in another's environment", "no repository", "no commit yet"])
def test_the_commit_is_that_of_this_project_or_none(tmp_path, monkeypatch, kind):
    file = tmp_path / ".venv" / "lib" / "medseglatdiff" / "provenance.py"
    file.parent.mkdir(parents=True)
    file.write_text("")
    (tmp_path / "theirs.py").write_text("")
    if kind != "no repository":
        git(tmp_path, "init")
        git(tmp_path, "add", "theirs.py")
    if kind == "checkout":
        git(tmp_path, "add", "--force", str(file))
    if kind in ("checkout", "in another's environment"):
        git(tmp_path, "commit", "-m", "first")
    monkeypatch.setattr(provenance, "__file__", str(file))
    commit = git_commit()
    assert (commit is not None and len(commit) == 40) if kind == "checkout" else commit is None


def test_without_git_there_is_no_commit(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert git_commit() is None


# What the card says of it


def record_of(stages: dict[str, dict], **config) -> dict:
    base = json.loads(json.dumps(dataclasses.asdict(Config(**TINY))))
    run = {"step": 4, "best_step": 2, "wall_hours": 0.1, "cpu_hours": 0.1, "num_processes": 1}
    entries = {name: run | {"settings": base | own} | more for name, (own, more) in stages.items()}
    return {"config": base | config, "stages": entries, "rows": ROWS, "hardware": "CPU", "num_processes": 1}


CONSENSUS, RANDOM, NEW = {"target": "consensus"}, {"target": "random_rater"}, ({}, {})
START = {"start_from": "the/start"}
CARDS = [
    ({"mask_vae": NEW, "unet": (RANDOM, {})}, "A random rater's mask at every step;"),
    (
        {"mask_vae": NEW, "unet": (CONSENSUS, {})},
        "The denoiser learned the raters' majority, the autoencoders a random",
    ),
    (
        {"mask_vae": NEW, "start/unet": (CONSENSUS, {}), "unet": (RANDOM, {})},
        "The denoiser learned the raters' majority (denoiser, of the start), then a random rater's mask at every step "
        "(denoiser); the autoencoders",
    ),
    ({"unet": NEW}, "all initial weights come from `the/start`, whose training is not documented."),
    ({"mask_vae": NEW, "energy": ({"energy_masks": 3, "energy_inference_steps": 5}, {})}, "the sampler of 5 steps"),
    ({"mask_vae": NEW, "energy": ({"energy_masks": 3}, {})}, "of 3 samples per image"),
    ({"mask_vae": ({"mask_loss": "dice"}, {}), "unet": NEW}, "Mask loss dice;"),
    ({"energy": NEW}, "All raters' masks of an image at every step;"),
    ({"start/unet": ({"image_encoder": {}}, {}), "unet": (START, {})}, "starts from ImageNet weights."),
    (
        {"mask_vae": NEW, "unet": ({}, {"set_back": {"threshold": 0.25, "spread": 0.8}})},
        "Settings that validation had chosen for the previous weights were reset: `threshold`, `spread`.",
    ),
    ({"mask_vae": ({"dataset": "a/lidc"}, {}), "unet": ({"dataset": "polyps"}, {})}, "| lidc |"),
]


@pytest.mark.parametrize(("stages", "sentence"), CARDS, ids=[sentence[:30] for _, sentence in CARDS])
def test_the_card_says_what_was_done(stages, sentence):
    facts = training_facts(record_of(stages, start_from="the/start"))
    assert sentence in facts["summary"] + facts["stages"]


def test_the_card_says_nothing_that_nobody_knows():
    facts = training_facts(record_of({"energy": ({"image_encoder": {}} | START, {})}, start_from="the/start"))
    assert "ImageNet" not in facts["summary"] and "random rater" not in facts["summary"]
