"""200 changed bytes: what has a checksum gives the same result or is refused; the rest stays an image, or a table."""

import io
import json
import random
import shutil
import warnings
from collections import Counter
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from conftest import tiny_pipeline
from dataset_fixtures import disc, encode, nothing_left, write_folder

from medseglatdiff import MedSegLatDiffPipeline
from medseglatdiff.cli import main
from medseglatdiff.data.images import load_image
from medseglatdiff.data.spacing import pixel_spacing
from medseglatdiff.pipeline.saved import component_files

from .processes import refused

pydicom = pytest.importorskip("pydicom", reason="needs the extra `dicom`")
pytest.importorskip("datasets", reason="needs the extra `train`")
from dicom_fixtures import make, written  # noqa: E402

ERRORS = (ValueError, TypeError, OSError)  # with which the package refuses
EACH = 40
IMAGE = np.random.default_rng(0).integers(0, 256, (40, 30), np.uint8)
RGB = np.random.default_rng(0).integers(0, 256, (12, 16, 3), np.uint8)
PICTURES = {
    "PNG": (encode(RGB), True),  # and whether it has checksums
    "TIFF": (encode(RGB, "TIFF"), False),
    "JPEG": (encode(RGB, "JPEG"), False),
    "BMP": (encode(RGB, "BMP"), False),
    "WEBP": (encode(RGB, "WEBP"), False),
}
DICOM = {
    syntax: written(make(syntax=getattr(pydicom.uid, syntax))).getvalue()
    for syntax in (
        "ImplicitVRLittleEndian",
        "ExplicitVRLittleEndian",
        "DeflatedExplicitVRLittleEndian",
        "ExplicitVRBigEndian",
    )
}


def changed(data: bytes, chance: random.Random) -> bytes:
    """The same with one byte changed to another."""
    at = chance.randrange(len(data))
    return data[:at] + bytes([data[at] ^ chance.randrange(1, 256)]) + data[at + 1 :]


class Pipelines:
    """A saved pipeline, what it makes of an image, and copies of it with one byte changed."""

    def __init__(self, folder: Path):
        self.folder = folder
        pipeline = tiny_pipeline()
        pipeline.mask_vae.set_latent_statistics([0.25], [2.0])
        pipeline.save_pretrained(folder / "whole")
        self.expected = self.masks(folder / "whole")

    def masks(self, folder: Path) -> np.ndarray:
        pipeline = MedSegLatDiffPipeline.from_pretrained(folder)
        pipeline.set_progress_bar_config(disable=True)
        return pipeline(IMAGE, num_masks=3, num_inference_steps=2, seed=0).masks[0]

    def judge(self, name: str, data: bytes):
        """Raises an `AssertionError` if a folder with other bytes in one file gives other masks in silence."""
        copy = shutil.copytree(self.folder / "whole", self.folder / "copy", dirs_exist_ok=True)
        (copy / name).write_bytes(data)
        try:
            found = self.masks(copy)
        except ERRORS as error:
            assert len(str(error)) > 10, f"no sentence: {error!r}"
        else:
            assert np.array_equal(found, self.expected), "wrong in silence: other masks"


@pytest.fixture(scope="module")
def pipelines(tmp_path_factory) -> Pipelines:
    return Pipelines(tmp_path_factory.mktemp("pipelines"))


@pytest.mark.parametrize("what, suffix", [("weights", ".safetensors"), ("config", ".json")])
def test_bytes_of_pipelines(pipelines, ledger, what, suffix):
    what, chance = f"{what} of a pipeline with a byte changed", random.Random(0)
    names = [name for name in component_files(pipelines.folder / "whole") if name.endswith(suffix)]
    for index in range(EACH):
        name = names[index % len(names)]
        with ledger.case(what, f"{name}, {index}"):
            pipelines.judge(name, changed((pipelines.folder / "whole" / name).read_bytes(), chance))
    ledger.check(what, EACH)


def judge_picture(data: bytes, expected: np.ndarray | None):
    """Raises an `AssertionError` unless bytes are refused, warned about or an image, that expected where one is."""
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        try:
            found = load_image(io.BytesIO(data))
            spacing = pixel_spacing(io.BytesIO(data))
        except ERRORS as error:
            assert not isinstance(error, UnicodeError) and len(str(error)) > 10, f"no sentence: {error!r}"
            return
    assert found.ndim == 3 and 0 <= found.min() <= found.max() <= 1, "wrong in silence: no image"
    assert spacing is None or all(0 < distance < 1e6 for distance in spacing), f"an impossible spacing: {spacing}"
    if expected is not None and not warned:
        assert np.array_equal(found, expected), "wrong in silence: other pixels"


