"""`segment` on folders: streaming, resuming, failures, several processes, and nothing written elsewhere."""

import csv
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from conftest import TWO_PROCESSES, tiny_pipeline

from medseglatdiff.cli import main
from medseglatdiff.data.names import printable
from medseglatdiff.pipeline.cases import case_names, find_cases
from medseglatdiff.pipeline.segmenter import CaseSegmenter, SegmentSettings


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    tiny_pipeline().save_pretrained(folder)
    return folder


def save(path: Path, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (20, 24), dtype=np.uint8)
    PIL.Image.fromarray(pixels).save(path)
    return path


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("archive")
    for number in range(12):
        save(folder / f"patient-{number % 3}" / f"{number:02}.png", number)
    (folder / "notes.txt").write_text("no image")
    save(folder / ".hidden.png")
    return folder


def segment(*inputs, model, out, **options) -> int:
    words = [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    return main([str(word) for word in ("segment", *inputs, "--model", model, "--out", out, *words)])


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def undisturbed(images, model, tmp_path_factory) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    assert segment(images, model=model, out=out) == 0
    return contents(out)


def test_a_folder_becomes_a_folder_of_results_without_times_or_paths(undisturbed, images):
    marks = [name for name in undisturbed if name.endswith("done.json")]
    assert len(marks) == 12 and all(name.startswith("patient-") for name in undisturbed)
    text = b"".join(content for name, content in undisturbed.items() if not name.endswith(".png"))
    assert str(images).encode() not in text and b"/tmp" not in text
    mark = json.loads(undisturbed["patient-0/00/done.json"])
    assert mark["case"] == "patient-0/00" and mark["settings"]["seed"] == 0 and len(mark["source"]) == 64


def test_finished_cases_are_not_computed_again(images, model, tmp_path, undisturbed, capsys):
    out = tmp_path / "out"
    assert segment(images / "patient-1", model=model, out=out) == 0
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.png")}
    assert segment(images / "patient-1", model=model, out=out) == 0
    assert "4 of 4 cases had already been finished" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.png")} == before


def test_a_source_that_changed_is_computed_again(model, tmp_path):
    scans = tmp_path / "scans"
    for seed, name in enumerate("ab"):
        save(scans / f"{name}.png", seed)
    assert segment(scans, model=model, out=tmp_path / "out") == 0
    first = contents(tmp_path / "out")
    save(scans / "a.png", 9)
    assert segment(scans, model=model, out=tmp_path / "out") == 0
    second = contents(tmp_path / "out")
    assert first["b/mask-01.png"] == second["b/mask-01.png"] and first["a/mask-01.png"] != second["a/mask-01.png"]


def test_a_bad_case_is_listed_and_stops_nothing(images, model, tmp_path, capsys):
    scans = tmp_path / "scans"
    good = [save(scans / f"{name}.png", seed) for seed, name in enumerate("ace")]
    (scans / "b.png").write_bytes(b"no image, but a comma")
    (scans / "d.png").write_bytes(good[0].read_bytes()[:60])
    out = tmp_path / "out"
    assert segment(scans, model=model, out=out) == 1
    rows = list(csv.reader((out / "failures.csv").open()))
    assert rows[0] == ["case", "error"] and [row[0] for row in rows[1:]] == ["b", "d"]
    assert str(tmp_path) not in (out / "failures.csv").read_text()
    assert {path.name for path in out.iterdir() if path.is_dir()} == set("ace")
    assert "b.png cannot be segmented" in capsys.readouterr().err
    (scans / "b.png").write_bytes(good[0].read_bytes())
    (scans / "d.png").unlink()
    assert segment(scans, model=model, out=out) == 0 and not (out / "failures.csv").exists()


SEGMENT = [sys.executable, "-c", "import sys; from medseglatdiff.cli import main; sys.exit(main(sys.argv[1:]))"]


@pytest.mark.parametrize("kills", [1, pytest.param(10, marks=pytest.mark.slow)])
def test_killed_at_random_moments_it_ends_as_an_undisturbed_run(kills, images, model, tmp_path, undisturbed):
    out, moments = tmp_path / "out", random.Random(0)
    command = [*SEGMENT, "segment", str(images), "--model", str(model), "--out", str(out)]
    for kill in range(kills):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline, wanted = time.monotonic() + 60, min(kill + 2, 11)
        while len(list(out.rglob("done.json"))) < wanted and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.002)
        time.sleep(moments.uniform(0, 0.03))
        process.send_signal(signal.SIGKILL)
        process.wait()
        for mark in out.rglob("done.json"):  # what has its mark is whole
            name = str(mark.parent.relative_to(out))
            if not name.startswith("."):
                assert all(undisturbed[f"{name}/{file}"] == content for file, content in contents(mark.parent).items())
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    assert contents(out) == undisturbed and not [path for path in out.iterdir() if path.name.startswith(".")]


