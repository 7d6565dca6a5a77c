"""Inputs of every kind: what they mean in [0, 1], which are refused, and the way back to their size."""

import numpy as np
import PIL.Image
import pytest
import torch
from conftest import tiny_pipeline

from medseglatdiff.data.images import as_image_list, load_image, preprocess, resize_bilinear, to_channels

GREY = np.arange(0, 240, 2, dtype=np.uint8).reshape(10, 12)  # every pixel another value
RGB = np.stack([GREY, GREY[::-1], GREY[:, ::-1]], axis=-1)
UNIT = GREY / np.float32(255)


def channels_first(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(np.atleast_3d(array), -1, 0)))


SAME_IMAGE = {
    "uint8": GREY,
    "uint8 with a channel": GREY[:, :, None],
    "uint16": GREY.astype(np.uint16) * 257,
    "uint16, big endian": (GREY.astype(np.uint16) * 257).astype(">u2"),
    "float32": UNIT,
    "float64": GREY / 255,
    "flipped views": GREY[::-1].copy()[::-1],
    "PIL L": PIL.Image.fromarray(GREY),
    "PIL I;16": PIL.Image.fromarray(GREY.astype(np.uint16) * 257),
    "PIL F": PIL.Image.fromarray(UNIT),
    "PIL LA, opaque": PIL.Image.fromarray(np.stack([GREY, np.full_like(GREY, 255)], axis=-1)),
    "tensor": channels_first(GREY),
    "tensor, float": channels_first(UNIT),
    "tensor with a gradient": channels_first(UNIT).requires_grad_(),
}


@pytest.mark.parametrize("kind", SAME_IMAGE)
def test_every_kind_of_grey_image_means_the_same(kind):
    array = load_image(SAME_IMAGE[kind])
    assert array.dtype == np.float32 and array.shape == (10, 12, 1)
    assert np.allclose(array[:, :, 0], UNIT, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_as_exact_as_it_can_be(dtype):
    array = load_image(channels_first(UNIT).to(dtype))
    assert np.allclose(array[:, :, 0], UNIT, atol=2e-3 if dtype == torch.bfloat16 else 3e-4)


def test_bool_is_zero_and_one():
    for image in (GREY > 100, PIL.Image.fromarray(GREY > 100), channels_first(GREY > 100)):
        assert np.array_equal(load_image(image)[:, :, 0], (GREY > 100).astype(np.float32))
    assert load_image(PIL.Image.fromarray(GREY > 100)).dtype == np.float32


SAME_COLOURS = {
    "array": RGB,
    "PIL RGB": PIL.Image.fromarray(RGB),
    "PIL RGBA, opaque": PIL.Image.fromarray(np.dstack([RGB, np.full_like(GREY, 255)])),
    "tensor": channels_first(RGB),
}


@pytest.mark.parametrize("kind", SAME_COLOURS)
def test_every_kind_of_colour_image_means_the_same(kind):
    assert np.allclose(load_image(SAME_COLOURS[kind]), RGB / 255, atol=1e-6)


def test_palettes_become_their_colours():
    image = PIL.Image.fromarray(np.array([[0, 1], [2, 1]], np.uint8), mode="P")
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 51])
    expected = np.array([[[1, 0, 0], [0, 1, 0]], [[0, 0, 0.2], [0, 1, 0]]])
    assert np.allclose(load_image(image), expected, atol=1e-6)


@pytest.mark.parametrize("suffix", ["png", "tif", "bmp", "webp", "gif"])
def test_lossless_files_hold_what_was_saved(suffix, tmp_path):
    options = {"lossless": True} if suffix == "webp" else {}
    PIL.Image.fromarray(GREY).save(tmp_path / f"image.{suffix}", **options)
    array = load_image(str(tmp_path / f"image.{suffix}"))
    assert np.allclose(array.mean(axis=2), UNIT, atol=1e-6)  # WebP and GIF know no grey


