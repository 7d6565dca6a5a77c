"""The demo Space's folder and server, hostile files, and DICOM files with a patient's data."""

import io
import os
import shutil
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import numpy as np
import PIL.Image
import PIL.PngImagePlugin
import pydicom
import pytest
from playwright.sync_api import expect, sync_playwright

ROOT = Path(__file__).parents[1]
FOLDER, EXAMPLES = ROOT / "spaces" / "demo", ROOT / "src" / "medseglatdiff" / "demo" / "examples"
TIMEOUT = 15_000  # ms: Playwright's own 5 s are few on a machine that does other things too
CHROMIUM = shutil.which("chromium")
SECRET = "Mustermann"  # what no page, log or number may show


def png(image: PIL.Image.Image, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG", **options)
    return file.getvalue()


def phantom_png(size: int = 40) -> bytes:
    y, x = np.mgrid[:size, : size + 8]
    return png(PIL.Image.fromarray((40 + 180 * (np.hypot(y - 20, x - 24) < 9)).astype(np.uint8)))


def png_bomb(width: int, height: int) -> bytes:
    """A few bytes that claim to be a huge picture."""
    data = bytearray(phantom_png())
    data[16:24] = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    return bytes(data)


def text_bomb() -> bytes:
    """A small picture whose compressed comment unpacks to 200 MB."""
    info = PIL.PngImagePlugin.PngInfo()
    info.add_text("Comment", "a" * 200_000_000, zip=True)
    return png(PIL.Image.new("L", (8, 8)), pnginfo=info)


def dicom(syntax: str | None = None, **attributes) -> bytes:
    """The example under the name of a patient, with other attributes replaced or, where None, removed."""
    dataset = pydicom.dcmread(EXAMPLES / "nodule.dcm")
    identity = dict(PatientName=f"{SECRET}^Erika", PatientID=f"{SECRET}-1", PatientBirthDate="19640812")
    for name, value in (identity | attributes).items():
        if value is None:
            del dataset[name]
        else:
            setattr(dataset, name, value)
    if syntax:
        dataset.file_meta.TransferSyntaxUID = syntax
    file = io.BytesIO()
    dataset.save_as(file, enforce_file_format=True)
    return file.getvalue()


@contextmanager
def serve(pipelines: dict, folder: Path, problems: list[str] = ()) -> Iterator[tuple]:
    """The page on loopback, as `(demo, url)`; uploads and results lie in `folder`."""
    from medseglatdiff.demo.app import LAUNCH, build_demo

    with patch.dict(os.environ, {"GRADIO_TEMP_DIR": str(folder)}):
        demo = build_demo(pipelines, problems)
        _, url, _ = demo.launch(prevent_thread_lock=True, quiet=True, server_name="127.0.0.1", **LAUNCH)
        try:
            yield demo, url
        finally:
            demo.close(verbose=False)


@pytest.fixture(scope="module")
def browser():
    options = ["--no-sandbox", "--disable-background-networking"]
    expect.set_options(timeout=TIMEOUT)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM or "/usr/bin/chromium", args=options)
        yield browser
        browser.close()


@pytest.fixture
def visit(browser):
    """Opens pages; at the end none may have logged an error or asked for anything but loopback."""
    contexts, complaints = [], []

    def visit(url: str, width: int = 1280):
        size = {"width": width, "height": 900 if width > 600 else 844}
        contexts.append(browser.new_context(viewport=size))
        page = contexts[-1].new_page()
        page.set_default_timeout(TIMEOUT)
        page.on("console", lambda message: message.type == "error" and complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda r: r.url.startswith((url, "data:", "blob:")) or complaints.append(r.url))
        page.goto(url)
        expect(page.locator("#examples img")).to_have_count(9)
        return page

    yield visit
    for context in contexts:
        context.close()
    assert not complaints


def upload(page, name: str, data: bytes):
    if page.get_by_label("Clear").is_visible():
        page.get_by_label("Clear").click()
    file = {"name": name, "mimeType": "image/png", "buffer": data}
    with page.expect_response(lambda response: "/upload" in response.url):
        page.set_input_files("#upload input[type=file]", file)
