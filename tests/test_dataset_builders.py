"""The builders from source to data set: right rows, one error for all bad files, nothing half-written."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from dataset_fixtures import (
    disc,
    encode,
    isic,
    nothing_left,
    one_of_each,
    own_cache,  # noqa: F401
    rows_of,
    slices,
    write_folder,
    write_zip,
)

from medseglatdiff.builders import cvc_clinicdb, folder, isic2018, lidc_idri, phantom
from medseglatdiff.builders.archives import Source
from medseglatdiff.builders.build import split_of
from medseglatdiff.builders.picture_files import BadFile, read_mask

ROOT = Path(__file__).resolve().parent.parent

BUILDERS = {module.__name__.split(".")[-1]: module for module in (lidc_idri, cvc_clinicdb, isic2018, folder, phantom)}


def run(code: str) -> subprocess.Popen:
    """Python with the builders at hand, as a process of its own."""
    env = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.Popen([sys.executable, "-c", code], env=env, stderr=subprocess.PIPE, text=True)


def test_split_rule():
    # printf NAME | sha256sum | cut -c-8 gives 3bb5d67a, c462bcd4 and f255db4b: .233, .767 and .947 of 2 ** 32
    splits = {name: split_of(name) for name in ("LIDC-IDRI-0001", "LIDC-IDRI-0005", "LIDC-IDRI-0002")}
    assert list(splits.values()) == ["train", "validation", "test"]


@pytest.mark.parametrize("kind", ["zip", "folder"])
def test_slices_come_back_bit_for_bit_and_empty_rows_are_dropped(tmp_path, kind):
    files = slices()
    source = write_folder(tmp_path / "in", files) if kind == "folder" else write_zip(tmp_path / "in.zip", files)
    out = lidc_idri.main([str(source), "--out", str(tmp_path / "out")])
    rows = rows_of(out, decode=False)
    assert sorted(rows) == [f"LIDC-IDRI-000{p}/nodule-0/slice-{k}" for p in (1, 2, 3) for k in (0, 1)]
    for image_id, row in rows.items():
        patient, nodule, k = image_id.split("/")
        stem = f"LIDC-IDRI-slices/{patient}/{nodule}"
        assert row["image"]["bytes"] == files[f"{stem}/images/{k}.png"]
        assert [m["bytes"] for m in row["masks"]] == [files[f"{stem}/mask-{i}/{k}.png"] for i in range(4)]
        assert row["group_id"] == patient and row["split"] == split_of(patient)
    report = json.loads((out / "report.json").read_text())
    assert [d["image_id"][-7:] for d in report["dropped"]] == ["slice-2"] * 3
    assert report["groups_across_splits"] == []
    assert (out / "contact_sheet.png").is_file() and "3 rows dropped" in (out / "README.md").read_text()


def test_report_counts_what_a_hand_counts(tmp_path):
    files = {f"images/{name}.png": encode(disc(6)) for name in "abc"}  # three identical images
    files |= {f"masks-1/{name}.png": encode(disc(2)) for name in "abc"} | {"masks-2/a.png": encode(disc(-1))}
    splits = {"a": "train", "b": "train", "c": "test"}
    lines = [
        {"file_name": f"images/{name}.png", "split": split, "mask_file_names": [f"masks-1/{name}.png"]}
        for name, split in splits.items()
    ]
    lines[0]["mask_file_names"].append("masks-2/a.png")
    files["metadata.jsonl"] = "\n".join(map(json.dumps, lines)).encode()
    out = folder.main([str(write_folder(tmp_path / "in", files)), "--out", str(tmp_path / "out")])
    report = json.loads((out / "report.json").read_text())
    train = report["splits"]["train"]
    assert (train["rows"], train["groups"], train["sizes"]) == (2, 2, {"16x16": 2})
    assert train["masks_per_row"] == {"1": 1, "2": 1} and train["empty_masks"] == pytest.approx(1 / 3)
    assert train["area_percentiles"]["50"] == 13 and report["duplicates_within_splits"] == []
    assert report["duplicates_across_splits"] == [["images/a", "images/b", "images/c"]] and report["skipped"] == []


def test_workers_change_nothing(tmp_path):
    source = write_zip(tmp_path / "in.zip", slices())
    command = [sys.executable, str(ROOT / "dataset_scripts" / "lidc_idri.py"), str(source), "--num-workers", "2"]
    subprocess.run([*command, "--out", str(tmp_path / "two")], check=True)
    one = lidc_idri.main([str(source), "--out", str(tmp_path / "one")])
    for path in (one / "data").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / "data" / path.name).read_bytes()


def test_all_bad_files_stand_in_one_error_or_are_skipped(tmp_path):
    files, stem = slices(), "LIDC-IDRI-slices/LIDC-IDRI-000{}/nodule-0/{}"
    missing, corrupt, empty, other_size, misnamed = (
        stem.format(1, "mask-2/slice-0.png"),
        stem.format(1, "images/slice-1.png"),
        stem.format(2, "images/slice-0.png"),
        stem.format(2, "mask-0/slice-1.png"),
        stem.format(3, "images/slce-1.png"),
    )
    del files[missing]
    files[corrupt] = files[corrupt][:40]
    files[empty] = b""
    files[other_size] = encode(disc(3, side=20))
    files[misnamed] = encode(disc(3))
    source = write_zip(tmp_path / "in.zip", files)
    with pytest.raises(ValueError) as error:
        lidc_idri.main([str(source), "--out", str(tmp_path / "out")])
    for name in (missing, corrupt, empty, other_size, misnamed):
        assert name in str(error.value)
    assert nothing_left(tmp_path)
    out = lidc_idri.main([str(source), "--out", str(tmp_path / "out"), "--skip-bad"])
    assert len(rows_of(out)) == 2
    assert len(json.loads((out / "report.json").read_text())["skipped"]) == 5
    assert "5 unusable files skipped" in (out / "README.md").read_text()


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, about damage
def test_whatever_a_damaged_picture_raises_names_its_file(tmp_path):
    kinds = {"a.png": "PNG", "b.jpg": "JPEG", "c.tif": "TIFF", "d.bmp": "BMP", "e.gif": "GIF"}
    whole = {name: encode(disc(6), kind) for name, kind in kinds.items()}
    random = np.random.default_rng(0)
    for _ in range(60):
        for name, data in whole.items():
            damaged = np.frombuffer(data, np.uint8).copy()
            damaged[random.integers(len(damaged), size=6)] = random.integers(256, size=6)
            source = Source([write_folder(tmp_path / "in", {name: damaged.tobytes()})])
            try:
                assert read_mask(source, f"in/{name}", (16, 16)).pixels.shape == (16, 16)
            except BadFile as error:
                assert error.name == f"in/{name}"


def test_wrong_layouts_say_what_was_expected_and_found(tmp_path):
    other = write_zip(tmp_path / "other.zip", {"pictures/cat.png": encode(disc(3))})
    layouts = {
        lidc_idri: "slice-K",
        isic2018: "Training_Input",
        cvc_clinicdb: "Ground Truth",
        folder: "metadata.jsonl",
    }
    for builder, expected in layouts.items():
        with pytest.raises(ValueError, match=expected) as error:
            builder.main([str(other), "--out", str(tmp_path / "out")])
        assert "pictures/cat.png" in str(error.value)
    assert nothing_left(tmp_path)


def test_overwrite_replaces_only_what_was_built_here(tmp_path):
    source, out = write_zip(tmp_path / "in.zip", slices()), tmp_path / "out"
    out.mkdir()
    (out / "thesis.txt").write_text("precious")
    with pytest.raises(FileExistsError):
        lidc_idri.main([str(source), "--out", str(out), "--overwrite"])
    assert (out / "thesis.txt").read_text() == "precious"
    built = lidc_idri.main([str(source), "--out", str(tmp_path / "new")])
    with pytest.raises(FileExistsError, match="--overwrite"):
        lidc_idri.main([str(source), "--out", str(built)])
    smaller = write_zip(tmp_path / "small.zip", slices(num_patients=1))
    lidc_idri.main([str(smaller), "--out", str(built), "--overwrite"])
    assert len(rows_of(built)) == 2


def test_full_disk_leaves_nothing(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (200, 200), np.uint8)
    large = {"images": encode(noise), "mask": encode(np.full((200, 200), 255, np.uint8))}
    files = {name: large["images" if "/images/" in name else "mask"] for name in slices()}
    source = write_zip(tmp_path / "in.zip", files)
    building = run(
        "import resource; from medseglatdiff.builders import lidc_idri;"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000));"
        f"lidc_idri.main([{str(source)!r}, '--out', {str(tmp_path / 'out')!r}])"
    )
    _, told = building.communicate()
    assert building.returncode != 0 and "File too large" in told
    assert nothing_left(tmp_path)


@pytest.mark.parametrize("with_old", [False, True])
def test_a_killed_build_leaves_nothing_that_looks_complete(tmp_path, with_old):
    source, out = write_zip(tmp_path / "in.zip", slices()), tmp_path / "out"
    if with_old:
        lidc_idri.main([str(source), "--out", str(out)])
        before = (out / "report.json").read_bytes()
    building = run(  # waits when all else is written
        "import time; from medseglatdiff.builders import build, lidc_idri;"
        "build.contact_sheet = lambda examples: time.sleep(600);"
        f"lidc_idri.main([{str(source)!r}, '--out', {str(out)!r}, '--overwrite'])"
    )
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob(".partial-*-out/report.json")) and time.monotonic() < deadline:
        time.sleep(0.01)
    building.send_signal(signal.SIGKILL)
    building.communicate()
    assert len(list(tmp_path.glob(".partial-*-out/report.json"))) == 1
    assert (out / "report.json").read_bytes() == before if with_old else not out.exists()
    assert len(rows_of(lidc_idri.main([str(source), "--out", str(out), "--overwrite"]))) == 6


@pytest.mark.parametrize("name", BUILDERS)
def test_cards_say_everything_and_their_snippets_run(tmp_path, monkeypatch, name):
    out = BUILDERS[name].main([*one_of_each(tmp_path)[name], "--out", str(tmp_path / "out"), "--num-workers", "1"])
    card = (out / "README.md").read_text()
    report = json.loads((out / "report.json").read_text())
    for heading in ("Columns", "How it was built", "Known problems", "Use", "Licence and citation"):
        assert f"\n## {heading}\n" in card
    assert "license: " in card and "$" not in card
    for split, facts in report["splits"].items():
        assert f"| {split} | {facts['rows']} | {facts['groups']} |" in card
    built = report["built_from"]
    assert (
        built["command"].startswith(f"medseglatdiff dataset {name.replace('_', '-')} ")
        and "medseglatdiff" in built["versions"]
    )
    assert all(f"- {key}: `{value}`" in card for key, value in built.items())
    assert name == "phantom" or len(built[f"sha256 of {name}.zip"]) == 64
    monkeypatch.chdir(tmp_path)  # the card names the folder, not where somebody's disk has it
    scope = {}
    exec(card.split("```python\n")[1].split("```")[0], scope)
    assert scope["rows"].num_rows == report["splits"]["train"]["rows"]


def test_command_in_the_report_builds_the_same(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source = write_zip(tmp_path / "in.zip", isic())
    out = isic2018.main([str(source), "--size", "8", "--square", "--skip-bad", "--out", str(tmp_path / "out")])
    command = json.loads((out / "report.json").read_text())["built_from"]["command"]
    assert command == "medseglatdiff dataset isic2018 in.zip --out out --skip-bad --size 8 --square"
    isic2018.main([*command.split()[3:], "--overwrite"])
    assert json.loads((out / "report.json").read_text())["built_from"]["command"] == command


def test_greys_are_cut_at_127(tmp_path):
    source = Source([write_folder(tmp_path / "in", {"m.png": encode(np.array([[0, 127, 128, 255]], np.uint8))})])
    assert read_mask(source, "in/m.png", (1, 4)).pixels.tolist() == [[0, 0, 255, 255]]
    with pytest.raises(BadFile):
        read_mask(source, "in/m.png", (4, 1))