def test_sixteen_bits_of_a_file_survive(tmp_path):
    deep = (np.arange(120, dtype=np.uint16) * 500).reshape(10, 12)
    for name in ("deep.png", "deep.tif"):
        PIL.Image.fromarray(deep).save(tmp_path / name)
        assert np.allclose(load_image(tmp_path / name)[:, :, 0], deep / 65535, atol=1e-7)


def test_stretch_ignores_type_and_range():
    expected = (GREY / GREY.max()).astype(np.float32)  # the least value is 0
    hounsfield = GREY.astype(np.int16) * 8 - 1000
    for image in (GREY, UNIT * 0.3 + 0.2, hounsfield, hounsfield.astype(np.float64), PIL.Image.fromarray(GREY)):
        assert np.allclose(load_image(image, stretch=True)[:, :, 0], expected, atol=1e-5)
    assert not load_image(np.full((2, 2), 77, np.uint8), stretch=True).any()


def test_grey_and_colour_convert_into_each_other():
    assert np.allclose(to_channels(load_image(RGB), 1)[..., 0], RGB @ [0.299, 0.587, 0.114] / 255, atol=1e-6)
    pil = np.asarray(PIL.Image.fromarray(RGB).convert("L")) / 255
    assert np.allclose(to_channels(load_image(RGB), 1)[..., 0], pil, atol=1 / 255)
    assert np.array_equal(to_channels(load_image(GREY), 3), np.dstack([load_image(GREY)] * 3))
    with pytest.raises(ValueError, match="`num_channels` must be 1 or 3, but was 2"):
        to_channels(load_image(GREY), 2)


def test_preprocess_keeps_pixels_of_the_right_size_and_reports_each_size():
    pixels, sizes = preprocess([GREY[:, :10], RGB, GREY], num_channels=1, sample_size=10)
    assert pixels.shape == (3, 1, 10, 10) and sizes == [(10, 10), (10, 12), (10, 12)]
    assert np.allclose(pixels[0, 0], UNIT[:, :10] * 2 - 1, atol=1e-6)
    flat, _ = preprocess(np.full((7, 31), 255, np.uint8), num_channels=3, sample_size=16)
    assert flat.shape == (1, 3, 16, 16) and torch.allclose(flat, torch.ones(()))


@pytest.mark.parametrize("size", [(1, 1), (3, 97), (32, 32), (200, 64)])
def test_masks_come_back_at_the_images_own_size(size):
    image = np.random.default_rng(0).integers(0, 256, size, dtype=np.uint8)
    assert tiny_pipeline()(image, generator=torch.Generator().manual_seed(0)).masks[0].shape == (3, *size)


def test_a_disc_survives_the_round_trip_to_the_models_size():
    y, x = np.mgrid[:90, :150]
    disc = (np.hypot(y - 40, x - 70) < 25).astype(np.float32)
    small, (size,) = preprocess(disc, num_channels=1, sample_size=64)
    shares = torch.cat([1 - small, 1 + small], dim=1) / 2  # [1, 2, 64, 64]
    back = resize_bilinear(shares, size)
    assert torch.allclose(back.sum(dim=1), torch.ones(()))
    mask = back[0].argmax(dim=0).bool().numpy()
    assert 2 * (mask & (disc > 0)).sum() / (mask.sum() + disc.sum()) > 0.98


def test_lists_tensors_and_single_images():
    assert len(as_image_list(GREY)) == 1 and len(as_image_list([GREY, RGB])) == 2
    assert [tuple(image.shape) for image in as_image_list(torch.zeros(2, 3, 4, 5))] == [(3, 4, 5)] * 2
    for empty in ([], (), torch.zeros(0, 1, 4, 4)):
        with pytest.raises(ValueError, match="`images` must hold at least one image, but was empty"):
            as_image_list(empty)


def transparent() -> PIL.Image.Image:
    return PIL.Image.fromarray(np.dstack([RGB, GREY]))


