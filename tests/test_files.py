"""Files and folders are replaced whole: after kills, errors and full disks, and before the eyes of readers."""

import errno
import json
import multiprocessing
import os
import shutil
import signal
import threading
import time
from pathlib import Path

import pytest
from safetensors import SafetensorError

from medseglatdiff.data import files
from medseglatdiff.data.files import (
    exchange,
    read_folder,
    replace_folder,
    replacing,
    replacing_folder,
    sweep,
    write_json,
    write_text,
)

linux = pytest.mark.skipif(not Path("/proc").exists(), reason="renameat2 is Linux's")


def folder_of(path: Path, text: str) -> Path:
    path.mkdir()
    for name in ("1", "2"):
        (path / name).write_text(text)
    return path


def contents(folder: Path) -> str:
    return "".join((folder / name).read_text() for name in ("1", "2"))


@pytest.mark.parametrize("text", ["", "one\n", "Größe ≥ 3"])
def test_text_is_written_as_utf_8_and_nothing_else_stays(tmp_path, text):
    write_text(tmp_path / "a.txt", "before")
    write_text(tmp_path / "a.txt", text)
    assert (tmp_path / "a.txt").read_bytes() == text.encode() and os.listdir(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_json_that_no_reader_takes_leaves_the_old_file(tmp_path, number):
    write_json(tmp_path / "a.json", {"x": 1.5})
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a.json", {"x": number})
    assert json.loads((tmp_path / "a.json").read_text()) == {"x": 1.5} and os.listdir(tmp_path) == ["a.json"]


@pytest.mark.parametrize("old", [None, "old"])
@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, OSError])
def test_an_error_while_writing_leaves_everything_as_it_was(tmp_path, old, error):
    if old:
        (tmp_path / "file").write_text(old)
        folder_of(tmp_path / "folder", old)
    before = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*"))
    with pytest.raises(error), replacing(tmp_path / "file") as partial:
        partial.write_text("new")
        raise error("stop")
    with pytest.raises(error), replacing_folder(tmp_path / "folder") as partial:
        (partial / "1").write_text("new")
        raise error("stop")
    assert sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*")) == before
    assert not old or ((tmp_path / "file").read_text(), contents(tmp_path / "folder")) == (old, old * 2)


@pytest.mark.parametrize("can_exchange", [True, False])
def test_a_folder_takes_the_place_of_another(tmp_path, monkeypatch, can_exchange):
    if not can_exchange:
        monkeypatch.setattr(files, "exchange", lambda first, second: False)
    for text in ("a", "b"):
        with replacing_folder(tmp_path / "deep" / "final") as partial:
            shutil.copytree(folder_of(tmp_path / text, text), partial, dirs_exist_ok=True)
        assert contents(tmp_path / "deep" / "final") == text * 2 and os.listdir(tmp_path / "deep") == ["final"]


def test_a_link_stays_and_what_it_points_to_is_replaced(tmp_path):
    folder_of(tmp_path / "real", "a")
    (tmp_path / "link").symlink_to("real")
    with replacing_folder(tmp_path / "link") as partial:
        (partial / "1").write_text("new")
    assert (tmp_path / "link").is_symlink() and os.listdir(tmp_path / "real") == ["1"]


def test_a_file_is_not_replaced_by_a_folder(tmp_path):
    (tmp_path / "final").write_text("kept")
    with pytest.raises(NotADirectoryError), replacing_folder(tmp_path / "final"):
        pass
    assert (tmp_path / "final").read_text() == "kept" and os.listdir(tmp_path) == ["final"]


def test_long_names_are_replaced_as_well(tmp_path):
    write_text(tmp_path / ("a" * 251 + ".txt"), "whole")
    assert [name[-5:] for name in os.listdir(tmp_path)] == ["a.txt"]


@linux
def test_two_folders_are_exchanged(tmp_path):
    first, second = folder_of(tmp_path / "a", "a"), folder_of(tmp_path / "b", "b")
    assert exchange(first, second) and (contents(first), contents(second)) == ("bb", "aa")
    with pytest.raises(FileNotFoundError):
        exchange(first, tmp_path / "missing")


@linux
def test_readers_never_find_a_folder_missing_or_mixed(tmp_path):
    for text in ("a", "b"):
        folder_of(tmp_path / text, text)
    final, stop = shutil.copytree(tmp_path / "a", tmp_path / "final"), threading.Event()

    def write():
        turn = 0
        while not stop.is_set():
            turn += 1
            shutil.copytree(tmp_path / "ab"[turn % 2], tmp_path / "new")
            replace_folder(tmp_path / "new", final)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        seen = set()
        for _ in range(1000):
            assert final.is_dir()
            seen.add(read_folder(final, contents))
    finally:
        stop.set()
        thread.join()
    assert seen == {"aa", "bb"}


def test_a_read_is_repeated_when_the_folder_was_replaced_meanwhile(tmp_path):
    final, reads = folder_of(tmp_path / "final", "a"), []

    def read(folder: Path) -> str:
        first = (folder / "1").read_text()
        if not reads:
            replace_folder(folder_of(tmp_path / "new", "b"), final)
        reads.append(first + (folder / "2").read_text())
        return reads[-1]

    assert read_folder(final, read) == "bb" and reads == ["ab", "bb"]


def test_a_folder_that_never_rests_or_is_missing_is_named(tmp_path):
    def write(folder: Path):
        write_text(folder / "1", "again")
        time.sleep(0.005)  # longer than a tick of the file system's clock

    with pytest.raises(OSError, match=f"{folder_of(tmp_path / 'busy', 'a')} changed each time it was read"):
        read_folder(tmp_path / "busy", write)
    with pytest.raises(FileNotFoundError, match="missing"):
        read_folder(tmp_path / "missing", contents)
    with pytest.raises(KeyError, match="mine"):
        read_folder(tmp_path, lambda folder: {}["mine"])


FULL = [  # as Python and as safetensors say it
    OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
    OSError(errno.EDQUOT, os.strerror(errno.EDQUOT)),
    SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
]


@pytest.mark.parametrize("error", FULL, ids=str)
@pytest.mark.parametrize("write", [replacing, replacing_folder])
def test_a_full_disk_is_named_with_the_file(tmp_path, write, error):
    with pytest.raises(OSError, match=f"no space left on .* for {tmp_path}/weights"), write(tmp_path / "weights"):
        raise error
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("error", [OSError(errno.EACCES, "denied"), SafetensorError("header too large")], ids=str)
def test_other_errors_stay_what_they_are(tmp_path, error):
    with pytest.raises(type(error), match=str(error).split()[-1]), replacing(tmp_path / "weights"):
        raise error


def writer(folder: Path):
    for turn in range(10**6):
        with replacing_folder(folder / "final") as partial:
            for name in ("1", "2"):
                (partial / name).write_text(str(turn) * 2000)


def test_kills_leave_whole_folders_and_what_sweep_finds(tmp_path):
    context = multiprocessing.get_context("fork")
    for turn in range(12):
        process = context.Process(target=writer, args=(tmp_path,))
        process.start()
        while not (tmp_path / "final").exists():
            time.sleep(0.001)
        time.sleep(0.003 + 0.0011 * turn)
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        one, two = ((tmp_path / "final" / name).read_text() for name in ("1", "2"))
        assert one == two and len(one) >= 2000
    (tmp_path / ".partial-file").write_text("of a kill")
    sweep(tmp_path)
    assert os.listdir(tmp_path) == ["final"]
