"""The demo's page in a real browser: what a visitor does, at the width of a desk and of a phone."""

import io
import os
import threading
import zipfile
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from conftest import tiny_pipeline
from demo_fixtures import CHROMIUM, SECRET, browser, dicom, phantom_png, png_bomb, serve, upload, visit  # noqa: F401
from playwright.sync_api import expect

from medseglatdiff.data.images import load_image
from medseglatdiff.demo import limits, texts
from medseglatdiff.demo.example_images import EXAMPLES
from medseglatdiff.demo.sampling import CHUNK

MASKS, STEPS = CHUNK + 2, 2
pytestmark = pytest.mark.skipif(not CHROMIUM and not os.environ.get("CI"), reason="needs Debian's package chromium")


@pytest.fixture(scope="module")
def gate() -> threading.Event:
    """While it is cleared, the model `slow` stands still."""
    gate = threading.Event()
    gate.set()
    return gate


@pytest.fixture
def closed_gate(gate) -> threading.Event:
    """Cleared for this test, however many ran before it, and set again after it, however it ended."""
    gate.clear()
    yield gate
    gate.set()


@pytest.fixture(scope="module")
def pipelines(gate) -> dict:
    options = dict(default_num_masks=MASKS, default_num_inference_steps=STEPS)
    slow = tiny_pipeline(**options)
    slow.unet.register_forward_pre_hook(lambda *_: gate.wait(60) and None)
    return {"tiny": tiny_pipeline(**options), "slow": slow}


@pytest.fixture(scope="module")
def url(pipelines, tmp_path_factory):
    with serve(pipelines, tmp_path_factory.mktemp("cache")) as (_, url):
        yield url


def click_example(page, index: int = 1):
    page.locator("#examples button").nth(index).click()
    expect(page.locator("#gallery img")).to_have_count(MASKS)
    expect(page.locator("#status")).to_contain_text(f"{MASKS} hypotheses by tiny in")


def own_output(pipelines, image):
    generator = torch.Generator().manual_seed(0)
    return pipelines["tiny"](load_image(image), MASKS, STEPS, generator, batch_size=CHUNK)


def picture(page) -> str:
    return page.locator("#picture img").get_attribute("src")


def test_example_threshold_outlines_and_zip(visit, url, pipelines):  # noqa: F811
    page = visit(url)
    click_example(page)
    output = own_output(pipelines, EXAMPLES[1])
    areas = output.masks[0].sum(axis=(1, 2))
    expect(page.locator("#cards")).to_contain_text(f"{areas.min():,} to {areas.max():,} px")
    expect(page.locator("#gallery .caption-label").first).to_contain_text(f"1: {areas[0]:,} px")
    expect(page.locator("body")).to_contain_text("Not a medical device")
    # the threshold moves the consensus over the same confidence map; the model is not asked again
    asked = []
    hook = pipelines["tiny"].unet.register_forward_hook(lambda *_: asked.append(1))
    before = picture(page)
    page.locator("#threshold input[type=range]").press("End")
    agreed = int((output.confidence[0] >= 1).sum())
    expect(page.locator("#cards")).to_contain_text(f"{agreed:,} pxarea where the confidence is at least 100%")
    expect(page.locator("#picture img")).not_to_have_attribute("src", before)
    # an outline less, another picture
    before = picture(page)
    page.locator("#outlines").get_by_text("3", exact=True).click()
    expect(page.locator("#picture img")).not_to_have_attribute("src", before)
    hook.remove()
    assert not asked
    with page.expect_download() as download:
        page.locator("#zip").click()
    with zipfile.ZipFile(download.value.path()) as archive:
        masks = [PIL.Image.open(io.BytesIO(archive.read(f"mask-{n:02}.png"))) for n in range(1, MASKS + 1)]
    np.testing.assert_array_equal(np.stack([np.asarray(mask) for mask in masks]), output.masks[0] * np.uint8(255))


def test_the_same_example_can_be_clicked_again(visit, url):  # noqa: F811
    page = visit(url)
    click_example(page)
    page.locator("#seed input").fill("5")
    before = picture(page)
    page.locator("#examples button").nth(1).click()
    expect(page.locator("#picture img")).not_to_have_attribute("src", before)
    expect(page.locator("#gallery img")).to_have_count(MASKS)


