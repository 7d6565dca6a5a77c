"""Which floating-point precision training takes where nobody says, and how benchmarks take it on a CPU."""

import os
from pathlib import Path

import torch
from accelerate.commands.config.config_args import default_config_file

from .launcher import Precision, find_launcher, launched_precision


def native_precision() -> Precision:
    """bf16 where this machine multiplies in it; no where it would only imitate it.

    Without AVX-512 PyTorch sends bf16 convolutions of a CPU down a path that takes 4 to 40 times as long as float32's.
    Older GPUs, such as a T4, imitate bf16 too.
    """
    if torch.cuda.is_available():
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        native = torch.backends.cpu.get_cpu_capability() == "AVX512"
    return "bf16" if native else "no"


def resolve_precision(setting: Precision | None) -> Precision:
    """The setting where it names a precision, else what was asked of the launcher, else `native_precision`."""
    has_file = Path(default_config_file).is_file()
    return setting or launched_precision(os.environ, find_launcher(), has_file) or native_precision()


def cpu_autocast(mixed_precision: str) -> torch.autocast:
    """A setting's precision on the CPU, as Accelerate gives it to training."""
    return torch.autocast("cpu", dtype=torch.bfloat16, enabled=mixed_precision == "bf16")
