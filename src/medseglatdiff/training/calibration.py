"""The choices on the validation split, as pure functions of the counts of tally.py.

The level of a pixel is the number of masks that contain it, or its mean probability in steps.
"""

from collections.abc import Sequence

import numpy as np
from scipy.optimize import isotonic_regression

RAMP = 1e-3  # weight of the identity in the calibration
FOLDS = 10  # with fewer groups, neither threshold nor confidence is chosen


def fit(counts: np.ndarray) -> dict:
    """The calibration from the counts `(2, L + 1)` of `count_levels`: isotonic, and 0 at level 0."""
    pixels, marked = counts
    shares = np.linspace(0, 1, len(pixels))  # [L + 1]
    frequency = np.divide(marked, pixels, out=np.zeros_like(marked), where=pixels > 0)  # [L + 1]
    confidences = isotonic_regression(frequency, weights=np.maximum(pixels, 1e-9)).x  # [L + 1]
    confidences = (1 - RAMP) * np.concatenate([[0.0], confidences[1:]]) + RAMP * shares  # [L + 1]: strictly rising
    confidences = confidences.clip(0, 1).round(5)
    return {"shares": shares.tolist(), "confidences": confidences.tolist()}


def brier_sum(counts: np.ndarray, confidences: np.ndarray) -> float:
    """Sum over pixels and raters of (confidence - marked)^2, from counts `(2, L + 1)` and confidences `(L + 1,)`."""
    pixels, marked = counts
    return float((marked * (1 - confidences) ** 2 + (pixels - marked) * confidences**2).sum())


def cross_validate(counts_of: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Cross-validated Brier scores without and with calibration.

    `counts_of` has the counts of each group; a fold is a tenth of the groups, or one of fewer than ten.

    Returns:
        each group's contribution to either score, `(G,)` twice, in the order of their names. The sums are the scores,
        means over all pixels.
    """
    ordered = np.array([counts_of[group] for group in sorted(counts_of)])  # [G, 2, L + 1], for any processes
    everything, pixels = ordered.sum(axis=0), ordered[:, 0].sum()
    plain = np.linspace(0, 1, ordered.shape[2])  # [L + 1]
    before, after = np.zeros((2, len(ordered)))  # [G] each
    for first in range(min(FOLDS, len(ordered))):
        fold = ordered[first::FOLDS]  # [groups of the fold, 2, L + 1]
        fitted = np.array(fit(everything - fold.sum(axis=0))["confidences"])  # [L + 1]
        before[first::FOLDS] = [brier_sum(counts, plain) for counts in fold]
        after[first::FOLDS] = [brier_sum(counts, fitted) for counts in fold]
    return before / pixels, after / pixels


def near_enough(loss: np.ndarray, groups: Sequence[str] | Sequence[int]) -> np.ndarray:
    """Which choices lose at most one standard error, bool `(choices,)`, from each image's loss `(N, choices)`.

    The standard error is that of groups, not of images.
    """
    names, members = np.unique(groups, return_inverse=True)
    sums = np.zeros((len(names), loss.shape[1]))  # [groups, choices]
    np.add.at(sums, members, loss - loss.mean(axis=0))
    return loss.mean(axis=0) <= np.sqrt((sums**2).sum(axis=0)) / len(loss)


def choose_level(scores: np.ndarray, groups: list[str]) -> int:
    """The least level of the consensus: the one with the best Dice over all images, including empty ones, unless half
    of the highest level is within one standard error of it.

    Where readers disagree, Dice is flat in the level, and the best level on a hundred images is often not the best on
    others: the best on 50 rows of LIDC-IDRI's validation split lost .04 of Dice against half on 50 rows of other
    patients, with this rule .016. So half stays until the gain exceeds its standard error (the rule of Breiman et al.
    1984, with half as the simplest choice), and always with fewer than ten groups.

    Args:
        scores (`np.ndarray` of shape `(N, L)`): Dice of each image at level 1, 2, ... L.
        groups (`list[str]`): the group of each image.
    """
    half = (scores.shape[1] + 1) // 2
    best = 1 + int(scores.mean(axis=0).argmax())
    if len(set(groups)) < FOLDS or near_enough(scores[:, [best - 1]] - scores[:, [half - 1]], groups)[0]:
        return half
    return best


def choose_spread(distances: np.ndarray, matched: np.ndarray, groups: list[str]) -> int:
    """The index of the spread with the best HM-IoU among those whose GED is within one standard error of the best.

    Args:
        distances, matched (`np.ndarray` of shape `(N, spreads)`): GED and HM-IoU of each image.
        groups (`list[str]`): the group of each image.
    """
    best = int(distances.mean(axis=0).argmin())
    if len(set(groups)) < FOLDS:
        return best
    allowed = near_enough(distances - distances[:, [best]], groups)  # [spreads]
    return int(np.where(allowed, matched.mean(axis=0), -1).argmax())


def choose_confidence(briers: np.ndarray, dices: np.ndarray) -> int:
    """The index of the kind of confidence with the best Dice among those whose Brier score is within one standard
    error of the best; the first one with fewer than ten groups.

    Args:
        briers (`np.ndarray` of shape `(G, kinds)`): each held-out group's contribution to the Brier score.
        dices (`np.ndarray` of shape `(kinds,)`): mean Dice of the consensus of each kind.
    """
    if len(briers) < FOLDS:
        return 0
    best = int(briers.sum(axis=0).argmin())
    allowed = near_enough(briers - briers[:, [best]], range(len(briers)))  # [kinds]
    return int(np.where(allowed, dices, -1).argmax())
