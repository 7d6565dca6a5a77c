"""Metrics of a confidence map: calibration, proper scores, and whether uncertainty ranks images by their errors.

A confidence map `(H, W)` holds probabilities in [0, 1] that a rater marks a pixel; it is compared with every rater
of `raters`, `(R, H, W)`, each with weight 1/R. Values outside [0, 1], NaN and other sizes raise a `ValueError`.
"""

import numpy as np

from .labels import as_masks

NUM_BINS = 15


def _check(confidence: np.ndarray, raters: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    confidence, raters = np.asarray(confidence, float), as_masks(raters, "raters")
    if confidence.shape != raters.shape[1:]:
        raise ValueError(f"`confidence` must have the raters' size {raters.shape[1:]}, but had {confidence.shape}.")
    if not ((confidence >= 0) & (confidence <= 1)).all():  # false for NaN too
        raise ValueError(f"`confidence` must be in [0, 1], but held {confidence.min()} to {confidence.max()}.")
    return confidence, raters


def reliability_bins(
    confidence: np.ndarray, raters: np.ndarray, num_bins: int = NUM_BINS, band: bool = False
) -> np.ndarray:
    """Per bin of equal width: pixels, their summed confidence, their summed share of raters; `(3, num_bins)`.

    Bins add up over images. The last bin holds confidence 1. With `band`, only pixels with confidence in (0, 1) count,
    so that the certain background does not drown the rest.

    >>> reliability_bins(np.array([[0.2, 0.8]]), np.array([[[0, 1]], [[0, 0]]]), num_bins=2).tolist()
    [[1.0, 1.0], [0.2, 0.8], [0.0, 0.5]]
    """
    confidence, raters = _check(confidence, raters)
    share = raters.mean(axis=0)  # [H, W]
    if band:
        inside = (confidence > 0) & (confidence < 1)
        confidence, share = confidence[inside], share[inside]  # [n], [n]
    confidence, share = confidence.ravel(), share.ravel()
    index = np.minimum((confidence * num_bins).astype(int), num_bins - 1)
    weights = (np.ones_like(confidence), confidence, share)
    return np.stack([np.bincount(index, weights=weight, minlength=num_bins) for weight in weights])


def expected_calibration_error(bins: np.ndarray) -> float:
    """Mean gap |confidence - frequency| over the bins of `reliability_bins`, weighted by pixels (Naeini et al. 2015).

    Returns:
        a float in [0, 1]; NaN where no pixel was counted.

    >>> expected_calibration_error(np.array([[1.0, 3.0], [0.2, 2.4], [0.0, 3.0]]))  # (|.2 - 0| + |2.4 - 3|) / 4
    0.2
    """
    pixels, confidence, frequency = bins
    if pixels.sum() == 0:
        return float("nan")
    return float(np.abs(confidence - frequency).sum() / pixels.sum())


def brier_score(confidence: np.ndarray, raters: np.ndarray) -> float:
    """Mean over raters and pixels of (confidence - mask)^2, in [0, 1] (Brier 1950).

    >>> brier_score(np.array([[0.5, 1.0]]), np.array([[[1, 1]]]))
    0.125
    """
    confidence, raters = _check(confidence, raters)
    return float(((confidence - raters) ** 2).mean())


def negative_log_likelihood(confidence: np.ndarray, raters: np.ndarray, epsilon: float = 1e-6) -> float:
    """Mean over raters and pixels of -log p(mask), in nats, with confidence clipped to [epsilon, 1 - epsilon].

    Means of M samples are often exactly 0 or 1, so the value depends on `epsilon`: report it with the number.

    >>> negative_log_likelihood(np.array([[0.5]]), np.array([[[1]]])).__round__(4)
    0.6931
    """
    confidence, raters = _check(confidence, raters)
    p, share = confidence.clip(epsilon, 1 - epsilon), raters.mean(axis=0)  # [H, W], [H, W]
    return float(-(share * np.log(p) + (1 - share) * np.log(1 - p)).mean())


def risk_coverage_curve(risks: np.ndarray, uncertainties: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Coverage and the mean risk of the images that are kept, each `(N,)`, least uncertain first.

    Images of equal uncertainty share their mean risk, so the order of the rows does not matter (Geifman et al. 2019).

    >>> coverage, risk = risk_coverage_curve(np.array([0.3, 0.1]), np.array([0.9, 0.2]))
    >>> coverage.tolist(), risk.tolist()
    ([0.5, 1.0], [0.1, 0.2])
    """
    risks, uncertainties = np.asarray(risks, float), np.asarray(uncertainties, float)
    if risks.ndim != 1 or risks.shape != uncertainties.shape or risks.size == 0:
        raise ValueError(
            f"`risks` and `uncertainties` must have the same length, at least 1, but had shapes {risks.shape} and "
            f"{uncertainties.shape}."
        )
    if np.isnan(risks).any() or np.isnan(uncertainties).any():
        raise ValueError("`risks` and `uncertainties` must not hold NaN.")
    _, ties = np.unique(uncertainties, return_inverse=True)
    shared = (np.bincount(ties, weights=risks) / np.bincount(ties))[ties]  # [N]
    kept = np.arange(1, len(risks) + 1)
    return kept / len(risks), np.cumsum(shared[np.argsort(ties)]) / kept


def area_under_risk_coverage(risks: np.ndarray, uncertainties: np.ndarray) -> float:
    """Mean of the risk-coverage curve: the mean risk if uncertainty is uninformative; lower is better.

    >>> area_under_risk_coverage(np.array([0.3, 0.1]), np.array([0.9, 0.2])).__round__(4)
    0.15
    """
    return float(risk_coverage_curve(risks, uncertainties)[1].mean())
