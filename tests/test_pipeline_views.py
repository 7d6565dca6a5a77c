"""How the hypotheses of one image share out its symmetries and its noise."""

import numpy as np
import pytest
import torch
from conftest import tiny_pipeline

from medseglatdiff import MedSegLatDiffPipeline
from medseglatdiff.data.augmentation import dihedral, undo_dihedral


def test_symmetries_take_turns():
    """Hypothesis m sees the image under symmetry m % 8 and is turned back: the same as turning the image by hand."""
    pipeline, plain = tiny_pipeline(symmetries=8), tiny_pipeline()
    image = torch.rand(1, 32, 32, generator=torch.Generator().manual_seed(0))  # [1, S, S]
    latents = torch.randn(9, 1, 8, 8, generator=torch.Generator().manual_seed(1))  # [M, C, h, w]
    masks = pipeline(image, num_masks=9, latents=latents, output_type="pt").masks[0]  # [M, S, S]
    for index in range(9):
        turned = dihedral(image, index % 8)
        alone = plain(turned, num_masks=1, latents=latents[index : index + 1], output_type="pt").masks[0]  # [1, S, S]
        assert torch.equal(undo_dihedral(alone, index % 8)[0], masks[index])
    assert len({mask.numpy().tobytes() for mask in masks}) > 1


def test_symmetries_are_checked():
    with pytest.raises(ValueError, match="`symmetries` must be 1, 2, 4 or 8, but was 3"):
        tiny_pipeline(symmetries=3)


@pytest.mark.parametrize("num_masks", [1, 4, 5])
def test_antithetic_noise_is_the_first_half_with_the_sign_turned(num_masks):
    pipeline, plain = tiny_pipeline(antithetic=True), tiny_pipeline()
    generators = [torch.Generator().manual_seed(seed) for seed in (0, 1)]
    latents = pipeline.prepare_latents(num_masks, generators).unflatten(0, (2, num_masks))  # [B, M, C, h, w]
    half = (num_masks + 1) // 2
    expected = plain.prepare_latents(half, [torch.Generator().manual_seed(seed) for seed in (0, 1)])
    assert torch.equal(latents[:, :half], expected.unflatten(0, (2, half)))
    assert torch.equal(latents[:, half:], -latents[:, : num_masks - half])
    assert not torch.equal(latents[0], latents[1])


def test_antithetic_pipeline_survives_saving(tmp_path):
    tiny_pipeline(antithetic=True).save_pretrained(tmp_path)
    loaded = MedSegLatDiffPipeline.from_pretrained(tmp_path)
    image = np.random.default_rng(0).integers(0, 256, (32, 32), dtype=np.uint8)
    latents = loaded.prepare_latents(4, [torch.Generator().manual_seed(3)])  # [M, C, h, w]
    drawn, given = (loaded(image, 4, **options) for options in (
        {"generator": torch.Generator().manual_seed(3)}, {"latents": latents},
    ))  # fmt: skip
    assert torch.equal(latents[2:], -latents[:2]) and np.array_equal(drawn.masks[0], given.masks[0])
