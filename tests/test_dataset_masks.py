"""Every way in which people store a mask: what was drawn, or a refusal that names the option which decides."""

import io

import numpy as np
import PIL.Image
import pytest
from dataset_fixtures import encode, nothing_left, own_cache, rows_of, write_folder  # noqa: F401

from medseglatdiff.builders import folder

SHAPE = (24, 32)
Y, X = np.mgrid[: SHAPE[0], : SHAPE[1]]
DRAWN = (Y - 10) ** 2 + (X - 12) ** 2 <= 36
OTHER = (Y > 18) & (X > 24) & (Y < 22) & (X < 30)
FULL = np.full(SHAPE, 255, np.uint8)
GREY = DRAWN * np.uint8(255)


def file(image: PIL.Image.Image, kind: str = "PNG", **options) -> bytes:
    data = io.BytesIO()
    image.save(data, kind, **options)
    return data.getvalue()


def merged(mode: str, *channels: np.ndarray, kind: str = "PNG") -> bytes:
    return file(PIL.Image.merge(mode, [PIL.Image.fromarray(channel) for channel in channels]), kind)


def palette(indices: np.ndarray, colours: list, **options) -> bytes:
    image = PIL.Image.fromarray(indices.astype(np.uint8), "P")
    image.putpalette([value for colour in colours for value in colour])
    return file(image, **options)


def coloured(inside: tuple, outside: tuple, kind: str = "PNG", **options) -> bytes:
    pixels = np.where(DRAWN[..., None], inside, outside).astype(np.uint8)
    return file(PIL.Image.fromarray(pixels), kind, **options)


