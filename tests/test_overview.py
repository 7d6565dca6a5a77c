"""The overview picture: every panel shows what was found, whatever the size and the number of classes."""

import numpy as np
import PIL.Image
import pytest
import torch

from medseglatdiff.overview import COLOURS, PANEL, VIRIDIS, colour_map, colour_of, draw_overview, outline
from medseglatdiff.pipeline.aggregation import aggregate


def draw(masks: np.ndarray, image: np.ndarray | None = None, num_classes: int = 1, title: str = "scan.png"):
    image = np.full((*masks.shape[1:], 1), 0.4, np.float32) if image is None else image
    labels = torch.from_numpy(masks.astype(np.uint8))
    confidence, uncertainty, consensus = (a.numpy() for a in aggregate(labels, num_classes, threshold=0.5))
    return draw_overview(image, masks, confidence, uncertainty, consensus, 0.5, title, "seed 0")


def discs(*radii: float, height: int = 64, width: int = 64) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    return np.stack([np.hypot(y - height / 2, x - width / 2) < radius for radius in radii])


def has_colour(picture: PIL.Image.Image, colour, least: int = 20) -> bool:
    return (np.asarray(picture) == colour).all(axis=-1).sum() >= least


def test_every_hypothesis_is_outlined_in_its_colour():
    picture = draw(discs(5, 10, 15, 20))
    assert all(has_colour(picture, COLOURS[index]) for index in range(4))
    assert not has_colour(picture, COLOURS[4], least=1)
    assert not has_colour(draw(discs(0, 0)), COLOURS[1], least=1)  # nothing found, nothing drawn


def test_the_confidence_panel_holds_every_level_that_occurs():
    picture = draw(discs(8, 16, 24, 30))
    for share in (0, 0.25, 0.5, 0.75, 1):
        assert has_colour(picture, colour_map(np.array(share), VIRIDIS), least=300), share


def test_a_single_pixel_of_a_large_image_stays_visible():
    masks = np.zeros((1, 1500, 1000), bool)
    masks[0, 700, 500] = True
    assert has_colour(draw(masks), COLOURS[0], least=1)


@pytest.mark.parametrize("size", [(1, 1), (3, 200), (400, 30), (128, 128)])
def test_pictures_have_one_layout_whatever_the_images_size(size):
    generator = np.random.default_rng(0)
    picture = draw(generator.random((3, *size)) < 0.5, generator.random((*size, 3), np.float32))
    assert picture.width == draw(discs(4)).width and picture.height > 2 * 96
    assert picture.mode == "RGB" and len(np.unique(np.asarray(picture).reshape(-1, 3), axis=0)) > 50


def test_the_image_is_shown_at_its_aspect_ratio():
    generator = np.random.default_rng(0)
    tall = np.asarray(draw(np.zeros((1, 100, 50), bool), np.ones((100, 50, 1), np.float32) * 0.4))
    gray = np.argwhere((tall == 102).all(axis=-1))
    first = gray[gray[:, 1] < 400]  # the panel of the image
    (top, left), (bottom, right) = first.min(axis=0), first.max(axis=0)
    assert (bottom - top + 1, right - left + 1) == (PANEL, PANEL // 2)
    assert not np.array_equal(tall, np.asarray(draw(generator.random((1, 100, 50)) < 0.5)))


def test_several_classes_have_a_confidence_panel_each():
    labels = np.zeros((2, 40, 40), np.uint8)
    labels[:, 5:15, 5:15], labels[:, 20:35, 20:35] = 1, 2
    labels[1, 30:35, 20:35] = 3
    three, one = draw(labels, num_classes=3), draw(labels == 1)
    assert all(has_colour(three, colour_of(index)) for index in range(3))
    assert three.height > one.height and three.width == one.width


def test_many_hypotheses_fit():
    assert draw(np.repeat(discs(9), 100, axis=0)).size == draw(discs(9)).size


def test_titles_of_any_script_are_drawn():
    assert draw(discs(9), title="Ärzte 肺 scan.png").size == draw(discs(9)).size


def test_outlines_hug_the_mask_from_inside():
    mask = np.zeros((20, 20), bool)
    mask[5:15, 5:15] = True
    assert np.array_equal(outline(mask, 1), mask & ~np.pad(np.ones((8, 8), bool), 6))
    assert outline(mask, 2).sum() == 100 - 36
    assert outline(np.ones((6, 6), bool), 1).sum() == 20  # the picture's border counts as outside


def test_colour_maps_meet_their_anchors():
    anchors = [list(bytes.fromhex(anchor)) for anchor in VIRIDIS.split()]
    assert colour_map(np.linspace(0, 1, len(anchors)), VIRIDIS).tolist() == anchors
    brightness = colour_map(np.linspace(0, 1, 50), VIRIDIS) @ [0.299, 0.587, 0.114]
    assert (np.diff(brightness) > 0).all()


def test_small_findings_are_shown_close_up():
    small = draw(discs(3, height=128, width=128))  # 29 pixels, 3 x 3 dots each at the size of a panel
    assert has_colour(small, colour_map(np.array(1), VIRIDIS), least=8 * 29 * 9)
    large = draw(discs(40, height=128, width=128))
    assert not has_colour(large, colour_map(np.array(1), VIRIDIS), least=2 * 5024 * 9)
