"""Masks and label maps as validated arrays, and the raters' majority."""

import numpy as np


def _non_empty(values: np.ndarray, name: str, ndim: int) -> np.ndarray:
    array = np.asarray(values)
    if array.ndim != ndim or array.size == 0:
        raise ValueError(f"`{name}` must be a non-empty array of {ndim} dimensions, but had shape {array.shape}.")
    return array


def as_masks(masks: np.ndarray, name: str, ndim: int = 3) -> np.ndarray:
    """`masks` as a bool array of `ndim` dimensions with at least one element.

    Raises:
        ValueError: if it has another number of dimensions or no element, or a value is neither 0 nor 1.

    >>> as_masks([[0, 1]], "a", ndim=2).tolist()
    [[False, True]]
    """
    array = _non_empty(masks, name, ndim)
    if array.dtype != np.bool_ and not np.isin(array, (0, 1)).all():
        raise ValueError(f"`{name}` must be binary (0 and 1), but held {np.unique(array)[-3:].tolist()}.")
    return array.astype(bool)


def as_labels(labels: np.ndarray, name: str, num_classes: int, ndim: int = 3) -> np.ndarray:
    """`labels` as an array of whole numbers from 0, background, to `num_classes`; with one class as `as_masks`.

    Raises:
        ValueError: if it has another number of dimensions or no element, or a value is not a label.

    >>> as_labels([[0, 2]], "a", num_classes=2, ndim=2).tolist()
    [[0, 2]]
    """
    if num_classes == 1:
        return as_masks(labels, name, ndim)
    array = _non_empty(labels, name, ndim)
    if not np.isin(array, np.arange(num_classes + 1)).all():
        raise ValueError(
            f"`{name}` must hold labels from 0 to {num_classes}, but held {np.unique(array)[-3:].tolist()}."
        )
    return array.astype(np.uint8)


def check_same_size(a: np.ndarray, b: np.ndarray, names: str):
    """Raises a `ValueError` with these names unless both arrays end in the same height and width.

    >>> check_same_size(np.zeros((1, 2, 3)), np.zeros((2, 3)), "`a` and `b`")
    """
    if a.shape[-2:] != b.shape[-2:]:
        raise ValueError(f"{names} must have the same height and width, but had {a.shape[-2:]} and {b.shape[-2:]}.")


def majority(raters: np.ndarray, num_classes: int = 1) -> np.ndarray:
    """The label that most raters gave each pixel; a tie goes to the highest: with one class half of them are enough.

    Args:
        raters (`np.ndarray` of shape `(R, H, W)`): masks, or label maps if there are several classes.
        num_classes (`int`, *optional*, defaults to 1): foreground classes.

    Returns:
        bool `(H, W)`, or labels, uint8 `(H, W)`, with several classes.

    >>> majority(np.array([[[1, 1, 0]], [[0, 1, 0]]])).tolist()
    [[True, True, False]]
    >>> majority(np.array([[[1, 2, 0]], [[2, 2, 0]], [[0, 0, 1]]]), num_classes=2).tolist()
    [[2, 2, 0]]
    """
    raters = as_labels(raters, "raters", num_classes)
    votes = np.stack([(raters == label).sum(axis=0) for label in range(num_classes, -1, -1)])  # [K + 1, H, W]
    labels = num_classes - votes.argmax(axis=0)  # [H, W]: the first of the greatest is the highest label
    return labels.astype(bool if num_classes == 1 else np.uint8)
