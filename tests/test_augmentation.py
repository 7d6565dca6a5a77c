"""Random changes of training samples against closed forms, and against one sample at a time."""

import colorsys
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from medseglatdiff.data.augmentation import (
    Augmentation,
    affine_matrix,
    dihedral,
    draw,
    random_affine,
    random_symmetries,
    undo_dihedral,
)
from medseglatdiff.data.colours import corner_distance, random_colours, turned_colours, with_statistics
from medseglatdiff.data.splits import seeded_generator
from medseglatdiff.data.windows import empty_strips, random_windows, reflected


def matrix(**changes) -> torch.Tensor:
    values = {"zoom": 1.0, "aspect": 1.0, "angle": 0.0, "right": 0.0, "down": 0.0} | changes
    return affine_matrix(**{name: torch.tensor([value]) for name, value in values.items()})


def warp(planes: torch.Tensor, **changes) -> torch.Tensor:
    grid = F.affine_grid(matrix(**changes), [1, *planes.shape], align_corners=False)
    return F.grid_sample(planes[None], grid, align_corners=False)[0]


def square(side: int = 16, size: int = 64) -> torch.Tensor:
    planes, first = torch.zeros(1, size, size), (size - side) // 2
    planes[:, first : first + side, first : first + side] = 1
    return planes


def generators(count: int, first: int = 0) -> list[torch.Generator]:
    return [seeded_generator(first + index) for index in range(count)]


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=seeded_generator(seed)) * 2 - 1


def test_symmetries_are_the_eight_of_the_square():
    image = torch.arange(9).view(1, 3, 3)
    results = {tuple(dihedral(image, symmetry).flatten().tolist()) for symmetry in range(8)}
    assert len(results) == 8
    assert torch.equal(dihedral(image, 4), image.flip(-1))
    assert all(torch.equal(undo_dihedral(dihedral(image, symmetry), symmetry), image) for symmetry in range(8))


def test_random_symmetries_are_those_of_each_sample():
    planes = noise(64, 2, 4, 4)
    turned = random_symmetries(planes, generators(64))
    drawn = (draw(generators(64), "symmetry")["symmetry"] * 8).long().tolist()
    assert set(drawn) == set(range(8))
    assert all(torch.equal(turned[index], dihedral(planes[index], own)) for index, own in enumerate(drawn))


def test_affine_zooms_stretches_and_shifts_by_what_it_says():
    assert warp(square(), zoom=2.0).sum() == pytest.approx(4 * 256, rel=0.01)
    stretched = warp(square(), aspect=4.0)[0] > 0.5
    assert stretched.any(dim=0).sum() == 32 and stretched.any(dim=1).sum() == 8
    assert torch.allclose(warp(square(), right=0.25, down=-0.5), square().roll((-16, 8), dims=(1, 2)), atol=1e-5)


def test_affine_turns_before_it_shifts():
    planes = noise(1, 32, 32)
    turned = warp(planes, angle=math.pi / 2)
    assert torch.allclose(turned, planes.rot90(-1, dims=(1, 2)), atol=1e-4)  # y points down: clockwise
    moved = warp(planes, angle=math.pi / 2, right=0.25)
    assert torch.allclose(moved[:, :, 4:], turned[:, :, :-4], atol=1e-4)


def test_random_affine_is_that_of_each_sample():
    """An oracle: grid_sample, one sample at a time, by a matrix of its numbers."""
    planes, augmentation = noise(8, 3, 16, 16), Augmentation(affine=0.3, affine_share=0.5, zoom=0.7)
    moved = random_affine(planes, augmentation, generators(8))
    unmoved = 0
    for index in range(8):
        share, *numbers = torch.rand(6, generator=seeded_generator(index)).tolist()
        zoom, aspect, angle, right, down = (2 * number - 1 for number in numbers)
        strength = 0.3 if share < 0.5 else 0.0
        unmoved += strength == 0
        own = matrix(
            zoom=math.exp(0.7 * zoom),
            aspect=math.exp(strength * aspect / 2),
            angle=strength * angle * math.pi / 2,
            right=strength * right,
            down=strength * down,
        )
        grid = F.affine_grid(own, [1, 3, 16, 16], align_corners=False)
        expected = F.grid_sample(planes[index : index + 1], grid, padding_mode="reflection", align_corners=False)
        torch.testing.assert_close(moved[index], expected[0])
    assert 0 < unmoved < 8


COLOURS = dict(
    contrast=0.25, brightness=0.2, gamma=0.25, noise=0.05, blur=0.3, saturation=0.5, greying=0.2, hue=0.2,
    grey_balance=0.2, vignette=0.5, exchange=0.3,
)  # fmt: skip


def coloured(images: torch.Tensor, first: int = 0, **strengths) -> torch.Tensor:
    statistics = torch.zeros(len(images), images.shape[1]), torch.full((len(images), images.shape[1]), 0.3)
    return random_colours(images, Augmentation(**strengths), generators(len(images), first), statistics)


@pytest.mark.parametrize("channels", [1, 3])
def test_colours_of_a_sample_do_not_depend_on_its_batch(channels):
    images = noise(8, channels, 16, 16)
    together = coloured(images, **COLOURS)
    assert together.abs().max() <= 1 and not torch.allclose(together, images, atol=0.05)
    for index in range(8):
        torch.testing.assert_close(coloured(images[index : index + 1], index, **COLOURS)[0], together[index])


