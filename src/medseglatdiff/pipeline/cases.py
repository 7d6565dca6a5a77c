"""Cases from files, folders and patterns, each with the name under which its results are stored."""

import glob
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import PIL.Image

from ..data.dicom_files import is_dicom
from ..data.volumes import SUFFIXES as VOLUMES
from ..data.volumes import is_volume, stem

UNSAFE = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\\:*?\"<>|]"
)  # not allowed in file names on some system


class Case(NamedTuple):
    """One thing to segment.

    Args:
        name (`str`): the results' folder below `--out`, with slashes where the source is in subfolders.
        path (`str`): path of the source.
    """

    name: str
    path: str


def find_cases(inputs: Sequence[str | os.PathLike], out: Path | None = None) -> list[Case]:
    """The cases of files, folders (all images below them) and patterns such as `scans/*.png`, in a fixed order.

    In folders, hidden files, files without an image's suffix, and everything in `out` are skipped; a file that is
    named itself is always a case.

    Raises:
        ValueError: for a path that does not exist, a pattern without a match, and folders without images.
    """
    found: list[tuple[Path, Path]] = []  # what a name is relative to, and the file
    for text in [os.fspath(path) for path in inputs]:
        paths = [text] if os.path.lexists(text) else sorted(glob.glob(text, recursive=True))
        if not paths:
            raise ValueError(f"{text} cannot be segmented: no file, folder or pattern matches.")
        for path in map(Path, paths):
            if path.is_dir() and is_series(path):
                found.append((path.parent, path))
            elif path.is_dir():
                found += [(path, file) for file in _images_below(path, out)]
            else:
                found.append((path.parent, path))
    if not found:
        raise ValueError(f"{', '.join(os.fspath(path) for path in inputs)} cannot be segmented: there are no images.")
    names = case_names([file.relative_to(base) for base, file in found])
    return [Case(name, os.fspath(file)) for name, (_, file) in zip(names, found, strict=True)]


def _images_below(folder: Path, out: Path | None) -> Iterable[Path]:
    """Image files below a folder, sorted by name, without following links to folders."""
    suffixes = (*PIL.Image.registered_extensions(), ".dcm", ".dicom", ".ima", *VOLUMES)
    for base, folders, files in os.walk(folder):
        parent = Path(base)
        folders[:] = sorted(name for name in folders if not _passed_over(parent / name, out))
        for name in list(folders):
            if is_series(parent / name):
                folders.remove(name)
                yield parent / name
        for name in sorted(files):
            path = parent / name
            bare = not path.suffix and path.is_file() and is_dicom(path)
            if not name.startswith(".") and (bare or name.lower().endswith(suffixes)):
                yield path


def is_series(folder: Path) -> bool:
    """Whether a folder is a volume: at least two DICOM files of a series, and no other images."""
    files = [path for path in folder.iterdir() if path.is_file() and not path.name.startswith(".")]
    pictures = any(path.suffix.lower() in PIL.Image.registered_extensions() for path in files)
    return not pictures and sum(map(is_dicom, files)) > 1 and is_volume(folder)


def _passed_over(folder: Path, out: Path | None) -> bool:
    is_out = out is not None and out.exists() and folder.samefile(out)
    return folder.name.startswith(".") or folder.is_symlink() or is_out


def case_stem(path: Path) -> str:
    """The name of a file without the suffix of its format, that of a folder as it is."""
    return stem(path) if path.is_dir() or path.name.lower().endswith(VOLUMES) else path.stem


def case_names(paths: Sequence[Path]) -> list[str]:
    """A unique name for each relative path: without suffix and unsafe characters, numbered if it is taken already,
    ignoring case.

    >>> case_names([Path("a/scan.png"), Path("a/SCAN.tif"), Path("...png")])
    ['a/scan', 'a/SCAN-2', '_']
    """
    names, taken = [], set()
    for path in paths:
        parts = [UNSAFE.sub("_", part).strip(". ") or "_" for part in (*path.parent.parts, case_stem(path))]
        name, number = "/".join(parts), 2
        while name.lower() in taken:
            name, number = f"{'/'.join(parts)}-{number}", number + 1
        taken.add(name.lower())
        names.append(name)
    return names
