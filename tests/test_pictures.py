"""What every Pillow mode, TIFF photometric and kind of file means, by formulas that do not go through the code."""

import colorsys
import io

import numpy as np
import PIL.Image
import PIL.ImageCms
import pytest

from medseglatdiff.data.images import load_image
from medseglatdiff.data.pictures import MODES

RNG = np.random.default_rng(0)
GREY = np.arange(0, 240, 2, dtype=np.uint8).reshape(10, 12)
RGB = np.stack([GREY, GREY[::-1], GREY[:, ::-1]], axis=-1)
OPAQUE = np.full_like(GREY, 255)
PALETTE = RNG.integers(0, 256, (256, 3), dtype=np.uint8)
BANDS4 = np.dstack([RGB, OPAQUE])


def stored(mode: str, pixels: np.ndarray) -> PIL.Image.Image:
    """An image whose bytes in Pillow's memory are these."""
    size = pixels.shape[1], pixels.shape[0]
    return PIL.Image.frombytes(mode, size, np.ascontiguousarray(pixels).tobytes())


def with_palette(mode: str, pixels: np.ndarray) -> PIL.Image.Image:
    image = stored(mode, pixels)
    image.putpalette(PALETTE.tobytes())
    return image


def from_ycbcr(pixels: np.ndarray) -> np.ndarray:
    y, cb, cr = np.moveaxis(pixels.astype(float), -1, 0)
    red, blue = y + 1.402 * (cr - 128), y + 1.772 * (cb - 128)
    green = y - 0.344136 * (cb - 128) - 0.714136 * (cr - 128)
    return np.stack([red, green, blue], axis=-1).clip(0, 255) / 255


def from_hsv(pixels: np.ndarray) -> np.ndarray:
    return np.array([[colorsys.hsv_to_rgb(*(value / 255 for value in pixel)) for pixel in row] for row in pixels])


