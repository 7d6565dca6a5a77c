"""Runs jobs in processes, in order; if a process dies, the build ends with a clear error within seconds."""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from multiprocessing.connection import wait

from .picture_files import BadFile, Row

JOBS_AHEAD = 8  # per process: enough to keep it busy, few enough for memory
MakeRows = Callable[..., list[Row]]
Outcome = list[Row] | BadFile

_make_rows: MakeRows  # of this process, set by `_start`


def outcomes(jobs: Iterable, make_rows: MakeRows, num_workers: int) -> Generator[Outcome, None, None]:
    """Yields the rows of each job, in order, or its `BadFile` as a value, since that must not end the build.

    Raises:
        OSError: if a process is killed or runs out of memory.
        Exception: any other error of `make_rows`.
    """
    try:
        if num_workers < 2:
            _start(make_rows)
            yield from map(_outcome, jobs)
        else:
            yield from _from_processes(iter(jobs), make_rows, num_workers)
    except BrokenProcessPool as error:
        raise OSError(
            "a worker ended too early: killed, or out of memory? Fewer `--num-workers` need less memory."
        ) from error
    except MemoryError as error:
        raise OSError("out of memory: fewer `--num-workers` need less memory.") from error


def _from_processes(jobs: Iterator, make_rows: MakeRows, num_workers: int) -> Iterator[Outcome]:
    # each process opens the source once, at its first job; sending it with every job would cost seconds each time
    spawn, before = multiprocessing.get_context("spawn"), set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(num_workers, spawn, initializer=_start_process, initargs=(make_rows,))
    waiting: deque[Future[Outcome]] = deque()
    try:
        while True:
            room = JOBS_AHEAD * num_workers - len(waiting)
            waiting.extend(pool.submit(_outcome, job) for job in islice(jobs, room))
            if not waiting:
                break
            yield waiting.popleft().result()
    except BaseException:  # an error, Ctrl-C or a closed generator: do not wait for running jobs
        for process in set(multiprocessing.active_children()) - before:
            process.kill()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _start_process(make_rows: MakeRows):
    for number in signal.Signals:
        if number.name in ("SIGINT", "SIGHUP"):  # a terminal sends them to all: the parent ends its workers
            signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _start(make_rows)


def _end_with_parent():
    wait([multiprocessing.parent_process().sentinel])
    os._exit(1)


def _start(make_rows: MakeRows):
    global _make_rows
    _make_rows = make_rows


def _outcome(job) -> Outcome:
    try:
        return _make_rows(job)
    except BadFile as error:
        return error
