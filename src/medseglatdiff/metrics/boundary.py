"""Metrics of boundaries, in the units of `spacing`: pixels, or mm where the size of a pixel is known.

The boundary of a mask is its pixels with one of four neighbours outside it; beyond the image is outside, as in MONAI.
"""

import numpy as np

from .labels import as_masks, check_same_size


def boundary_distances(
    a: np.ndarray, b: np.ndarray, spacing: tuple[float, float] = (1.0, 1.0)
) -> tuple[np.ndarray, np.ndarray]:
    """Distance of every boundary pixel of `a` to the boundary of `b`, and vice versa; infinite if the other is empty.

    >>> a, b = np.array([[1, 0, 0]]), np.array([[0, 0, 1]])
    >>> [distances.tolist() for distances in boundary_distances(a, b, spacing=(1.0, 0.5))]
    [[1.0], [1.0]]
    """
    try:
        from scipy.ndimage import binary_erosion, distance_transform_edt
    except ImportError as error:
        raise ImportError('Boundary distances need SciPy: `pip install "medseglatdiff[evaluate]"`.') from error
    a, b = as_masks(a, "a", 2), as_masks(b, "b", 2)
    check_same_size(a, b, "`a` and `b`")
    if len(spacing) != 2 or not min(spacing) > 0:
        raise ValueError(f"`spacing` must be two positive numbers, (row, column), but was {spacing}.")
    edges = [mask & ~binary_erosion(mask) for mask in (a, b)]
    away = [  # [H, W] twice: distance to the nearest pixel of each boundary
        distance_transform_edt(~edge, sampling=spacing) if edge.any() else np.full(edge.shape, np.inf)
        for edge in edges
    ]
    return away[1][edges[0]], away[0][edges[1]]


def hausdorff_distance_95(a: np.ndarray, b: np.ndarray, spacing: tuple[float, float] = (1.0, 1.0)) -> float:
    """The greater 95th percentile of boundary distances in both directions; both empty: 0, one empty: infinite.

    >>> hausdorff_distance_95(np.array([[1, 0, 0, 0]]), np.array([[0, 0, 0, 1]]))
    3.0
    """
    forth, back = boundary_distances(a, b, spacing)
    if forth.size == 0 or back.size == 0:
        return 0.0 if forth.size == back.size else float("inf")
    return float(max(np.percentile(forth, 95), np.percentile(back, 95)))


def normalized_surface_distance(
    a: np.ndarray, b: np.ndarray, tolerance: float = 1.0, spacing: tuple[float, float] = (1.0, 1.0)
) -> float:
    """Share of both boundaries within `tolerance` of the other, in [0, 1]; both empty: 1, one empty: 0.

    Source: Nikolov et al. 2021, with boundary pixels counted one by one, as in MONAI.

    >>> normalized_surface_distance(np.array([[1, 0, 0, 0]]), np.array([[0, 1, 0, 1]]))  # 1 + 1 of 1 + 2
    0.6666666666666666
    """
    if not tolerance >= 0:
        raise ValueError(f"`tolerance` must be at least 0, but was {tolerance}.")
    distances = np.concatenate(boundary_distances(a, b, spacing))
    return float((distances <= tolerance).mean()) if distances.size else 1.0
