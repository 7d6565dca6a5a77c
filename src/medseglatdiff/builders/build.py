"""Shared by all builders: options, the build from a source to a folder, and the push to the Hub.

The folder has the layout of a data set's repository on the Hub: README.md and data/SPLIT-0000K-of-0000N.parquet with
the images' bytes inside. So `load_dataset(folder)` and `load_dataset("ORG/NAME")` read the same rows.
"""

import argparse
import hashlib
import operator
import re
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

from tqdm import tqdm

from ..data.groups import SPLITS
from ..data.names import printable
from .archives import Source
from .output_folder import new_folder
from .picture_files import BadFile, Row
from .report import Report, contact_sheet
from .shards import ShardWriter, write_card
from .workers import outcomes

__all__ = ["SPLITS", "Row", "build", "new_folder", "parser", "positive", "provenance", "push", "split_of"]
NOT_IN_THE_COMMAND = ("builder", "sources", "out", "overwrite", "num_workers", "push_to_hub")  # options


def split_of(group_id: str) -> str:
    """The split of a group by the hash of its name: 70 % train, 10 % validation, 20 % test."""
    u = int(hashlib.sha256(group_id.encode()).hexdigest()[:8], 16) / 2**32
    return "train" if u < 0.7 else "validation" if u < 0.8 else "test"


def provenance(args: argparse.Namespace, source: Source | None = None, **facts: str) -> dict[str, str]:
    """The origin of a data set, for report and card: command with all options, versions, SHA-256 of sources.

    With `--anonymous-ids` sources are numbered, since their names may contain patients' names.
    """
    packages = ("medseglatdiff", "datasets", "numpy", "pillow")
    versions = ", ".join(f"{name} {version(name)}" for name in packages)
    hashes = source.fingerprint() if source else {}
    if args.anonymous_ids:
        hashes = {f"source {number}": value for number, value in enumerate(hashes.values(), start=1)}
    hashes = {f"sha256 of {printable(name)}": value for name, value in hashes.items()}
    return {**facts, "command": _command(args), "versions": versions, **hashes}


def _command(args: argparse.Namespace) -> str:
    # names only: paths are private
    sources = [printable(Path(path).resolve().name) for path in vars(args).get("sources", ())]
    if args.anonymous_ids:
        sources = ["SOURCE"] * bool(sources)
    words = ["medseglatdiff", "dataset", args.builder, *sources, "--out", printable(args.out.resolve().name)]
    for key, value in vars(args).items():
        if key in NOT_IN_THE_COMMAND or value is None or value is False:
            continue
        words.append(f"--{key.replace('_', '-')}")
        if value is not True:
            words += [_word(word, args.anonymous_ids) for word in (value if isinstance(value, list) else [value])]
    return shlex.join(words)


def _word(value, anonymous: bool) -> str:
    if isinstance(value, (Path, re.Pattern)) and anonymous:
        return "FILE" if isinstance(value, Path) else "REGEX"
    if isinstance(value, Path):
        return printable(value.name)
    return printable(value.pattern if isinstance(value, re.Pattern) else str(value))


