"""Phantoms: the same for the same seed, raters who disagree, empty masks, and nodules set into a real CT patch."""

import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from scipy.ndimage import distance_transform_edt, label

from medseglatdiff.data.images import load_image
from medseglatdiff.data.phantom import PHOTOS, chest_patch, chest_phantom_rows, phantom_rows, photo_phantom_rows
from medseglatdiff.data.splits import PHANTOM_ROWS, open_split
from medseglatdiff.metrics import diversity

MAKERS = [phantom_rows, chest_phantom_rows]


def masks_of(row: dict) -> np.ndarray:
    return np.stack([np.asarray(mask) > 127 for mask in row["masks"]])


@pytest.fixture(scope="module", params=MAKERS)
def rows(request) -> list[dict]:
    return list(request.param(150, size=64))


def same(a: dict, b: dict) -> bool:
    return a["image"].tobytes() == b["image"].tobytes() and (masks_of(a) == masks_of(b)).all()


@pytest.mark.parametrize("make", MAKERS)
def test_rows_depend_on_seed_and_index_alone(make):
    few, more = list(make(2, size=48)), list(make(4, size=48))
    assert all(same(a, b) for a, b in zip(few, more[:2], strict=True))
    assert not any(same(a, b) for a in few for b in make(2, size=48, seed=1))
    assert len({row["image"].tobytes() for row in more}) == 4


def test_rows_keep_the_column_contract(rows):
    assert set(rows[0]) == {"image", "masks", "image_id", "group_id"}
    assert len({row["image_id"] for row in rows}) == len({row["group_id"] for row in rows}) == len(rows)
    for row in rows:
        assert row["image"].mode == "L" and row["image"].size == (64, 64) and len(row["masks"]) == 4
        assert all(mask.mode == "L" and mask.size == (64, 64) for mask in row["masks"])
        assert {value for mask in row["masks"] for value in np.unique(mask)} <= {0, 255}


def test_raters_differ_and_some_mark_nothing_but_never_all(rows):
    masks = [masks_of(row) for row in rows]
    assert all(array.any() for array in masks)
    empty = np.mean([~mask.any() for array in masks for mask in array])
    assert 0.02 < empty < 0.5
    assert 0.1 < np.mean([diversity(array) for array in masks]) < 0.6
    assert any(len(np.unique(array, axis=0)) == 4 for array in masks)


def test_lesions_are_small_and_large_and_in_one_piece(rows):
    areas = [array.sum(axis=(1, 2)).max() for array in map(masks_of, rows)]
    assert min(areas) <= 20 and max(areas) > 400
    pieces = [label(mask, np.ones((3, 3)))[1] for row in rows for mask in masks_of(row) if mask.any()]
    assert np.mean(np.array(pieces) == 1) > 0.97


def test_a_lesion_is_brighter_than_what_surrounds_it(rows):
    brighter = []
    for row in rows:
        share, pixels = masks_of(row).mean(axis=0), np.asarray(row["image"], float)
        if (share == 1).any():
            brighter.append(pixels[share == 1].mean() > pixels[share == 0].mean())
    assert len(brighter) > 50 and np.mean(brighter) > 0.85


def test_few_and_many_raters_and_sizes():
    (row,) = phantom_rows(1, size=16, num_raters=1)
    assert row["image"].size == (16, 16) and len(row["masks"]) == 1 and masks_of(row).any()
    (row,) = chest_phantom_rows(1, size=200, num_raters=7)
    assert row["image"].size == (200, 200) and len(row["masks"]) == 7
    assert list(phantom_rows(0)) == []


def test_nodules_are_set_into_the_ct_patch():
    patch = chest_patch()
    assert patch.shape == (128, 128) and patch.dtype == np.float64
    assert patch.min() < -800 and patch.max() > 100  # air and bone, in Hounsfield units
    for row in chest_phantom_rows(30):
        pixels = np.asarray(row["image"])
        assert pixels.min() == 0 and pixels.max() == 255  # stretched like LIDC-IDRI's crops
        y, x = np.argwhere(masks_of(row).any(axis=0)).mean(axis=0)
        assert 40 < y < 88 and 40 < x < 88  # near the middle


