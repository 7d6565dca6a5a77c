"""95 % confidence intervals of means and ratios of rows in groups, such as slices of patients.

Rows of one group are not independent, so groups count, not rows. One method serves means, ratios of sums and curves of
three or more groups: Student's t with the jackknife's standard error. Percentile and BCa bootstraps do not: with three
to eight groups they cover the truth in 70 to 90 % of studies, this method in 93 to 98 % (tests/test_intervals.py
simulates it).
"""

import math
from collections.abc import Callable, Iterable

import numpy as np

METHOD = "t over groups"
FEWEST_GROUPS = 3  # an interval of one or two groups is useless


def group_interval(
    statistic: Callable[[np.ndarray], float],
    groups: Iterable[str],
    weights: np.ndarray | None = None,
    bounds: tuple[float, float] = (-math.inf, math.inf),
) -> tuple[float, float] | None:
    """The 95 % interval of a statistic of N rows by leaving out one group at a time (Tukey 1958; Miller 1974).

    With `T` the statistic of all rows and `T_g` that without group g of G, the standard error is
    `sqrt((G - 1) / G * sum (T_g - T)^2)`. The interval is `T +- t se`, with Student's t of `K - 1` degrees of freedom
    (at least one), where `K = (sum w_g)^2 / sum w_g^2` (Kish 1965) is the effective number of groups. A bounded
    statistic is first transformed to an unbounded scale, by its logarithm (one bound) or its logit (two), with the
    delta method's standard error: the interval stays within the bounds and is skewed near them.

    Args:
        statistic (`Callable`): takes a bool array `(N,)`, true for rows to use, and returns a number.
        groups: the group of each row, N of them.
        weights (`np.ndarray` of shape `(N,)`, *optional*): weight of each row in the statistic; 1 if `None`.
        bounds (`tuple[float, float]`, *optional*): least and greatest possible value; infinite by default.

    Returns:
        its ends; `None` if there are none: fewer than three groups, no difference between them, a statistic that is
        undefined without one of them, or (one bound) ends more than a factor of 1000 from the value.

    >>> values, groups = np.array([1.0, 2.0, 3.0, 3.0, 4.0, 5.0]), list("aabbcc")
    >>> [round(end, 2) for end in group_interval(lambda kept: values[kept].mean(), groups)]  # 3 +- 4.303 * .866
    [-0.73, 6.73]
    >>> group_interval(lambda kept: values[kept].mean(), list("aaabbb")) is None
    True
    """
    try:
        from scipy.special import expit, logit
        from scipy.stats import t
    except ImportError as error:
        raise ImportError('Intervals need SciPy: `pip install "medseglatdiff[evaluate]"`.') from error
    names, members = np.unique(np.asarray(list(groups)), return_inverse=True)  # [G], [N]
    weights = np.ones(len(members)) if weights is None else np.asarray(weights, float)  # [N]
    if len(weights) != len(members):
        raise ValueError(f"`weights` must be as many as `groups`, {len(members)}, but were {len(weights)}.")
    if len(names) < FEWEST_GROUPS:
        return None
    # 1. the standard error
    value = statistic(np.ones(len(members), bool))
    left_out = np.array([statistic(members != index) for index in range(len(names))])  # [G]
    deviation = math.sqrt((len(names) - 1) / len(names) * ((left_out - value) ** 2).sum())
    low, high = bounds
    if not (1e-12 < deviation < math.inf and low < value < high):
        return None
    # 2. the degrees of freedom
    shares = np.bincount(members, weights)  # [G]
    freedom = max(1.0, shares.sum() ** 2 / (shares**2).sum() - 1)
    reach = t.ppf(0.975, freedom) * deviation
    # 3. the scale
    if math.isinf(low):
        return float(value - reach), float(value + reach)
    if math.isinf(high):
        if reach / (value - low) > math.log(1000):
            return None
        factor = math.exp(reach / (value - low))
        return float(low + (value - low) / factor), float(low + (value - low) * factor)
    share, width = (value - low) / (high - low), high - low
    ends = logit(share) + np.array([-1, 1]) * reach / width / (share * (1 - share))  # [2]
    return tuple((low + width * expit(ends)).tolist())
