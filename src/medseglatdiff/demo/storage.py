"""Where uploads and results lie: a folder of this process alone, from which everything goes by age and at the end."""

import atexit
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout
from gradio.utils import get_upload_folder

PARENT = "medseglatdiff-demo"  # below Gradio's folder: nothing else is ever swept
LOCK = "lock"  # in each folder; a process that ends, however it ends, no longer holds it


def claim_folder() -> Path:
    """A new folder for the uploads and results of this process, which Gradio uses from now on.

    The folders of processes that are gone are deleted first; this one is deleted when the process ends.
    """
    base = Path(get_upload_folder())
    parent = base.parent if base.parent.name == PARENT else base / PARENT
    parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    for other in parent.iterdir():
        if is_abandoned(other):
            shutil.rmtree(other, ignore_errors=True)
    lock = None
    while lock is None or not Path(lock.lock_file).exists():  # another process may have swept it before it was locked
        folder = Path(tempfile.mkdtemp(prefix=f"{os.getpid()}-", dir=parent))
        lock = FileLock(folder / LOCK, is_singleton=False)
        lock.acquire()
    os.environ["GRADIO_TEMP_DIR"] = str(folder)  # the only way in which Gradio takes a folder
    atexit.register(release_folder, folder, lock)
    return folder


def is_abandoned(folder: Path) -> bool:
    """Whether no living process holds this folder."""
    try:
        with FileLock(folder / LOCK, timeout=0, is_singleton=False):
            return True
    except Timeout:
        return False


def release_folder(folder: Path, lock: FileLock):
    """Deletes a folder with all that is in it, and its parent if that is empty then."""
    shutil.rmtree(folder, ignore_errors=True)
    lock.release()
    with suppress(OSError):
        folder.parent.rmdir()


class FilesIn(set):
    """The files of a folder as they are at the moment, uploads, tiles and maps alike.

    Gradio deletes what is in its sets of files, by age and at the end, but does not put everything that it writes
    into one. The pictures of examples, which Gradio keeps, are in none of its own either.
    """

    def __init__(self, folder: Path):
        super().__init__()
        self.folder = folder

    def __iter__(self) -> Iterator[str]:
        files = (path for path in self.folder.rglob("*") if path.is_file() and path.name != LOCK)
        return iter([str(path) for path in files])


def new_folder(folder: Path, keep_seconds: float) -> Path:
    """A new folder for one run's results; folders that have been empty for longer than `keep_seconds` go."""
    for old in sorted(folder.rglob("*"), reverse=True):
        if old.is_dir() and old.stat().st_mtime < time.time() - keep_seconds and not any(old.iterdir()):
            old.rmdir()
    results = folder / "results" / secrets.token_hex(16)
    results.mkdir(parents=True)
    return results