def test_the_examples_are_what_their_script_makes(tmp_path):
    folder = Path(__file__).parents[1] / "examples"
    subprocess.run([sys.executable, str(folder / "make_examples.py"), str(tmp_path)], check=True)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {path.name for path in folder.iterdir() if path.suffix in (".png", ".dcm")}
    for name in names:
        assert np.array_equal(load_image(tmp_path / name), load_image(folder / name)), name
        assert PIL.Image.open(folder / name).info == {} if name.endswith(".png") else True


def test_splits_are_apart():
    splits = {name: open_split("phantom", name, sample_size=16) for name in PHANTOM_ROWS}
    assert {name: len(rows) for name, rows in splits.items()} == PHANTOM_ROWS
    images = [row["image"].tobytes() for rows in splits.values() for row in rows]
    assert len(set(images)) == len(images)


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("argument, value", [("num_rows", -1), ("size", 15), ("num_raters", 0)])
def test_bad_arguments_are_named(make, argument, value):
    with pytest.raises(ValueError, match=f"`{argument}` must be at least .*, but was {value}"):
        list(make(**{"num_rows": 1, argument: value}))


@pytest.mark.parametrize("kind", PHOTOS)
def test_photographs_show_their_lesion_in_its_colour(kind):
    rows = list(photo_phantom_rows(12, kind, size=64))
    assert same(rows[1], list(photo_phantom_rows(2, kind, size=64))[1])
    ground, lesion = (np.array(colour) for colour in PHOTOS[kind])
    for row in rows:
        assert row["image"].mode == "RGB" and row["image"].size == (64, 64) and len(row["masks"]) == 1
        pixels, mask = np.asarray(row["image"]) / 255, masks_of(row)[0]
        hues = pixels / pixels.sum(axis=2, keepdims=True).clip(0.1)  # [64, 64, 3]: without the light
        towards = (hues @ (lesion / lesion.sum() - ground / ground.sum())).clip(-1, 1)  # [64, 64]
        assert towards[mask].mean() > towards[~mask].mean()


def test_unknown_photographs_are_refused():
    with pytest.raises(ValueError, match="`kind` must be one of skin, polyp, but was 'lung'"):
        next(photo_phantom_rows(1, "lung"))


@pytest.mark.parametrize("num_classes", [2, 3])
def test_tissues_lie_within_each_other(num_classes):
    rows = list(phantom_rows(40, size=64, num_classes=num_classes))
    maps = [np.stack([np.asarray(mask) for mask in row["masks"]]) for row in rows]  # [R, H, W] each
    assert {mask.mode for row in rows for mask in row["masks"]} == {"L"}
    assert set(np.unique(maps)) == set(range(num_classes + 1))
    shares = [np.mean([(labels == k).any() for labels in maps]) for k in range(1, num_classes + 1)]
    assert min(shares) > 0.5 and shares[0] > 0.95  # a small core may be overlooked
    depths = np.array([[distance_transform_edt(mask > 0) for mask in labels] for labels in maps])  # [N, R, H, W]
    means = [depths[np.array(maps) == k].mean() for k in range(1, num_classes + 1)]  # to the outermost border
    assert all(deeper > 1.2 * above for above, deeper in pairwise(means))
    assert np.mean([len(np.unique(labels, axis=0)) for labels in maps]) > 3


def test_tissues_are_darker_and_brighter_in_turn():
    steps = []
    for row in phantom_rows(60, size=64, num_classes=2):
        labels, pixels = np.stack([np.asarray(mask) for mask in row["masks"]]), np.asarray(row["image"], float)
        rim, core = ((labels == k).all(axis=0) for k in (1, 2))
        if rim.any() and core.any():
            steps.append(pixels[rim].mean() - pixels[core].mean())
    assert len(steps) > 20 and np.mean(np.array(steps) > 0) > 0.9


def test_one_class_is_the_default_and_four_are_refused():
    assert same(*phantom_rows(1, size=32), *phantom_rows(1, size=32, num_classes=1))
    with pytest.raises(ValueError, match="`num_classes` must be 1, 2 or 3, but was 4"):
        next(phantom_rows(1, num_classes=4))


def test_splits_of_several_classes():
    (first, *_) = open_split("phantom", "test", sample_size=32, num_classes=2)
    assert set(np.unique([np.asarray(mask) for mask in first["masks"]])) <= {0, 1, 2}
