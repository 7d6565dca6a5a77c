"""The column contract, a split held in memory, and an order of its rows that depends on the seed alone."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from ..metrics import as_labels, as_masks
from .image_folders import by_contract
from .images import preprocess
from .packing import PackedRows, is_packed, open_packed
from .phantom import phantom_rows

COLUMNS = ("image", "masks", "image_id", "group_id")
ADVICE = "`medseglatdiff dataset folder` converts them"
PHANTOM_ROWS = {"train": 256, "validation": 32, "test": 64}


def open_split(
    dataset: str, split: str, sample_size: int = 128, data_dir: str | None = None, num_classes: int = 1
) -> Sequence[dict] | PackedRows:
    """The rows of a split, by the column contract.

    Args:
        dataset (`str`): a folder, a Hub id, a builder of `load_dataset` such as `"imagefolder"`, a file that
            `medseglatdiff dataset pack` wrote, or `"phantom"` for the built-in phantoms.
        split (`str`): `"train"`, `"validation"` or `"test"`.
        sample_size (`int`, *optional*, defaults to 128): side of the phantoms, in pixels.
        data_dir (`str`, *optional*): where a builder's files lie.
        num_classes (`int`, *optional*, defaults to 1): foreground classes of the phantoms.

    Raises:
        ValueError: if there is no such split, or a column of the contract is missing or of another type.
    """
    if dataset == "phantom":
        if split not in PHANTOM_ROWS:
            raise ValueError(f"`split` must be one of {', '.join(PHANTOM_ROWS)}, but was {split!r}.")
        seed = list(PHANTOM_ROWS).index(split)
        return list(phantom_rows(PHANTOM_ROWS[split], sample_size, seed=seed, num_classes=num_classes))
    if is_packed(dataset):
        return open_packed(dataset, split)
    try:
        from datasets import Image, load_dataset
    except ImportError as error:
        raise ImportError('Reading a data set needs `pip install "medseglatdiff[train]"`.') from error
    splits = load_dataset(dataset, data_dir=data_dir)
    if next(iter(splits.values())).builder_name == "imagefolder":
        splits = by_contract(splits)
    if split not in splits:
        raise ValueError(f"`split` must be one of {', '.join(splits)} of {dataset}, but was {split!r}.")
    features = splits[split].features
    missing = [column for column in COLUMNS if column not in features]
    if missing:
        raise ValueError(f"`dataset` must have the columns {COLUMNS}, but {dataset} lacks {missing}.")
    masks = features["masks"]
    if not isinstance(features["image"], Image) or not isinstance(getattr(masks, "feature", None), Image):
        raise ValueError(f"`dataset` must have `image` and a list of images as `masks`, but {dataset} has {features}.")
    return splits[split]


def to_labels(mask, num_classes: int) -> np.ndarray:
    """A mask image of mode "L" as labels, uint8 `(H, W)`: 0/255 for one class, the labels themselves for several.

    Raises:
        ValueError: if the mask is not grey, holds greater labels or, for one class, only values up to 127.
    """
    array = np.asarray(mask)
    if array.ndim != 2:
        raise ValueError(f"`masks` must be grey, but were of shape {array.shape}: {ADVICE}.")
    if num_classes == 1:
        if 0 < array.max() <= 127:
            raise ValueError(f"`masks` must hold 0 and 255, but hold up to {array.max()}: {ADVICE}.")
        return (array > 127).astype(np.uint8)
    if array.max() > num_classes:
        raise ValueError(f"`masks` must hold labels up to {num_classes}, but hold {array.max()}.")
    return array.astype(np.uint8)


def one_hot(labels: torch.Tensor, num_classes: int) -> torch.Tensor:
    """The mask autoencoder's input: float32 `(batch, 1 + num_classes, H, W)` from int64 labels `(batch, H, W)`."""
    return F.one_hot(labels, 1 + num_classes).movedim(-1, 1).float()


def resize_labels(labels: torch.Tensor, sample_size: int, num_classes: int) -> torch.Tensor:
    """Labels, uint8 `(R, H, W)`, at `(R, sample_size, sample_size)`: a pixel takes its most frequent class."""
    if labels.shape[1:] == (sample_size, sample_size):
        return labels
    shares = one_hot(labels.long(), num_classes)  # [R, 1+K, H, W]
    shares = F.interpolate(shares, size=(sample_size, sample_size), mode="bilinear", antialias=True)
    return shares.max(dim=1).indices.to(torch.uint8)  # [R, S, S]


