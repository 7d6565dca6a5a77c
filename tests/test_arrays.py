"""Arrays and tensors of any make: right, or refused by name; limits; and what else people pass for an image."""

import io
import pathlib

import numpy as np
import PIL.Image
import pytest
import torch

from medseglatdiff.data import limits
from medseglatdiff.data.images import as_image_list, load_image, preprocess

GREY = np.arange(0, 240, 2, dtype=np.uint8).reshape(10, 12)
UNIT = GREY / np.float32(255)
RNG = np.random.default_rng(0)


def mapped(array: np.ndarray, folder) -> np.memmap:
    file = np.memmap(folder / "array", array.dtype, "w+", shape=array.shape)
    file[:] = array
    file.flush()
    return np.memmap(folder / "array", array.dtype, "r", shape=array.shape)


def png(array: np.ndarray) -> io.BytesIO:
    file = io.BytesIO()
    PIL.Image.fromarray(array).save(file, "PNG")
    return file


SAME = {
    "matrix": lambda folder: np.asmatrix(GREY),
    "memory map": lambda folder: mapped(GREY, folder),
    "Fortran order": lambda folder: np.asfortranarray(GREY),
    "negative strides": lambda folder: GREY[::-1, ::-1].copy()[::-1, ::-1],
    "every second pixel": lambda folder: GREY.repeat(2, 0).repeat(2, 1)[::2, ::2],
    "masked, but nothing": lambda folder: np.ma.array(GREY, mask=False),
    "read-only": lambda folder: np.frombuffer(GREY.tobytes(), np.uint8).reshape(GREY.shape),
    "float64, big endian": lambda folder: (GREY / 255).astype(">f8"),
    "uint16, big endian, Fortran": lambda folder: np.asfortranarray((GREY.astype(np.uint16) * 257).astype(">u2")),
    "long double": lambda folder: GREY.astype(np.longdouble) / 255,
    "a subclass": lambda folder: GREY.view(type("Mine", (np.ndarray,), {})),
    "BytesIO": lambda folder: png(GREY),
    "an open file": lambda folder: io.BufferedReader(io.BytesIO(png(GREY).getvalue())),
    "a file read before": lambda folder: png(GREY[:, :, None].repeat(3, 2)),
    "path-like": lambda folder: pathlib.Path(folder, "a.png").write_bytes(png(GREY).getvalue()) and folder / "a.png",
    "transposed tensor": lambda folder: torch.from_numpy(GREY.T.copy()).T[None],
    "uint16 tensor": lambda folder: torch.from_numpy(GREY.astype(np.uint16) * 257)[None],
    "negated view": lambda folder: torch._neg_view(torch.from_numpy(-UNIT))[None],
}


@pytest.mark.parametrize("kind", SAME)
def test_every_make_means_the_same(kind, tmp_path):
    found = load_image(SAME[kind](tmp_path))
    assert type(found) is np.ndarray and found.dtype == np.float32 and found.dtype.isnative
    np.testing.assert_allclose(found.mean(axis=2), UNIT, atol=1e-6)
    pixels, _ = preprocess(SAME[kind](tmp_path), num_channels=1, sample_size=12)
    assert pixels.shape == (1, 1, 12, 12)


def test_float16_is_taken():
    np.testing.assert_allclose(load_image(UNIT.astype(np.float16))[..., 0], UNIT, atol=3e-4)


