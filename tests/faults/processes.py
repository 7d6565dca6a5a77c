"""Commands in processes of their own, which can be killed at any time or at the n-th change of a file.

They are forked from a server that has imported the package: each starts at once.
"""

import multiprocessing
import os
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path

from medseglatdiff.cli import main

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["medseglatdiff.training.train", "medseglatdiff.builders.command", "faults.processes"])
CHANGES = ("os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.truncate", "shutil.rmtree", "shutil.copyfile")
KILLED = -9


@dataclass
class Running:
    """A command at work, and the file of what it says."""

    process: BaseProcess
    log: Path

    def ended(self) -> tuple[int, str]:
        """Exit code and what it said, once it has ended."""
        self.process.join()
        return self.process.exitcode, self.log.read_text(errors="replace")


def start(words: list, log: Path, folder: Path | None = None, last: int = 0) -> Running:
    """Starts `medseglatdiff WORDS`; with a `folder`, the changes in it are counted, and the `last` one kills."""
    process = FORKS.Process(target=run_command, args=([str(word) for word in words], log, folder, last))
    process.start()
    return Running(process, log)


def timed(words: list, log: Path, folder: Path | None = None) -> float:
    """Seconds that a command takes from its start to its end, the server's own start not counted."""
    start(["--version"], log).ended()
    begun = time.monotonic()
    code, told = start(words, log, folder).ended()
    assert code == 0, told
    return time.monotonic() - begun


def interrupted(begin: Callable[[], Running], out: Path, seconds: float, number: int) -> tuple[int, str]:
    """Exit code and words of a command that gets a signal after so many seconds, sooner where it ends before that."""
    while True:
        shutil.rmtree(out, ignore_errors=True)
        running = begin()
        running.process.join(seconds)
        if running.process.is_alive():
            os.kill(running.process.pid, number)
            return running.ended()
        seconds *= 0.5


def run_command(words: list[str], log: Path, folder: Path | None, last: int):
    """What the process does; the number of changes is beside the log at the end."""
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, sys.stdout.fileno())
    os.dup2(descriptor, sys.stderr.fileno())
    changes = 0

    def count(event: str, arguments: tuple):
        nonlocal changes
        opened = event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+")
        if (opened or event in CHANGES) and str(arguments[0]).startswith(str(folder)):
            changes += 1
            if changes == last:
                os.kill(os.getpid(), 9)

    if folder:
        sys.addaudithook(count)
    try:
        sys.exit(main(words))
    finally:
        log.with_suffix(".changes").write_text(str(changes))


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, hidden ones too."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refused(code: int, told: str, words: str = "") -> None:
    """Raises an `AssertionError` unless a command ended with exit code 2 and one sentence, which holds these words."""
    last = (told.replace("\r", "\n").strip().splitlines() or [""])[-1]
    sentence = last[last.find("medseglatdiff: ") :]  # a progress bar may stand before it
    assert "Traceback" not in told, f"a traceback: {last}"
    assert code == 2, f"exit code {code}: {last}"
    assert sentence.startswith("medseglatdiff: ") and words in sentence, f"not the sentence: {last[-200:]}"