def test_bytes_of_pictures(ledger):
    what, chance = "picture with a byte changed", random.Random(0)
    for index in range(EACH):
        kind = list(PICTURES)[index % len(PICTURES)]
        data, has_checksums = PICTURES[kind]
        with ledger.case(what, f"{kind}, {index}"):
            judge_picture(changed(data, chance), load_image(io.BytesIO(data)) if has_checksums else None)
    ledger.check(what, EACH)


def test_bytes_of_dicom(ledger):
    what, chance = "DICOM with a byte changed", random.Random(0)
    for index in range(EACH):
        syntax = list(DICOM)[index % len(DICOM)]
        with ledger.case(what, f"{syntax}, {index}"):
            judge_picture(changed(DICOM[syntax], chance), None)
    ledger.check(what, EACH)


def tables() -> dict[str, bytes]:
    """The same rows as each kind of table that a folder may hold."""
    rows = [
        {"file_name": f"{n}.png", "mask_file_names": [f"m{n}.png"], "split": "train", "group_id": f"g{n}"}
        for n in range(4)
    ]
    lines = [",".join(rows[0])] + [f"{n}.png,m{n}.png,train,g{n}" for n in range(4)]
    return {
        "metadata.jsonl": "\n".join(map(json.dumps, rows)).encode(),
        "metadata.json": json.dumps(rows).encode(),
        "metadata.csv": "\n".join(lines).encode(),
        "metadata.tsv": "\n".join(lines).replace(",", "\t").encode(),
    }


def pictures_of_rows(out: Path) -> Counter:
    """Each row's image and masks as bytes, however rows are called and split."""
    rows = [row for path in out.glob("data/*.parquet") for row in pq.read_table(path).to_pylist()]
    return Counter((row["image"]["bytes"], *(mask["bytes"] for mask in row["masks"])) for row in rows)


def judge_table(folder: Path, name: str, data: bytes, expected: Counter | None) -> Counter | None:
    """Raises an `AssertionError` unless a folder with this table is refused whole, or built with the rows expected.

    A row left out counts as held where a warning in the report says so.
    """
    files = {f"{kind}{n}.png": encode(disc(n + size)) for n in range(4) for kind, size in (("", 3), ("m", 1))}
    shutil.rmtree(folder, ignore_errors=True)
    source, out = write_folder(folder / "in", files | {name: data}), folder / "out"
    with redirect_stderr(io.StringIO()) as told, redirect_stdout(io.StringIO()):
        code = main(["dataset", "folder", str(source), "--out", str(out)])
    if code:
        refused(code, told.getvalue())
        assert nothing_left(folder), "half-written"
        return None
    found = pictures_of_rows(out)
    if expected is not None and found != expected:
        report = json.loads((out / "report.json").read_text())
        assert found < expected and any("part of no row" in text for text in report["warnings"]), "wrong in silence"
    return found


def test_bytes_of_tables(tmp_path, ledger):
    what, chance = "table with a byte changed", random.Random(0)
    for index in range(EACH):
        name, data = list(tables().items())[index % len(tables())]
        expected = judge_table(tmp_path, name, data, None)
        with ledger.case(what, f"{name}, {index}"):
            assert sum(expected.values()) == 4
            judge_table(tmp_path, name, changed(data, chance), expected)
    ledger.check(what, EACH)


def test_the_judges_see_what_is_wrong_in_silence(pipelines, tmp_path):
    whole = pipelines.folder / "whole"
    pipelines.judge("unet/config.json", (whole / "unet" / "config.json").read_bytes())
    index = json.loads((whole / "model_index.json").read_text())
    pipelines.expected = ~pipelines.expected
    with pytest.raises(AssertionError, match="wrong in silence: other masks"):
        pipelines.judge("model_index.json", json.dumps(index).encode())
    pipelines.expected = ~pipelines.expected
    with pytest.raises(AssertionError, match="other pixels"):
        judge_picture(encode(RGB), load_image(io.BytesIO(encode(RGB[::-1].copy()))))
    data = tables()["metadata.csv"]
    expected = judge_table(tmp_path, "metadata.csv", data, None)
    with pytest.raises(AssertionError, match="wrong in silence"):
        judge_table(tmp_path, "metadata.csv", data.replace(b"m0.png", b"m1.png"), expected)
