"""Training batches: images and masks changed alike, whatever else is in the batch; the score of a batch."""

import numpy as np
import PIL.Image
import pytest
import torch

from medseglatdiff.data.augmentation import Augmentation
from medseglatdiff.data.batches import draw_batch, draw_batch_of_raters
from medseglatdiff.data.splits import SegmentationSplit, load_split, seeded_generator
from medseglatdiff.losses import energy_score, jaccard_distances

NOTHING = Augmentation()
STRONG = Augmentation(
    affine=0.3, zoom=0.5, shift=4, empty_windows=0.2, contrast=0.2, brightness=0.2, gamma=0.2, noise=0.05, blur=0.2,
    saturation=0.3, greying=0.2, hue=0.1, grey_balance=0.1, vignette=0.3, exchange=0.3,
)  # fmt: skip


def row(masks: list, size: int = 8) -> dict:
    image = PIL.Image.fromarray(np.arange(size * size, dtype=np.uint8).reshape(size, size))
    return {"image": image, "masks": [PIL.Image.fromarray(mask) for mask in masks], "image_id": "a", "group_id": "p"}


def square(value: int = 255) -> np.ndarray:
    mask = np.zeros((8, 8), np.uint8)
    mask[2:5, 1:4] = value
    return mask


def generators(positions) -> list[torch.Generator]:
    return [seeded_generator(position) for position in positions]


def rgb_split(num_classes: int = 1) -> SegmentationSplit:
    generator = seeded_generator(0)
    images = torch.randint(256, (4, 3, 32, 32), generator=generator, dtype=torch.uint8)
    labels = torch.zeros(10, 32, 32, dtype=torch.uint8)
    for index in range(10):
        labels[index, 12 : 18 + index, 11:20] = 1 + index % num_classes
    return SegmentationSplit(images, labels, torch.tensor([0, 1, 5, 7, 10]), num_classes)


def test_batch_moves_image_and_mask_together():
    mask = np.zeros((8, 8), np.uint8)
    mask[0, 1] = mask[0, 2] = 255
    images, labels = draw_batch(load_split([row([mask])], 1, 8), [0] * 64, generators(range(64)), NOTHING)
    marked = images[:, 0][labels.bool()].view(64, 2).sort(dim=1).values
    assert torch.allclose(marked, torch.tensor([1.0, 2.0]) / 127.5 - 1)  # the pixels under the mask stay the same two
    assert len({tuple(label.flatten().tolist()) for label in labels}) == 8  # all symmetries occur


@pytest.mark.parametrize("strengths", [{"affine": 0.3}, {"zoom": 0.6}, {"shift": 12}], ids=str)
def test_changes_of_shape_keep_the_mask_on_its_object(strengths):
    ramp = np.zeros((64, 64), np.uint8)
    ramp[20:44, 24:40] = 255
    example = row([ramp], size=64) | {"image": PIL.Image.fromarray(ramp)}
    split = load_split([example], 1, 64)
    images, labels = draw_batch(split, [0] * 16, generators(range(16)), Augmentation(**strengths))
    assert torch.equal(images[:, 0] > 0, labels.bool())  # the image is its own mask: both moved alike
    assert len({tuple(label.flatten().tolist()) for label in labels}) > 8


def test_batch_draws_every_rater_or_their_consensus():
    split = load_split([row([square() * 0, square()])], 1, 8)
    labels = draw_batch(split, [0] * 40, generators(range(40)), NOTHING)[1]
    assert 8 <= labels.any(dim=2).any(dim=1).sum() <= 32
    labels = draw_batch(split, [0] * 8, generators(range(8)), NOTHING, target="consensus")[1]
    assert (labels.sum(dim=(1, 2)) == 9).all()  # never an empty rater's


def test_batch_of_raters_moves_image_and_all_raters_together():
    first, second = square(), np.ascontiguousarray(square().T)
    split = load_split([row([first, second]), row([first])], 1, 8)
    images, labels, weights = draw_batch_of_raters(split, [0, 1] * 16, generators(range(32)), NOTHING)
    assert images.shape == (32, 1, 8, 8) and labels.shape == (32, 2, 8, 8)
    assert weights.tolist() == [[0.5, 0.5], [1.0, 0.0]] * 16
    for position, (image, raters) in enumerate(zip(images, labels, strict=True)):
        for mask, marked in zip((first, second if position % 2 == 0 else first), raters, strict=True):
            values = torch.from_numpy(np.arange(64).reshape(8, 8)[mask > 0]) / 127.5 - 1
            assert torch.allclose(image[0][marked.bool()].sort().values, values), position
    assert len({tuple(raters[0].flatten().tolist()) for raters in labels}) > 1


def test_batch_of_raters_changes_as_batch_does():
    """After the draw of the rater, which only `draw_batch` makes, both use the same random numbers."""
    split = load_split([row([square()])], 1, 8)
    expected = draw_batch(split, [0], generators([5]), STRONG)
    [generator] = generators([5])
    torch.randint(1, (), generator=generator)
    images, labels, _ = draw_batch_of_raters(split, [0], [generator], STRONG)
    assert torch.equal(images, expected[0]) and torch.equal(labels[:, 0], expected[1])


@pytest.mark.parametrize("num_classes", [1, 3])
def test_a_sample_does_not_depend_on_its_batch(num_classes):
    """So that two processes, or a resumed run, train on what one did."""
    split, rows = rgb_split(num_classes), [0, 1, 2, 3, 1, 2]
    images, labels, weights = draw_batch_of_raters(split, rows, generators(range(6)), STRONG)
    assert labels.max() == num_classes
    for index, one in enumerate(rows):
        image, own, share = draw_batch_of_raters(split, [one], generators([index]), STRONG)
        torch.testing.assert_close(image[0], images[index])
        assert torch.equal(own[0], labels[index, : own.shape[1]])
        assert share[0].tolist() == weights[index, : own.shape[1]].tolist()


def test_batches_are_the_same_in_half_precision():
    split, expected = rgb_split(), draw_batch(rgb_split(), range(4), generators(range(4)), STRONG)
    with torch.autocast("cpu", torch.bfloat16):
        images, labels = draw_batch(split, range(4), generators(range(4)), STRONG)
    assert torch.equal(images, expected[0]) and torch.equal(labels, expected[1])


def masks(count: int, seed: int) -> torch.Tensor:
    return (torch.rand(3, count, 2, 6, 6, generator=seeded_generator(seed)) < 0.4).float()


def test_scores_of_a_batch_are_those_of_its_images():
    samples, raters = masks(5, 0), masks(4, 1)
    weights = torch.tensor([[0.25] * 4, [0.5, 0.5, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0]])
    scores = energy_score(samples, raters, weights)
    for index, count in enumerate([4, 2, 1]):
        torch.testing.assert_close(scores[index], energy_score(samples[index], raters[index, :count]))
    distances = jaccard_distances(samples, raters)
    assert distances.shape == (3, 5, 4)
    first, second = samples[1, 2, 0], raters[1, 3, 0]  # of the first class
    other_first, other_second = samples[1, 2, 1], raters[1, 3, 1]
    pairs = [(first, second), (other_first, other_second)]
    expected = np.mean([1 - ((a * b).sum() + 1) / ((a + b - a * b).sum() + 1) for a, b in pairs])
    assert distances[1, 2, 3].item() == pytest.approx(expected)
