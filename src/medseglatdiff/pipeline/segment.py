"""The command `segment`: images, volumes, folders and patterns in; masks, maps and pictures of them for each case."""

import csv
import io
import json
import sys
from pathlib import Path

from tqdm import tqdm

from ..data.files import PREFIX, write_json, write_text
from ..data.findings import check_cases, read_findings
from ..data.names import printable
from .case_results import SegmentSettings
from .cases import Case, case_stem, find_cases
from .measurements import write_measurements
from .segment_options import parse_arguments, parse_region
from .segmenter import CaseSegmenter, Outcome, process_index

FULL_REPORTS = 8  # of more cases than these each gets a line, not a table


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
    # 1. what is to be done
    settings = SegmentSettings(options.num_masks, options.steps, options.seed, tuple(sorted(set(options.format))))
    rank, processes = process_index()
    findings = read_findings(options.findings) if options.findings else []
    segmenter = CaseSegmenter(options.model, options.out, settings, parse_region(options), findings, str(rank))
    segmenter.load()
    cases = find_cases(options.inputs, options.out)
    if findings:
        cases = listed_cases(segmenter, cases)
    for case in cases if not options.overwrite else ():
        if names := segmenter.other_settings(case):
            raise ValueError(
                f"{printable(case.name)} was finished with other settings in {options.out} ({', '.join(names)}): name "
                "another `--out`, or give `--overwrite`."
            )
    # 2. case after case
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
    # 3. what is said of all of them, by the last process
    conclude(segmenter, cases, processes)
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


def listed_cases(segmenter: CaseSegmenter, cases: list[Case]) -> list[Case]:
    """The cases that hold a listed finding.

    Raises:
        ValueError: names file and line of a finding that lies in none of the cases, or in several.
    """
    found = {case: segmenter.findings_of(case) for case in cases}
    known = {finding.case for own in found.values() for finding in own}
    names = {case_stem(Path(case.path)) for case in cases}
    check_cases([finding for finding in segmenter.findings if finding.case not in known], names)
    for finding in segmenter.findings:
        holders = [case.name for case, own in found.items() if finding in own]
        if len(holders) > 1:
            raise ValueError(
                f"{finding.place}: {printable(finding.case)} must name one case, but names {len(holders)}, such as "
                f"{printable(holders[0])} and {printable(holders[1])}: give the input and `--out` of each apart."
            )
    return [case for case, own in found.items() if own]


def failures_part(out: Path, rank: int) -> Path:
    """Where a process keeps its failures until all have finished."""
    return out / f"{PREFIX}failures-{rank}.json"


def conclude(segmenter: CaseSegmenter, cases: list[Case], processes: int):
    """Writes `failures.csv`, a line per case that could not be segmented, and `measurements.csv`, a line per finding.

    Neither is there without a line. The last process to end writes them.
    """
    out = segmenter.out
    parts = [failures_part(out, rank) for rank in range(processes)]
    try:
        failed = sorted(entry for part in parts for entry in json.loads(part.read_text("utf-8")))
    except FileNotFoundError:  # others are still at work, or another one has done it
        return
    for name in ("failures.csv", "measurements.csv"):
        (out / name).unlink(missing_ok=True)
    if failed:
        table = io.StringIO()
        writer = csv.writer(table, lineterminator="\n")
        writer.writerows([["case", "error"], *(entry[1:] for entry in failed)])
        write_text(out / "failures.csv", table.getvalue())
    broken = {index for index, *_ in failed}  # these may have a mark of an earlier run
    marks = [segmenter.mark(case) for index, case in enumerate(cases) if index not in broken]
    rows = [row for mark in marks if mark for row in mark["measurements"]]
    if rows:
        write_measurements(out / "measurements.csv", rows)
    for part in parts:
        part.unlink(missing_ok=True)
