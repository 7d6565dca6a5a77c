"""What every builder shares: options, rows, the build from a source to a folder, and the push to the Hub.

The folder looks just like a data set's repository on the Hub: README.md and data/SPLIT-0000K-of-0000N.parquet with the
images' bytes inside. So `load_dataset(folder)` and `load_dataset("ORG/NAME")` read the same thing.
"""

import argparse
import contextlib
import hashlib
import multiprocessing
import operator
import os
import shlex
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from tqdm import tqdm

from .archives import Source
from .picture_files import BadFile, Picture
from .report import Report, contact_sheet
from .shards import ShardWriter, write_card

SPLITS = ("train", "validation", "test")
NO_PART_OF_THE_DATA = ("builder", "sources", "out", "overwrite", "num_workers", "push_to_hub")  # options


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


def provenance(args: argparse.Namespace, source: Source | None = None, **facts: str) -> dict[str, str]:
    """What a data set was built from, for report and card: command with all options, versions, SHA-256 of sources."""
    packages = ("medseglatdiff", "datasets", "numpy", "pillow")
    versions = ", ".join(f"{name} {version(name)}" for name in packages)
    hashes = {f"sha256 of {name}": value for name, value in source.fingerprint().items()} if source else {}
    return {**facts, "command": _command(args), "versions": versions, **hashes}


def _command(args: argparse.Namespace) -> str:
    # names alone: no paths of somebody's disk
    sources = [Path(path).resolve().name for path in vars(args).get("sources", ())]
    words = ["medseglatdiff", "dataset", args.builder, *sources, "--out", args.out.resolve().name]
    for key, value in vars(args).items():
        if key in NO_PART_OF_THE_DATA or value is None or value is False:
            continue
        words.append(f"--{key.replace('_', '-')}")
        if value is not True:
            words += map(str, value if isinstance(value, list) else [value])
    return shlex.join(words)


def positive(text: str) -> int:
    """An option's value that must be a whole number above 0."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, but was {text}")
    return int(text)


def parser(description: str, builder: str) -> argparse.ArgumentParser:
    """The options that every builder has; `builder` is its name on the command line."""
    options = argparse.ArgumentParser(
        prog=f"medseglatdiff dataset {builder}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    options.set_defaults(builder=builder)
    options.add_argument("--out", type=Path, required=True, help="folder to write")
    options.add_argument("--overwrite", action="store_true", help="replace the data set that --out holds")
    options.add_argument("--skip-bad", action="store_true", help="leave out files that cannot be used, and count them")
    options.add_argument("--num-workers", type=positive, default=1, help="processes that read files")
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
        ValueError: naming every bad file, and every image whose id another one has, unless `args.skip_bad`; if no row
            is left, or a group is in two splits.
        FileExistsError: if `args.out` exists and is not to be overwritten.
    """
    report = Report(built_from)
    for name in strays:
        report.skip(name, "belongs to no image: misnamed?")
    with new_folder(args.out, args.overwrite) as folder, ShardWriter(folder / "data") as shards:
        # 1. rows
        seen = set()
        total = operator.length_hint(jobs) or None
        for outcome in tqdm(_outcomes(jobs, make_rows, args.num_workers), total=total, desc=args.out.name):
            if isinstance(outcome, BadFile):
                report.skip(outcome.name, outcome.reason)
                continue
            for row in outcome:
                if row.image_id in seen:
                    report.skip(row.image_id, "a second image of this id")
                    continue
                seen.add(row.image_id)
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
        write_card(folder, template, shards, {**report.summary(), "name": args.push_to_hub or str(args.out)})
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
    """Upload a built folder as a data set of the Hub, card and data in one commit, as `publish --dataset` does."""
    from ..hub.publish import publish

    publish(folder, repo_id, repo_type="dataset", commit_message="Build with medseglatdiff")
