"""The few hypotheses that stand for many: closed forms, against random choices, and as the pipeline returns them."""

import numpy as np
import pytest
import torch
from conftest import tiny_pipeline

from medseglatdiff import MedSegLatDiffPipeline
from medseglatdiff.losses import jaccard_distances
from medseglatdiff.pipeline.selection import representatives


def squares(*sides: int) -> torch.Tensor:
    """Label maps `(N, 32, 32)` of centred squares."""
    labels = torch.zeros(len(sides), 32, 32, dtype=torch.uint8)
    for index, side in enumerate(sides):
        labels[index, 16 - side // 2 : 16 + (side + 1) // 2, 16 - side // 2 : 16 + (side + 1) // 2] = 1
    return labels


def test_shares_of_the_candidates_are_kept():
    """Three quarters of the candidates are large, one quarter empty: so are the chosen, the commonest kind first."""
    labels = squares(*[20] * 30, *[0] * 10)
    chosen = representatives(labels, 8, num_classes=1)
    kinds = [int(labels[index].any()) for index in chosen]
    assert sum(kinds) == 6 and kinds[0] == 1 and len(set(chosen.tolist())) == 8


def test_no_spread_keeps_to_the_most_typical():
    labels = squares(10, 11, 12, 13, 14, 0)
    masks = labels[:, None].float()
    typical = jaccard_distances(masks, masks).mean(dim=1).argsort()
    assert representatives(labels, 3, 1, spread=0.0).tolist() == typical[:3].tolist()
    assert 5 in representatives(labels, 3, 1, spread=2.0).tolist()  # the outlier, to spread them out


def energy_distance(chosen: torch.Tensor, candidates: torch.Tensor) -> float:
    """2 E[d(S, C)] - E[d(S, S')], up to a constant the energy distance of the two."""
    return (2 * jaccard_distances(chosen, candidates).mean() - jaccard_distances(chosen, chosen).mean()).item()


def test_closer_to_the_candidates_than_random_choices():
    generator = torch.Generator().manual_seed(0)
    labels = squares(*torch.randint(0, 24, (48,), generator=generator).tolist())
    masks = labels[:, None].float()  # [N, 1, H, W]
    ours = energy_distance(masks[representatives(labels, 8, 1)], masks)
    others = [energy_distance(masks[torch.randperm(48, generator=generator)[:8]], masks) for _ in range(200)]
    assert ours < np.quantile(others, 0.02)
    everyone = energy_distance(masks, masks)
    assert ours - everyone < 0.25 * (np.mean(others) - everyone)  # nearer than four times as many drawn at random


def test_all_candidates_come_in_their_own_order():
    assert representatives(squares(3, 0, 9), 3, 1, spread=0.5).tolist() == [0, 1, 2]


@pytest.mark.parametrize("num_classes", [1, 2])
def test_pipeline_returns_the_representatives_of_its_draw(tmp_path, num_classes):
    tiny_pipeline(num_classes, default_num_candidates=12, spread=0.7).save_pretrained(tmp_path)
    pipeline = MedSegLatDiffPipeline.from_pretrained(tmp_path)
    image = np.random.default_rng(0).integers(0, 256, (32, 32), dtype=np.uint8)

    def draw(num_masks: int, **options):
        generator = torch.Generator().manual_seed(5)
        return pipeline(image, num_masks, generator=generator, output_type="pt", **options)

    everything, some = draw(12), draw(4)
    chosen = representatives(everything.masks[0].to(torch.uint8), 4, num_classes, 0.7)
    assert torch.equal(some.masks[0], everything.masks[0][chosen])
    assert chosen.tolist() != [0, 1, 2, 3]
    if num_classes == 1:
        assert torch.equal(some.confidence[0], some.masks[0].float().mean(dim=0))
    assert torch.equal(draw(4, num_candidates=4).masks[0], everything.masks[0][:4])
    assert len(draw(13).masks[0]) == 13


def test_given_latents_are_the_masks_of_that_noise():
    pipeline = tiny_pipeline(default_num_candidates=12)
    latents = torch.randn(6, 1, 8, 8, generator=torch.Generator().manual_seed(0))  # [N, C, h, w]
    image = np.zeros((32, 32), np.uint8)
    everything = pipeline(image, 6, latents=latents, output_type="pt").masks[0]  # [N, H, W]
    some = pipeline(image, 2, latents=latents, num_candidates=6, output_type="pt").masks[0]  # [2, H, W]
    assert torch.equal(some, everything[representatives(everything.to(torch.uint8), 2, 1)])


def test_bad_numbers_are_named():
    pipeline = tiny_pipeline()
    with pytest.raises(ValueError, match="`num_candidates` must be at least 4, but was 3"):
        pipeline(np.zeros((32, 32), np.uint8), 4, num_candidates=3)
    with pytest.raises(ValueError, match="`spread` must be at least 0, but was -1"):
        tiny_pipeline(spread=-1)
    for threshold in (0, 50):
        with pytest.raises(ValueError, match=f"`threshold` must be above 0 and at most 1, but was {threshold}"):
            tiny_pipeline(threshold=threshold)
