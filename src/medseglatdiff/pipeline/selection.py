"""Selection of candidates: representative ones, and those that fit points that a user marked."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from ..data.images import resize_bilinear
from ..losses import jaccard_distances
from .regions import Window


def representatives(labels: torch.Tensor, num_masks: int, num_classes: int, spread: float = 1.0) -> torch.Tensor:
    """Representative candidates, most typical first.

    They are chosen greedily, one at a time, so that the chosen S minimise the energy distance to all candidates C,
    2 E[d(S, C)] - spread * E[d(S, S')], with d of `jaccard_distances`: support points (Mak & Joseph 2018, arXiv
    1609.01811, eq. 4), found as in herding (Chen, Welling & Smola 2010, arXiv 1203.3472). Sixteen of these represent
    the candidates about as well as several times as many drawn at random. A `spread` below 1 chooses masks that are
    closer together, for a model whose candidates differ more than raters do.

    Args:
        labels (`torch.Tensor` of shape `(N, H, W)`): label maps, 0 for background, then the classes.
        num_masks (`int`): how many to choose, at most N; with N, all are returned in their given order.
        num_classes (`int`): foreground classes, K.
        spread (`float`, *optional*, defaults to 1.0): weight of the distances among the chosen, at least 0.

    Returns:
        their indices, `(num_masks,)`.
    """
    if num_masks == len(labels):
        return torch.arange(num_masks, device=labels.device)
    masks = F.one_hot(labels.long(), 1 + num_classes).movedim(-1, 1)[:, 1:].float()  # [N, K, H, W]
    distances = jaccard_distances(masks, masks)  # [N, N]
    to_all = distances.mean(dim=1)  # [N]: E[d(s, C)]
    to_chosen = torch.zeros_like(to_all)  # [N]: sum of d(s, S) so far
    chosen: list[int] = []
    for size in range(1, num_masks + 1):
        score = (
            to_all - spread * to_chosen / size
        )  # [N]: the part of the objective that depends on the next choice, times size / 2
        score[chosen] = torch.inf
        chosen.append(int(score.argmin()))
        to_chosen += distances[chosen[-1]]  # [N]
    return torch.tensor(chosen, device=labels.device)


def as_point_lists(name: str, points: Sequence | None, num_images: int) -> list[list[tuple[float, float]]]:
    """One list of points `(x, y)` per image.

    Raises:
        ValueError: unless `points` is `None` or a list with one entry per image, each `None` or a list of points.
    """
    if points is None:
        return [[] for _ in range(num_images)]
    lists = [[] if entry is None else [tuple(point) for point in entry] for entry in points]
    if len(lists) != num_images or any(len(point) != 2 for entry in lists for point in entry):
        raise ValueError(
            f"`{name}` must have one list of points (x, y) for each of {num_images} images, but was {points!r}."
        )
    return lists


def keep_candidates(
    probabilities: torch.Tensor,
    size: tuple[int, int],
    window: Window | None,
    inside: list[tuple[float, float]],
    outside: list[tuple[float, float]],
    index: int,
) -> torch.Tensor:
    """The candidates of image `index` whose masks contain all points of `inside` and none of `outside`.

    Args:
        probabilities (`torch.Tensor` of shape `(N, 1 + K, S, S)`): of the candidates.
        size (`tuple[int, int]`): height and width of the segmented part, in the image's pixels.
        window (`Window`, *optional*): its position in the image.
        inside, outside: points `(x, y)` in the image's pixels.

    Raises:
        ValueError: for a point outside the segmented part, and if no candidate is left.
    """
    if not inside and not outside:
        return probabilities
    left, top = (window.left, window.top) if window else (0, 0)
    kept = torch.ones(len(probabilities), dtype=torch.bool)  # [N]
    columns = [
        (int(x) - left, int(y) - top, wanted)
        for points, wanted in ((inside, True), (outside, False))
        for x, y in points
    ]
    for x, y, _ in columns:
        if not (0 <= x < size[1] and 0 <= y < size[0]):
            raise ValueError(
                f"`inside` and `outside` must lie in the segmented part, but ({x + left}, {y + top}) of image {index} "
                "does not."
            )
    for number, candidate in enumerate(probabilities):
        labels = resize_bilinear(candidate[None], size)[0].max(dim=0).indices  # [h, w]
        kept[number] = all(bool(labels[y, x] > 0) == wanted for x, y, wanted in columns)
    if not kept.any():
        raise ValueError(
            f"None of the {len(kept)} candidates of image {index} fits `inside` and `outside`: draw more of them with "
            "`pipe.sample(..., num_candidates=...)`."
        )
    return probabilities[kept]
