"""The demo Space's folder and server, hostile files, and DICOM files with a patient's data."""

import io
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import numpy as np
import PIL.Image
import PIL.PngImagePlugin
import pydicom

ROOT = Path(__file__).parents[1]
FOLDER, EXAMPLES = ROOT / "spaces" / "demo", ROOT / "src" / "medseglatdiff" / "demo" / "examples"
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
