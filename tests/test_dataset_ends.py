"""Long builds end: whatever happens to a worker, by Ctrl-C and SIGTERM, on full disks; nothing half-written stays."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from dataset_fixtures import disc, encode, nothing_left, write_folder, write_zip

from medseglatdiff.builders import folder
from medseglatdiff.builders.archives import Source
from medseglatdiff.builders.output_folder import new_folder
from medseglatdiff.builders.picture_files import BadFile
from medseglatdiff.builders.workers import outcomes
from medseglatdiff.cli import main


def strange_row(job: int) -> list[int]:
    """What may happen to a worker, by the number of the job."""
    if job == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    if job == 4:
        raise MemoryError
    if job == 5:
        raise BadFile("five.png", "is odd")
    return [job, os.getpid()]


def read_row(source: Source, name: str) -> bytes:
    return source.read(name)


@pytest.mark.parametrize(
    ("job", "reason"),
    [
        (3, "a worker ended too early"),
        pytest.param(4, "out of memory", marks=pytest.mark.slow),
    ],
)
def test_a_worker_that_is_killed_or_out_of_memory_ends_the_build(job, reason):
    with pytest.raises(OSError, match=reason):
        list(outcomes([1, job, *[2] * 1000], strange_row, num_workers=2))


@pytest.mark.slow
def test_workers_keep_the_order_and_give_bad_files_as_values():
    results = list(outcomes([0, 1, 2, 5, *range(6, 40)], strange_row, num_workers=2))
    assert isinstance(results[3], BadFile) and results[3].reason == "is odd"
    numbers, processes = zip(*results[:3], *results[4:], strict=True)
    assert numbers == (0, 1, 2, *range(6, 40)) and os.getpid() not in processes


@pytest.mark.slow
def test_a_source_that_vanishes_ends_the_build_and_its_workers(tmp_path):
    path = write_zip(tmp_path / "in.zip", {f"{n}.bin": b"x" * n for n in range(100)})
    source = Source([path])
    path.unlink()
    with pytest.raises(ValueError, match="in.zip"):
        list(outcomes(source.names, partial(read_row, source), num_workers=2))
    assert not multiprocessing.active_children()


def test_a_folder_that_vanishes_is_no_list_of_bad_files(tmp_path):
    source = Source([write_folder(tmp_path / "in", {"a.png": b"x"})])
    (tmp_path / "in" / "a.png").unlink()
    with pytest.raises(OSError):
        source.read("in/a.png")
    (tmp_path / "in").rmdir()
    with pytest.raises(ValueError, match="`sources` disappeared while they were read: in"):
        source.read("in/a.png")


SLOW = """
import sys, time
from pathlib import Path
from medseglatdiff.builders import folder
def slow_rows(source, rule, entry):
    Path(sys.argv[3]).touch()
    time.sleep(600)
folder.folder_rows = slow_rows
if __name__ == "__main__":
    from medseglatdiff.cli import main
    sys.exit(main(["dataset", "folder", sys.argv[1], "--out", sys.argv[2], "--num-workers", "2"]))
"""


ENDS = [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGKILL, -9)]


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), ENDS)
def test_signals_end_a_build_and_its_workers(tmp_path, number, code):
    files = {f"train/{kind}/{n}.png": encode(disc(n)) for kind in ("images", "masks") for n in range(1, 5)}
    (tmp_path / "slow.py").write_text(SLOW)
    paths = [write_folder(tmp_path / "in", files), tmp_path / "out", tmp_path / "busy"]
    command = [sys.executable, str(tmp_path / "slow.py"), *map(str, paths)]
    building = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    while not paths[2].exists():
        assert building.poll() is None, building.stderr.read()
        time.sleep(0.05)
    building.send_signal(number)
    _, told = building.communicate(timeout=60)  # returns when the workers, who hold the pipe too, have ended
    assert building.returncode == code and "Traceback" not in told
    assert nothing_left(tmp_path) or number == signal.SIGKILL


def test_signals_that_are_ignored_stay_so(tmp_path):
    """As SIGHUP under `nohup`, which a build outlives."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with new_folder(tmp_path / "out", overwrite=False) as partial_folder:
            assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN != signal.getsignal(signal.SIGTERM)
            (partial_folder / "x").touch()
            os.kill(os.getpid(), signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)
    assert (tmp_path / "out" / "x").exists() and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_full_disk_is_a_sentence_that_names_disk_and_folder(tmp_path):
    sentence = pytest.raises(OSError, match=r"no space left on /.* for .*out$")
    with sentence, new_folder(tmp_path / "out", overwrite=False) as partial_folder:
        (partial_folder / "half").write_text("x")
        Path("/dev/full").write_text("x" * 2**20)
    assert nothing_left(tmp_path)


