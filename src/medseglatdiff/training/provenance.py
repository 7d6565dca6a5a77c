"""What a run depended on besides its settings, so that a number can be traced; without anybody's paths or names."""

import os
import platform
import re
import subprocess
from importlib.metadata import version
from pathlib import Path

import torch

import medseglatdiff

PACKAGES = ("torch", "diffusers", "numpy", "scipy", "accelerate", "datasets")
HUB_ID = r"[A-Za-z0-9][\w.-]*/[\w.-]+"


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
    """Commit of the checkout that this file belongs to.

    `None` without git, outside of a checkout, and inside one of another project, such as that of a user whose virtual
    environment holds the package: git does not track this file there.
    """
    try:
        tracked = git("ls-files", "--error-unmatch", Path(__file__).name)
    except FileNotFoundError:
        return None
    return git("rev-parse", "HEAD") if tracked else None


def git(*arguments: str) -> str | None:
    """What git prints in the folder of this file; `None` if it fails."""
    run = subprocess.run(["git", *arguments], cwd=Path(__file__).parent, capture_output=True, text=True)
    return run.stdout.strip() or None if run.returncode == 0 else None


def public(value):
    """A setting as it may be published: of a path on this machine the last name only, inside of lists and dictionaries
    as well. Hub ids stay.

    >>> public(["ORG/NAME", "/home/someone/data/lidc-idri/", "~/x.json", 3])
    ['ORG/NAME', 'lidc-idri', 'x.json', 3]
    """
    if isinstance(value, dict):
        return {name: public(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [public(entry) for entry in value]
    if not isinstance(value, str | Path):
        return value
    text, path = str(value), Path(value).expanduser()
    if path.exists():
        return Path(os.path.abspath(path)).name
    return text if re.fullmatch(HUB_ID, text) else re.split(r"[\\/]", text.rstrip("\\/"))[-1]
