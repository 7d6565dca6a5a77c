"""Random changes of training samples against closed forms."""

import math

import pytest
import torch
import torch.nn.functional as F

from medseglatdiff.data.augmentation import affine_matrix, colour_jitter, dihedral, random_affine, undo_dihedral
from medseglatdiff.data.splits import seeded_generator


def warp(planes: torch.Tensor, **changes) -> torch.Tensor:
    matrix = affine_matrix(**{"zoom": 1.0, "aspect": 1.0, "angle": 0.0, "shift": (0.0, 0.0)} | changes)
    grid = F.affine_grid(matrix[None], [1, *planes.shape], align_corners=False)
    return F.grid_sample(planes[None], grid, align_corners=False)[0]


def square(side: int = 16, size: int = 64) -> torch.Tensor:
    planes, first = torch.zeros(1, size, size), (size - side) // 2
    planes[:, first : first + side, first : first + side] = 1
    return planes


def test_symmetries_are_the_eight_of_the_square():
    image = torch.arange(9).view(1, 3, 3)
    results = {tuple(dihedral(image, symmetry).flatten().tolist()) for symmetry in range(8)}
    assert len(results) == 8
    assert torch.equal(dihedral(image, 4), image.flip(-1))
    assert all(torch.equal(undo_dihedral(dihedral(image, symmetry), symmetry), image) for symmetry in range(8))


def test_colour_jitter_leaves_grey_alone_and_stays_in_range():
    grey, colour = torch.rand(1, 4, 4) * 2 - 1, torch.rand(3, 4, 4) * 2 - 1
    assert torch.equal(colour_jitter(grey, seeded_generator(0)), grey)
    jittered = colour_jitter(colour, seeded_generator(0))
    assert jittered.abs().max() <= 1 and not torch.allclose(jittered, colour)


def test_affine_zooms_stretches_and_shifts_by_what_it_says():
    assert warp(square(), zoom=2.0).sum() == pytest.approx(4 * 256, rel=0.01)
    stretched = warp(square(), aspect=4.0)[0] > 0.5
    assert stretched.any(dim=0).sum() == 32 and stretched.any(dim=1).sum() == 8
    assert torch.allclose(warp(square(), shift=(0.25, -0.5)), square().roll((-16, 8), dims=(1, 2)), atol=1e-5)


def test_affine_turns_before_it_shifts():
    planes = torch.rand(1, 32, 32, generator=seeded_generator(0))
    turned = warp(planes, angle=math.pi / 2)
    assert torch.allclose(turned, planes.rot90(-1, dims=(1, 2)), atol=1e-4)  # y points down: clockwise
    moved = warp(planes, angle=math.pi / 2, shift=(0.25, 0.0))
    assert torch.allclose(moved[:, :, 4:], turned[:, :, :-4], atol=1e-4)


def test_random_affine_depends_on_its_generator_and_ends_at_the_identity():
    planes = torch.rand(2, 32, 32, generator=seeded_generator(0))
    first, second = (random_affine(planes, 0.3, seeded_generator(seed)) for seed in (1, 2))
    assert torch.equal(first, random_affine(planes, 0.3, seeded_generator(1))) and not torch.allclose(first, second)
    assert torch.allclose(random_affine(planes, 1e-7, seeded_generator(1)), planes, atol=1e-4)
    assert first.min() >= planes.min() and first.max() <= planes.max()