def place(tmp_path: Path, kind: str) -> Path:
    """A place where no folder can be written."""
    out = tmp_path / "place"
    if kind == "a file":
        out.write_text("precious")
    elif kind == "below a file":
        out.write_text("precious")
        out = out / "below"
    elif kind == "a link":
        (tmp_path / "elsewhere").mkdir()
        out.symlink_to(tmp_path / "elsewhere")
    elif kind == "a dangling link":
        out.symlink_to(tmp_path / "nowhere")
    elif kind == "a folder of others":
        out.mkdir()
        (out / "thesis.txt").write_text("precious")
    elif kind == "here":
        out = Path(".")
    else:
        out = Path("/proc/out")
    return out


KINDS = ("a file", "below a file", "a link", "a dangling link", "a folder of others", "here", "the kernel's")


@pytest.mark.parametrize("kind", KINDS)
def test_an_out_that_cannot_be_is_one_sentence_and_exit_code_2(tmp_path, capsys, monkeypatch, kind):
    monkeypatch.chdir(write_folder(tmp_path / "cwd", {"x": b"x"}))
    out = place(tmp_path, kind)
    before = sorted(tmp_path.rglob("*"))
    for overwrite in ([], ["--overwrite"]):
        assert main(["dataset", "phantom", "--num-rows", "2", "--size", "16", "--out", str(out), *overwrite]) == 2
        told = capsys.readouterr().err.split("\r")[-1].strip().splitlines()
        assert told[-1].startswith("medseglatdiff: ") and "Traceback" not in told[-1]
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    "name", ["..", "...", "a\x1b[2Jb", "a\nb", "-rf", "~", "con", "a" * 200, "ä", "$HOME", "a\u202eb"]
)
def test_nothing_is_written_outside_whatever_a_file_is_called(tmp_path, capsys, name):
    files = {f"train/{kind}/{name}.png": encode(disc(5)) for kind in ("images", "masks")}
    files |= {"report.json": b"precious", "train/masks/stray\x1b]0;title\x07.png": encode(disc(2))}
    source = write_folder(tmp_path / "in", files)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    command = ["dataset", "folder", str(source), "--out", str(tmp_path / "out")]
    assert main(command) == 2 and main([*command, "--skip-bad"]) == 0
    told = "".join(capsys.readouterr())
    assert not {"\x1b", "\x07", "\u202e"} & set(told)
    written = {path.name for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert written == {"README.md", "report.json", "contact_sheet.png", "train-00000-of-00001.parquet"}
    assert {path: path.read_bytes() for path in before} == before


def test_overwrite_never_takes_files_that_no_builder_wrote(tmp_path):
    files = {f"in/train/{kind}/1.png": encode(disc(5)) for kind in ("images", "masks")}
    source, out = write_folder(tmp_path, files) / "in", tmp_path / "out"
    folder.main([str(source), "--out", str(out)])
    source.rename(out / "raw")  # the source itself lies in the folder that would be replaced
    with pytest.raises(FileExistsError, match="also holds 'raw'"):
        folder.main([str(out / "raw"), "--out", str(out), "--overwrite"])
    assert (out / "raw/train/images/1.png").is_file()


def test_a_disk_that_fills_at_the_last_step_keeps_the_old_folder(tmp_path, monkeypatch):
    files = {f"train/{kind}/1.png": encode(np.full((16, 16), 255, np.uint8)) for kind in ("images", "masks")}
    source, out = str(write_folder(tmp_path / "in", files)), tmp_path / "out"
    folder.main([source, "--out", str(out)])
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    monkeypatch.setattr("medseglatdiff.builders.build.write_card", lambda *_: (_ for _ in ()).throw(OSError(28, "x")))
    with pytest.raises(OSError, match="no space left on"):
        folder.main([source, "--out", str(out), "--overwrite"])
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    assert not list(tmp_path.glob(".partial-*"))
