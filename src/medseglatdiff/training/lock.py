"""One training at a time in an output folder."""

import json
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout

from ..data.files import write_json

LOCK, HOLDER = ".training.lock", ".training.json"


def check_free(folder: Path):
    """Raises a `ValueError` that says who trains in the folder, if anybody does; writes nothing."""
    if (folder / LOCK).exists():
        taken(folder).release()


@contextmanager
def holding(folder: Path) -> Iterator[None]:
    """Keeps other trainings out of a folder, which is made if need be.

    The lock is the system's, on an open file: whatever ends the process ends it.

    Raises:
        ValueError: if another process holds it; it says which, on which machine and since when.
    """
    new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    lock = taken(folder)
    try:
        since = datetime.now().astimezone().isoformat(" ", "seconds")
        write_json(folder / HOLDER, {"host": socket.gethostname(), "pid": os.getpid(), "since": since})
        yield
    finally:
        (folder / HOLDER).unlink(missing_ok=True)
        if new and [path.name for path in folder.iterdir()] == [LOCK]:  # refused before it began
            shutil.rmtree(folder)
        lock.release()


def taken(folder: Path) -> FileLock:
    """The folder's lock, acquired."""
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise ValueError(
            f"`output_dir` must be a folder that no other training uses, but {folder} is in use by {holder(folder)}. "
            "Wait for its end, or name another."
        ) from None
    return lock


def holder(folder: Path) -> str:
    """Who holds the lock, in words."""
    try:
        entry = json.loads((folder / HOLDER).read_text("utf-8"))
        return f"process {entry['pid']} on {entry['host']} since {entry['since']}"
    except FileNotFoundError:  # it has only just begun
        return "another process"
