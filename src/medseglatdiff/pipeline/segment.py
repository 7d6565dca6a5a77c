"""The command `segment`: from images, folders and patterns to masks, maps and a picture for each case."""

import argparse
import csv
import io
import json
import sys
from pathlib import Path

from tqdm import tqdm

from ..data.files import PREFIX, write_json, write_text
from ..data.names import printable
from .cases import find_cases
from .segmenter import CaseSegmenter, Outcome, SegmentSettings, process_index

FORMATS = ("png", "npz")
FULL_REPORTS = 8  # above this number of cases, each gets a line instead of a table


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """The options of the command.

    Raises:
        ValueError: for an invalid count, seed or region.
    """
    parser = argparse.ArgumentParser(
        prog="medseglatdiff segment",
        description="Segments images: several plausible masks, their confidence and a picture for each. "
        "Finished cases are skipped when the same command runs again.",
    )
    parser.add_argument(
        "inputs",
        nargs="+",
        metavar="INPUT",
        help="images (PNG, JPEG, TIFF, DICOM, ...), folders of them, or patterns in quotes (at least one)",
    )
    parser.add_argument(
        "--model", required=True, metavar="PATH_OR_ID", help="folder of a pipeline, or its id on the Hub (required)"
    )
    parser.add_argument(
        "--out",
        required=True,
        type=Path,
        metavar="DIR",
        help="folder of the results, a subfolder per case (required)",
    )
    parser.add_argument(
        "--point",
        metavar="X,Y",
        help="segment the checkpoint's field of view around this pixel (default: the whole image)",
    )
    parser.add_argument(
        "--box",
        metavar="L,T,R,B",
        help="segment this part, in pixels: left, top, right, bottom (default: the whole image)",
    )
    parser.add_argument(
        "--num-masks", type=int, metavar="N", help="masks per case, at least 1 (default: the checkpoint's)"
    )
    parser.add_argument(
        "--steps", type=int, metavar="N", help="denoising steps per mask, at least 1 (default: the checkpoint's)"
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="S", help="seed of each case's noise, a whole number (default: 0)"
    )
    parser.add_argument(
        "--format",
        nargs="+",
        choices=FORMATS,
        default=["png"],
        metavar="NAME",
        help=f"formats of masks and maps, one or more of {', '.join(FORMATS)} (default: png)",
    )
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="recompute cases that were finished with other settings (default: refuse them)",
    )
    options = parser.parse_args(arguments)
    for name in ("num_masks", "steps"):
        count = getattr(options, name)
        if count is not None and count < 1:
            raise ValueError(f"`--{name.replace('_', '-')}` must be at least 1, but was {count}.")
    if not 0 <= options.seed < 2**63:
        raise ValueError(f"`--seed` must lie in [0, 2**63), but was {options.seed}.")
    if options.point and options.box:
        raise ValueError("`--point` and `--box` must not be given together.")
    return options


def parse_region(options: argparse.Namespace) -> tuple[float, ...] | None:
    """`--point` or `--box` as numbers.

    Raises:
        ValueError: unless there are two or four numbers, separated by commas.
    """
    for name, text, count in (("point", options.point, 2), ("box", options.box, 4)):
        if text is None:
            continue
        try:
            numbers = tuple(float(part) for part in text.split(","))
        except ValueError:
            numbers = ()
        if len(numbers) != count:
            form = "X,Y" if count == 2 else "LEFT,TOP,RIGHT,BOTTOM"
            raise ValueError(f"`--{name}` must be {form} in pixels, but was {text!r}.")
        return numbers
    return None


def main(arguments: list[str] | None = None) -> int:
    """Segments case by case: only the names are kept in memory, and finished cases stay.

    Each case starts from the same seed, so its masks do not depend on other cases. Several processes
    (`accelerate launch`) share the cases.

    Returns:
        0, or 1 if some of several cases could not be segmented: `failures.csv` says why.

    Raises:
        ValueError: for an invalid option, for a single case that cannot be segmented, and for cases that were finished
            with other settings, unless `--overwrite` is given.
    """
    options = parse_arguments(arguments)
    settings = SegmentSettings(
        options.num_masks, options.steps, options.seed, tuple(sorted(set(options.format))), parse_region(options)
    )
    rank, processes = process_index()
    segmenter = CaseSegmenter(options.model, options.out, settings, worker=str(rank), overwrite=options.overwrite)
    segmenter.load()
    cases = find_cases(options.inputs, options.out)
    for case in cases if not options.overwrite else ():
        if names := segmenter.other_settings(case):
            raise ValueError(
                f"{printable(case.name)} was finished with other settings in {options.out} ({', '.join(names)}): name "
                "another `--out`, or give `--overwrite`."
            )
    segmenter.prepare()
    failed, skipped, part = {}, 0, failures_part(options.out, rank)
    part.unlink(missing_ok=True)
    mine = range(rank, len(cases), processes)
    for index in tqdm(mine, desc="segment", unit="case", disable=len(cases) == 1 or rank > 0):
        outcome = segmenter(cases[index])
        if outcome.error and len(cases) == 1:
            raise ValueError(f"{printable(cases[index].path)} cannot be segmented: {outcome.error}")
        if outcome.error:
            failed[index] = outcome
        skipped += outcome.skipped
        print_outcome(outcome, cases[index].path, options.out, len(cases))
    write_json(part, [[index, outcome.case, outcome.error] for index, outcome in failed.items()])
    write_failures(options.out, processes)
    if skipped:
        print(f"{skipped} of {len(mine)} cases had already been finished.")
    return 1 if failed else 0


def print_outcome(outcome: Outcome, path: str, out: Path, count: int):
    """Prints the outcome of a case, above the progress bar."""
    if outcome.error:
        tqdm.write(f"{printable(path)} cannot be segmented: {outcome.error}", file=sys.stderr)
    elif not outcome.skipped:
        text = outcome.text if count <= FULL_REPORTS else outcome.text.splitlines()[-1].strip()
        tqdm.write(f"\n{printable(path)} -> {printable(str(out / outcome.case))}\n{text}")
        sys.stdout.flush()


def failures_part(out: Path, rank: int) -> Path:
    """Where a process keeps its failures until all have finished."""
    return out / f"{PREFIX}failures-{rank}.json"


def write_failures(out: Path, processes: int):
    """Writes failures.csv, with a line per case that could not be segmented, if any; only the last process does."""
    parts = [failures_part(out, rank) for rank in range(processes)]
    try:
        failed = sorted(entry for part in parts for entry in json.loads(part.read_text("utf-8")))
    except FileNotFoundError:  # others are still at work, or another one has done it
        return
    (out / "failures.csv").unlink(missing_ok=True)
    if failed:
        table = io.StringIO()
        writer = csv.writer(table, lineterminator="\n")
        writer.writerows([["case", "error"], *(entry[1:] for entry in failed)])
        write_text(out / "failures.csv", table.getvalue())
    for part in parts:
        part.unlink(missing_ok=True)