@dataclass(frozen=True)
class SegmentationSplit:
    """A split in memory at the model's size: in uint8, so that LIDC's 9,684 slices with four masks take 0.8 GB.

    Args:
        images (`torch.Tensor`, uint8 `(N, C, S, S)`): grey or RGB.
        labels (`torch.Tensor`, uint8 `(sum of raters, S, S)`): all raters of row 0, then of row 1, ...
        first (`torch.Tensor`, int64 `(N + 1,)`): row `i` has the labels `first[i]` to `first[i + 1] - 1`.
        num_classes (`int`): foreground classes.
    """

    images: torch.Tensor
    labels: torch.Tensor
    first: torch.Tensor
    num_classes: int

    def __len__(self) -> int:
        return len(self.images)

    def raters(self, row: int) -> torch.Tensor:
        """All raters' labels of one row, uint8 `(R, S, S)`."""
        return self.labels[self.first[row] : self.first[row + 1]]

    def pixels(self, rows: Sequence[int]) -> torch.Tensor:
        """Images of these rows in [-1, 1], float32 `(len(rows), C, S, S)`."""
        return self.images[rows].float() / 127.5 - 1

    def consensus(self, row: int) -> torch.Tensor:
        """The label that most raters gave each pixel, uint8 `(S, S)`; ties go to the higher label."""
        votes = one_hot(self.raters(row).long(), self.num_classes).sum(dim=0)  # [1 + K, S, S]
        return self.num_classes - votes.flip(0).max(dim=0).indices.to(torch.uint8)


def load_split(
    rows: Iterable[dict], num_channels: int, sample_size: int, num_classes: int = 1, stretch: bool = False
) -> SegmentationSplit:
    """Reads all rows into memory at `(sample_size, sample_size)`; images as the pipeline preprocesses them.

    Raises:
        ValueError: for a row without masks, or whose masks differ in size from the image.
    """
    images, labels, first = [], [], [0]
    for row in rows:
        masks = [to_labels(mask, num_classes) for mask in row["masks"]]
        sizes = {mask.shape for mask in masks}
        if sizes != {row["image"].size[::-1]}:
            raise ValueError(
                f"`masks` of {row['image_id']} must be one or more of the image's size, "
                f"{row['image'].size[::-1]}, but were {sorted(sizes)}."
            )
        pixels, _ = preprocess([row["image"]], num_channels, sample_size, stretch)  # [1, C, S, S]
        images.append(((pixels[0] + 1) * 127.5).round().to(torch.uint8))  # [C, S, S]
        labels.append(resize_labels(torch.from_numpy(np.stack(masks)), sample_size, num_classes))  # [R, S, S]
        first.append(first[-1] + len(masks))
    return SegmentationSplit(torch.stack(images), torch.cat(labels), torch.tensor(first), num_classes)


def seeded_generator(*entropy: int) -> torch.Generator:
    """A generator whose stream depends on these numbers alone, and differs for each combination of them."""
    seed = np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(seed >> np.uint64(1)))


def rows_at(positions: Sequence[int], num_rows: int, seed: int) -> list[int]:
    """The rows at these positions of an endless stream of epochs, each a permutation that depends on seed and epoch
    alone.

    Training draws position after position, so that a resumed run, or one on more processes, sees the same stream.
    """
    orders = {
        epoch: torch.randperm(num_rows, generator=seeded_generator(seed, epoch)).tolist()
        for epoch in {position // num_rows for position in positions}
    }
    return [orders[position // num_rows][position % num_rows] for position in positions]


def noise_seed(image_id: str, seed: int) -> int:
    """A seed of 63 bits that depends on the image and the run's seed alone, not on processes, batches or order."""
    return int(hashlib.sha256(f"{seed}/{image_id}".encode()).hexdigest()[:16], 16) >> 1


def read_raters(row: dict, num_classes: int = 1) -> np.ndarray:
    """The masks of a row, images of mode "L" and one size, at their original size.

    Args:
        row (`dict`): by the column contract.
        num_classes (`int`, *optional*, defaults to 1): foreground classes.

    Returns:
        bool `(R, H, W)` from masks of 0 and 255; with several classes label maps, uint8 `(R, H, W)`, from masks of 0
        to `num_classes`.

    Raises:
        ValueError: for a row without masks, masks of different sizes, and values that are not labels.
    """
    if not row["masks"]:
        raise ValueError("`masks` must hold at least one rater, but was empty.")
    masks = np.stack([np.asarray(mask) for mask in row["masks"]])  # [R, H, W]
    if num_classes > 1:
        return as_labels(masks, "masks", num_classes)
    if not ((masks == 0) | (masks == 255)).all():
        raise ValueError(f"`masks` must hold 0 and 255, but held {np.unique(masks)[:5].tolist()}.")
    return as_masks(masks == 255, "masks")
