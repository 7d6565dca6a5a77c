"""Masks and label maps as arrays that can be relied on, and the raters' majority."""

import numpy as np


def as_masks(masks: np.ndarray, name: str, ndim: int = 3) -> np.ndarray:
    """`masks` as a bool array of `ndim` dimensions with at least one element.

    Raises:
        ValueError: if the shape is another, or a value is neither 0 nor 1.

    >>> as_masks([[0, 1]], "a", ndim=2).tolist()
    [[False, True]]
    """
    array = np.asarray(masks)
    if array.ndim != ndim or array.size == 0:
        raise ValueError(f"`{name}` must be a non-empty array of {ndim} dimensions, but had shape {array.shape}.")
    if array.dtype != np.bool_ and not np.isin(array, (0, 1)).all():
        raise ValueError(f"`{name}` must be binary (0 and 1), but held {np.unique(array)[-3:].tolist()}.")
    return array.astype(bool)


def as_labels(labels: np.ndarray, name: str, num_classes: int, ndim: int = 3) -> np.ndarray:
    """`labels` as an array of whole numbers from 0, background, to `num_classes`; of one class as `as_masks`.

    Raises:
        ValueError: if the shape is another, or a value is no label.

    >>> as_labels([[0, 2]], "a", num_classes=2, ndim=2).tolist()
    [[0, 2]]
    """
    if num_classes == 1:
        return as_masks(labels, name, ndim)
    array = np.asarray(labels)
    if array.ndim != ndim or array.size == 0:
        raise ValueError(f"`{name}` must be a non-empty array of {ndim} dimensions, but had shape {array.shape}.")
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
    """The label that most raters gave each pixel; of equally many the highest: of one class, half of them are enough.

    Args:
        raters (`np.ndarray` of shape `(R, H, W)`): masks, or label maps where there are several classes.
        num_classes (`int`, *optional*, defaults to 1): foreground classes.

    Returns:
        bool `(H, W)`, or labels, uint8 `(H, W)`, of several classes.

    >>> majority(np.array([[[1, 1, 0]], [[0, 1, 0]]])).tolist()
    [[True, True, False]]
    >>> majority(np.array([[[1, 2, 0]], [[2, 2, 0]], [[0, 0, 1]]]), num_classes=2).tolist()
    [[2, 2, 0]]
    """
    raters = as_labels(raters, "raters", num_classes)
    votes = np.stack([(raters == label).sum(axis=0) for label in range(num_classes, -1, -1)])  # [K + 1, H, W]
    labels = num_classes - votes.argmax(axis=0)  # [H, W]: the first of the greatest is the highest label
    return labels.astype(bool if num_classes == 1 else np.uint8)