DEEP = (np.arange(120, dtype=np.uint16) * 546).reshape(10, 12)
MEANINGS = {  # mode -> image, values in [0, 1], tolerance
    "1": (PIL.Image.fromarray(GREY > 100), GREY > 100, 0),
    "L": (stored("L", GREY), GREY / 255, 1e-6),
    "LA": (stored("LA", np.dstack([GREY, OPAQUE])), GREY / 255, 1e-6),
    "La": (stored("LA", np.dstack([GREY, OPAQUE])).convert("La"), GREY / 255, 1e-6),
    "P": (with_palette("P", GREY), PALETTE[GREY] / 255, 1e-6),
    "PA": (with_palette("PA", np.dstack([GREY, OPAQUE])), PALETTE[GREY] / 255, 1e-6),
    "RGB": (stored("RGB", RGB), RGB / 255, 1e-6),
    "RGBX": (stored("RGBX", np.dstack([RGB, GREY])), RGB / 255, 1e-6),
    "RGBA": (stored("RGBA", BANDS4), RGB / 255, 1e-6),
    "RGBa": (stored("RGBA", BANDS4).convert("RGBa"), RGB / 255, 1e-6),
    "CMYK": (
        stored("CMYK", np.dstack([RGB, GREY // 2])),
        (1 - RGB / 255) * (1 - (GREY // 2)[..., None] / 255),
        1.01 / 255,
    ),
    "YCbCr": (stored("YCbCr", RGB), from_ycbcr(RGB), 1.01 / 255),
    "HSV": (stored("HSV", RGB), from_hsv(RGB), 2.01 / 255),
    "I;16": (PIL.Image.fromarray(DEEP), DEEP / 65535, 1e-6),
    "I;16L": (stored("I;16L", DEEP.astype("<u2")), DEEP / 65535, 1e-6),
    "I;16B": (stored("I;16B", DEEP.astype(">u2")), DEEP / 65535, 1e-6),
    "I;16N": (stored("I;16N", DEEP), DEEP / 65535, 1e-6),
    "F": (PIL.Image.fromarray(GREY / np.float32(255)), GREY / 255, 1e-6),
}


@pytest.mark.parametrize("mode", MEANINGS)
def test_what_a_mode_means(mode):
    image, expected, tolerance = MEANINGS[mode]
    assert image.mode == mode
    found = load_image(image)
    np.testing.assert_allclose(found.squeeze(), expected.astype(float), atol=tolerance)


def test_every_mode_is_decided():
    """All of Pillow's modes, of the table or refused by name."""
    modes = {"1", "L", "LA", "La", "P", "PA", "RGB", "RGBX", "RGBA", "RGBa", "CMYK", "YCbCr", "LAB", "HSV", "I", "F"}
    assert set(MODES) == modes | {"I;16", "I;16L", "I;16B", "I;16N"}
    assert set(MEANINGS) | {"I", "LAB"} == set(MODES)


def test_lab_is_what_littlecms_says():
    srgb, lab = PIL.ImageCms.createProfile("sRGB"), PIL.ImageCms.createProfile("LAB")
    image = PIL.ImageCms.applyTransform(PIL.Image.fromarray(RGB), PIL.ImageCms.buildTransform(srgb, lab, "RGB", "LAB"))
    assert image.mode == "LAB" and np.abs(load_image(image) - RGB / 255).max() < 0.1  # 8 bits of L, a and b
    grey = PIL.Image.merge("LAB", [PIL.Image.new("L", (2, 2), value) for value in (255, 128, 128)])
    assert load_image(grey).min() > 0.98


def test_integers_of_32_bits_are_only_stretched():
    image = PIL.Image.fromarray(np.array([[-1000, 0], [1000, 3000]], np.int32))
    assert image.mode == "I"
    with pytest.raises(TypeError, match="but was int32"):
        load_image(image)
    np.testing.assert_allclose(load_image(image, stretch=True)[..., 0], [[0, 0.25], [0.5, 1]])


def transparent() -> dict[str, PIL.Image.Image]:
    keyed = {}
    for name, image, key in (
        ("L", PIL.Image.fromarray(GREY), int(GREY[0, 3])),
        ("RGB", PIL.Image.fromarray(RGB), tuple(map(int, RGB[0, 0]))),
        ("P", with_palette("P", GREY), int(GREY[0, 3])),
        ("I;16", PIL.Image.fromarray(DEEP), int(DEEP[0, 3])),
    ):
        image.info["transparency"] = key
        keyed[f"{name} with a transparent value"] = image
    half = np.dstack([RGB, GREY])
    alpha = {"LA": np.dstack([GREY, GREY]), "RGBA": half}
    keyed |= {mode: stored(mode, pixels) for mode, pixels in alpha.items()}
    keyed |= {"La": keyed["LA"].convert("La"), "RGBa": keyed["RGBA"].convert("RGBa")}
    keyed["PA"] = with_palette("PA", np.dstack([GREY, GREY]))
    return keyed


@pytest.mark.parametrize("kind", transparent())
def test_transparency_is_refused_in_every_form(kind):
    with pytest.raises(ValueError, match="`image` must be opaque, but it has transparent pixels"):
        load_image(transparent()[kind])


def test_a_transparent_value_that_no_pixel_has_is_opaque():
    image = PIL.Image.fromarray(DEEP)
    image.info["transparency"] = 3
    np.testing.assert_allclose(load_image(image)[..., 0], DEEP / 65535, atol=1e-6)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["TIFF", "PNG", "JPEG", "WEBP"])
def test_orientations_are_not_applied(kind, orientation):
    """Pillow turns TIFFs while it loads them, other formats not: masks belong to the pixels as they are stored."""
    exif, file = PIL.Image.Exif(), io.BytesIO()
    exif[0x0112] = orientation
    options = {"TIFF": {"tiffinfo": {0x0112: orientation}}, "WEBP": {"lossless": True}}.get(kind, {})
    PIL.Image.fromarray(np.repeat(np.repeat(RGB, 8, 0), 8, 1)).save(file, kind, **{"exif": exif} | options)
    found = load_image(file)
    assert found.shape == (80, 96, 3) and np.abs(found[4::8, 4::8] - RGB / 255).max() < 0.3
    assert np.abs(found[4::8, 4::8] - RGB / 255).mean() < 0.03


@pytest.mark.parametrize("most", [1, 100, 255, 1023, 4095, 65535])
def test_pgm_of_any_maximum(most):
    values = np.arange(120).reshape(10, 12) * most // 119
    data = values.astype(">u2" if most > 255 else np.uint8).tobytes()
    found = load_image(io.BytesIO(b"P5\n12 10\n%d\n" % most + data))
    np.testing.assert_allclose(found[..., 0], values / most, atol=1 / 255 if most < 256 else 1e-5)


def test_a_phones_photo_with_more_pictures_is_the_photo(tmp_path):
    photo = PIL.Image.fromarray(np.repeat(np.repeat(RGB, 8, 0), 8, 1))
    file = tmp_path / "phone.jpg"
    photo.save(file, format="MPO", save_all=True, append_images=[photo.resize((32, 24))])
    plain = io.BytesIO()
    photo.save(plain, "JPEG")
    np.testing.assert_array_equal(load_image(file), load_image(plain))
    assert load_image(file, frame=1).shape == (24, 32, 3)
    with PIL.Image.open(file) as image:
        np.testing.assert_array_equal(load_image(image), load_image(plain))


def test_a_cmyk_jpeg_has_the_colours_of_its_rgb():
    file, smooth = io.BytesIO(), PIL.Image.fromarray(np.repeat(np.repeat(RGB, 8, 0), 8, 1))
    smooth.convert("CMYK").save(file, "JPEG", quality=100)  # Pillow writes Adobe's inverted inks
    assert b"Adobe" in file.getvalue()
    assert np.abs(load_image(file) - np.asarray(smooth) / 255).mean() < 0.01


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_frames_are_counted_and_chosen(kind):
    frames = [PIL.Image.fromarray(value + RGB // 8 * 8) for value in np.array([0, 3, 7], np.uint8)]
    file = io.BytesIO()
    frames[0].save(
        file, kind, save_all=True, append_images=frames[1:], **({"lossless": True} if kind == "WEBP" else {})
    )
    with pytest.raises(ValueError, match="single frame, but it holds 3: choose one by `frame`, from 0 to 2"):
        load_image(file)
    for frame in range(3):
        assert np.abs(load_image(file, frame=frame) - np.asarray(frames[frame]) / 255).max() < (
            0.2 if kind == "GIF" else 1e-6
        )
    for frame in (-1, 3):
        with pytest.raises(ValueError, match=f"`frame` must be from 0 to 2 for it, but was {frame}"):
            load_image(file, frame=frame)


def test_frames_of_what_has_one():
    file = io.BytesIO()
    PIL.Image.fromarray(GREY).save(file, "PNG")
    assert np.array_equal(load_image(file, frame=0), load_image(GREY))
    with pytest.raises(ValueError, match="`frame` must be from 0 to 0"):
        load_image(file, frame=1)
    with pytest.raises(ValueError, match="`frame` must be None for arrays"):
        load_image(GREY, frame=0)


@pytest.mark.parametrize("loaded", [False, True])
def test_a_closed_image_is_a_value_error(loaded, tmp_path):
    PIL.Image.fromarray(GREY).save(tmp_path / "a.png")
    image = PIL.Image.open(tmp_path / "a.png")
    if loaded:
        image.load()
    image.close()
    with pytest.raises(ValueError, match="`image` must be a file that can be read, but it cannot: .*closed"):
        load_image(image)
    with open(tmp_path / "a.png", "rb") as file:
        image = PIL.Image.open(file)
    with pytest.raises(ValueError, match="`image` must be a file that can be read, but it cannot"):
        load_image(image)


def test_profiles_change_nothing():
    file, profile = io.BytesIO(), PIL.ImageCms.ImageCmsProfile(PIL.ImageCms.createProfile("XYZ")).tobytes()
    PIL.Image.fromarray(RGB).save(file, "PNG", icc_profile=profile)
    assert PIL.Image.open(file).info["icc_profile"] == profile
    np.testing.assert_allclose(load_image(file), RGB / 255, atol=1e-6)