ZERO = np.zeros(SHAPE, np.uint8)
JPEG = {"kind": "JPEG"}
RIGHT = {
    "0 and 255": encode(GREY),
    "0 and 1": encode(GREY // 255),
    "0 and 128": encode(GREY // 2),
    "one bit": encode(GREY, mode="1"),
    "16 bits": encode(GREY.astype(np.uint16) * 257),
    "16 bits, 0 and 1": encode(DRAWN.astype(np.uint16), "TIFF"),
    "32 bits": encode(GREY.astype(np.int32), "TIFF"),
    "float, 0 and 1": encode(DRAWN.astype(np.float32), "TIFF"),
    "grey, opaque alpha": merged("LA", GREY, FULL),
    "grey, constant alpha": merged("LA", GREY, FULL // 2),
    "RGB, opaque alpha": merged("RGBA", GREY, GREY, GREY, FULL),
    "white, alpha is the mask": merged("LA", FULL, GREY),
    "red, alpha is the mask": merged("RGBA", FULL, ZERO, ZERO, GREY),
    "black, alpha is the mask": merged("RGBA", ZERO, ZERO, ZERO, GREY),
    "red where visible": merged("RGBA", GREY, ZERO, ZERO, GREY),
    "red on black": coloured((255, 0, 0), (0, 0, 0)),
    "dark blue on black": coloured((0, 0, 40), (0, 0, 0)),
    "RGB greys": coloured((1, 1, 1), (0, 0, 0)),
    "palette": palette(DRAWN, [(0, 0, 0), (255, 255, 255)]),
    "palette, white first": palette(~DRAWN, [(255, 255, 255), (0, 0, 0)]),
    "palette, red on black": palette(DRAWN, [(0, 0, 0), (128, 0, 0)]),
    "palette, black last": palette(np.where(DRAWN, 3, 7), [(9, 9, 9)] * 3 + [(0, 200, 0)] + [(0, 0, 0)] * 5),
    "palette, transparent": palette(DRAWN, [(255, 255, 255), (255, 255, 255)], transparency=0),
    "GIF": encode(GREY, "GIF"),
    "BMP": encode(GREY, "BMP"),
    "JPEG": file(PIL.Image.fromarray(GREY), "JPEG", quality=95),
    "RGB JPEG": file(PIL.Image.fromarray(GREY).convert("RGB"), "JPEG", quality=95),
    "WebP, lossless": file(PIL.Image.fromarray(GREY).convert("RGB"), "WEBP", lossless=True),
}
TWO = DRAWN + np.uint8(2) * OTHER
WITH_HOLE = np.where(DRAWN, 0, 255).astype(np.uint8)
SOFT = np.clip(20 * (7 - np.hypot(Y - 10, X - 12)) + 128, 0, 255).astype(np.uint8)
# a refused file -> the option that its sentence names, and the same file read with that option
DECIDED = {
    "greys between": (encode(SOFT), ["--threshold", "127"], SOFT > 127),
    "greys between, as RGB": (encode(np.stack([SOFT] * 3, -1)), ["--threshold", "127"], SOFT > 127),
    "probabilities": (encode(SOFT.astype(np.float32) / 255, "TIFF"), ["--threshold", "0.5"], SOFT > 127.5),
    "soft alpha": (merged("LA", FULL, SOFT), ["--threshold", "127"], SOFT > 127),
    "soft 16 bits": (encode(SOFT.astype(np.uint16) * 257), ["--threshold", "32767"], SOFT > 127),
    "soft JPEG": (file(PIL.Image.fromarray(SOFT), "JPEG", quality=100), ["--threshold", "127"], None),
    "one bit, threshold": (encode(WITH_HOLE, mode="1"), ["--threshold", "127"], ~DRAWN),
    "instance numbers": (encode(TWO), ["--instances"], DRAWN | OTHER),
    "instance numbers, 16 bits": (encode(TWO.astype(np.uint16) * 300), ["--instances"], DRAWN | OTHER),
    "instance colours": (
        encode(np.stack([TWO * 100, DRAWN * np.uint8(7), ZERO], -1)),
        ["--instances"],
        DRAWN | OTHER,
    ),
    "palette of three": (palette(TWO, [(0, 0, 0), (9, 0, 0), (0, 9, 0)]), ["--instances"], DRAWN | OTHER),
    "0, 1 and 255": (encode(DRAWN + np.uint8(255) * OTHER), ["--threshold", "127"], OTHER),
    "1 and 2": (encode(DRAWN + np.uint8(1)), ["--threshold", "1"], DRAWN),
    "1 and 255": (encode(np.maximum(GREY, 1)), ["--threshold", "127"], DRAWN),
    "dark on white": (encode(WITH_HOLE), ["--invert"], DRAWN),
    "dark on white, palette": (palette(DRAWN, [(255, 255, 255), (0, 0, 0)]), ["--invert"], DRAWN),
    "dark on white, JPEG": (file(PIL.Image.fromarray(WITH_HOLE), "JPEG", quality=95), ["--invert"], DRAWN),
}
NO_WAY = {
    "red on white": (coloured((255, 0, 0), (255, 255, 255)), "2 colours, not black and one other"),
    "several colours with holes": (merged("RGBA", GREY, SOFT, ZERO, GREY), "transparent pixels"),
    "black sheet with a hole": (merged("RGBA", ZERO, ZERO, ZERO, 255 - GREY), "drawn or cut out"),
    "CMYK": (file(PIL.Image.fromarray(GREY).convert("CMYK"), "TIFF"), "mode CMYK"),
    "NaN": (encode(np.where(DRAWN, np.nan, 0).astype(np.float32), "TIFF"), "NaN"),
    "a JPEG of 0 and 1": (file(PIL.Image.fromarray(GREY // 60), "JPEG", quality=95), "--threshold"),
    "several frames": (
        file(PIL.Image.fromarray(GREY), "TIFF", save_all=True, append_images=[PIL.Image.fromarray(GREY)]),
        "2 frames",
    ),
}


def arguments(tmp_path, masks: dict[str, bytes]) -> list[str]:
    """Images 0, 1, ... in the train split, each with one of the masks."""
    random = np.random.default_rng(0)
    files = {}
    for number, data in enumerate(masks.values()):
        files[f"train/images/{number}.png"] = encode(random.integers(0, 255, SHAPE, np.uint8))
        files[f"train/masks/{number}.png"] = data
    return [str(write_folder(tmp_path / "in", files)), "--out", str(tmp_path / "out")]


def test_what_says_plainly_what_is_drawn_is_taken(tmp_path):
    rows = rows_of(folder.main(arguments(tmp_path, RIGHT)))
    for number, name in enumerate(RIGHT):
        (mask,) = rows[f"train/{number}"]["masks"]
        assert mask.mode == "L" and np.array_equal(np.asarray(mask), GREY), name


@pytest.mark.parametrize("name", DECIDED)
def test_what_may_mean_several_things_is_refused_with_the_option_that_decides(tmp_path, name):
    data, option, expected = DECIDED[name]
    command = arguments(tmp_path, {name: data})
    with pytest.raises(ValueError, match=option[0]):
        folder.main(command)
    assert nothing_left(tmp_path)
    (row,) = rows_of(folder.main([*command, *option])).values()
    got = np.asarray(row["masks"][0]) > 0
    assert np.array_equal(got, expected) if expected is not None else abs(got.sum() - (SOFT > 127).sum()) < 5


@pytest.mark.parametrize("name", NO_WAY)
def test_what_no_option_can_decide_is_refused_by_name(tmp_path, name):
    data, reason = NO_WAY[name]
    with pytest.raises(ValueError, match=reason) as error:
        folder.main(arguments(tmp_path, {name: data}))
    assert "in/train/masks/0.png" in str(error.value)


@pytest.mark.parametrize("axis", [X, Y], ids=["columns", "rows"])
def test_instances_need_a_background(tmp_path, axis):
    stripes = np.where(axis < 10, 1, 2).astype(np.uint8)  # [H, W]
    command = [*arguments(tmp_path, {"stripes": encode(stripes)}), "--instances"]
    with pytest.raises(ValueError, match="several numbers or colours"):
        folder.main(command)


LABELS = {
    "greys": (encode(TWO), None),
    "palette": (palette(TWO, [(0, 0, 0), (255, 0, 0), (0, 255, 0)]), None),
    "palette without black": (palette(TWO, [(9, 9, 9), (255, 0, 0), (0, 255, 0)]), None),
    "16 bits": (encode(TWO.astype(np.uint16)), None),
    "float": (encode(TWO.astype(np.float32), "TIFF"), None),
    "opaque alpha": (merged("LA", TWO, FULL), None),
    "black is label 2": (palette(2 - TWO, [(0, 255, 0), (255, 0, 0), (0, 0, 0)]), "black is the label 2"),
    "JPEG": (file(PIL.Image.fromarray(TWO), "JPEG"), "as JPEG"),
    "halves": (encode(TWO.astype(np.float32) / 2, "TIFF"), "other numbers"),
    "negative": (encode(TWO.astype(np.int32) - 1, "TIFF"), "other numbers"),
    "greys for eyes": (encode(TWO * 100), "holds the label 200"),
}


@pytest.mark.parametrize("name", LABELS)
def test_label_maps_are_the_numbers_that_were_stored(tmp_path, name):
    data, reason = LABELS[name]
    command = [*arguments(tmp_path, {name: data}), "--num-classes", "2"]
    if reason:
        with pytest.raises(ValueError, match=reason):
            folder.main(command)
    else:
        (row,) = rows_of(folder.main(command)).values()
        assert np.array_equal(np.asarray(row["masks"][0]), TWO)


def test_options_that_exclude_each_other_are_refused(tmp_path, capsys):
    command = arguments(tmp_path, {"plain": RIGHT["0 and 255"]})
    for wrong in (["--threshold", "1", "--instances"], ["--num-classes", "2", "--invert"], ["--threshold", "many"]):
        with pytest.raises(SystemExit) as error:
            folder.main([*command, *wrong])
        assert error.value.code == 2 and wrong[0] in capsys.readouterr().err
