"""What calibrate.py counts over a split: how near the masks of each spread are to the raters', and what they hold."""

import numpy as np
import torch

from ..data.splits import noise_seed, read_raters
from ..metrics.overlap import dice, generalized_energy_distance, hm_iou
from ..pipeline.pipeline import MedSegLatDiffPipeline

SPREADS = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1)


def count_held(masks: np.ndarray, raters: np.ndarray) -> np.ndarray:
    """Float `(2, M + 1)`: of the pixels held by 0, 1, ... M of the masks `(M, H, W)`, how many there are, and the sum
    over them of the share of the raters `(R, H, W)` who marked them."""
    held, marked = masks.sum(axis=0).ravel(), raters.mean(axis=0).ravel()  # [H * W] each
    sizes = {"minlength": len(masks) + 1}
    return np.stack([np.bincount(held, **sizes), np.bincount(held, weights=marked, **sizes)])


def dice_by_number(masks: np.ndarray, raters: np.ndarray) -> list[float]:
    """Dice, against the raters' majority, of what at least 1, 2, ... M of the masks `(M, H, W)` hold."""
    held, reference = masks.sum(axis=0), raters.mean(axis=0) >= 0.5  # [H, W] each
    return [dice(held >= number, reference) for number in range(1, len(masks) + 1)]


class Tally:
    """What is counted over the split, for one `spread`."""

    def __init__(self):
        self.counts_of = {}  # float (2, M + 1) of each group
        self.distances, self.matched, self.scores, self.non_empty, self.groups = [], [], [], [], []  # of each image

    def add(self, masks: np.ndarray, raters: np.ndarray, group: str):
        """Counts an image of this group with its masks `(M, H, W)` and raters `(R, H, W)`."""
        self.counts_of[group] = self.counts_of.get(group, 0) + count_held(masks, raters)
        self.distances.append(generalized_energy_distance(masks, raters))
        self.matched.append(hm_iou(masks, raters))
        self.scores.append(dice_by_number(masks, raters))
        self.non_empty.append((raters.mean(axis=0) >= 0.5).any())
        self.groups.append(group)

    def extend(self, other: "Tally"):
        """Adds what another process counted, of other images."""
        for group, counts in other.counts_of.items():
            self.counts_of[group] = self.counts_of.get(group, 0) + counts
        for name in ("distances", "matched", "scores", "non_empty", "groups"):
            getattr(self, name).extend(getattr(other, name))


def tally_rows(pipeline: MedSegLatDiffPipeline, rows, count: int, seed: int, accelerator) -> dict[float, Tally]:
    """The tally of each spread over these rows; of 1 alone where all candidates are returned."""
    num_masks = pipeline.config.default_num_masks
    tallies = {spread: Tally() for spread in (SPREADS if count > num_masks else (1.0,))}
    for row in rows:
        raters = read_raters(row)  # [R, H, W]
        with accelerator.autocast(), torch.no_grad():
            seeded = noise_seed(row["image_id"], seed)
            [latents] = pipeline.sample([row["image"]], seed=seeded, num_candidates=count).latents  # [N, C, h, w]
            probabilities = pipeline.decode(latents)  # [N, 1 + K, S, S]
        for spread, own in tallies.items():
            pipeline.register_to_config(spread=spread)
            labels = pipeline.representative_labels(probabilities, num_masks, raters.shape[1:])  # [M, H, W]
            own.add(labels.cpu().numpy() > 0, raters, row["group_id"])
    return tallies
