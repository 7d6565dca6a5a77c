"""Regions: points and boxes of an image, cut out, segmented and put back."""

import warnings

import numpy as np
import pytest
import torch
from conftest import tiny_pipeline

from medseglatdiff.pipeline.regions import Window, cut, paste, reflected, region_window

IMAGE = np.random.default_rng(0).integers(0, 256, (90, 120), dtype=np.uint8)


@pytest.mark.parametrize("stretch", [False, True])
def test_a_box_is_segmented_as_its_crop_would_be(stretch):
    pipeline = tiny_pipeline(stretch=stretch)
    left, top, right, bottom = 30, 10, 70, 60
    whole = pipeline(IMAGE, seed=0, regions=[(left, top, right, bottom)])
    crop = pipeline(IMAGE[top:bottom, left:right], seed=0)
    inner = whole.masks[0][:, top:bottom, left:right]
    assert whole.masks[0].shape == (3, 90, 120) and (inner != crop.masks[0]).mean() <= 0.001
    assert whole.masks[0].sum() == inner.sum() and crop.masks[0].any()
    assert whole.confidence[0].sum() == pytest.approx(whole.confidence[0][top:bottom, left:right].sum())
    assert not whole.uncertainty[0][:top].any() and not whole.consensus[0][:, :left].any()


def test_region_output_gives_the_window_and_its_offset():
    pipeline = tiny_pipeline()
    full = pipeline(IMAGE, seed=0, regions=[(5, 80)])
    part = pipeline(IMAGE, seed=0, regions=[(5, 80)], region_output="region")
    assert part.masks[0].shape == (3, 32, 32) and part.offsets == [(-10, 65)]
    x, y = part.offsets[0]
    inside = part.masks[0][:, max(0, -y) : 90 - y, max(0, -x) :]
    assert np.array_equal(full.masks[0][:, max(0, y) : y + 32, max(0, x) : x + 32], inside)


def test_a_point_shows_the_checkpoints_field_of_view():
    pipeline = tiny_pipeline(region_size=40)
    output = pipeline(IMAGE, seed=0, regions=[(60, 45)], region_output="region")
    assert output.masks[0].shape == (3, 40, 40)
    x, y = output.offsets[0]
    assert abs(x + 20 - 60.5) <= 0.5 and abs(y + 20 - 45.5) <= 0.5
    box = pipeline(IMAGE, seed=0, regions=[(x, y, x + 40, y + 40)])
    assert np.array_equal(box.masks[0], pipeline(IMAGE, seed=0, regions=[(60, 45)]).masks[0])


def test_images_with_and_without_regions_go_together():
    pipeline = tiny_pipeline()
    together = pipeline([IMAGE, IMAGE, IMAGE], seed=0, regions=[None, (60, 45), (0, 0, 50, 50)])
    for index, region in enumerate([None, (60, 45), (0, 0, 50, 50)]):
        alone = pipeline(IMAGE, seed=0, regions=[region])
        assert (alone.masks[0] != together.masks[index]).mean() <= 0.001


@pytest.mark.parametrize("window", [Window(-7, -3, 12, 9), Window(5, 5, 25, 31), Window(-20, 2, 40, 4)])
def test_windows_beyond_the_border_are_reflected_as_torch_reflects(window):
    image = np.arange(15 * 18, dtype=np.float32).reshape(15, 18, 1)
    padded = np.pad(image, ((40, 40), (40, 40), (0, 0)), mode="reflect")
    expected = padded[40 + window.top : 40 + window.bottom, 40 + window.left : 40 + window.right]
    assert np.array_equal(cut(image, window), expected)


def test_reflection_of_a_single_pixel_and_of_far_indices():
    assert reflected(np.array([-3, 0, 5]), 1).tolist() == [0, 0, 0]
    far = np.arange(-50, 50)
    assert np.array_equal(np.arange(7)[reflected(far, 7)], np.pad(np.arange(7), 50, mode="reflect")[far + 50])


def test_what_is_pasted_lies_where_it_was_cut():
    image = torch.arange(1, 81.0).reshape(1, 8, 10)
    for window in (Window(2, 3, 7, 8), Window(-2, -2, 4, 4), Window(8, 6, 14, 12)):
        part = torch.from_numpy(cut(image[0].numpy()[:, :, None], window))[None, :, :, 0]
        back = paste(part, window, (8, 10))
        held = back > 0
        assert torch.equal(back[held], image[held])
        rows = range(max(window.top, 0), min(window.bottom, 8))
        assert held.sum() == len(rows) * len(range(max(window.left, 0), min(window.right, 10)))


WRONG = [
    ((120, 45), ValueError, r"the point \(120, 45\) must lie in the image of 120 x 90 pixels"),
    ((-1, 45), ValueError, "must lie in the image"),
    ((10, 10, 10, 20), ValueError, r"the box \(10, 10, 10, 20\) must have left < right and top < bottom"),
    ((30, 10, 20, 20), ValueError, "must have left < right"),
    ((0, 0, 121, 20), ValueError, "must lie in the image of 120 x 90 pixels"),
    ((1, 2, 3), ValueError, "`regions` must be None, points"),
    ((float("nan"), 2), ValueError, "`regions` must be None, points"),
    ("10,20", TypeError, "`regions` must be None, points"),
    ({"x": 1}, TypeError, "`regions` must be None, points"),
]


@pytest.mark.parametrize(("region", "kind", "message"), WRONG)
def test_wrong_regions_are_named(region, kind, message):
    with pytest.raises(kind, match=message):
        tiny_pipeline()(IMAGE, regions=[region])


@pytest.mark.parametrize("regions", [[], [None, None], [(1, 1), (2, 2)]])
def test_there_is_one_region_per_image(regions):
    with pytest.raises(ValueError, match="`regions` must have one entry per image, 1, but had"):
        tiny_pipeline()(IMAGE, regions=regions)


def test_a_single_image_takes_its_region_as_it_is():
    pipeline = tiny_pipeline()
    assert np.array_equal(
        pipeline(IMAGE, seed=0, regions=(60, 45)).masks[0], pipeline(IMAGE, seed=0, regions=[(60, 45)]).masks[0]
    )


def test_a_large_image_without_a_region_is_warned_about_where_crops_were_trained_on():
    pipeline = tiny_pipeline(region_size=32)
    with pytest.warns(UserWarning, match="trained on crops of 32 x 32.*`regions="):
        pipeline(IMAGE, seed=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pipeline(IMAGE, seed=0, regions=[(60, 45)])
        pipeline(IMAGE[:48, :48], seed=0)
        tiny_pipeline()(IMAGE, seed=0)


def test_the_field_of_view_follows_the_spacing_of_dicom(tmp_path):
    import pydicom
    from pydicom.data import get_testdata_file

    dataset = pydicom.dcmread(get_testdata_file("CT_small.dcm", download=False))
    dataset.PixelSpacing = [0.5, 1.0]
    dataset.save_as(tmp_path / "image.dcm")
    pipeline = tiny_pipeline(region_size=32, pixel_size=1.0)
    part = pipeline(tmp_path / "image.dcm", seed=0, regions=[(64, 64)], region_output="region")
    assert part.masks[0].shape == (3, 64, 32)  # 32 mm down at 0.5 mm, 32 mm across at 1 mm


def test_the_window_of_a_point_is_centred_on_it():
    assert region_window((10, 20), (90, 120), (9, 5)) == Window(8, 16, 13, 25)
    assert region_window((0, 0), (90, 120), (3, 3)) == Window(-1, -1, 2, 2)
