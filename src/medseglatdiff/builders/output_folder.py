"""A folder that is written whole or not at all."""

import errno
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

WRITTEN = ("README.md", "contact_sheet.png", "data", "report.json", ".DS_Store", "Thumbs.db", "desktop.ini")
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
ENDING = [number for number in signal.Signals if number.name in ("SIGTERM", "SIGHUP")]  # the first alone on Windows


@contextmanager
def new_folder(out: Path, overwrite: bool) -> Iterator[Path]:
    """A temporary folder beside `out` that takes its name at the end, or vanishes if anything goes wrong.

    Raises:
        FileExistsError: if `out` exists, unless it is a data set built here (it has a report.json) and `overwrite`.
        OSError: if `out` cannot be written, or its disk is full: one sentence that names the disk.
    """
    out = Path(os.path.abspath(out))
    _check(out, overwrite)
    with _sentences(out), _ends_on_signals():
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{out.name}-", suffix=".partial", dir=out.parent) as temporary:
            folder = Path(temporary, "new")
            folder.mkdir()
            yield folder
            if out.exists():
                os.replace(out, Path(temporary, "old"))
            os.replace(folder, out)


def _check(out: Path, overwrite: bool):
    if out.is_symlink() or (out.exists() and not out.is_dir()):
        raise FileExistsError(f"`--out` must be a folder, but {str(out)!r} is a file or a link.")
    if out.exists() and not (overwrite and (out / "report.json").is_file()):
        advice = "--overwrite replaces only data sets built here" if overwrite else "--overwrite replaces it"
        raise FileExistsError(f"`--out` must not exist yet, but {str(out)!r} does; {advice}.")
    others = sorted(path.name for path in out.iterdir() if path.name not in WRITTEN) if out.exists() else []
    if others:
        raise FileExistsError(
            f"--overwrite replaces only what was built, but {str(out)!r} holds {', '.join(map(repr, others[:3]))} too."
        )


@contextmanager
def _sentences(out: Path):
    """Errors of the disk as sentences that name it."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            raise OSError(f"no space left on {_device(out)} for {str(out)!r} ({os.strerror(error.errno)}).") from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST):
            raise OSError(f"`--out` cannot be written: {os.strerror(error.errno)}: {str(out)!r}.") from error
        raise


def _device(path: Path) -> Path:
    """Where the disk of a path is mounted."""
    return next(parent for parent in (path, *path.parents) if os.path.ismount(parent))


@contextmanager
def _ends_on_signals():
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
