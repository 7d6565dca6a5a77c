"""Teaches a saved pipeline on the validation split which masks to return and what its confidence means.

    accelerate launch -m medseglatdiff calibrate --pipeline outputs/lidc-idri/pipeline --dataset data/lidc-idri \\
        --num-candidates 64

With `--num-candidates` the pipeline draws so many from then on and returns those that stand for all. How far apart
they lie, its `spread`, is the one of SPREADS with the best matching to the raters (HM-IoU) among those whose
generalised energy distance is within one standard error of the best (the rule of Breiman et al. 1984; with less than
ten groups the best itself): candidates of a model that cannot see all that raters see differ more than raters do.

For every share of the hypotheses, 0 to all, it counts how often raters marked the pixels held by so many; the isotonic
fit of that (Barlow et al. 1972) becomes the pipeline's `calibration`, if it helps: fitted without a fold of the
groups, it must lower the Brier score on that fold, on average. A few groups that differ, such as the validation
sequences of CVC-ClinicDB, may have nothing to teach about others; the plain share stays then. Pixels that no
hypothesis holds keep confidence 0, so that the map ends where the hypotheses end.

The consensus is what so many hypotheses hold that Dice over the images with a lesion is best, among the numbers whose
Dice over all images is within one standard error of the majority's: where readers often mark nothing, half of the
hypotheses may miss lesions that fewer find at no cost. With less than ten groups the majority stays. All go to the
folder's model_index.json, as `default_num_candidates`, `spread`, `calibration` and `threshold`, and what was measured
to calibration.json beside it. Several processes share the images out.
"""

import argparse
import json
import math
import os
import shlex
import sys
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from scipy.optimize import isotonic_regression
from tqdm import tqdm

from ..data.files import write_json
from ..data.splits import open_split
from ..pipeline.pipeline import MedSegLatDiffPipeline
from .provenance import git_commit, public
from .tally import tally_rows

RAMP = 1e-3  # share of a straight line in the calibration
FOLDS = 10


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pipeline", type=Path, required=True, help="folder, changed in place")
    parser.add_argument("--dataset", required=True, help='folder, Hub id, or "phantom"')
    parser.add_argument("--split", default="validation", choices=("train", "validation"), help="never test")
    parser.add_argument("--num-candidates", type=int, help="to draw from now on (the pipeline's own number)")
    parser.add_argument("--limit", type=int, help="a random choice of so many images")
    parser.add_argument("--seed", type=int, default=1, help="of the noise and of the choice of images")
    return parser.parse_args(arguments)


def fit(counts: np.ndarray) -> dict:
    """The calibration from the counts `(2, M + 1)` of `count_held`."""
    pixels, marked = counts
    shares = np.linspace(0, 1, len(pixels))  # [M + 1]
    frequency = np.divide(marked, pixels, out=np.zeros_like(marked), where=pixels > 0)  # [M + 1]
    confidences = isotonic_regression(frequency, weights=np.maximum(pixels, 1e-9)).x  # [M + 1]
    confidences = (1 - RAMP) * np.concatenate([[0.0], confidences[1:]]) + RAMP * shares  # [M + 1]: no two are equal
    confidences = confidences.clip(0, 1).round(5)
    return {"shares": shares.tolist(), "confidences": confidences.tolist()}


def brier_sum(counts: np.ndarray, confidences: np.ndarray) -> float:
    """Sum over pixels and raters of (confidence - marked)^2, from counts `(2, M + 1)` and confidences `(M + 1,)`."""
    pixels, marked = counts
    return float((marked * (1 - confidences) ** 2 + (pixels - marked) * confidences**2).sum())


def cross_validate(counts_of: dict[str, np.ndarray]) -> tuple[float, float]:
    """Mean Brier score of the plain share, and of calibrations that were fitted without the fold they are applied to.

    `counts_of` holds the counts of each group; a fold is a tenth of the groups, or a single one of less than ten.
    """
    ordered = [counts_of[group] for group in sorted(counts_of)]  # whatever process counted which
    folds = [ordered[start::FOLDS] for start in range(min(FOLDS, len(ordered)))]
    sums = [np.sum(fold, axis=0) for fold in folds]  # [2, M + 1] each
    plain = np.linspace(0, 1, sums[0].shape[1])  # [M + 1]
    before = sum(brier_sum(fold, plain) for fold in sums)
    after = sum(brier_sum(fold, np.array(fit(np.sum(sums, axis=0) - fold)["confidences"])) for fold in sums)
    pixels = np.sum(sums, axis=0)[0].sum()
    return before / pixels, after / pixels


def near_enough(loss: np.ndarray, groups: list[str]) -> np.ndarray:
    """Which choices lose at most one standard error, bool `(choices,)`; `loss` is each image's, `(N, choices)`.

    The standard error counts groups, not images.
    """
    names, members = np.unique(groups, return_inverse=True)
    sums = np.zeros((len(names), loss.shape[1]))  # [groups, choices]
    np.add.at(sums, members, loss - loss.mean(axis=0))
    return loss.mean(axis=0) <= np.sqrt((sums**2).sum(axis=0)) / len(loss)


