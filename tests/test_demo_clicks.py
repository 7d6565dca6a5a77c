"""The page in a browser: clicks, regions, label maps, files, keyboard, contrast, and what is in view."""

import io
import json
import os
import zipfile
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from conftest import tiny_pipeline
from demo_fixtures import CHROMIUM, browser, phantom_png, serve, upload, visit  # noqa: F401
from playwright.sync_api import expect

from medseglatdiff.data.images import load_image
from medseglatdiff.demo import texts
from medseglatdiff.demo.sampling import CHUNK
from medseglatdiff.pipeline.regions import region_window

MASKS = 6
OPTIONS = dict(default_num_masks=MASKS, default_num_inference_steps=1)
CONTRAST = (Path(__file__).parent / "contrast.js").read_text()
pytestmark = pytest.mark.skipif(not CHROMIUM and not os.environ.get("CI"), reason="needs Debian's package chromium")


@pytest.fixture(scope="module")
def pipelines() -> dict:
    return {
        "whole": tiny_pipeline(**OPTIONS, default_num_candidates=2 * CHUNK),
        "crops": tiny_pipeline(**OPTIONS, region_size=24),
        "organs": tiny_pipeline(num_classes=2, **OPTIONS),
    }


@pytest.fixture(scope="module")
def url(pipelines, tmp_path_factory):
    with serve(pipelines, tmp_path_factory.mktemp("cache")) as (_, url):
        yield url


def segment(page, model: str, data: bytes | None = None):
    page.get_by_label("Model").click()
    page.get_by_role("option", name=model, exact=True).click()
    upload(page, "my mole.png", data or phantom_png())
    expect(page.locator("#status")).to_contain_text("48 x 40 pixels")
    page.locator("#run").click()


def done(page, model: str):
    expect(page.locator("#status")).to_contain_text(f"hypotheses by {model} in")


def in_view(page, selector: str) -> bool:
    box, size = page.locator(selector).bounding_box(), page.viewport_size
    return box["y"] >= 0 and box["y"] + box["height"] <= size["height"] and 0 <= box["x"] < size["width"]


def saved(page, button: str):
    with page.expect_download() as download:
        page.locator(button).click()
    return download.value


@pytest.mark.parametrize("width", (1280, 390))
def test_status_errors_and_the_finished_example_are_in_view(visit, url, width):  # noqa: F811
    page = visit(url, width)
    expect(page.locator("#picture img")).to_be_visible()
    expect(page.locator("#status")).to_have_text(texts.WELCOME)
    assert in_view(page, "#status") and in_view(page, "#picture img") and in_view(page, "#cancel")
    page.locator("#masks input").fill("0")
    segment(page, "whole")
    expect(page.get_by_role("alert")).to_be_visible()
    page.wait_for_function("document.querySelector('#status').getBoundingClientRect().top >= 0")
    assert in_view(page, "#status")
    page.locator("#masks input").fill(str(MASKS))
    page.locator("#run").click()
    done(page, "whole")
    assert in_view(page, "#status") and in_view(page, "#picture img")
    assert page.evaluate(CONTRAST) == []


def test_a_click_keeps_the_hypotheses_that_hold_the_pixel(visit, url, pipelines):  # noqa: F811
    page = visit(url)
    segment(page, "whole")
    done(page, "whole")
    candidates = pipelines["whole"].sample(
        [load_image(io.BytesIO(phantom_png()))], 1, seed=0, batch_size=CHUNK, num_candidates=2 * CHUNK
    )
    everything = pipelines["whole"].select(candidates, 2 * CHUNK).masks[0]  # [N, H, W]
    share = everything.mean(axis=0)
    y, x = np.argwhere((share >= 5 / 16) & (share < 1))[0]
    page.locator("#zoom input").uncheck()  # then 16 pixels of the picture are one of the image
    page.get_by_text("Click on the picture, or give").click()
    page.locator("#x input").fill(str(16 * x + 8))
    page.locator("#y input").fill(str(16 * y + 8))
    page.locator("#use-point").click()
    expect(page.locator("#status")).to_contain_text("candidates fit your 1 point.")
    expected = pipelines["whole"].select(candidates, MASKS, inside=[[(x, y)]])
    with np.load(saved(page, "#npz").path()) as arrays:
        assert arrays["masks"][:, y, x].all()
        np.testing.assert_array_equal(arrays["masks"], expected.masks[0])
        np.testing.assert_array_equal(arrays["confidence"], expected.confidence[0])
    areas = expected.masks[0].sum(axis=(1, 2))
    expect(page.locator("#cards")).to_contain_text(f"{areas.min():,} to {areas.max():,} px")
    page.locator("#take-back").click()
    done(page, "whole")
    with np.load(saved(page, "#npz").path()) as arrays:
        np.testing.assert_array_equal(arrays["masks"], pipelines["whole"].select(candidates, MASKS).masks[0])


