"""What TIFF's photometric interpretations mean, whatever the bits and the compression."""

import io
import struct

import numpy as np
import PIL.Image
import pytest

from medseglatdiff.data.images import load_image

GREY = np.arange(0, 240, 2, dtype=np.uint8).reshape(10, 12)
RGB = np.stack([GREY, GREY[::-1], GREY[:, ::-1]], axis=-1)
DEEP = (np.arange(120, dtype=np.uint16) * 546).reshape(10, 12)


def tiff(pixels: np.ndarray, bits: int, photometric: int, sample_format: int = 1, **tags: int) -> io.BytesIO:
    """An uncompressed TIFF of one strip, little endian, written by hand."""
    data, samples = pixels.tobytes(), pixels.shape[2] if pixels.ndim == 3 else 1
    height, width = pixels.shape[0], tags.pop("width", pixels.shape[1])
    depth = [bits] if samples == 1 else [bits] * samples
    entries = [(256, 3, [width]), (257, 3, [height]), (258, 3, depth), (259, 3, [1]), (262, 3, [photometric])]
    entries += [(273, 4, [8]), (277, 3, [samples]), (278, 3, [height]), (279, 4, [len(data)])]
    entries += [(339, 3, [sample_format] * samples)] + [
        (tag, 3, [value]) for tag, value in tags.get("more", {}).items()
    ]
    table, extra = b"", b""
    start = 8 + len(data) + 2 + 12 * len(entries) + 4
    for tag, kind, values in sorted(entries):
        packed = struct.pack(f"<{len(values)}{'H' if kind == 3 else 'I'}", *values)
        if len(packed) > 4:
            extra, packed = extra + packed, struct.pack("<I", start + len(extra))
        table += struct.pack("<HHI", tag, kind, len(values)) + packed.ljust(4, b"\0")
    head = b"II*\0" + struct.pack("<I", 8 + len(data)) + data + struct.pack("<H", len(entries))
    return io.BytesIO(head + table + bytes(4) + extra)


BITMAP = np.packbits(GREY[:, :8] > 100, axis=1)
PHOTOMETRICS = {  # file -> values
    "white is zero, 1 bit": (tiff(BITMAP, 1, 0, width=8), GREY[:, :8] <= 100),
    "black is zero, 1 bit": (tiff(BITMAP, 1, 1, width=8), GREY[:, :8] > 100),
    "white is zero, 8 bits": (tiff(GREY, 8, 0), 1 - GREY / 255),
    "black is zero, 8 bits": (tiff(GREY, 8, 1), GREY / 255),
    "white is zero, 16 bits": (tiff(DEEP, 16, 0), 1 - DEEP / 65535),
    "black is zero, 16 bits": (tiff(DEEP, 16, 1), DEEP / 65535),
    "black is zero, floats": (tiff(GREY / np.float32(255), 32, 1, 3), GREY / 255),
    "RGB": (tiff(RGB, 8, 2), RGB / 255),
    "CMYK": (tiff(np.dstack([RGB, np.zeros_like(GREY)]), 8, 5), 1 - RGB / 255),
}


@pytest.mark.parametrize("kind", PHOTOMETRICS)
def test_what_a_tiff_photometric_means(kind):
    file, expected = PHOTOMETRICS[kind]
    np.testing.assert_allclose(load_image(file).squeeze(), expected.astype(float), atol=1e-6)


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate", "packbits", "group4"])
@pytest.mark.parametrize("photometric", [0, 1])
def test_compressed_tiffs_mean_the_same(compression, photometric):
    file = io.BytesIO()
    grey = GREY > 100 if compression == "group4" else GREY
    PIL.Image.fromarray(grey).save(file, "TIFF", compression=compression, tiffinfo={262: photometric})
    assert PIL.Image.open(file).tag_v2[262] == photometric
    np.testing.assert_allclose(load_image(file)[..., 0], grey if compression == "group4" else grey / 255, atol=1e-6)


def test_floats_whose_white_is_zero_are_refused():
    with pytest.raises(ValueError, match="must not use 0 for white, .* float TIFF"):
        load_image(tiff(GREY / np.float32(255), 32, 0, 3))


@pytest.mark.parametrize("photometric", [4, 9, 32803, 34892])
def test_other_tiff_photometrics_are_refused(photometric):
    with pytest.raises(ValueError, match="`image` must"):
        load_image(tiff(GREY, 8, photometric))