def choose_number(scores: np.ndarray, non_empty: np.ndarray, groups: list[str]) -> int:
    """How many hypotheses the consensus asks for: see this file's head.

    Args:
        scores (`np.ndarray` of shape `(N, M)`): `dice_by_number` of each image.
        non_empty (`np.ndarray` of shape `(N,)`): whether the raters' majority marked anything.
        groups (`list[str]`): the group of each image.
    """
    majority = (scores.shape[1] + 1) // 2
    if len(set(groups)) < FOLDS or not non_empty.any():
        return majority
    allowed = near_enough(scores[:, [majority - 1]] - scores, groups)  # [M]
    return 1 + int(np.where(allowed, scores[non_empty].mean(axis=0), -1).argmax())


def choose_spread(distances: np.ndarray, matched: np.ndarray, groups: list[str]) -> int:
    """Which of the spreads is taken: see this file's head.

    Args:
        distances, matched (`np.ndarray` of shape `(N, spreads)`): GED and HM-IoU of each image.
        groups (`list[str]`): the group of each image.
    """
    best = int(distances.mean(axis=0).argmin())
    if len(set(groups)) < FOLDS:
        return best
    allowed = near_enough(distances - distances[:, [best]], groups)  # [spreads]
    return int(np.where(allowed, matched.mean(axis=0), -1).argmax())


def replace_settings(folder: Path, **settings):
    """Writes settings into the folder's model_index.json."""
    index = json.loads((folder / "model_index.json").read_text()) | settings
    write_json(folder / "model_index.json", index)


def main(arguments: list[str] | None = None):
    options = parse_arguments(arguments)
    accelerator = Accelerator()
    torch.set_num_threads(max(1, os.cpu_count() // accelerator.num_processes))  # `accelerate launch` leaves one thread
    pipeline = MedSegLatDiffPipeline.from_pretrained(options.pipeline).to(accelerator.device)
    pipeline.set_progress_bar_config(disable=True)
    num_masks, rows = pipeline.config.default_num_masks, open_split(options.dataset, options.split)
    chosen = np.random.default_rng(options.seed).permutation(len(rows))[: options.limit].tolist()
    if options.num_candidates is not None:
        pipeline.register_to_config(default_num_candidates=options.num_candidates)
    candidates = pipeline.num_drawn(num_masks)
    # 1. count over the split, which the processes share out
    mine = chosen[accelerator.process_index :: accelerator.num_processes]
    bar = tqdm(mine, desc="calibrate", disable=not accelerator.is_local_main_process)
    shown = (rows[index] for index in bar)
    tallies, *others = gather_object([tally_rows(pipeline, shown, candidates, options.seed, accelerator)])
    accelerator.end_training()  # a process that leaves with gloo's threads still at work may abort
    if not accelerator.is_main_process:
        return
    for part in others:
        for spread, own in part.items():
            tallies[spread].extend(own)
    # 2. the spread, the consensus, the confidence
    distances, matched = (
        np.array([getattr(own, name) for own in tallies.values()]).T for name in ("distances", "matched")
    )  # [N, spreads] each
    spread = list(tallies)[choose_spread(distances, matched, tallies[1.0].groups)]
    own, counts_of = tallies[spread], tallies[spread].counts_of
    counts = np.sum(list(counts_of.values()), axis=0)  # [2, M + 1]
    scores, non_empty = np.array(own.scores), np.array(own.non_empty)  # [N, M], [N]
    number = choose_number(scores, non_empty, own.groups)
    threshold, calibration = math.floor(1e5 * number / num_masks) / 1e5, fit(counts)
    before, after = cross_validate(counts_of)
    if after < before:
        threshold = float(np.interp(threshold, calibration["shares"], calibration["confidences"]))
    else:
        calibration = None
    # 3. write
    measured = {
        "command": f"accelerate launch -m medseglatdiff calibrate {shlex.join(public(arguments or sys.argv[1:]))}"
    }
    measured |= {"num_images": len(chosen), "num_masks": num_masks, "num_candidates": candidates}
    measured |= {"num_inference_steps": pipeline.config.default_num_inference_steps}
    measured |= {"mixed_precision": accelerator.mixed_precision}
    by_spread = zip(tallies, distances.mean(axis=0), matched.mean(axis=0), strict=True)
    measured |= {"by_spread": {str(own): {"ged": ged, "hm_iou": iou} for own, ged, iou in by_spread}, "spread": spread}
    measured |= {"num_groups": len(counts_of), "brier": before, "brier_cross_validated": after}
    measured |= {"pixels": counts[0].tolist(), "marked": counts[1].tolist()}
    measured |= {"dice_by_number": scores.mean(axis=0).tolist(), "number": number}
    measured |= {"dice_by_number_non_empty": scores[non_empty].mean(axis=0).tolist() if non_empty.any() else None}
    measured |= {"calibration": calibration, "threshold": threshold, "git_commit": git_commit()}
    write_json(options.pipeline / "calibration.json", measured)
    settings = dict(spread=spread, calibration=calibration, threshold=threshold)
    replace_settings(options.pipeline, default_num_candidates=pipeline.config.default_num_candidates, **settings)
    print(f"spread {spread}, of", json.dumps(measured["by_spread"]))
    print(f"Brier score, cross-validated: {before:.6f} of the plain share, {after:.6f} calibrated")
    print(f"consensus of {number} of {num_masks}; threshold {threshold}; calibration {calibration}")
