"""What every builder shares: rows, the build from a source to a folder, and the push to the Hub.

The folder looks just like a data set's repository on the Hub: README.md and data/SPLIT-0000K-of-0000N.parquet with the
images' bytes inside. So `load_dataset(folder)` and `load_dataset("ORG/NAME")` read the same thing.
"""

import argparse
import contextlib
import hashlib
import io
import multiprocessing
import operator
import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import datasets
import numpy as np
import PIL.Image
from archives import Source
from report import Report, contact_sheet
from shards import ShardWriter, write_card
from tqdm import tqdm

SPLITS = ("train", "validation", "test")


class BadFile(ValueError):
    """A file that cannot become a row: its name and the reason."""

    def __init__(self, name: str, reason: str):
        super().__init__(name, reason)
        self.name, self.reason = name, reason


class Picture(NamedTuple):
    """An image as pixels, `(H, W)` or `(H, W, 3)`, and as the bytes of the file that will be stored."""

    pixels: np.ndarray
    data: bytes


@dataclass
class Row:
    """One row by the data contract; `dropped` names the reason why it is left out of the data set, if it is."""

    image: Picture
    masks: list[Picture]
    image_id: str
    group_id: str
    split: str
    dropped: str = ""


def split_of(group_id: str) -> str:
    """The split of a group by the hash of its name: 70 % train, 10 % validation, 20 % test."""
    u = int(hashlib.sha256(group_id.encode()).hexdigest()[:8], 16) / 2**32
    return "train" if u < 0.7 else "validation" if u < 0.8 else "test"


def picture(pixels: np.ndarray) -> Picture:
    """Pixels (uint8 or uint16) as a PNG file; bool becomes 0/255."""
    pixels = pixels.astype(np.uint8) * 255 if pixels.dtype == bool else pixels
    file = io.BytesIO()
    PIL.Image.fromarray(pixels).save(file, "PNG")
    return Picture(pixels, file.getvalue())


def read_picture(source: Source, name: str, modes: tuple[str, ...] = ()) -> Picture:
    """A file of the source: its bytes unchanged if it is a PNG or JPEG of one of `modes`, else as RGB.

    Without `modes` every file stays as it is. Raises `BadFile` if the file is missing or does not decode.
    """
    if name not in source:
        raise BadFile(name, "missing")
    try:
        data = source.read(name)
        if not data:
            raise BadFile(name, "empty (zero bytes)")
        with PIL.Image.open(io.BytesIO(data)) as image:
            if not modes or (image.mode in modes and image.format in ("PNG", "JPEG")):
                return Picture(np.asarray(image), data)
            return picture(np.asarray(image if image.mode in modes else image.convert("RGB")))
    except (OSError, SyntaxError, EOFError, PIL.Image.DecompressionBombError) as error:
        reason = str(error).replace("cannot identify image file <_io.BytesIO object", "no image <")
        raise BadFile(name, f"cannot be decoded: {reason.split(' <')[0]}") from error


def read_mask(source: Source, name: str, size: tuple[int, int]) -> Picture:
    """A mask of `size` (H, W) as 0/255 of mode "L": the file's own bytes if it is one, else its greys > 127."""
    mask = read_picture(source, name)
    if mask.pixels.shape[:2] != size:
        raise BadFile(name, f"{mask.pixels.shape[:2]} (height, width) pixels, but its image has {size}")
    if mask.pixels.ndim == 2 and mask.data.startswith(b"\x89PNG") and not set(np.unique(mask.pixels)) - {0, 255}:
        return mask
    with PIL.Image.open(io.BytesIO(mask.data)) as image:
        return picture(np.asarray(image.convert("L")) > 127)


def provenance(args: argparse.Namespace, source: Source | None = None, **facts: str) -> dict[str, str]:
    """What a data set was built from, for report and card: facts, options, versions, SHA-256 of the sources."""
    ours = ("out", "sources", "overwrite", "num_workers", "push_to_hub")
    options = " ".join(f"--{key.replace('_', '-')} {value}" for key, value in vars(args).items() if key not in ours)
    versions = f"datasets {datasets.__version__}, numpy {np.__version__}, pillow {PIL.__version__}"
    hashes = {f"sha256 of {name}": value for name, value in source.fingerprint().items()} if source else {}
    return {"script": Path(sys.argv[0]).name, **facts, "options": options, "versions": versions, **hashes}


def parser(description: str) -> argparse.ArgumentParser:
    """The options that every builder has."""
    options = argparse.ArgumentParser(description=description)
    options.add_argument("--out", type=Path, required=True, help="folder to write")
    options.add_argument("--overwrite", action="store_true", help="replace the data set that --out holds")
    options.add_argument("--skip-bad", action="store_true", help="leave out files that cannot be used, and count them")
    options.add_argument("--num-workers", type=int, default=1, help="processes that read files")
    options.add_argument("--push-to-hub", metavar="ORG/NAME", help="upload the folder as this data set")
    return options