def test_the_threshold_goes_for_the_files_and_these_carry_the_images_name(visit, url):  # noqa: F811
    page = visit(url)
    segment(page, "whole")
    done(page, "whole")
    page.locator("#threshold input[type=range]").press("End")
    expect(page.locator("#cards")).to_contain_text("at least 100%")
    expect(page.locator("#zip")).to_be_enabled()
    with np.load(saved(page, "#npz").path()) as arrays:
        np.testing.assert_array_equal(arrays["consensus"], arrays["confidence"] >= 1)
        consensus = arrays["consensus"]
    archive = saved(page, "#zip")
    assert archive.suggested_filename == "my-mole-masks.zip"
    with zipfile.ZipFile(archive.path()) as archive:
        picture = np.asarray(PIL.Image.open(io.BytesIO(archive.read("consensus.png"))))
        assert "overview.png" in archive.namelist()
    np.testing.assert_array_equal(picture > 0, consensus)
    assert json.loads(Path(saved(page, "#json").path()).read_text())["settings"]["threshold"] == 1
    assert saved(page, "#overview").suggested_filename == "my-mole-overview.png"


def test_a_model_of_crops_asks_for_a_click_and_looks_there(visit, url, pipelines):  # noqa: F811
    page = visit(url)
    segment(page, "crops")
    expect(page.get_by_role("alert")).to_contain_text(
        "This image has 48 x 40 pixels, but this checkpoint was trained on crops of 24 x 24: at that size, small "
        "findings are lost. Pass the region to look at: please click on the picture"
    )
    image = page.locator("#picture img")
    box = image.bounding_box()
    scale = box["width"] / 48
    image.click(position={"x": 30.5 * scale, "y": 20.5 * scale})
    expect(page.locator("#status")).to_contain_text(texts.POINT_SET)
    page.locator("#run").click()
    done(page, "crops")
    expected = pipelines["crops"](
        [load_image(io.BytesIO(phantom_png()))], MASKS, 1, seed=0, batch_size=CHUNK, regions=[(30, 20)]
    )
    with np.load(saved(page, "#npz").path()) as arrays:
        np.testing.assert_array_equal(arrays["masks"], expected.masks[0])
    window = region_window((30, 20), (40, 48), (24, 24))
    assert not expected.masks[0][:, :, : window.left].any()


def test_several_classes_are_shown_as_label_maps_with_a_legend(visit, url, pipelines):  # noqa: F811
    page = visit(url)
    segment(page, "organs")
    done(page, "organs")
    expect(page.locator("#legend li")).to_have_text(["class 1", "class 2"])
    expect(page.locator("#cards")).to_contain_text("class 2: area over 6 hypotheses")
    expect(page.locator("#gallery img")).to_have_count(MASKS)
    expected = pipelines["organs"]([load_image(io.BytesIO(phantom_png()))], MASKS, 1, seed=0, batch_size=CHUNK)
    with np.load(saved(page, "#npz").path()) as arrays:
        np.testing.assert_array_equal(arrays["masks"], expected.masks[0])
        np.testing.assert_array_equal(arrays["consensus"], expected.consensus[0])


def test_everything_can_be_done_by_keyboard(visit, url):  # noqa: F811
    page = visit(url)
    page.locator("#examples button").nth(3).focus()
    page.keyboard.press("Enter")
    done(page, "whole")
    page.locator("#clicks button").first.focus()
    page.keyboard.press("Enter")
    for name, value in (("#x input", "5"), ("#y input", "5")):
        page.locator(name).focus()
        page.keyboard.type(value)
    page.locator("#means input").first.focus()
    page.keyboard.press("ArrowDown")  # from + to -
    page.locator("#use-point").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#status")).to_contain_text("candidates fit")
    reached = []
    for _ in range(60):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.closest('[id]:not([id^=component])')?.id"))
    assert {"take-back", "zoom", "outlines", "threshold", "zip", "overview"} <= set(map(str, reached))