def test_two_processes_give_the_same_files(model, tmp_path):
    scans, one, two = tmp_path / "scans", tmp_path / "one", tmp_path / "two"
    for seed, name in enumerate("abcdefg"):
        save(scans / f"{name}.png", seed)
    for name in "cd":  # one for each process
        (scans / f"{name}.png").write_text("bad")
    words = ["segment", str(scans), "--model", str(model), "--out"]
    assert main([*words, str(one)]) == 1
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*TWO_PROCESSES, "-m", "medseglatdiff", *words, str(two)], env=environment, timeout=200)
    assert done.returncode == 1 and contents(one) == contents(two)
    assert [row[0] for row in csv.reader((two / "failures.csv").open())] == ["case", "c", "d"]


NAMES = {
    "...png": "_",
    "..": "_",
    "a/../b.png": "a/_/b",
    "tab\there.png": "tab_here",
    "colour\x1b[31m.png": "colour_[31m",
    "back\\slash.png": "back_slash",
    "C:evil.png": "C_evil",
    "trailing. .png": "trailing",
    "right\u202eleft.png": "right_left",
    ".png": ".png".strip(". "),
}


@pytest.mark.parametrize("name", NAMES)
def test_no_name_leads_elsewhere(name):
    (got,) = case_names([Path(name)])
    assert got == NAMES[name] and ".." not in got.split("/") and not got.startswith("/") and printable(got) == got


def test_an_image_called_dots_stays_in_the_output_folder(model, tmp_path):
    image = save(tmp_path / "scan.png").rename(tmp_path / "...png")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "consensus.png").write_bytes(b"precious")
    assert segment(image, model=model, out=tmp_path / "mine" / "out") == 0
    assert (tmp_path / "mine" / "consensus.png").read_bytes() == b"precious"
    assert (tmp_path / "mine" / "out" / "_" / "consensus.png").is_file()


def test_results_are_not_written_through_links(model, tmp_path, capsys):
    image, elsewhere, out = save(tmp_path / "scan.png"), tmp_path / "elsewhere", tmp_path / "out"
    elsewhere.mkdir()
    out.mkdir()
    (out / "scan").symlink_to(elsewhere)
    assert segment(image, model=model, out=out) == 2
    assert "results are not written through the link scan" in capsys.readouterr().err and not list(elsewhere.iterdir())


def test_folders_patterns_and_files_are_found_in_a_fixed_order(images, tmp_path):
    everything = find_cases([images])
    assert [case.name for case in everything] == sorted(case.name for case in everything) and len(everything) == 12
    assert [case.name for case in find_cases([f"{images}/patient-1/*.png"])] == ["01", "04", "07", "10"]
    assert [case.name for case in find_cases([images / "notes.txt"])] == ["notes"]  # named: tried, and then refused
    out = save(images / "results" / "old.png").parent
    assert len(find_cases([images], out)) == 12 and len(find_cases([images])) == 13
    (out / "old.png").unlink()
    for wrong in (tmp_path, tmp_path / "none.png", f"{tmp_path}/*.png"):
        with pytest.raises(ValueError, match="cannot be segmented"):
            find_cases([wrong])


def test_a_segmenter_can_be_sent_to_another_process(images, model, tmp_path, undisturbed):
    import pickle

    segmenter = CaseSegmenter(str(model), tmp_path / "out", SegmentSettings())
    segmenter.load()
    (case, *_) = find_cases([images])
    sent = pickle.dumps(segmenter)
    assert len(sent) < 2000  # without weights
    outcome = pickle.loads(sent)(case)
    assert outcome.error is None and not outcome.skipped
    assert contents(tmp_path / "out")["patient-0/00/mask-01.png"] == undisturbed["patient-0/00/mask-01.png"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(point="5"), "`--point` must be X,Y or X,Y,Z in pixels, but was '5'"),
        (dict(point="a,b"), "`--point` must be X,Y"),
        (dict(box="1,2,3"), "`--box` must be LEFT,TOP,RIGHT,BOTTOM"),
        (dict(point="24,3"), r"the point \(24, 3\) must lie in the image of 24 x 20 pixels"),
        (dict(box="5,5,5,9"), "must have left < right"),
        (dict(point="1,1", box="1,1,2,2"), "`--point` and `--box` must not be given together"),
    ],
)
def test_wrong_regions_are_one_sentence(options, message, model, tmp_path, capsys):
    import re

    assert segment(save(tmp_path / "scan.png"), model=model, out=tmp_path / "out", **options) == 2
    assert re.search(message, capsys.readouterr().err)


def test_a_point_is_what_the_pipeline_makes_of_it(model, tmp_path):
    image = save(tmp_path / "scan.png")
    assert segment(image, model=model, out=tmp_path / "out", point="12,10", format="npz") == 0
    expected = tiny_pipeline()(image, seed=0, regions=[(12, 10)])
    with np.load(tmp_path / "out" / "scan" / "masks.npz") as archive:
        assert np.array_equal(archive["masks"], expected.masks[0])


def test_the_warning_about_whole_images_reaches_the_terminal(tmp_path, capsys):
    tiny_pipeline(region_size=8).save_pretrained(tmp_path / "model")
    assert segment(save(tmp_path / "scan.png"), model=tmp_path / "model", out=tmp_path / "out") == 0
    assert "trained on crops of 8 x 8" in capsys.readouterr().out
