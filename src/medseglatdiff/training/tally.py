"""What calibrate.py counts over a split: the masks' distance to the raters' for each spread, and pixels by level."""

import numpy as np
import torch

from ..data.images import resize_bilinear
from ..data.splits import noise_seed, read_raters
from ..metrics import generalized_energy_distance, hm_iou, majority
from ..pipeline.pipeline import MedSegLatDiffPipeline

SPREADS = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1)
PROBABILITY = "probability"  # key of the tally of mean probabilities, beside the spreads
STEPS = 100  # levels to which mean probabilities are rounded


def levels_of(masks: np.ndarray, num_classes: int) -> np.ndarray:
    """The number of masks `(M, H, W)` that contain each pixel, for each class: integers `(K, H, W)`."""
    return np.stack([(masks == k).sum(axis=0) for k in range(1, num_classes + 1)])


def count_levels(levels: np.ndarray, highest: int, raters: np.ndarray) -> np.ndarray:
    """The number of pixels at each level, and the sum over these of the share of raters who marked them.

    Args:
        levels (`np.ndarray` of shape `(K, H, W)`): integers from 0 to `highest`, as from `levels_of`.
        highest (`int`): L, such as the number of masks.
        raters (`np.ndarray` of shape `(R, H, W)`): masks; label maps with several classes.

    Returns:
        float `(2, L + 1)`, summed over classes.
    """
    marked = levels_of(raters, len(levels)).ravel() / len(raters)  # [K * H * W]
    options = {"minlength": highest + 1}
    return np.stack([np.bincount(levels.ravel(), weights=weights, **options) for weights in (None, marked)])


def dice_by_level(levels: np.ndarray, highest: int, reference: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Dice of the pixels at level 1, 2, ... L or above with the reference, `(K, L)`, and which classes the reference
    has, bool `(K,)`.

    A pixel belongs to the class of the highest level, as in `aggregation.aggregate`. Dice is 1 if both are empty.

    Args:
        levels (`np.ndarray` of shape `(K, H, W)`): integers from 0 to `highest`.
        highest (`int`): L.
        reference (`np.ndarray` of shape `(H, W)`): bool; labels with several classes.
    """
    level, winner = levels.max(axis=0), levels.argmax(axis=0) + 1  # [H, W] each
    scores, there = [], []
    for k in range(1, len(levels) + 1):
        held, true = winner == k, reference == k  # [H, W] each
        area, both = (  # [L] each: pixels at level 1 or above, 2 or above, ...
            np.bincount(level[chosen], minlength=highest + 1)[:0:-1].cumsum()[::-1] for chosen in (held, held & true)
        )
        whole = area + true.sum()  # [L]
        scores.append(np.divide(2 * both, whole, out=np.ones(highest), where=whole > 0))
        there.append(true.any())
    return np.stack(scores), np.array(there)


class Tally:
    """The counts over a split for one kind of confidence and, if it comes from masks, for these.

    Args:
        highest (`int`): the levels of the map are 0 to `highest`.
    """

    def __init__(self, highest: int):
        self.highest = highest
        self.counts_of: dict[str, np.ndarray] = {}  # float (2, L + 1) of each group
        self.distances: list[float] = []  # GED of each image, if there are masks
        self.matched: list[float] = []  # HM-IoU of each image, if there are masks
        self.scores: list[np.ndarray] = []  # Dice (L,) of each image
        self.scores_non_empty: list[np.ndarray] = []  # over the classes that the reference has; NaN if it is empty
        self.groups: list[str] = []  # of each image

    def add(self, levels: np.ndarray, raters: np.ndarray, group: str):
        """Counts an image of this group with its levels `(K, H, W)` and raters `(R, H, W)`."""
        self.counts_of[group] = self.counts_of.get(group, 0) + count_levels(levels, self.highest, raters)
        scores, there = dice_by_level(levels, self.highest, majority(raters, len(levels)))  # [K, L], [K]
        self.scores.append(scores.mean(axis=0))
        self.scores_non_empty.append(scores[there].mean(axis=0) if there.any() else np.full(self.highest, np.nan))
        self.groups.append(group)

    def add_masks(self, masks: np.ndarray, raters: np.ndarray, group: str, num_classes: int):
        """Counts an image with its masks or label maps, `(M, H, W)`: a pixel's level is the number that contain it."""
        self.add(levels_of(masks, num_classes), raters, group)
        self.distances.append(generalized_energy_distance(masks, raters, num_classes=num_classes))
        self.matched.append(hm_iou(masks, raters, num_classes=num_classes))

    def extend(self, other: "Tally"):
        """Adds the counts of another process, of other images."""
        for group, counts in other.counts_of.items():
            self.counts_of[group] = self.counts_of.get(group, 0) + counts
        for name in ("distances", "matched", "scores", "scores_non_empty", "groups"):
            getattr(self, name).extend(getattr(other, name))


def tally_rows(pipeline: MedSegLatDiffPipeline, rows, count: int, seed: int, accelerator) -> dict[float | str, Tally]:
    """The tally of each spread (only of 1 if all candidates are returned) and of `PROBABILITY`, over these rows."""
    num_masks, num_classes = pipeline.config.default_num_masks, pipeline.num_classes
    by_spread = {spread: Tally(num_masks) for spread in (SPREADS if count > num_masks else (1.0,))}
    means = Tally(STEPS)
    for row in rows:
        raters = read_raters(row, num_classes)  # [R, H, W]
        with accelerator.autocast(), torch.no_grad():
            seeded = noise_seed(row["image_id"], seed)
            [latents] = pipeline.sample([row["image"]], seed=seeded, num_candidates=count).latents  # [N, C, h, w]
            probabilities = pipeline.decode(latents)  # [N, 1 + K, S, S]
        for spread, tally in by_spread.items():
            pipeline.register_to_config(spread=spread)
            labels = pipeline.representative_labels(probabilities, num_masks, raters.shape[1:])  # [M, H, W]
            tally.add_masks(labels.cpu().numpy(), raters, row["group_id"], num_classes)
        mean = resize_bilinear(probabilities.mean(dim=0, keepdim=True), raters.shape[1:])[0, 1:]  # [K, H, W]
        means.add((mean * STEPS).round().int().cpu().numpy(), raters, row["group_id"])
    return by_spread | {PROBABILITY: means}
