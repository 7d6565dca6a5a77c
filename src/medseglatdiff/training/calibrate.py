"""Chooses spread, calibration and threshold of a saved pipeline on the validation split.

    accelerate launch -m medseglatdiff calibrate --pipeline outputs/lidc-idri/pipeline --dataset data/lidc-idri \\
        --num-candidates 64

Spread: with --num-candidates, the pipeline will draw this number of candidates and return representative masks. Their
`spread` is the one with the best matching to the raters (HM-IoU) among those whose generalised energy distance (GED)
is within one standard error of the best (Breiman et al. 1984); with fewer than ten groups, the one with the best GED.
A spread below 1 helps if candidates differ more than raters do.

Calibration: for each share of masks, from none to all, raters' marks on the pixels with this share are counted. The
isotonic fit (Barlow et al. 1972) becomes the pipeline's `calibration` if it lowers the Brier score on held-out groups.
Otherwise the confidence remains the share. Pixels in no mask keep confidence 0.

Threshold: the pipeline's `threshold` is the confidence with the best Dice over all images, including empty ones, but
half if half of the masks is within one standard error of it or there are fewer than ten groups. If readers often mark
nothing, a lower threshold finds more lesions but costs Dice on empty images; calibration.json and the printed table
also have the Dice of non-empty images. Several classes are counted together; their Dice is the mean over classes.

These settings are written to the folder's model_index.json, and the measurements to calibration.json beside it, which
also compares the share of masks with the candidates' mean probability as confidence. Several processes share
the images.
"""

import argparse
import json
import math
import sys
from pathlib import Path

import numpy as np
from accelerate import Accelerator
from accelerate.utils import gather_object

from ..data.files import write_json
from ..data.splits import open_split
from ..pipeline.pipeline import MedSegLatDiffPipeline
from .calibration import choose_confidence, choose_level, choose_spread, cross_validate, fit
from .commands import Parser, progress_bar, public_command, text_table, whole_number
from .launcher import use_threads
from .provenance import git_commit
from .tally import PROBABILITY, Tally, tally_rows


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Parses the options.

    Raises:
        ValueError: for an invalid value; names the option.
    """
    parser = Parser("calibrate", __doc__)
    add = parser.add_argument
    add(
        "--pipeline",
        type=Path,
        required=True,
        default=argparse.SUPPRESS,
        help="folder of a pipeline, changed in place",
    )
    add("--dataset", required=True, default=argparse.SUPPRESS, help='folder or Hub id, or "phantom"')
    add("--split", default="validation", choices=("train", "validation"), help="split to choose on; never test")
    add(
        "--num-candidates",
        type=whole_number(1),
        help="candidates per image from now on, of which representative masks are returned; None: as saved",
    )
    add("--limit", type=whole_number(1), help="images to measure, chosen at random; None: all")
    add("--seed", type=whole_number(0), default=1, help="seed of the noise and of the choice of images")
    options = parser.parse_args(arguments)
    if not (options.pipeline / "model_index.json").is_file():
        raise ValueError(f"`--pipeline` must be a folder with a model_index.json, but was {options.pipeline}.")
    return options


def describe(tally: Tally, midway: bool) -> tuple[dict, dict, np.ndarray]:
    """Measures and settings from the counts of one kind of confidence.

    Args:
        tally (`Tally`): the counts.
        midway (`bool`): whether confidence may lie between levels, so that the threshold is midway.

    Returns:
        the measures, the settings `calibration` and `threshold`, and each held-out group's contribution `(G,)` to the
        Brier score with these settings.
    """
    # 1. the consensus
    scores, non_empty = np.array(tally.scores), np.array(tally.scores_non_empty)  # [N, L] each
    non_empty = non_empty[~np.isnan(non_empty[:, 0])]  # [n, L]
    number, half = choose_level(scores, tally.groups), (tally.highest + 1) // 2
    threshold = (number - 0.5) / tally.highest if midway else math.floor(1e5 * number / tally.highest) / 1e5
    # 2. the confidence
    before, after = cross_validate(tally.counts_of)  # [G] each
    calibration = None
    if after.sum() < before.sum():
        calibration = fit(np.sum(list(tally.counts_of.values()), axis=0))
        threshold = float(np.interp(threshold, calibration["shares"], calibration["confidences"]))
    measured = {
        "brier": before.sum(),
        "brier_cross_validated": after.sum(),
        "number": number,
        "dice": scores[:, number - 1].mean(),
        "dice_of_half": scores[:, half - 1].mean(),
        "dice_non_empty": non_empty[:, number - 1].mean() if len(non_empty) else None,
        "num_non_empty": len(non_empty),
        "dice_by_number": scores.mean(axis=0).tolist(),
        "dice_by_number_non_empty": non_empty.mean(axis=0).tolist() if len(non_empty) else None,
    }
    return measured, {"calibration": calibration, "threshold": threshold}, after if calibration else before


def replace_settings(folder: Path, **settings):
    """Writes settings into the folder's model_index.json."""
    index = json.loads((folder / "model_index.json").read_text()) | settings
    write_json(folder / "model_index.json", index)


