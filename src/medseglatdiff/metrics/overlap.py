"""Metrics of single masks and of sets of masks: overlap, distance between distributions, matching.

Masks are boolean arrays, or hold only 0 and 1. `samples` are `(M, H, W)`, `raters` `(R, H, W)`, both with at least one
mask. Two empty masks agree perfectly (Dice = IoU = 1); an empty and a non-empty one not at all (0). Functions with
`num_classes` take label maps too, 0 for background, then the classes: the overlap of two of them is the mean over the
foreground classes. Every function raises a `ValueError` that names the argument for masks of different sizes, for
values other than 0 and 1 or the labels (NaN too), and if there is no mask at all.
"""

from collections.abc import Iterable

import numpy as np

from .labels import as_labels, as_masks, check_same_size

THRESHOLDS = (0.1, 0.3, 0.5, 0.7, 0.9)


def _overlaps(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sizes of all intersections and sums of areas, both `(A, B)`, of masks `(A, H, W)` and `(B, H, W)`."""
    exact = np.float32 if a[0].size < 2**24 else np.float64  # whole numbers up to the count of pixels
    a, b = a.reshape(len(a), -1).astype(exact), b.reshape(len(b), -1).astype(exact)  # [A, H*W], [B, H*W]
    return (a @ b.T).astype(float), (a.sum(axis=1)[:, None] + b.sum(axis=1)).astype(float)  # [A, B], [A, B]


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """`part / whole`, and 1 where `whole` is 0 because both masks are empty."""
    return np.divide(part, whole, out=np.ones(np.shape(part), float), where=whole > 0)


def _iou_by_class(samples: np.ndarray, raters: np.ndarray, num_classes: int) -> np.ndarray:
    """IoU of every sample with every rater, `(K, M, R)`: one matrix product of flattened masks for each class."""
    samples, raters = as_labels(samples, "samples", num_classes), as_labels(raters, "raters", num_classes)
    check_same_size(samples, raters, "`samples` and `raters`")
    pairs = [_overlaps(samples == k, raters == k) for k in range(1, num_classes + 1)]
    return np.stack([_share(common, areas - common) for common, areas in pairs])  # [K, M, R]


def pairwise_iou(samples: np.ndarray, raters: np.ndarray, num_classes: int = 1) -> np.ndarray:
    """IoU of every sample with every rater, `(M, R)`; for label maps the mean over the classes.

    >>> left, right = np.array([[1, 1, 0]]), np.array([[0, 1, 1]])
    >>> pairwise_iou(np.stack([left, left * 0]), np.stack([left, right, left * 0])).round(3).tolist()
    [[1.0, 0.333, 0.0], [0.0, 0.0, 1.0]]
    >>> pairwise_iou(np.array([[[1, 1, 2]]]), np.array([[[1, 2, 2]]]), num_classes=2)  # 1/2 for either class
    array([[0.5]])
    """
    return _iou_by_class(samples, raters, num_classes).mean(axis=0)


def pairwise_dice(samples: np.ndarray, raters: np.ndarray, num_classes: int = 1) -> np.ndarray:
    """Dice of every sample with every rater, `(M, R)`: 2 IoU / (1 + IoU); for label maps the mean over the classes.

    >>> pairwise_dice(np.array([[[1, 1, 0]]]), np.array([[[0, 1, 1]], [[0, 0, 0]]])).tolist()
    [[0.5, 0.0]]
    """
    overlap = _iou_by_class(samples, raters, num_classes)
    return (2 * overlap / (1 + overlap)).mean(axis=0)


def dice(a: np.ndarray, b: np.ndarray) -> float:
    """Dice coefficient 2|A∩B| / (|A|+|B|) of two masks `(H, W)`; both empty: 1, one empty: 0 (Dice 1945).

    >>> dice(np.array([[1, 1, 0]]), np.array([[0, 1, 1]]))
    0.5
    """
    return float(pairwise_dice(as_masks(a, "a", 2)[None], as_masks(b, "b", 2)[None])[0, 0])


def iou(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union |A∩B| / |A∪B| of two masks `(H, W)`; both empty: 1, one empty: 0 (Jaccard 1901).

    >>> iou(np.array([[1, 1, 0, 0]]), np.array([[0, 1, 1, 1]]))
    0.25
    """
    return float(pairwise_iou(as_masks(a, "a", 2)[None], as_masks(b, "b", 2)[None])[0, 0])


def thresholded_jaccard(a: np.ndarray, b: np.ndarray, threshold: float = 0.65) -> float:
    """The official score of ISIC 2018 task 1: the IoU of an image, and 0 below `threshold` (Codella et al. 2019).

    >>> thresholded_jaccard(np.array([[1, 1, 1, 0]]), np.array([[1, 1, 1, 1]]))
    0.75
    >>> thresholded_jaccard(np.array([[1, 1, 0, 0]]), np.array([[1, 1, 1, 1]]))
    0.0
    """
    overlap = iou(a, b)
    return overlap if overlap >= threshold else 0.0


def pooled_dice(pairs: Iterable[tuple[np.ndarray, np.ndarray]]) -> float:
    """Dice over the pixels of all images together (micro average), from pairs of masks; large objects weigh more.

    >>> small, large = np.array([[1, 0, 0, 0]]), np.array([[1, 1, 1, 0]])
    >>> pooled_dice([(small, small * 0), (large, large)]), (0 + 1) / 2
    (0.8571428571428571, 0.5)
    """
    counts = np.zeros(2)
    for a, b in pairs:
        a, b = as_masks(a, "a", 2), as_masks(b, "b", 2)
        check_same_size(a, b, "`a` and `b`")
        counts += (a & b).sum(), a.sum() + b.sum()
    return float(_share(2 * counts[0], counts[1]))


def pooled_iou(pairs: Iterable[tuple[np.ndarray, np.ndarray]]) -> float:
    """IoU over the pixels of all images together (micro average): Dice / (2 - Dice) of `pooled_dice`.

    >>> pooled_iou([(np.array([[1, 0]]), np.array([[1, 1]])), (np.array([[1, 1]]), np.array([[1, 1]]))])
    0.75
    """
    pooled = pooled_dice(pairs)
    return pooled / (2 - pooled)


def _mean_distance(a: np.ndarray, b: np.ndarray, num_classes: int) -> float:
    return float(1 - pairwise_iou(a, b, num_classes).mean())


def diversity(masks: np.ndarray, num_classes: int = 1) -> float:
    """Mean distance E[1 - IoU] of two distinct masks of `(M, H, W)`: 0 if all are equal; for samples or raters.

    Raises:
        ValueError: for fewer than two masks, which have no distinct pair.

    >>> diversity(np.array([[[1, 0]], [[1, 1]]]))
    0.5
    """
    if len(masks) < 2:
        raise ValueError(f"`masks` must hold at least two masks, but held {len(masks)}.")
    return _mean_distance(masks, masks, num_classes) * len(masks) / (len(masks) - 1)  # the diagonal adds only zeros


def generalized_energy_distance(
    samples: np.ndarray, raters: np.ndarray, unbiased: bool = False, num_classes: int = 1
) -> float:
    """Squared generalised energy distance, 2 E[d(S,Y)] - E[d(S,S')] - E[d(Y,Y')], with d = 1 - IoU.

    Source: Székely and Rizzo 2013, as in Kohl et al. 2018. All pairs count, with the diagonal, as in published code.
    That estimate exceeds the limit of many samples by E[d(S,S')] / M, so it is only comparable at equal M.

    Args:
        samples (`np.ndarray` of shape `(M, H, W)`): drawn from the model.
        raters (`np.ndarray` of shape `(R, H, W)`): the target distribution, each rater with weight 1/R.
        unbiased (`bool`, *optional*, defaults to `False`): estimate the limit of many samples, by leaving the diagonal
            of E[d(S,S')] out; may be slightly negative and needs two samples.
        num_classes (`int`, *optional*, defaults to 1): foreground classes; d is the mean over them.

    Returns:
        a float in [0, 2], 0 for equal distributions.

    >>> a, b = np.array([[1, 0]]), np.array([[0, 1]])
    >>> generalized_energy_distance(np.stack([a, b]), np.stack([b, a]))
    0.0
    >>> generalized_energy_distance(np.stack([a, a]), np.stack([a, b]))  # 2 * 1/2 - 0 - 1/2
    0.5
    """
    within = diversity(samples, num_classes) if unbiased else _mean_distance(samples, samples, num_classes)
    return 2 * _mean_distance(samples, raters, num_classes) - within - _mean_distance(raters, raters, num_classes)


def _matched(scores: np.ndarray, balanced: bool) -> float:
    """Mean score of the best one-to-one assignment of the rows to the columns of `scores`, `(M, R)`."""
    try:
        from scipy.optimize import linear_sum_assignment
    except ImportError as error:
        raise ImportError('Matching masks needs SciPy: `pip install "medseglatdiff[evaluate]"`.') from error
    num_samples, num_raters = scores.shape
    if balanced:
        common = np.lcm(num_samples, num_raters)
        scores = scores.repeat(common // num_samples, axis=0).repeat(common // num_raters, axis=1)
    elif num_samples < num_raters:
        raise ValueError(f"`samples` must be at least as many as the {num_raters} raters, but were {num_samples}.")
    return float(scores[linear_sum_assignment(scores, maximize=True)].mean())


def hm_iou(samples: np.ndarray, raters: np.ndarray, balanced: bool = True, num_classes: int = 1) -> float:
    """IoU under the best matching of samples and raters, in [0, 1]; 1 only for a perfect matching.

    Source: Kohl et al. 2019, with the algorithm of Kuhn 1955. Balanced: both are replicated to lcm(M, R), so each
    counts equally. Not balanced: each rater is matched with one sample and the other samples are ignored, so
    it grows with M; never compare the two. A label map is matched as a whole, by its mean IoU over the classes.

    >>> a, b = np.array([[1, 0]]), np.array([[0, 1]])
    >>> hm_iou(np.stack([a, a]), np.stack([a, b])), hm_iou(np.stack([a, a, b]), np.stack([a, b]), balanced=False)
    (0.5, 1.0)
    """
    return _matched(pairwise_iou(samples, raters, num_classes), balanced)


def dice_match(samples: np.ndarray, raters: np.ndarray, num_classes: int = 1) -> float:
    """Dice under the best balanced matching of samples and raters, in [0, 1] (Wu et al. 2024); see `hm_iou`.

    >>> dice_match(np.array([[[1, 1, 0]]]), np.array([[[1, 1, 0]], [[0, 1, 1]]]))
    0.75
    """
    return _matched(pairwise_dice(samples, raters, num_classes), balanced=True)


def d_max(samples: np.ndarray, raters: np.ndarray, num_classes: int = 1) -> float:
    """Mean over raters of the best Dice among the samples, in [0, 1] (Rahman et al. 2023); grows with their number.

    >>> d_max(np.array([[[1, 0]], [[1, 1]]]), np.array([[[1, 1]], [[0, 0]]]))
    0.5
    """
    return float(pairwise_dice(samples, raters, num_classes).max(axis=0).mean())


def soft_dice(samples: np.ndarray, raters: np.ndarray) -> float:
    """Dice of the two mean masks, each cut at > .1, .3, .5, .7 and .9, averaged, in [0, 1] (Ji et al. 2021).

    >>> soft_dice(np.array([[[1, 1]], [[1, 0]]]), np.array([[[1, 1]]])).__round__(4)  # 1, 1, 2/3, 2/3, 2/3
    0.8
    """
    samples, raters = as_masks(samples, "samples"), as_masks(raters, "raters")
    ours, theirs = samples.mean(axis=0), raters.mean(axis=0)
    return float(np.mean([dice(ours > threshold, theirs > threshold) for threshold in THRESHOLDS]))


def normalized_cross_correlation(samples: np.ndarray, raters: np.ndarray) -> float:
    """PHiSeg's NCC of uncertainty and error, in [-1, 1] (Baumgartner et al. 2019); NaN where no map varies.

    The correlation over pixels of the cross entropy of samples and their mean p with that of samples and a rater y,
    averaged over raters. For binary masks the two maps are 2p(1-p) and |y-p| up to a factor, which cancels. A rater
    whose map is constant is left out.

    >>> normalized_cross_correlation(np.array([[[1, 1, 0]], [[0, 1, 0]]]), np.array([[[1, 1, 0]]])).__round__(4)
    1.0
    """
    samples, raters = as_masks(samples, "samples"), as_masks(raters, "raters")
    check_same_size(samples, raters, "`samples` and `raters`")
    mean = samples.mean(axis=0)  # [H, W]
    uncertainty, errors = 2 * mean * (1 - mean), np.abs(raters - mean)  # [H, W], [R, H, W]
    maps = [error for error in errors if np.ptp(error) > 0 and np.ptp(uncertainty) > 0]
    scores = [np.corrcoef(uncertainty.ravel(), error.ravel())[0, 1] for error in maps]
    return float(np.mean(scores)) if scores else float("nan")
