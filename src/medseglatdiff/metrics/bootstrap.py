"""Intervals of means and ratios when rows come in groups, such as slices of patients (Efron 1979).

Whole groups are drawn with replacement, as many as there are, since rows of one group are no independent observations.
"""

from collections.abc import Iterable

import numpy as np


def bootstrap_counts(groups: Iterable[str], num_resamples: int = 1000, seed: int = 0) -> np.ndarray:
    """How often each row occurs in each resample, `(num_resamples, N)`, when whole groups are redrawn.

    Args:
        groups: the group of each row, N of them.
        num_resamples (`int`, *optional*, defaults to 1000): how many times as many groups as there are are drawn.
        seed (`int`, *optional*, defaults to 0): the same seed, the same resamples.

    >>> bootstrap_counts(["a", "a", "b"], num_resamples=4).tolist()
    [[1, 1, 1], [1, 1, 1], [0, 0, 2], [0, 0, 2]]
    """
    _, members = np.unique(np.asarray(list(groups)), return_inverse=True)  # [N]
    if len(members) == 0:
        raise ValueError("`groups` must hold at least one group, but was empty.")
    num_groups = members.max() + 1
    rng = np.random.default_rng(seed)
    return rng.multinomial(num_groups, np.full(num_groups, 1 / num_groups), size=num_resamples)[:, members]  # [B, N]


def bootstrap_interval(
    values: np.ndarray, groups: Iterable[str], weights: np.ndarray | None = None, seed: int = 0
) -> tuple[float, float]:
    """95 % percentile interval of sum(values) / sum(weights) over resampled groups.

    Args:
        values (`np.ndarray` of shape `(N,)`): one number per row.
        groups: the group of each row.
        weights (`np.ndarray` of shape `(N,)`, *optional*): at least 0; 1 each if `None`, for the interval of the mean.
        seed (`int`, *optional*, defaults to 0): of the resamples.

    >>> bootstrap_interval(np.array([0.0, 0.0, 1.0, 1.0]), ["a", "a", "b", "b"])
    (0.0, 1.0)
    """
    values, counts = np.asarray(values, float), bootstrap_counts(groups, seed=seed)  # [N], [B, N]
    weights = np.ones_like(values) if weights is None else np.asarray(weights, float)  # [N]
    if not len(values) == len(weights) == counts.shape[1]:
        raise ValueError(f"`values` must be as many as `groups`, {counts.shape[1]}, but were {len(values)}.")
    sums, totals = counts @ values, counts @ weights  # [B], [B]
    low, high = np.percentile(sums[totals > 0] / totals[totals > 0], (2.5, 97.5))
    return float(low), float(high)