REFUSED = {
    "objects": (np.array([[1, None]], object), TypeError, "but was object"),
    "records": (np.zeros((2, 2), [("r", "u1"), ("g", "u1")]), TypeError, "but was .*'r'"),
    "complex": (UNIT.astype(np.complex64), TypeError, "but was complex64"),
    "text": (np.array([["a"]]), TypeError, "but was <U1"),
    "dates": (np.array([["2020-01-01"]], "M8[D]"), TypeError, r"but was datetime64\[D\]"),
    "bytes as numbers": (np.array([[b"a"]]), TypeError, "but was |S1"),
    "int8": (GREY.astype(np.int8), TypeError, "but was int8"),
    "int16": (GREY.astype(np.int16), TypeError, "but was int16"),
    "int32": (GREY.astype(np.int32), TypeError, "but was int32"),
    "int64": (GREY.astype(np.int64), TypeError, "but was int64"),
    "uint32": (GREY.astype(np.uint32), TypeError, "but was uint32"),
    "uint64": (GREY.astype(np.uint64), TypeError, "but was uint64"),
    "masked": (np.ma.array(GREY, mask=GREY > 99), ValueError, "no masked pixels"),
    "a scalar": (np.array(0.5), ValueError, r"but was \(\)"),
    "a batch": (np.zeros((2, 4, 4, 3)), ValueError, r"but was \(2, 4, 4, 3\)"),
    "four channels": (np.zeros((4, 4, 4), np.uint8), ValueError, r"but was \(4, 4, 4\)"),
    "sparse": (torch.eye(4)[None].to_sparse(), TypeError, "a dense tensor"),
    "meta": (torch.zeros(1, 4, 4, device="meta"), TypeError, "a dense tensor"),
    "complex tensor": (torch.zeros(1, 4, 4, dtype=torch.complex64), TypeError, "but was complex64"),
    "int tensor": (torch.zeros(1, 4, 4, dtype=torch.int64), TypeError, "but was int64"),
    "bytes": (b"\x89PNG", TypeError, "but was bytes: wrap them in io.BytesIO"),
    "bytearray": (bytearray(4), TypeError, "but was bytearray: wrap it in io.BytesIO"),
    "a row's dictionary": ({"bytes": b"", "path": None}, TypeError, "but was dict: open its bytes by io.BytesIO"),
    "a generator": ((x for x in [GREY]), TypeError, r"but was generator: pass list\(images\)"),
    "text file": (io.StringIO("a"), TypeError, "but was StringIO"),
    "a number": (3, TypeError, "but was int"),
    "a set": ({1}, TypeError, "but was set"),
    "http": ("http://example.org/a.png", ValueError, "a path, but was the URL http://example.org/a.png: download"),
    "https": ("https://example.org/a.dcm", ValueError, "but was the URL"),
    "s3": ("s3://bucket/a.png", ValueError, "but was the URL"),
    "file url": ("file:///a.png", ValueError, "but was the URL"),
    "hf": ("hf://datasets/a/b.png", ValueError, "but was the URL"),
    "an empty name": ("", ValueError, "cannot"),
    "a name with a null": ("a\0b.png", ValueError, "null"),
    "a name that is too long": ("a" * 5000, ValueError, "cannot"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_no_image_is_refused_by_name(kind):
    image, error, message = REFUSED[kind]
    with pytest.raises(error, match=f"`image` must.*{message}"):
        load_image(image)


EXTREMES = {  # type -> values that are evenly spaced over its range
    np.int8: [-128, -43, 42, 127],
    np.int16: [-32768, -10923, 10922, 32767],
    np.int64: [-(2**63), -(2**63) // 3, 2**63 // 3, 2**63 - 1],
    np.uint64: [0, 2**64 // 3, 2 * (2**64 // 3), 2**64 - 1],
    np.uint32: [0, 2**32 // 3, 2 * (2**32 // 3), 2**32 - 1],
    np.bool_: [False, False, True, True],
    np.float32: [-3e38, -1e38, 1e38, 3e38],
}


@pytest.mark.parametrize("dtype", EXTREMES, ids=lambda dtype: dtype.__name__)
def test_stretching_covers_the_whole_range_of_a_type(dtype):
    expected = [0, 0, 1, 1] if dtype is np.bool_ else [0, 1 / 3, 2 / 3, 1]
    found = load_image(np.array(EXTREMES[dtype], dtype).reshape(2, 2), stretch=True)
    np.testing.assert_allclose(found.ravel(), expected, atol=1e-6 if np.dtype(dtype).itemsize > 1 else 0.01)


def test_stretching_large_numbers_keeps_their_differences():
    values = np.array([[2**60, 2**60 + 1], [2**60 + 2, 2**60 + 4]])
    np.testing.assert_allclose(load_image(values, stretch=True)[..., 0], [[0, 0.25], [0.5, 1]])
    with pytest.raises(ValueError, match="lie too far apart"):
        load_image(np.array([[-1.7e308, 1.7e308]]), stretch=True)


@pytest.mark.parametrize("most, warned", [(0, False), (255, True), (1023, True), (4095, True), (16383, True)])
@pytest.mark.parametrize("source", ["array", "PNG", "tensor", "PIL"])
def test_few_bits_of_sixteen_are_warned_about(most, warned, source, recwarn):
    deep = np.linspace(0, most, 120).round().astype(np.uint16).reshape(10, 12)
    make = {"array": lambda: deep, "PNG": lambda: png(deep), "tensor": lambda: torch.from_numpy(deep)[None]}
    image = make.get(source, lambda: PIL.Image.fromarray(deep))()
    found = load_image(image)
    np.testing.assert_allclose(found[..., 0], deep / 65535, atol=1e-7)  # as before, with a word about it
    told = [str(warning.message) for warning in recwarn if issubclass(warning.category, UserWarning)]
    assert len(told) == warned
    if warned:
        assert (
            f"16-bit values from 0 to {most}, out of a possible 65535" in told[0]
            and f"such as {most}, divide" in told[0]
        )


@pytest.mark.parametrize("image", [np.array([[0, 16384]], np.uint16), GREY, np.array([[0, 65535]], np.uint16)])
def test_whole_ranges_are_not_warned_about(image, recwarn):
    load_image(image)
    load_image(np.array([[0, 99]], np.uint16), stretch=True)
    assert not recwarn.list


def test_one_limit_for_files_arrays_and_tensors(monkeypatch):
    monkeypatch.setattr(limits, "MAX_PIXELS", 119)
    for image in (
        GREY,
        torch.from_numpy(GREY)[None],
        PIL.Image.fromarray(GREY),
        png(GREY),
        GREY[..., None].repeat(3, 2),
    ):
        with pytest.raises(ValueError, match="`image` must have 1 to 119 pixels, but it has 10 x 12"):
            load_image(image)
    assert load_image(GREY[:, :11]).shape == (10, 11, 1)


def test_large_arrays_are_refused_before_they_cost_memory():
    huge = np.broadcast_to(np.uint8(0), (16_000, 16_000))
    for image in (huge, torch.zeros(1, 1, 1, dtype=torch.uint8).expand(1, 16_000, 16_000)):
        with pytest.raises(ValueError, match="1 to 89,478,485 pixels, but it has 16000 x 16000"):
            load_image(image)


def test_columns_and_sequences_are_lists():
    datasets = pytest.importorskip("datasets")
    images = [PIL.Image.fromarray(GREY), PIL.Image.fromarray(GREY[::-1].copy())]
    column = datasets.Dataset.from_dict({"image": images}, datasets.Features({"image": datasets.Image()}))["image"]
    for several in (images, tuple(images), column, column[:2]):
        found = as_image_list(several)
        assert len(found) == 2 and np.array_equal(load_image(found[1]), load_image(images[1]))
    for single in ("a.png", b"a", pathlib.Path("a.png"), GREY, io.BytesIO(b"")):
        assert len(as_image_list(single)) == 1
    table = column.source if hasattr(column, "source") else datasets.Dataset.from_dict({"image": [0]})
    with pytest.raises(TypeError, match="but was Dataset: pass one of its columns"):
        load_image(table)
