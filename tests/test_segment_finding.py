"""A finding followed through a volume: the pipeline's own masks on every slice, one body for each hypothesis."""

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import tiny_pipeline
from diffusers import DDPMScheduler
from series_fixtures import Chest, draw_chest, write_itk, write_series
from skimage.measure import label

from medseglatdiff import MedSegLatDiffPipeline
from medseglatdiff.data.volumes import read_volume
from medseglatdiff.pipeline.regions import paste
from medseglatdiff.pipeline.volume import nearest_part, segment_finding, touching_parts

ROOT = Path(__file__).parents[1]
SMALL = draw_chest((7, 60, 50), (0.8, 0.8, 2.5), diameter=8, vessels=3)
X, Y, Z = SMALL.centre


@pytest.fixture(scope="module")
def volume(tmp_path_factory):
    return read_volume(write_series(tmp_path_factory.mktemp("series") / "series", SMALL))


CHOSEN = {"symmetries": 8, "antithetic": True, "default_num_candidates": 12}


@pytest.mark.parametrize("options", ({}, CHOSEN), ids=("all", "chosen"))
def test_members_are_drawn_as_among_all(options):
    """Their noise, symmetry and, where a scheduler adds noise at each step, that noise."""
    pipeline = tiny_pipeline(**options)
    images, members = [np.random.default_rng(index).random((32, 32)) for index in (0, 1)], [7, 2, 5]
    for scheduler in (pipeline.scheduler, DDPMScheduler.from_config(pipeline.scheduler.config)):
        pipeline.scheduler = scheduler
        every = pipeline.sample(images, seed=3, num_candidates=9)
        some = pipeline.sample(images, seed=3, num_candidates=9, members=members)
        torch.testing.assert_close(some.latents, every.latents[:, members], rtol=1e-4, atol=1e-4)
        whole = pipeline.decode(every.latents[1])[members]
        torch.testing.assert_close(pipeline.decode(some.latents[1], members=some.members), whole, rtol=1e-3, atol=1e-3)
        masks = pipeline.select(some, 3).masks[1]
        assert (masks == pipeline.representative_labels(whole, 3, (32, 32)).bool().numpy()).mean() > 0.999


@pytest.mark.parametrize("members", ([], [0, 0], [-1], [9]))
def test_members_that_cannot_be(members, pipeline):
    with pytest.raises(ValueError, match="`members` must be different indices"):
        pipeline.sample(np.zeros((32, 32)), num_candidates=9, members=members)


@pytest.mark.parametrize("stretch", (False, True))
def test_the_points_slice_has_the_masks_of_a_call(stretch, volume):
    pipeline = tiny_pipeline(**CHOSEN, stretch=stretch)
    result = segment_finding(pipeline, volume, (X, Y, Z), num_masks=4, seed=5)
    values = volume.slice(Z) if stretch else volume.shown(volume.slice(Z), Z)
    output = pipeline([values], 4, seed=5, regions=[(X, Y)], batch_size=4)
    expected = np.stack([nearest_part(mask, (X, Y)) for mask in output.masks[0]])
    found = result.in_slices(result.masks, volume.shape)[:, Z - result.offset[0]]
    assert (found == expected).mean() > 0.999 and expected.any()


def test_every_slice_has_the_same_hypotheses(tmp_path):
    """Recomputed slice by slice from all candidates, in the window around the consensus of the slice before."""
    values = SMALL.values.copy()
    values[Z + 1, 0, 0] = 20_000  # slices differ in range, but are shown alike
    chest = SMALL._replace(values=values)
    pipeline, volume = (
        tiny_pipeline(**CHOSEN),
        read_volume(write_itk(tmp_path / "a.mha", chest)),
    )
    result = segment_finding(pipeline, volume, (X, Y, Z), num_masks=4, seed=5)
    masks = result.in_slices(result.masks, volume.shape)  # [M, d, H, W]
    start = Z - result.offset[0]
    image = volume.shown(volume.slice(Z), Z)
    candidates = pipeline.sample([image], seed=5, regions=[(X, Y)], num_candidates=12, batch_size=4)
    chosen = _chosen(pipeline, candidates, masks[:, start])
    agreed = np.argwhere(masks[:, start].mean(axis=0) >= 0.5)
    point = tuple(agreed.mean(axis=0)[::-1]) if len(agreed) else (X, Y)
    image = volume.shown(volume.slice(Z + 1), Z)  # by the window of the point's slice
    candidates = pipeline.sample([image], seed=5, regions=[point], num_candidates=12, batch_size=4)
    drawn = _masks(pipeline, candidates)[chosen]
    expected = np.stack([touching_parts(*pair) for pair in zip(drawn, masks[:, start], strict=True)])
    assert expected.any() and (masks[:, start + 1] == expected).mean() > 0.999


def _masks(pipeline, candidates) -> np.ndarray:
    window = candidates.windows[0]
    labels = pipeline.representative_labels(pipeline.decode(candidates.latents[0]), 12, window.size)
    return paste(labels, window, candidates.sizes[0]).bool().numpy()


def _chosen(pipeline, candidates, kept: np.ndarray) -> list[int]:
    """Which candidates these are, by their parts nearest to the point."""
    parts = np.stack([nearest_part(mask, (X, Y)) for mask in _masks(pipeline, candidates)])
    return [int((parts == mask).mean(axis=(1, 2)).argmax()) for mask in kept]


