"""Segments an archive on a Ray cluster: the cases of `medseglatdiff segment`, shared out among actors.

    pip install "medseglatdiff[cluster]"
    python examples/segment_archive_ray.py scans/ --model pipelines/medseglatdiff-lidc-idri --out OUT --concurrency 4

Every actor loads the model once and writes finished cases to `--out`, a folder that all machines see. A finished case
has its mark there, so that whatever happens to a worker, or to the whole job, the same command goes on: Ray starts
the cases of a lost worker again, and those that are finished are skipped.
"""

import argparse
import sys
from pathlib import Path

import ray

from medseglatdiff.data.files import sweep
from medseglatdiff.pipeline.case_results import SegmentSettings
from medseglatdiff.pipeline.cases import Case, find_cases
from medseglatdiff.pipeline.segmenter import CaseSegmenter


class SegmentBatch:
    """A `CaseSegmenter` as Ray Data calls it: a batch of names and paths in, what became of them out."""

    def __init__(self, model: str, out: str, settings: SegmentSettings):
        worker = ray.get_runtime_context().get_actor_id()
        self.segmenter = CaseSegmenter(model, Path(out), settings, worker=worker)
        self.segmenter.prepare()

    def __call__(self, batch: dict) -> dict:
        cases = map(Case, map(str, batch["name"]), map(str, batch["path"]))
        outcomes = [self.segmenter(case) for case in cases]
        return {
            "case": [outcome.case for outcome in outcomes],
            "skipped": [outcome.skipped for outcome in outcomes],
            "error": [outcome.error or "" for outcome in outcomes],
        }


def main(arguments: list[str] | None = None) -> int:
    """0 if all cases were segmented, 1 where some could not be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("inputs", nargs="+", help="images, folders of them, or patterns")
    parser.add_argument("--model", required=True, help="a pipeline's folder or Hub id")
    parser.add_argument("--out", required=True, type=Path, help="folder of the results, seen by all machines")
    parser.add_argument("--seed", type=int, default=0, help="of every case's noise (default: 0)")
    parser.add_argument("--concurrency", type=int, default=2, help="actors, each with a model of its own (default: 2)")
    parser.add_argument("--batch-size", type=int, default=4, help="cases that are handed out at once (default: 4)")
    parser.add_argument("--overwrite", action="store_true", help="compute again what was finished with other settings")
    options = parser.parse_args(arguments)
    settings, out = SegmentSettings(seed=options.seed), options.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    sweep(out)  # what killed workers of an earlier run left unfinished
    cases = find_cases([Path(entry).resolve() for entry in options.inputs], out)
    segmenter = CaseSegmenter(options.model, out, settings)
    others = [] if options.overwrite else [case.name for case in cases if segmenter.other_settings(case)]
    if others:
        parser.error(f"{others[0]} was finished with other settings: name another `--out`, or give `--overwrite`.")
    rows = ray.data.from_items([{"name": case.name, "path": case.path} for case in cases])
    outcomes = rows.map_batches(
        SegmentBatch,
        fn_constructor_args=(options.model, str(out), settings),
        batch_size=options.batch_size,
        concurrency=options.concurrency,
    ).take_all()
    failed = [outcome for outcome in outcomes if outcome["error"]]
    for outcome in sorted(failed, key=lambda entry: entry["case"]):
        print(f"{outcome['case']} cannot be segmented: {outcome['error']}", file=sys.stderr)
    skipped = sum(outcome["skipped"] for outcome in outcomes)
    print(
        f"{len(outcomes) - len(failed)} of {len(outcomes)} cases are in {options.out}, {skipped} of them from before."
    )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
