"""What a run depended on besides its settings: recorded beside every checkpoint, so that a number can be traced."""

import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

import torch

import medseglatdiff

PACKAGES = ("torch", "diffusers", "numpy", "scipy", "accelerate", "datasets")


def hardware() -> str:
    """The accelerator's name, or the processor's kind, its vector instructions and the number of torch's threads."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"{platform.machine()} CPU, {torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads"


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide about numbers."""
    own = {"python": platform.python_version(), "medseglatdiff": medseglatdiff.__version__}  # run from a folder, too
    return own | {name: version(name) for name in PACKAGES}


def git_commit() -> str | None:
    """Commit of the checkout that this file lies in; `None` where there is no git or no checkout."""
    try:
        command = ["git", "rev-parse", "HEAD"]
        git = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True)
    except FileNotFoundError:
        return None
    return git.stdout.strip() or None