def test_each_hypothesis_is_one_body_within_the_extent(volume):
    pipeline = tiny_pipeline(default_num_masks=6)
    with pytest.warns(UserWarning, match=r"goes on beyond 2.5 mm from its point: .* slice 2\. Raise `max_extent_mm`"):
        result = segment_finding(pipeline, volume, (X, Y, Z), max_extent_mm=2.5)
    assert result.slices == range(Z - 1, Z + 2)
    assert result.masks.shape[0] == 6 and any(mask.any() for mask in result.masks)
    for mask in result.masks:
        assert label(mask, connectivity=3).max() <= 1
    np.testing.assert_allclose(result.confidence, result.masks.mean(axis=0), atol=1e-6)
    np.testing.assert_array_equal(result.consensus, result.confidence >= 0.5)
    assert result.confidence.shape == result.uncertainty.shape == result.consensus.shape == result.masks.shape[1:]


def test_only_slices_near_the_finding_are_read(tmp_path):
    folder = write_series(tmp_path / "series", SMALL)
    volume = read_volume(folder)
    for number in (1, 2, 6, 7):
        (folder / f"slice-{number:03}.dcm").unlink()
    with pytest.warns(UserWarning, match="goes on"):
        result = segment_finding(tiny_pipeline(), volume, (X, Y, Z), max_extent_mm=2.5)
    assert result.slices == range(2, 5)


@pytest.mark.parametrize("spacing", ((1.0, 1.0, 3.0), (0.5, 1.0, 3.0)))
def test_a_point_shows_as_many_mm_as_the_training_crops(spacing, tmp_path):
    chest = Chest(SMALL.values, SMALL.nodule, SMALL.centre, spacing)
    volume = read_volume(write_itk(tmp_path / "scan.mha", chest))
    result = segment_finding(tiny_pipeline(region_size=32, pixel_size=0.5), volume, (X, Y, 0), max_extent_mm=0)
    # 16 mm are 16 pixels of 1 mm and 32 of 0.5 mm; the slice is larger than that
    assert result.masks.shape[-2:] == (16, round(16 / spacing[0]))


def test_a_corner_is_looked_at_as_well(volume):
    result = segment_finding(tiny_pipeline(), volume, (-0.4, -0.4, 6.3), max_extent_mm=0)
    assert result.offset[1:] == (0, 0) and result.slices == range(6, 7)
    assert result.in_volume(result.confidence, volume.shape).shape == volume.shape


def test_parts():
    mask = np.zeros((6, 6), bool)
    mask[0, 0], mask[1, 1], mask[3:5, 3:5], mask[5, 0] = True, True, True, True
    near = np.zeros_like(mask)
    near[0, 0], near[1, 1] = True, True  # corners connect
    np.testing.assert_array_equal(nearest_part(mask, (2.2, 0.0)), near)  # x = 2.2, y = 0
    before = np.zeros_like(mask)
    before[4, 4], before[2, 5], before[5, 0] = True, True, True
    expected = np.zeros_like(mask)
    expected[3:5, 3:5], expected[5, 0] = True, True
    np.testing.assert_array_equal(touching_parts(mask, before), expected)
    assert not touching_parts(mask, np.zeros_like(mask)).any() and not nearest_part(before & False, (1, 1)).any()


@pytest.mark.parametrize(
    ("options", "message"),
    (
        ({"point": (50, 2, 2)}, r"`point` must be \(x, y, z\) in the 50 x 60 x 7 voxels of .*series"),
        ({"point": (2, 2, -0.6)}, "`point` must be"),
        ({"point": (2, float("nan"), 2)}, "`point` must be"),
        ({"point": (2, 2)}, "`point` must be"),
        ({"max_extent_mm": -1}, "`max_extent_mm` must be at least 0"),
        ({"max_extent_mm": float("inf")}, "`max_extent_mm` must be at least 0"),
        ({"num_masks": 0}, "`num_masks` must be at least 1"),
        ({"seed": -1}, "`seed` must be"),
        ({"pipeline": tiny_pipeline(num_classes=2)}, "`pipeline` must have one class"),
    ),
)
def test_wrong_arguments(options, message, volume):
    settings = {"pipeline": tiny_pipeline(), "point": (X, Y, Z), **options}
    with pytest.raises(ValueError, match=message):
        segment_finding(settings.pop("pipeline"), volume, settings.pop("point"), **settings)


@pytest.mark.slow
def test_the_published_pipeline_finds_a_planted_nodule(tmp_path):
    """Twenty slices of 512 x 512, 0.7 mm, 2 mm apart, 140 vessels: overlap on its slices, nothing beyond its ends."""
    chest = draw_chest()
    volume = read_volume(write_series(tmp_path / "series", chest, reverse=True))
    pipeline = MedSegLatDiffPipeline.from_pretrained(ROOT / "pipelines" / "medseglatdiff-lidc-idri")
    x, y, z = chest.centre
    result = segment_finding(pipeline, volume, (x + 4, y - 3, z + 1))
    consensus = result.in_volume(result.consensus, volume.shape)
    held = np.flatnonzero(chest.nodule.any(axis=(1, 2)))
    for index in held:
        overlap = 2 * (consensus[index] & chest.nodule[index]).sum()
        assert overlap / (consensus[index].sum() + chest.nodule[index].sum()) >= 0.7, index
    beyond = np.flatnonzero(result.masks.any(axis=(0, 2, 3))) + result.offset[0]
    assert held[0] - 2 < beyond[0] and beyond[-1] < held[-1] + 2
