"""Teaches a saved pipeline what its confidence means, on the validation split.

    accelerate launch training/calibrate.py --pipeline outputs/lidc-idri/pipeline --dataset data/lidc-idri

For every share of the hypotheses, 0 to all, it counts how often raters marked the pixels held by so many; the isotonic
fit of that (Barlow et al. 1972) becomes the pipeline's `calibration`, if it helps: fitted without a fold of the
groups, it must lower the Brier score on that fold, on average. A few groups that differ, such as the validation
sequences of CVC-ClinicDB, may have nothing to teach about others; the plain share stays then. Pixels that no
hypothesis holds keep confidence 0, so that the map ends where the hypotheses end.

The consensus is what so many hypotheses hold that Dice over the images with a lesion is best, among the numbers whose
Dice over all images is within one standard error of the majority's (the rule of Breiman et al. 1984): where readers
often mark nothing, half of the hypotheses may miss lesions that fewer find at no cost. With less than ten groups the
majority stays. Both go to the folder's model_index.json, as `calibration` and `threshold`, and what was measured to
calibration.json beside it. Masks stay what they are.
"""

import argparse
import json
import math
import os
import shlex
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from provenance import git_commit
from scipy.optimize import isotonic_regression
from tqdm import tqdm

from medseglatdiff import MedSegLatDiffPipeline
from medseglatdiff.data import open_split
from medseglatdiff.evaluation import predict, read_raters
from medseglatdiff.metrics import dice

IMAGES_PER_BATCH = 8
RAMP = 1e-3  # share of a straight line in the calibration
FOLDS = 10


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pipeline", type=Path, required=True, help="folder, changed in place")
    parser.add_argument("--dataset", required=True, help='folder, Hub id, or "phantom"')
    parser.add_argument("--split", default="validation", choices=("train", "validation"), help="never test")
    parser.add_argument("--limit", type=int, help="a random choice of so many images")
    parser.add_argument("--seed", type=int, default=1, help="of the noise and of the choice of images")
    return parser.parse_args(arguments)


def count_held(masks: np.ndarray, raters: np.ndarray) -> np.ndarray:
    """Float `(2, M + 1)`: of the pixels held by 0, 1, ... M of the masks `(M, H, W)`, how many there are, and the sum
    over them of the share of the raters `(R, H, W)` who marked them."""
    held, marked = masks.sum(axis=0).ravel(), raters.mean(axis=0).ravel()  # [H * W] each
    sizes = {"minlength": len(masks) + 1}
    return np.stack([np.bincount(held, **sizes), np.bincount(held, weights=marked, **sizes)])


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
    folds = [list(counts_of.values())[start::FOLDS] for start in range(min(FOLDS, len(counts_of)))]
    sums = [np.sum(fold, axis=0) for fold in folds]  # [2, M + 1] each
    plain = np.linspace(0, 1, sums[0].shape[1])  # [M + 1]
    before = sum(brier_sum(fold, plain) for fold in sums)
    after = sum(brier_sum(fold, np.array(fit(np.sum(sums, axis=0) - fold)["confidences"])) for fold in sums)
    pixels = np.sum(sums, axis=0)[0].sum()
    return before / pixels, after / pixels


def dice_by_number(masks: np.ndarray, raters: np.ndarray) -> list[float]:
    """Dice, against the raters' majority, of what at least 1, 2, ... M of the masks `(M, H, W)` hold."""
    held, reference = masks.sum(axis=0), raters.mean(axis=0) >= 0.5  # [H, W] each
    return [dice(held >= number, reference) for number in range(1, len(masks) + 1)]


