"""Metrics of samples, `(M, H, W)`, against raters, `(R, H, W)`: pure NumPy functions with worked examples."""

from .labels import as_labels, as_masks, majority
from .overlap import (
    d_max,
    dice,
    dice_match,
    diversity,
    generalized_energy_distance,
    hm_iou,
    iou,
    normalized_cross_correlation,
    pairwise_dice,
    pairwise_iou,
    pooled_dice,
    pooled_iou,
    soft_dice,
    thresholded_jaccard,
)

__all__ = [
    "as_labels",
    "as_masks",
    "d_max",
    "dice",
    "dice_match",
    "diversity",
    "generalized_energy_distance",
    "hm_iou",
    "iou",
    "majority",
    "normalized_cross_correlation",
    "pairwise_dice",
    "pairwise_iou",
    "pooled_dice",
    "pooled_iou",
    "soft_dice",
    "thresholded_jaccard",
]