@pytest.mark.parametrize("channels", [1, 3])
def test_colours_without_strength_stay(channels):
    images = noise(4, channels, 16, 16)
    torch.testing.assert_close(coloured(images), images, atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", sorted(COLOURS))
def test_each_strength_changes_colours(name):
    images = noise(16, 3, 16, 16)
    changed = coloured(images, **{name: COLOURS[name]})
    assert (changed - images).abs().amax(dim=(1, 2, 3)).gt(1e-3).any()


@pytest.mark.parametrize("name", ["saturation", "greying", "hue", "grey_balance", "exchange"])
def test_grey_images_have_no_colours_to_change(name):
    images = noise(16, 1, 16, 16)
    assert torch.equal(coloured(images, **{name: 1.0}), images)


def test_colours_turn_as_hues_do():
    """Against the standard library: a third of a circle takes red to green, and of grey nothing but light is left."""
    image = noise(1, 3, 8, 8)
    third = turned_colours(image, torch.ones(1), torch.tensor([2 * math.pi / 3]))
    torch.testing.assert_close(third, image.roll(1, dims=1))
    grey = turned_colours(image, torch.zeros(1), torch.zeros(1))
    torch.testing.assert_close(grey, image.mean(dim=1, keepdim=True).expand_as(image))
    red = torch.tensor([1.0, 0.0, 0.0]).view(1, 3, 1, 1)
    turned = turned_colours(red, torch.ones(1), torch.tensor([math.pi / 3])).clamp(0, 1).flatten().tolist()
    assert colorsys.rgb_to_hsv(*turned)[0] == pytest.approx(1 / 6, abs=0.01)


def test_light_changes_by_closed_forms():
    image = torch.full((1, 3, 5, 5), 0.2)
    gamma, vignette = (coloured(image, **{name: 0.8}) for name in ("gamma", "vignette"))
    drawn = draw(generators(1), "contrast", "brightness", "gamma", "noise", "noisy", "blur", "vignette")
    exponent = math.exp(0.8 * (2 * drawn["gamma"].item() - 1))
    torch.testing.assert_close(gamma, torch.full_like(image, 2 * 0.6**exponent - 1))
    corner = 1.2 * (1 - 0.8 * drawn["vignette"].item()) - 1
    assert vignette[0, 0, 0, 0].item() == pytest.approx(corner) and vignette[0, 0, 2, 2].item() == pytest.approx(0.2)
    assert corner_distance(image).tolist()[0] == pytest.approx([1, 0.625, 0.5, 0.625, 1])


def test_colour_statistics_are_the_others():
    images, other = noise(2, 3, 16, 16), noise(2, 3, 16, 16, seed=1) * 0.5
    mean, std = (getattr(other, name)(dim=(2, 3), keepdim=True) for name in ("mean", "std"))
    exchanged = with_statistics(images, mean, std)
    torch.testing.assert_close(exchanged.mean(dim=(2, 3), keepdim=True), mean)
    torch.testing.assert_close(exchanged.std(dim=(2, 3), keepdim=True), std)


def test_positions_are_reflected_as_numpy_does():
    positions = reflected(torch.tensor([-3, 0]), torch.tensor([2, 0]), torch.tensor([7, 14]), 14)
    assert positions[0].tolist() == np.pad(np.arange(2, 7), (3, 6), mode="symmetric").tolist()
    assert positions[1].tolist() == list(range(14))


def test_windows_shift_by_whole_pixels_within_their_bounds():
    planes = noise(32, 2, 16, 16)
    moved = random_windows(planes, [torch.zeros(16, 16)] * 32, Augmentation(shift=3), generators(32))
    drawn = draw(generators(32), "empty", "strip", "right", "down")
    shifts = {name: ((2 * drawn[name] - 1) * 3).round().long().tolist() for name in ("right", "down")}
    assert set(shifts["right"]) == set(range(-3, 4))
    for index, (right, down) in enumerate(zip(shifts["right"], shifts["down"], strict=True)):
        padded = np.pad(planes[index].numpy(), ((0, 0), (3, 3), (3, 3)), mode="symmetric")
        expected = padded[:, 3 + down : 19 + down, 3 + right : 19 + right]
        assert np.array_equal(moved[index].numpy(), expected)


def test_empty_windows_hold_nothing_that_was_marked():
    marks = torch.zeros(32, 32, dtype=torch.bool)
    marks[12:20, 10:24] = True
    assert empty_strips(marks) == [(0, 12, 0, 32), (20, 32, 0, 32), (0, 32, 0, 10), (0, 32, 24, 32)]
    assert empty_strips(torch.zeros_like(marks)) == [] == empty_strips(torch.ones_like(marks))
    planes = torch.cat([noise(64, 1, 32, 32), marks.float().expand(64, 1, -1, -1)], dim=1)
    augmentation = Augmentation(empty_windows=0.5, shift=4)
    moved = random_windows(planes, [marks] * 64, augmentation, generators(64))
    empty = ~moved[:, 1].flatten(1).any(dim=1)
    assert 20 <= empty.sum() <= 44
    assert empty.tolist() == (draw(generators(64), "empty")["empty"] < 0.5).tolist()
    for index in empty.nonzero().flatten().tolist():
        own = set(planes[index, 0][~marks].tolist())
        assert set(moved[index, 0].flatten().tolist()) <= own, "every pixel is one of the image's, none of a mark"
