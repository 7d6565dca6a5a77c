"""What a run takes from its launcher, where somebody asked for it: torch's threads and the precision.

`accelerate launch` writes both into the environment, asked or not: OMP_NUM_THREADS is 1 (with `--cpu` the physical
cores divided by the processes) and ACCELERATE_MIXED_PRECISION is "no" where nobody named them; torchrun writes 1, too.
Whether somebody asked is known from the launcher, which is the parent of its processes: from its command line and from
the environment that it was started with.
"""

import functools
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import joblib
import psutil
import torch
from accelerate.utils import get_int_from_env

Precision = Literal["no", "bf16", "fp16"]
PRECISIONS: tuple[Precision, ...] = ("no", "bf16", "fp16")
PROGRAMS = {"accelerate", "accelerate-launch", "torchrun"}  # and their modules, for `python -m`
MODULES = {"accelerate.commands.launch", "accelerate.commands.accelerate_cli", "torch.distributed.run"}
LOCAL_PROCESSES = ["LOCAL_WORLD_SIZE", "MPI_LOCALNRANKS", "OMPI_COMM_WORLD_LOCAL_SIZE", "MV2_COMM_WORLD_LOCAL_SIZE"]


@dataclass(frozen=True)
class Launcher:
    """The command line of `accelerate launch` or torchrun, and the environment that it was started with."""

    words: tuple[str, ...]
    environment: Mapping[str, str]

    def names(self, option: str) -> bool:
        """Whether the command line has an option, with hyphens or underscores."""
        return option in {word.split("=")[0].lstrip("-").replace("-", "_") for word in self.words if word[:2] == "--"}


@functools.cache
def find_launcher() -> Launcher | None:
    """This process's launcher; `None` where another program started it, or where that cannot be seen."""
    try:
        parent = psutil.Process().parent()
        words = parent.cmdline() if parent else []
        if any(Path(word).name in PROGRAMS or word in MODULES for word in words):
            return Launcher(tuple(words), parent.environ())
    except psutil.Error:
        pass  # gone, or another user's
    return None


def threads(environment: Mapping[str, str], launcher: Launcher | None, cpus: int, processes: int) -> int:
    """How many threads torch should take: what was asked for, or else an equal share of the CPUs.

    Args:
        environment: of this process.
        cpus: how many this process may use.
        processes: how many of the run share them.
    """
    asked = (
        launcher is None or "OMP_NUM_THREADS" in launcher.environment or launcher.names("num_cpu_threads_per_process")
    )
    count = environment.get("OMP_NUM_THREADS", "").split(",")[0].strip()  # of the outermost level
    return int(count) if asked and count.isdecimal() and int(count) else max(1, cpus // processes)


def use_threads(num_processes: int = 1):
    """Sets torch's threads for one of a run's processes: see `threads`.

    The CPUs that it may use are those of its affinity and of its container's quota (cgroups v1 and v2).
    """
    processes = get_int_from_env(LOCAL_PROCESSES, num_processes)
    torch.set_num_threads(threads(os.environ, find_launcher(), joblib.cpu_count(), processes))


def launched_precision(environment: Mapping[str, str], launcher: Launcher | None, has_file: bool) -> Precision | None:
    """The precision that was asked of the launcher, if any.

    Args:
        environment: of this process.
        has_file: whether there is a file of answers to `accelerate config`, which the launcher reads.

    Raises:
        ValueError: if training cannot have it.
    """
    named = environment.get("ACCELERATE_MIXED_PRECISION")
    precision = next((known for known in PRECISIONS if known == named), None)
    if precision != named:
        raise ValueError(f"`--mixed_precision` of the launcher must be no, bf16 or fp16, but was {named}.")
    asked = (
        has_file
        or launcher is None
        or "ACCELERATE_MIXED_PRECISION" in launcher.environment
        or launcher.names("mixed_precision")
        or launcher.names("config_file")
    )
    return precision if asked or precision != "no" else None
