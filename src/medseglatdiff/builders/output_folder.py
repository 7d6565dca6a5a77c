"""The output folder of a builder, written whole or not at all."""

import errno
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..data.files import replacing_folder

WRITTEN = ("README.md", "contact_sheet.png", "data", "report.json", ".DS_Store", "Thumbs.db", "desktop.ini")
UNWRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST)
ENDING = [number for number in signal.Signals if number.name in ("SIGTERM", "SIGHUP")]  # the first alone on Windows


@contextmanager
def new_folder(out: Path, overwrite: bool) -> Iterator[Path]:
    """Yields a temporary folder beside `out` that replaces it at the end, or is deleted if anything goes wrong.

    Raises:
        FileExistsError: if `out` exists, unless it is a data set built here (it has a report.json) and `overwrite`.
        OSError: if `out` cannot be written, or its disk is full, which is named.
    """
    out = Path(os.path.abspath(out))
    _check(out, overwrite)
    with _naming_what_cannot_be_written(out), _ends_on_signals(), replacing_folder(out) as folder:
        yield folder


def _check(out: Path, overwrite: bool):
    if out.is_symlink() or (out.exists() and not out.is_dir()):
        raise FileExistsError(f"`--out` must be a folder, but {str(out)!r} is a file or a link.")
    if out.exists() and not (overwrite and (out / "report.json").is_file()):
        advice = "--overwrite replaces only data sets built here" if overwrite else "--overwrite replaces it"
        raise FileExistsError(f"`--out` must not exist yet, but {str(out)!r} does; {advice}.")
    others = sorted(path.name for path in out.iterdir() if path.name not in WRITTEN) if out.exists() else []
    if others:
        names = ", ".join(map(repr, others[:3]))
        raise FileExistsError(f"--overwrite replaces only data sets built here, but {str(out)!r} also holds {names}.")


@contextmanager
def _naming_what_cannot_be_written(out: Path) -> Iterator[None]:
    """Turns errors of permission and of the path into one that names `--out`."""
    try:
        yield
    except OSError as error:
        if error.errno not in UNWRITABLE:
            raise
        raise OSError(f"`--out` cannot be written: {os.strerror(error.errno)}: {str(out)!r}.") from error


@contextmanager
def _ends_on_signals() -> Iterator[None]:
    """SIGTERM and a terminal that closes end the block as Ctrl-C does, so that what is half-written goes.

    What is ignored stays so, as under `nohup`.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in ENDING if signal.getsignal(number) != signal.SIG_IGN}
    for number in before:
        signal.signal(number, lambda received, _: sys.exit(128 + received))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
