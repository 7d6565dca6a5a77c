"""What sampling is worth: numbers of steps and of masks, and whether the model uses its noise at all.

    python benchmarks/sampling.py --pipeline pipelines/medseglatdiff-lidc-idri --dataset data/lidc-idri

Measured on a random choice of the validation split. "Same" noise is one draw for all images, "zero" none: a model that
did not need its noise would not change, one that lives on it gives one mask again and again without. "Independent" and
"antithetic" noise are both there whatever the pipeline's own way is. All of this with masks as they are drawn; how
many candidates the masks are chosen from, and how far apart, comes last (the published number of masks). Results:
`benchmarks/ablations/sampling-NAME.json`, with NAME the pipeline's folder unless `--name` says otherwise.
"""

import argparse
import shlex
import sys
from pathlib import Path

from ablations import MEASURES, ROOT, measure

from medseglatdiff import MedSegLatDiffPipeline
from medseglatdiff.data.files import write_json
from medseglatdiff.data.splits import open_split
from medseglatdiff.training.provenance import git_commit, hardware, versions
from medseglatdiff.training.tally import SPREADS

NOISES = ("same", "zero")
CANDIDATES = (1, 2, 4, 8)  # per mask


def shortened(measured: dict) -> dict:
    """The measures that are compared."""
    values = {name: measured["metrics"][name]["value"] for name in MEASURES if name in measured["metrics"]}
    return values | {"sampling_core_seconds": measured["sampling_core_seconds"]}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pipeline", type=Path, required=True)
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--name", help="of the results file")
    parser.add_argument("--steps", type=int, nargs="+", default=[1, 2, 4, 10, 25, 50])
    parser.add_argument("--num-masks", type=int, default=32)
    parser.add_argument("--limit", type=int, default=60, help="validation images")
    options = parser.parse_args()
    pipeline = MedSegLatDiffPipeline.from_pretrained(options.pipeline)
    pipeline.set_progress_bar_config(disable=True)
    rows, default = open_split(options.dataset, "validation"), pipeline.config.default_num_inference_steps
    results = {"command": f"python benchmarks/sampling.py {shlex.join(sys.argv[1:])}", "split": "validation"}
    results |= {"num_images": options.limit, "num_masks": options.num_masks, "seed": 0, "default_steps": default}
    results |= {"device": hardware(), "versions": versions(), "git_commit": git_commit(), "by_steps": {}}
    for steps in options.steps:
        measured = measure(pipeline, rows, options.limit, options.num_masks, steps)
        results["by_steps"][str(steps)] = shortened(measured)
    counts = [2**power for power in range(options.num_masks.bit_length())]
    results["by_num_masks"] = {
        str(count): shortened(measure(pipeline, rows, options.limit, count, default)) for count in counts
    }
    results["by_noise"] = {
        noise: shortened(measure(pipeline, rows, options.limit, options.num_masks, default, noise)) for noise in NOISES
    }
    for way in ("independent", "antithetic"):
        pipeline.register_to_config(antithetic=way == "antithetic")
        results["by_noise"][way] = shortened(measure(pipeline, rows, options.limit, options.num_masks, default))
    masks = pipeline.config.default_num_masks
    results["by_candidates"] = {
        str(masks * each): shortened(measure(pipeline, rows, options.limit, masks, default, "fresh", masks * each))
        for each in CANDIDATES
    }
    results |= {"chosen_masks": masks, "default_spread": pipeline.config.spread, "by_spread": {}}
    for spread in SPREADS if pipeline.config.default_num_candidates > masks else ():
        pipeline.register_to_config(spread=spread)
        chosen = (masks, default, "fresh", pipeline.config.default_num_candidates)
        results["by_spread"][str(spread)] = shortened(measure(pipeline, rows, options.limit, *chosen))
    out = ROOT / "benchmarks" / "ablations" / f"sampling-{options.name or options.pipeline.name}.json"
    out.parent.mkdir(exist_ok=True)
    write_json(out, results)
    for group in ("by_steps", "by_noise", "by_candidates", "by_spread"):
        for label, entry in results[group].items():
            print(group, label, {name: round(value, 4) for name, value in entry.items()})


if __name__ == "__main__":
    main()
