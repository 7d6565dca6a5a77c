"""What every run needs around it: progress on the page, a folder for its files, and errors as sentences."""

import logging
import time
import traceback
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from gradio.context import LocalContext
from gradio.utils import get_upload_folder

from ..pipeline.sampling import SamplingInterrupted
from . import texts
from .limits import InputError
from .results import HIDE, ON, SKIP, Shown, running
from .sampling import Job, Progress, Segmentation
from .sessions import Session
from .storage import new_folder

KEEP_SECONDS = 60 * texts.KEEP_MINUTES
PAUSE = 0.3  # seconds between two reports of progress, at least
LOG = logging.getLogger("medseglatdiff.demo")


def drawing(
    session: Session, job: Job, reports: Iterator[Progress] | Iterator[Progress | Segmentation]
) -> Generator[Shown, None, Segmentation | None]:
    """The page while candidates arrive; returns the last report where that is a result."""
    start, told, done = time.perf_counter(), 0.0, 0
    first, no_masks = job.candidates is None, np.zeros((0, *job.upload.image.shape[:2]), bool)
    yield Shown(
        texts.progress(job, None), ON, running(session, job, no_masks if first else None), HIDE if first else SKIP
    )
    for report in reports:
        if not isinstance(report, Progress):
            return report
        now = time.perf_counter()
        if report.done == done and now - told < PAUSE:
            continue
        picture = running(session, job, report.masks if first and report.done > done else None)
        told, done = now, report.done
        yield Shown(texts.progress(job, report, now - start), ON, picture)
    return None


def results_folder() -> Path:
    """Where the files of a run go."""
    return new_folder(Path(get_upload_folder()), KEEP_SECONDS)


def client_gone() -> Callable[[], bool]:
    """Tells whether the client of the event at hand has gone away; without an event (a direct call) it has not."""
    blocks, number = LocalContext.blocks.get(None), LocalContext.event_id.get(None)
    event = blocks._queue.event_ids_to_events.get(number) if blocks and number else None
    return lambda: event is not None and not event.alive


@contextmanager
def only_sentences():
    """Turns what nobody foresaw into a sentence; the log gets the place, never the message, which may quote a file."""
    try:
        yield
    except InputError:
        raise
    except SamplingInterrupted:
        raise InputError(texts.STOPPED) from None
    except Exception as error:  # whatever it is: the visitor gets a sentence, the log the place
        LOG.error("%s\n%s", type(error).__name__, "".join(traceback.format_tb(error.__traceback__)))
        raise InputError(texts.FAILED) from None