def build(
    args: argparse.Namespace,
    template: str,
    jobs: Iterable,
    make_rows: Callable[..., list[Row]],
    built_from: dict[str, str],
    strays: Iterable[str] = (),
    groups_may_cross: bool = False,
) -> Path:
    """Turn jobs into rows, and rows into the folder `args.out`, whole or not at all.

    Args:
        args (`argparse.Namespace`): the options of `parser`.
        template (`str`): the card's template, the name of a file beside this one.
        jobs (`Iterable`): one per image or series, in the order of the rows; each may be sent to another process.
        make_rows (`Callable`): turns a job into rows; raises `BadFile` for one that cannot be used.
        built_from (`dict[str, str]`): what `provenance` says.
        strays (`Iterable[str]`, *optional*): files that belong to no job, bad files too.
        groups_may_cross (`bool`, *optional*, defaults to `False`): allow a group in two splits.

    Raises:
        ValueError: naming every bad file, unless `args.skip_bad`; if no row is left, or a group is in two splits.
        FileExistsError: if `args.out` exists and is not to be overwritten.
    """
    report = Report(built_from)
    for name in strays:
        report.skip(name, "belongs to no image: misnamed?")
    with new_folder(args.out, args.overwrite) as folder, ShardWriter(folder / "data") as shards:
        # 1. rows
        total = operator.length_hint(jobs) or None
        for outcome in tqdm(_outcomes(jobs, make_rows, args.num_workers), total=total, desc=args.out.name):
            if isinstance(outcome, BadFile):
                report.skip(outcome.name, outcome.reason)
                continue
            for row in outcome:
                report.add(row)
                if not row.dropped:
                    shards.write(row)
        # 2. refuse what must not be published
        if report.skipped and not args.skip_bad:
            count = len(report.skipped)
            raise ValueError(f"{count} files cannot be used (--skip-bad leaves them out):\n{report.bad_files()}")
        if not shards.num_rows:
            raise ValueError(f"`sources` must hold at least one usable image, but hold none.\n{report.bad_files()}")
        if report.crossing_groups() and not groups_may_cross:
            raise ValueError(f"a group must lie in one split, but these cross: {report.crossing_groups()[:10]}")
        # 3. what tells about them
        shards.close()
        report.save(folder / "report.json")
        contact_sheet(report.examples).save(folder / "contact_sheet.png")
        write_card(folder, template, shards, report.summary())
    print(report.text())
    if args.push_to_hub:
        push(args.out, args.push_to_hub)
    return args.out


def _outcomes(jobs: Iterable, make_rows: Callable, num_workers: int) -> Iterator:
    """The rows of each job in order, or its `BadFile` as a value, since an exception would end the whole build."""
    _start_worker(make_rows)
    if num_workers < 2:
        yield from map(_outcome, jobs)
        return
    # each process opens the source once, when it starts; sending it with each job would cost seconds a time
    spawn = multiprocessing.get_context("spawn")
    with spawn.Pool(num_workers, initializer=_start_worker, initargs=(make_rows,)) as pool:
        yield from pool.imap(_outcome, jobs, chunksize=16)


def _start_worker(make_rows: Callable):
    global _make_rows
    _make_rows = make_rows


def _outcome(job) -> list[Row] | BadFile:
    try:
        return _make_rows(job)
    except BadFile as error:
        return error


@contextlib.contextmanager
def new_folder(out: Path, overwrite: bool) -> Iterator[Path]:
    """A temporary folder beside `out` that takes its name at the end, or vanishes if anything goes wrong.

    Raises:
        FileExistsError: if `out` exists, unless it is a data set built here (it has a report.json) and `overwrite`.
    """
    if out.exists() and not (overwrite and (out / "report.json").is_file()):
        advice = "--overwrite replaces only data sets built here" if overwrite else "--overwrite replaces it"
        raise FileExistsError(f"`--out` must not exist yet, but {out} does; {advice}.")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}-", suffix=".partial", dir=out.parent) as temporary:
        folder = Path(temporary, "new")
        folder.mkdir()
        yield folder
        if out.exists():
            os.replace(out, Path(temporary, "old"))
        os.replace(folder, out)


def push(folder: Path, repo_id: str):
    """Upload a built folder as a data set of the Hub: the card first, then the rest."""
    from huggingface_hub import HfApi

    api = HfApi()
    api.create_repo(repo_id, repo_type="dataset", exist_ok=True)
    card = folder / "README.md"
    api.upload_file(path_or_fileobj=card, path_in_repo=card.name, repo_id=repo_id, repo_type="dataset")
    ours = ["data/*.parquet", "report.json"]  # a contact sheet is for the eye of the builder alone
    api.upload_folder(
        folder_path=folder, repo_id=repo_id, repo_type="dataset", allow_patterns=ours, delete_patterns=ours
    )
