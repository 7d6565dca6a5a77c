"""Training batches: images with their raters' labels, augmented on the device, a whole batch at once.

A sample's random numbers come from its generator alone, so neither the rest of the batch nor the number of processes
changes it.
"""

from collections.abc import Sequence

import torch

from .augmentation import Augmentation, random_affine, random_symmetries
from .colours import random_colours
from .splits import SegmentationSplit, one_hot
from .windows import random_windows


def draw_batch(
    split: SegmentationSplit,
    rows: Sequence[int],
    generators: Sequence[torch.Generator],
    augmentation: Augmentation,
    device: torch.device | str = "cpu",
    target: str = "random_rater",
) -> tuple[torch.Tensor, torch.Tensor]:
    """Each row's image and the mask of a random rater, augmented alike; with `target` "consensus" the majority mask.

    Returns:
        images in [-1, 1], float32 `(B, C, S, S)`, and labels, int64 `(B, S, S)`, on `device`.
    """
    drawn = []
    for row, generator in zip(rows, generators, strict=True):
        raters = split.raters(row)  # [R, S, S]
        rater = torch.randint(len(raters), (), generator=generator)
        drawn.append(raters[rater] if target == "random_rater" else split.consensus(row))  # [S, S]
    images, labels = augmented(split, rows, torch.stack(drawn)[:, None], generators, augmentation, device)
    return images, labels[:, 0]  # [B, C, S, S], [B, S, S]


def draw_batch_of_raters(
    split: SegmentationSplit,
    rows: Sequence[int],
    generators: Sequence[torch.Generator],
    augmentation: Augmentation,
    device: torch.device | str = "cpu",
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """As `draw_batch`, with all raters' masks.

    Returns:
        images `(B, C, S, S)`, labels, int64 `(B, R, S, S)`, and weights, float32 `(B, R)`. Where an image has fewer
        raters than others, its first mask is repeated with weight 0; the weights of its raters are equal and sum to 1.
    """
    raters = [split.raters(row) for row in rows]  # [R, S, S] each
    counts = torch.tensor([len(masks) for masks in raters])[:, None]  # [B, 1]
    most = int(counts.max())
    labels = torch.stack([torch.cat([masks, masks[:1].expand(most - len(masks), -1, -1)]) for masks in raters])
    weights = (torch.arange(most) < counts) / counts  # [B, R]
    images, labels = augmented(split, rows, labels, generators, augmentation, device)
    return images, labels, weights.to(device)


def augmented(
    split: SegmentationSplit,
    rows: Sequence[int],
    labels: torch.Tensor,
    generators: Sequence[torch.Generator],
    augmentation: Augmentation,
    device: torch.device | str,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The images of these rows and their labels, uint8 `(B, R, S, S)`, augmented alike.

    Returns:
        images in [-1, 1], float32 `(B, C, S, S)`, and labels, int64 `(B, R, S, S)`.
    """
    # 1. the window; uint8 up to here, as it has the fewest bytes to move
    planes = torch.cat([split.images[rows], labels], dim=1).to(device)  # [B, C + R, S, S]
    if augmentation.shift or augmentation.empty_windows:
        marks = [split.raters(row).amax(dim=0) > 0 for row in rows]  # [S, S] each
        planes = random_windows(planes, marks, augmentation, generators)  # [B, C + R, S, S]
    # 2. symmetry and affine map
    planes = random_symmetries(planes, generators)  # [B, C + R, S, S]
    images, labels = planes.split([split.images.shape[1], labels.shape[1]], dim=1)  # [B, C, S, S], [B, R, S, S]
    images, labels = images.float() / 127.5 - 1, labels.long()
    with torch.autocast(images.device.type, enabled=False):  # half precision cannot tell neighbouring pixels apart
        if augmentation.affine or augmentation.zoom:
            images, labels = moved(images, labels, split.num_classes, augmentation, generators)
        # 3. colours, possibly with the statistics of other images of the split
        others = [int(torch.randint(len(split), (), generator=generator)) for generator in generators]
        statistics = None
        if augmentation.exchange:
            pixels = split.pixels(others)  # [B, C, S, S]
            statistics = pixels.mean(dim=(2, 3)), pixels.std(dim=(2, 3))  # [B, C] each
        return random_colours(images, augmentation, generators, statistics), labels


def moved(
    images: torch.Tensor,
    labels: torch.Tensor,
    num_classes: int,
    augmentation: Augmentation,
    generators: Sequence[torch.Generator],
) -> tuple[torch.Tensor, torch.Tensor]:
    """Images `(B, C, S, S)` and labels `(B, R, S, S)` under one random affine map; a pixel takes the label that
    covers most of it."""
    marked = one_hot(labels.flatten(0, 1), num_classes)[:, 1:]  # [B * R, K, S, S]
    marked = marked.unflatten(0, labels.shape[:2]).flatten(1, 2)  # [B, R * K, S, S]
    planes = random_affine(torch.cat([images, marked], dim=1), augmentation, generators)  # [B, C + R * K, S, S]
    shares = planes[:, images.shape[1] :].unflatten(1, (-1, num_classes))  # [B, R, K, S, S]
    shares = torch.cat([1 - shares.sum(dim=2, keepdim=True), shares], dim=2)  # [B, R, 1 + K, S, S]
    # `max`: over a strided dimension `argmax` takes a CPU 15 times as long
    return planes[:, : images.shape[1]], shares.max(dim=2).indices
