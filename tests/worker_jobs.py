"""What workers do in the tests of their ends: a module of its own, so that they need not import the tests'."""

import os
import signal

from medseglatdiff.builders.archives import Source
from medseglatdiff.builders.picture_files import BadFile


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
