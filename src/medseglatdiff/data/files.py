"""Files and folders written whole or not at all: under a temporary name first, then renamed into place."""

import ctypes
import errno
import hashlib
import json
import os
import re
import secrets
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from safetensors import SafetensorError

Result = TypeVar("Result")

PREFIX, OLD = ".partial-", ".old-"  # of temporary names: hidden, so that nothing lists or publishes what a kill leaves
CURRENT_FOLDER, RENAME_EXCHANGE = -100, 2  # AT_FDCWD of fcntl.h; linux/fs.h
READS, PAUSE = 10, 0.02  # of `read_folder`: attempts, and seconds to wait for a missing folder


def temporary(path: Path, prefix: str = PREFIX) -> Path:
    """A name beside `path` that nobody else uses, with its suffix."""
    return path.with_name(f"{prefix}{secrets.token_hex(4)}-{path.name[-100:]}")


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yields a temporary path to write a file to; if the block succeeds, the file replaces `path`.

    Otherwise the temporary file is deleted, and `path` is left as it was.

    Raises:
        OSError: any error of writing; a full disk is named together with `path`.
    """
    path = Path(path)
    partial = temporary(path)
    try:
        with naming_full_disk(path):
            yield partial
            partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def replacing_folder(folder: str | Path) -> Iterator[Path]:
    """Yields an empty temporary folder to fill; if the block succeeds, it replaces `folder` as a whole.

    Otherwise the temporary folder is deleted, and `folder` is left as it was.

    Raises:
        OSError: any error of writing; a full disk is named together with `folder`.
    """
    folder = Path(folder).resolve()  # what a link points to is replaced, not the link
    partial = temporary(folder)
    try:
        with naming_full_disk(folder):
            partial.mkdir(parents=True)
            yield partial
            replace_folder(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write_text(path: str | Path, text: str):
    """Writes UTF-8 text so that a reader finds the old file or the new one, never half of one."""
    with replacing(path) as partial:
        partial.write_text(text, "utf-8")


def write_json(path: str | Path, content: dict | list):
    """Likewise, JSON with two spaces of indentation.

    Raises:
        ValueError: if `content` holds NaN or infinity, which JSON cannot represent.
    """
    write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def replace_folder(partial: Path, folder: Path):
    """Puts a finished folder in the place of another, which is deleted.

    On Linux the two are exchanged in one step, so that `folder` is never missing; elsewhere it is missing for a moment
    between two renames (`read_folder` waits).
    """
    if not folder.is_dir():
        partial.rename(folder)
        return
    if exchange(partial, folder):
        old = partial
    else:
        old = folder.rename(temporary(folder, OLD))  # which `sweep` leaves alone: after a kill here it is all there is
        partial.rename(folder)
    shutil.rmtree(old)


def exchange(first: Path, second: Path) -> bool:
    """Swaps two names in one step; False if the system or file system cannot (Linux has renameat2)."""
    function = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None) if sys.platform == "linux" else None
    if function is None:
        return False
    if function(CURRENT_FOLDER, os.fsencode(first), CURRENT_FOLDER, os.fsencode(second), RENAME_EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP):
        return False
    raise OSError(code, os.strerror(code), str(second))


def read_folder(folder: str | Path, read: Callable[[Path], Result]) -> Result:
    """`read(folder)`, repeated if the folder was replaced or changed meanwhile, so that old and new never mix.

    Raises:
        OSError: if the folder changes during all of ten attempts. Errors of `read` are raised if it did not change.
    """
    folder = Path(folder)
    for _ in range(READS):
        before = identity(folder)
        if before is None:  # between two renames, if the system cannot exchange folders
            time.sleep(PAUSE)
            continue
        try:
            result = read(folder)
        except Exception:
            if identity(folder) == before:
                raise
        else:
            if identity(folder) == before:
                return result
    if not folder.exists():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(folder))
    raise OSError(f"{folder} changed each time it was read: wait until the program that writes to it has ended.")


def identity(folder: Path) -> tuple[int, int, int] | None:
    """Changes when the folder is replaced or its entries are added, removed or replaced; `None` if it is missing."""
    try:
        status = folder.stat()
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino, status.st_ctime_ns


def sweep(folder: Path):
    """Deletes what killed processes left behind in a folder: only for one that nobody else writes to."""
    for path in folder.glob(f"{PREFIX}*"):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


@contextmanager
def naming_full_disk(path: Path) -> Iterator[None]:
    """Turns errors for lack of space into one `OSError` that names the disk and `path`."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        number = getattr(error, "errno", None) or int((re.findall(r"os error (\d+)", str(error)) or [0])[-1])
        if number not in (errno.ENOSPC, errno.EDQUOT):
            raise
        disk = next(folder for folder in path.absolute().parents if folder.is_mount())
        raise OSError(number, f"no space left on {disk} for {path}") from error