def test_broken_files_are_told_and_the_next_one_works(visit, url):  # noqa: F811
    page = visit(url)
    for data, sentence in (
        (b"text", limits.NO_IMAGE),
        (png_bomb(60_000, 60_000), limits.TOO_MANY_PIXELS),
        (phantom_png()[:-60], limits.DAMAGED),
    ):
        upload(page, "image.png", data)
        expect(page.get_by_role("alert").filter(has_text=sentence)).to_be_visible()
        page.locator("#run").click()
        expect(page.get_by_role("alert").filter(has_text=sentence)).to_be_visible()
    upload(page, "image.png", phantom_png())
    expect(page.locator("#status")).to_contain_text("48 x 40 pixels. Ready to segment.")
    page.locator("#run").click()
    expect(page.locator("#gallery img")).to_have_count(MASKS)


@pytest.mark.parametrize("number", ("0", "10000"))
def test_numbers_out_of_range_are_told(visit, url, number):  # noqa: F811
    page = visit(url)
    upload(page, "image.png", phantom_png())
    expect(page.locator("#status")).to_contain_text("Ready to segment.")
    page.locator("#masks input").fill(number)
    page.locator("#run").click()
    expect(page.get_by_role("alert")).to_contain_text(f"from 1 to 32 for hypotheses; you gave {number}.")


def test_a_late_preview_does_not_wipe_out_what_the_run_said(visit, url):  # noqa: F811
    page = visit(url)
    page.locator("#masks input").fill("0")
    asked = []  # the page's call for the preview, held until a click has had to wait for it
    page.route("**/queue/join*", lambda route: asked.append(route))
    with page.expect_request("**/queue/join*"):
        upload(page, "image.png", phantom_png(2000))
    expect(page.locator("#run")).to_be_disabled()
    asked.pop().continue_()
    page.unroute("**/queue/join*")
    page.locator("#run").click()  # as soon as the page allows it; the preview of so large a picture takes a while
    expect(page.get_by_role("alert")).to_be_visible()
    page.wait_for_timeout(3000)  # longer than that
    expect(page.get_by_role("alert")).to_be_visible()


def test_a_run_can_be_cancelled(visit, url, closed_gate):  # noqa: F811
    page = visit(url)
    upload(page, "image.png", phantom_png())
    expect(page.locator("#status")).to_contain_text("Ready to segment.")
    page.get_by_label("Model").click()
    page.get_by_role("option", name="slow").click()
    page.locator("#run").click()
    expect(page.locator("#status")).to_contain_text(f"0 of {MASKS} hypotheses drawn")
    page.locator("#cancel").click()
    expect(page.locator("#status")).to_contain_text(texts.STOPPING)
    closed_gate.set()  # the model ends the step at hand, and nothing more of it reaches the page
    expect(page.locator("#status")).to_have_text(texts.STOPPED)
    expect(page.locator("#gallery")).to_be_hidden()
    page.locator("#examples button").nth(1).click()
    expect(page.locator("#status")).to_contain_text(f"{MASKS} hypotheses by slow in")
    expect(page.locator("#gallery img")).to_have_count(MASKS)


def test_a_phone_needs_no_scrolling_sideways(visit, url):  # noqa: F811
    page = visit(url, width=390)
    width = "document.documentElement.scrollWidth"
    assert page.evaluate(width) == 390
    click_example(page)
    assert page.evaluate(width) == 390


def test_dicom_gives_areas_and_segmentation_and_shows_no_patient(visit, url, capfd):  # noqa: F811
    page = visit(url)
    upload(page, "scan.dcm", dicom())
    expect(page.locator("#status")).to_contain_text("128 x 128 pixels")
    page.locator("#run").click()
    expect(page.locator("#cards")).to_contain_text("mm²")
    expect(page.locator("#gallery img")).to_have_count(MASKS)
    assert SECRET not in page.content() + "".join(capfd.readouterr())
    for button, is_secret in (("#json", False), ("#npz", False), ("#seg", True)):
        with page.expect_download() as download:
            page.locator(button).click()
        assert (SECRET.encode() in Path(download.value.path()).read_bytes()) == is_secret


def test_without_models_the_page_says_what_to_do(visit, tmp_path):  # noqa: F811
    problem = "The model none could not be loaded. Please check the folder or Hub id none."
    with serve({}, tmp_path, [problem]) as (_, url):
        page = visit(url)
        expect(page.get_by_role("alert")).to_contain_text(problem)
        page.locator("#examples button").first.click()
        expect(page.get_by_role("alert").filter(has_text=texts.NO_MODEL)).to_be_visible()
        page.close()
