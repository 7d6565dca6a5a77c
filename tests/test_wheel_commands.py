"""From the wheel alone, in an empty folder: data set, training, calibration, evaluation, card, segmentation."""

import json
import runpy
import subprocess
import sys
import venv

import pytest
from hub_fixtures import ROOT, linked, needed_by, wheel  # noqa: F401

COMMANDS = """
import json, sys
import medseglatdiff
from medseglatdiff.cli import main
assert medseglatdiff.__file__.startswith(sys.prefix), medseglatdiff.__file__
for command in json.loads(sys.argv[1]):
    code = main(command)
    assert code == 0, (command, code)
"""
TINY = {
    "mask_vae": {"block_out_channels": [8, 8], "norm_num_groups": 4},
    "image_vae": {"block_out_channels": [8, 8], "norm_num_groups": 4, "latent_channels": 2},
    "unet": {"block_out_channels": [8, 16], "attention": [False, False], "layers_per_block": 1, "norm_num_groups": 4},
}
LAUNCHERS = {f"training/{name}.py": [name] for name in ("calibrate", "evaluate", "publish", "train")}
LAUNCHERS |= {
    f"dataset_scripts/{name.replace('-', '_')}.py": ["dataset", name]
    for name in ("cvc-clinicdb", "folder", "isic2018", "lidc-idri", "phantom")
}


def commands() -> list[list[str]]:
    """One after the other, as a user would type them."""
    tiny = [word for name, value in TINY.items() for word in (f"--{name.replace('_', '-')}", json.dumps(value))]
    steps = [
        "--mask-vae-steps",
        "4",
        "--image-vae-steps",
        "2",
        "--unet-steps",
        "4",
        "--energy-steps",
        "2",
        "--validation-every",
        "2",
    ]
    small = [
        "--sample-size",
        "32",
        "--batch-size",
        "4",
        "--energy-batch-size",
        "4",
        "--validation-images",
        "2",
        "--default-num-masks",
        "2",
    ]
    return [
        ["dataset", "phantom", "--num-rows", "24", "--size", "32", "--out", "data"],
        ["train", "--config", "phantom", "--dataset", "data", "--output-dir", "run", *small, *steps, *tiny],
        ["calibrate", "--pipeline", "run/pipeline", "--dataset", "data"],
        [
            "evaluate",
            "--pipeline",
            "run/pipeline",
            "--dataset",
            "data",
            "--num-masks",
            "2",
            "--out",
            "run/pipeline/results.json",
        ],
        ["publish", "run/pipeline", "--card-only"],
        ["info", "run/pipeline"],
        ["segment", "image.png", "--model", "run/pipeline", "--out", "out"],
    ]


def test_everything_from_the_wheel_alone(wheel, tmp_path):  # noqa: F811
    pytest.importorskip("accelerate", reason="needs the extra `train`")
    environment, work = tmp_path / "environment", tmp_path / "work"
    venv.create(environment, with_pip=False, symlinks=True)
    python = environment / "bin" / "python"
    linked(environment, needed_by("medseglatdiff", {}, extras=("train", "evaluate", "hub")))
    install = [sys.executable, "-m", "pip", "--python", python, "install", "-q", "--no-deps", "--no-index", wheel]
    subprocess.run(install, check=True, timeout=100)
    work.mkdir()
    (work / "image.png").write_bytes((ROOT / "examples" / "nodule-small.png").read_bytes())
    command = [str(python), "-c", COMMANDS, json.dumps(commands())]
    settings = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=work, env=settings, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr[-3000:]
    card = (work / "run" / "pipeline" / "README.md").read_text()
    assert "Multi-rater phantoms" in card and "Dice" in card
    results = json.loads((work / "run" / "pipeline" / "results.json").read_text())
    assert results["num_masks"] == 2 and results["num_images"] >= 1
    assert len(list((work / "out" / "image").glob("mask-*.png"))) == 2
    launch = [str(python), "-m", "medseglatdiff", "train", "--help"]
    helped = subprocess.run(launch, cwd=work, env=settings, capture_output=True, text=True, timeout=100, check=True)
    assert "--sample-size" in helped.stdout


@pytest.mark.parametrize("path", LAUNCHERS)
def test_a_launcher_starts_its_command(path, monkeypatch):
    started = []
    monkeypatch.setattr("medseglatdiff.cli.main", lambda words: started.append(words) or 3)
    monkeypatch.setattr(sys, "argv", [path, "--x"])
    with pytest.raises(SystemExit, match="^3$"):
        runpy.run_path(str(ROOT / path), run_name="__main__")
    assert started == [[*LAUNCHERS[path], "--x"]]


def test_these_are_all_launchers():
    paths = (path for folder in ("training", "dataset_scripts") for path in (ROOT / folder).glob("*.py"))
    assert {path.relative_to(ROOT).as_posix() for path in paths} == LAUNCHERS.keys()