def choose_number(scores: np.ndarray, non_empty: np.ndarray, groups: list[str]) -> int:
    """How many hypotheses the consensus asks for: see this file's head.

    Args:
        scores (`np.ndarray` of shape `(N, M)`): `dice_by_number` of each image.
        non_empty (`np.ndarray` of shape `(N,)`): whether the raters' majority marked anything.
        groups (`list[str]`): the group of each image; the standard error counts groups, not images.
    """
    majority = (scores.shape[1] + 1) // 2
    names, members = np.unique(groups, return_inverse=True)
    if len(names) < FOLDS or not non_empty.any():
        return majority
    loss = scores[:, [majority - 1]] - scores  # [N, M]
    sums = np.zeros((len(names), loss.shape[1]))
    np.add.at(sums, members, loss - loss.mean(axis=0))  # [groups, M]
    error = np.sqrt((sums**2).sum(axis=0)) / len(loss)  # [M]
    allowed = loss.mean(axis=0) <= error  # [M]
    return 1 + int(np.where(allowed, scores[non_empty].mean(axis=0), -1).argmax())


def replace_settings(folder: Path, **settings):
    """Writes settings into the folder's model_index.json, under a temporary name first."""
    index = json.loads((folder / "model_index.json").read_text()) | settings
    partial = folder / "model_index.json.partial"
    partial.write_text(json.dumps(index, indent=2) + "\n")
    partial.replace(folder / "model_index.json")


def main(arguments: list[str] | None = None):
    options = parse_arguments(arguments)
    accelerator = Accelerator()
    torch.set_num_threads(os.cpu_count())  # `accelerate launch` leaves one thread
    pipeline = MedSegLatDiffPipeline.from_pretrained(options.pipeline).to(accelerator.device)
    pipeline.set_progress_bar_config(disable=True)
    num_masks, steps = pipeline.config.default_num_masks, pipeline.config.default_num_inference_steps
    rows = open_split(options.dataset, options.split)
    chosen = np.random.default_rng(options.seed).permutation(len(rows))[: options.limit].tolist()
    # 1. count over the split
    counts_of, scores, non_empty, groups = defaultdict(lambda: np.zeros((2, num_masks + 1))), [], [], []
    for first in tqdm(range(0, len(chosen), IMAGES_PER_BATCH), desc="calibrate"):
        batch = [rows[index] for index in chosen[first : first + IMAGES_PER_BATCH]]
        with accelerator.autocast():
            predictions = list(predict(pipeline, batch, num_masks, steps, options.seed))
        for row, (masks, *_) in zip(batch, predictions, strict=True):
            raters = read_raters(row)
            counts_of[row["group_id"]] += count_held(masks, raters)
            scores.append(dice_by_number(masks, raters))
            non_empty.append((raters.mean(axis=0) >= 0.5).any())
            groups.append(row["group_id"])
    # 2. fit and write
    counts = np.sum(list(counts_of.values()), axis=0)  # [2, M + 1]
    scores, non_empty = np.array(scores), np.array(non_empty)  # [N, M], [N]
    number = choose_number(scores, non_empty, groups)
    threshold, calibration = math.floor(1e5 * number / num_masks) / 1e5, fit(counts)
    before, after = cross_validate(counts_of)
    if after < before:
        threshold = float(np.interp(threshold, calibration["shares"], calibration["confidences"]))
    else:
        calibration = None
    measured = {"command": f"accelerate launch training/calibrate.py {shlex.join(arguments or sys.argv[1:])}"}
    measured |= {"num_images": len(chosen), "num_masks": num_masks, "num_inference_steps": steps}
    measured |= {"num_groups": len(counts_of), "brier": before, "brier_cross_validated": after}
    measured |= {"pixels": counts[0].tolist(), "marked": counts[1].tolist()}
    measured |= {"dice_by_number": scores.mean(axis=0).tolist(), "number": number}
    measured |= {"dice_by_number_non_empty": scores[non_empty].mean(axis=0).tolist() if non_empty.any() else None}
    measured |= {"calibration": calibration, "threshold": threshold, "git_commit": git_commit()}
    (options.pipeline / "calibration.json").write_text(json.dumps(measured, indent=2) + "\n")
    replace_settings(options.pipeline, calibration=calibration, threshold=threshold)
    print(f"Brier score, cross-validated: {before:.6f} of the plain share, {after:.6f} calibrated")
    print(f"consensus of {number} of {num_masks}; threshold {threshold}; calibration {calibration}")


if __name__ == "__main__":
    main()