def count(pipeline, rows, chosen: list[int], options, accelerator) -> dict[float | str, Tally] | None:
    """The tallies over the chosen rows, shared between processes; `None` on all but the main process."""
    mine = chosen[accelerator.process_index :: accelerator.num_processes]
    candidates = pipeline.num_drawn(pipeline.config.default_num_masks)

    def shown():
        with progress_bar(len(chosen), 0, accelerator.is_main_process) as bar:
            for index in mine:
                yield rows[index]
                bar.update(min(accelerator.num_processes, len(chosen) - bar.n))

    tallies, *others = gather_object([tally_rows(pipeline, shown(), candidates, options.seed, accelerator)])
    accelerator.end_training()  # otherwise threads of gloo may abort the process at exit
    if not accelerator.is_main_process:
        return None
    for part in others:
        for kind, tally in part.items():
            tallies[kind].extend(tally)
    return tallies


def print_measured(measured: dict):
    """Prints what was measured and chosen."""
    rows = [["spread", "GED ↓", "HM-IoU ↑"]]
    for spread, values in measured["by_spread"].items():
        chosen = " *" if float(spread) == measured["spread"] else ""
        rows.append([spread + chosen, f"{values['ged']:.4f}", f"{values['hm_iou']:.4f}"])
    print(text_table(rows), end="\n\n")
    rows = [["confidence", "Brier ↓", "calibrated ↓", "Dice ↑", "at half ↑", "non-empty ↑"]]
    for kind, values in {"share of the masks": measured, "mean probability": measured["probability"]}.items():
        briers = [f"{values[name]:.6f}" for name in ("brier", "brier_cross_validated")]
        dices = [values[name] for name in ("dice", "dice_of_half", "dice_non_empty")]
        rows.append([kind, *briers, *("" if value is None else f"{value:.4f}" for value in dices)])
    print(text_table(rows), end="\n\n")
    calibrated = "calibrated" if measured["calibration"] else "the plain share of the masks"
    print(f"spread {measured['spread']}; confidence {calibrated}; threshold {measured['threshold']}")


def main(arguments: list[str] | None = None):
    """`medseglatdiff calibrate`."""
    options = parse_arguments(arguments)
    accelerator = Accelerator()
    use_threads(accelerator.num_processes)
    pipeline = MedSegLatDiffPipeline.from_pretrained(str(options.pipeline)).to(accelerator.device)
    pipeline.set_progress_bar_config(disable=True)
    num_masks = pipeline.config.default_num_masks
    rows = open_split(options.dataset, options.split, num_classes=pipeline.num_classes)
    chosen = np.random.default_rng(options.seed).permutation(len(rows))[: options.limit].tolist()
    if options.num_candidates is not None:
        pipeline.register_to_config(default_num_candidates=options.num_candidates)
    # 1. count over the split
    tallies = count(pipeline, rows, chosen, options, accelerator)
    if tallies is None:
        return
    # 2. the spread, the confidence, the consensus
    means = tallies.pop(PROBABILITY)
    distances, matched = (
        np.array([getattr(tally, name) for tally in tallies.values()]).T for name in ("distances", "matched")
    )  # [N, spreads] each
    spread = list(tallies)[choose_spread(distances, matched, means.groups)]
    share, settings, *briers = describe(tallies[spread], midway=False)
    probability, _, brier = describe(means, midway=True)
    kind = choose_confidence(np.stack([*briers, brier], axis=1), np.array([share["dice"], probability["dice"]]))
    # 3. write
    counts = np.sum(list(tallies[spread].counts_of.values()), axis=0)  # [2, M + 1]
    by_spread = zip(tallies, distances.mean(axis=0), matched.mean(axis=0), strict=True)
    measured = {
        "command": public_command("calibrate", sys.argv[1:] if arguments is None else arguments),
        "num_images": len(chosen),
        "num_groups": len(tallies[spread].counts_of),
        "num_masks": num_masks,
        "num_classes": pipeline.num_classes,
        "num_candidates": pipeline.num_drawn(num_masks),
        "num_inference_steps": pipeline.config.default_num_inference_steps,
        "mixed_precision": accelerator.mixed_precision,
        "by_spread": {str(value): {"ged": ged, "hm_iou": iou} for value, ged, iou in by_spread},
        "spread": spread,
        **share,
        "pixels": counts[0].tolist(),
        "marked": counts[1].tolist(),
        **settings,
        "probability": probability,
        "preferred_confidence": ("share", "probability")[kind],
        "git_commit": git_commit(),
    }
    write_json(options.pipeline / "calibration.json", measured)
    candidates = pipeline.config.default_num_candidates
    replace_settings(options.pipeline, default_num_candidates=candidates, spread=spread, **settings)
    print_measured(measured)
    print(f"written: {options.pipeline / 'calibration.json'}, and the settings to model_index.json beside it")
    print(f"next: medseglatdiff evaluate --pipeline {options.pipeline} --dataset {options.dataset}")