REFUSED = {
    "NaN": (np.full((4, 4), np.nan), ValueError, "finite values"),
    "infinity": (np.full((4, 4), np.inf, np.float32), ValueError, "finite values"),
    "zero size": (np.zeros((0, 4), np.uint8), ValueError, "at least one pixel"),
    "zero size tensor": (torch.zeros(1, 4, 0), ValueError, "at least one pixel"),
    "two channels": (np.zeros((4, 4, 2), np.uint8), ValueError, r"\(H, W, 3\), but was \(4, 4, 2\)"),
    "one dimension": (np.zeros(4), ValueError, r"but was \(4,\)"),
    "channels first": (np.zeros((3, 8, 8), np.uint8), ValueError, r"but was \(3, 8, 8\)"),
    "channels last tensor": (torch.zeros(8, 8, 3), ValueError, r"\(3, H, W\) as a tensor, but was \(8, 8, 3\)"),
    "no channel in a tensor": (torch.zeros(8, 8), ValueError, r"as a tensor, but was \(8, 8\)"),
    "floats to 255": (UNIT * 255, ValueError, r"floats in \[0, 1\], but they range from 0.0 to 238.0"),
    "negative floats": (UNIT - 1, ValueError, r"floats in \[0, 1\]"),
    "signed integers": (GREY.astype(np.int32), TypeError, "but was int32"),
    "complex": (GREY.astype(complex), TypeError, "but was complex128"),
    "text": (np.array([["a", "b"]]), TypeError, "but was <U1"),
    "nested list": ([[0.1, 0.2]], TypeError, "a PIL image, a path, .*an array or a tensor, but was list"),
    "nothing": (None, TypeError, "but was NoneType"),
    "transparency": (transparent(), ValueError, "be opaque"),
    "missing file": ("no/such/file.png", ValueError, "no/such/file.png cannot"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_images_are_refused(case):
    image, error, message = REFUSED[case]
    with pytest.raises(error, match=f"`image` must.*{message}"):
        load_image(image)
    if not isinstance(image, list):
        with pytest.raises(error, match=f"`images` must be usable images, but index 1 is not: .*{message}"):
            preprocess([GREY, image], num_channels=1, sample_size=16)


def test_stretching_needs_finite_numbers_too():
    for bad in (np.array([[0, np.nan]]), np.array([[0, -np.inf]])):
        with pytest.raises(ValueError, match="finite values"):
            load_image(bad, stretch=True)


def test_animations_are_refused(tmp_path):
    frames = [PIL.Image.fromarray(GREY), PIL.Image.fromarray(GREY[::-1])]
    for name in ("frames.gif", "frames.tif"):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
        with pytest.raises(ValueError, match="a single frame, but .* holds 2: choose one by `frame`, from 0 to 1"):
            load_image(tmp_path / name)


def test_damaged_files_are_refused_whatever_the_damage(tmp_path):
    rng, path = np.random.default_rng(0), tmp_path / "image"
    for suffix in ("png", "jpeg", "tiff", "ppm", "bmp"):
        PIL.Image.fromarray(RGB).save(path, format=suffix)
        whole = path.read_bytes()
        for length in (0, 4, len(whole) // 2):
            path.write_bytes(whole[:length])
            with pytest.raises(ValueError, match=f"`image` must be a file that can be read, but {path} cannot"):
                load_image(path)
        for _ in range(60):
            damaged = np.frombuffer(whole, np.uint8).copy()
            damaged[rng.integers(0, min(len(whole), 200), 3)] = rng.integers(0, 256, 3)
            path.write_bytes(damaged.tobytes())
            try:
                load_image(path)  # the damage may be harmless
            except ValueError as error:
                assert "`image` must" in str(error)


def test_a_text_file_by_the_name_of_an_image_is_refused(tmp_path):
    (tmp_path / "notes.png").write_text("not an image")
    with pytest.raises(ValueError, match="notes.png cannot: cannot identify image file"):
        load_image(tmp_path / "notes.png")
    with pytest.raises(ValueError, match="`image` must be a file that can be read"):
        load_image(tmp_path)  # a folder
