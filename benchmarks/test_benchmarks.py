"""What the benchmarks compute from their runs, in closed form; the runs themselves are too long for a test."""

import ablations
import mask_autoencoder
import numpy as np
import pytest
import torch
from mask_autoencoder import parse_config

from medseglatdiff.data.phantom import phantom_rows
from medseglatdiff.data.splits import load_split, one_hot


def test_reconstructions_are_measured_by_area():
    masks = np.zeros((3, 32, 32), bool)
    masks[0, :4, :4], masks[1, :8, :8], masks[2, :20, :20] = True, True, True  # 16, 64 and 400 pixels
    decoded = masks.copy()
    decoded[0] = False  # missed
    decoded[1, 4:8] = False  # half of it: Dice 2/3, IoU 1/2
    table = mask_autoencoder.measure(decoded, masks)
    assert table["<= 16 px"] == {"masks": 1, "dice": 0, "iou": 0, "missed": 1}
    assert table["<= 64 px"] == pytest.approx({"masks": 2, "dice": 1 / 3, "iou": 1 / 4, "missed": 1 / 2})
    assert table["all"]["masks"] == 3 and table["all"]["iou"] == pytest.approx(0.5)


def test_runs_are_averaged_and_their_spread_told():
    tables = [{"all": {"masks": 3, "dice": value, "iou": 0.5, "missed": 0.0}} for value in (0.8, 0.9)]
    means = mask_autoencoder.over_runs(tables)["all"]
    assert means["masks"] == 3 and means["dice"] == pytest.approx(0.85)
    assert means["dice_std"] == pytest.approx(0.1 / np.sqrt(2))
    runs = [{"metrics": {"dice": {"value": value}}} for value in (0.8, 0.9)]
    assert ablations.summary(runs)["dice"] == pytest.approx({"mean": 0.85, "std": 0.1 / np.sqrt(2)})
    assert ablations.summary(runs[:1]) == {"runs": 1, "dice": {"mean": 0.8, "std": None}}


def test_every_ablation_changes_known_settings():
    known = set(parse_config([]).__dataclass_fields__)
    for variants in ablations.ABLATIONS.values():
        assert set().union(*variants.values()) <= known and len(variants) >= 2


def test_pixels_stand_in_for_latents(tmp_path):
    rows = list(phantom_rows(4, size=32, seed=0))
    split = load_split(rows, 1, 32)
    config = parse_config(["--sample-size", "32", "--mixed-precision", "no", "--unet-steps", "1", "--batch-size", "2"])
    unet = {"block_out_channels": [16, 32], "attention": [False, True], "layers_per_block": 1}
    config = type(config)(**{**vars(config), "unet": unet, "validation_images": 1})
    pipeline = ablations.train(config, (split, split), ablations.pixel_space, tmp_path)
    masks = one_hot(split.labels.long(), 1)
    assert torch.equal(pipeline.mask_vae.decode(pipeline.mask_vae.encode(masks)).argmax(dim=1), split.labels.long())
    latents = pipeline.mask_vae.encode(masks)
    assert latents.shape == (len(split.labels), 1, 32, 32)
    assert abs(latents.mean()) < 1e-4 and latents.std().item() == pytest.approx(1, abs=1e-2)
    assert pipeline(rows[0]["image"], num_masks=2, num_inference_steps=2).masks[0].shape == (2, 32, 32)