def positive(text: str) -> int:
    """An option's value that must be a whole number above 0."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, but was {text}")
    return int(text)


def parser(description: str, builder: str) -> argparse.ArgumentParser:
    """The options shared by all builders; `builder` is the name on the command line."""
    options = argparse.ArgumentParser(
        prog=f"medseglatdiff dataset {builder}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    options.set_defaults(builder=builder)
    options.add_argument("--out", type=Path, required=True, help="folder to write (must not exist; required)")
    options.add_argument(
        "--overwrite", action="store_true", help="replace the data set that --out holds (default: no)"
    )
    options.add_argument(
        "--skip-bad", action="store_true", help="leave out unusable files, and count them (default: no)"
    )
    options.add_argument(
        "--anonymous-ids",
        action="store_true",
        help="replace names of images and groups by numbers; the mapping is not kept (default: no)",
    )
    options.add_argument(
        "--num-workers", type=positive, default=1, metavar="N", help="processes that read files (default: %(default)s)"
    )
    options.add_argument(
        "--push-to-hub", metavar="ORG/NAME", help="upload the folder as this data set (default: no upload)"
    )
    return options


def build(
    args: argparse.Namespace,
    template: str,
    jobs: Iterable,
    make_rows: Callable[..., list[Row]],
    built_from: dict[str, str],
    strays: Iterable[str] | Mapping[str, str] = (),
    groups_may_cross: bool = False,
    warnings: Sequence[str] = (),
    ways_to_fill: str = "",
) -> Path:
    """Turns jobs into rows, and rows into the folder `args.out`, whole or not at all.

    Args:
        args (`argparse.Namespace`): the options of `parser`.
        template (`str`): the card's template, a file beside this one.
        jobs (`Iterable`): one per image or series, in the order of the rows; each may be sent to another process.
        make_rows (`Callable`): turns a job into rows; raises `BadFile` for one that cannot be used.
        built_from (`dict[str, str]`): from `provenance`.
        strays (`Iterable[str] | Mapping[str, str]`, *optional*): unusable files, with the reason if it is another
            than that they belong to no job.
        groups_may_cross (`bool`, *optional*, defaults to `False`): allow a group in two splits.
        warnings (`Sequence[str]`, *optional*): sentences for the report, the card and the terminal.
        ways_to_fill (`str`, *optional*): advice against an empty split. If given, an empty split of a data set with
            three images or more is an error, else a warning.

    Raises:
        ValueError: naming every bad file and every repeated image id, unless `args.skip_bad`; if no row is left, a
            group is in two splits, or a split is empty that must not be.
        FileExistsError: if `args.out` exists and is not to be overwritten.
        OSError: if the disk is full, or a worker ended too early.
    """
    report = Report(built_from, warnings, args.anonymous_ids)
    for name in strays:
        report.skip(name, strays[name] if isinstance(strays, Mapping) else "belongs to no image: misnamed?")
    with new_folder(args.out, args.overwrite) as folder, ShardWriter(folder / "data") as shards:
        # 1. rows
        rename = Renaming() if args.anonymous_ids else None
        seen: set[str] = set()
        total = operator.length_hint(jobs) or None
        with closing(outcomes(jobs, make_rows, args.num_workers)) as results:
            for outcome in tqdm(results, total=total, desc=printable(args.out.name)):
                if isinstance(outcome, BadFile):
                    report.skip(outcome.name, outcome.reason)
                    continue
                for row in outcome:
                    if row.image_id in seen:
                        report.skip(row.image_id, "a second image with this id")
                        continue
                    seen.add(row.image_id)
                    row = rename(row) if rename else row
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
            raise ValueError(
                f"a group must lie in one split, but these lie in several: {report.crossing_groups()[:10]}"
            )
        empty = [split for split in SPLITS if split not in report.sizes]
        if ways_to_fill and empty and shards.num_rows >= len(SPLITS):
            raise ValueError(f"no image was assigned to {' and '.join(empty)}: {ways_to_fill}")
        # 3. report and card
        shards.close()
        report.save(folder / "report.json")
        contact_sheet(report.examples).save(folder / "contact_sheet.png")
        name = args.push_to_hub or printable(args.out.resolve().name)
        write_card(folder, template, shards, {**report.summary(), "name": name})
    print(report.text())
    if args.push_to_hub:
        push(args.out, args.push_to_hub)
    return args.out


class Renaming:
    """Numbers images and groups in their order."""

    def __init__(self) -> None:
        self._groups: dict[str, str] = {}
        self._images = 0

    def __call__(self, row: Row) -> Row:
        self._images += 1
        group = self._groups.setdefault(row.group_id, f"group-{len(self._groups) + 1:05d}")
        return replace(row, image_id=f"image-{self._images:06d}", group_id=group)


def push(folder: Path, repo_id: str):
    """Uploads a built folder as a data set to the Hub, card and data in one commit, as `publish --dataset` does."""
    from ..hub.publish import publish

    publish(folder, repo_id, repo_type="dataset", commit_message="Build with medseglatdiff")
