"""Files that are no longer whole: refused or warned about, and no whole file is."""

import io
import re
import zlib

import numpy as np
import PIL.Image
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medseglatdiff.data.images import load_image
from medseglatdiff.data.jpeg_scan import read_frame, refuse_cut_jpeg

Y, X = np.mgrid[:160, :200]
NOISE = np.random.default_rng(0).normal(0, 4, (160, 200, 3))
PHOTO = (np.stack([Y + X, 90 + 80 * np.sin(X / 9), 255 - Y], axis=-1) + NOISE).clip(0, 255).astype(np.uint8)


def saved(format: str, pixels: np.ndarray = PHOTO, **options) -> bytes:
    file = io.BytesIO()
    PIL.Image.fromarray(pixels).save(file, format, **options)
    return file.getvalue()


JPEGS = {
    "baseline": dict(),
    "full colour": dict(subsampling=0),
    "half colour": dict(subsampling=1),
    "grey": dict(pixels=PHOTO[:, :, 0]),
    "optimised": dict(optimize=True),
    "best": dict(quality=100),
    "poor": dict(quality=10),
    "restarts": dict(restart_marker_blocks=7),
    "restarts by rows": dict(restart_marker_rows=1),
    "progressive": dict(progressive=True),
}


@pytest.mark.parametrize("kind", JPEGS)
def test_a_jpeg_that_is_cut_and_closed_again_is_refused(kind, recwarn):
    """Pillow fills what is missing with grey, without a word, if only the marker of the end is there."""
    data = saved("JPEG", **JPEGS[kind])
    load_image(io.BytesIO(data))
    assert not recwarn.list
    scans = [match.end() for match in re.finditer(rb"\xff\xda", data)]
    first, last = scans[0] + 14, scans[-1] if kind == "progressive" else len(data)  # where a cut leaves a picture
    for share in (0.1, 0.3, 0.5, 0.8):
        end = first + int(share * (last - first))
        cut = data[:end].rstrip(b"\xff") + b"\xff\xd9"
        PIL.Image.open(io.BytesIO(cut)).load()
        with pytest.raises(
            ValueError, match="it is a (JPEG that is damaged or cut short|progressive JPEG whose last)"
        ):
            load_image(io.BytesIO(cut))
        with pytest.raises(ValueError, match="cannot"):
            load_image(io.BytesIO(cut[:-2]))


def test_a_cut_jpeg_within_dicom_is_refused():
    pydicom = pytest.importorskip("pydicom", reason="needs the extra `dicom`")
    from dicom_fixtures import make, written

    for data, whole in ((saved("JPEG", PHOTO[:, :, 0]), True), (saved("JPEG", PHOTO[:, :, 0])[:-2000], False)):
        dataset = make(PHOTO[:, :, 0])
        dataset.file_meta.TransferSyntaxUID = pydicom.uid.JPEGBaseline8Bit
        dataset.PixelData = pydicom.encaps.encapsulate([data if whole else data + b"\xff\xd9"])
        dataset["PixelData"].VR, dataset["PixelData"].is_undefined_length = "OB", True
        if whole:
            assert load_image(written(dataset)).shape == (160, 200, 1)
        else:
            with pytest.raises(ValueError, match="damaged or cut short"):
                load_image(written(dataset))


def test_bytes_after_the_picture_are_warned_about():
    data = saved("JPEG", quality=90)
    start = read_frame(data).scans[0].start
    with pytest.warns(UserWarning, match="it may be a damaged JPEG: its picture ends before its data do"):
        load_image(io.BytesIO(data[:-2] + data[start : start + 400] + b"\xff\xd9"))


def test_a_jpeg_of_thousands_of_scans_is_refused_at_once():
    """A progressive file whose last scan is repeated: each costs a pass over the whole picture."""
    data = saved("JPEG", progressive=True)
    scan = read_frame(data).scans[-1]
    last = data[data.rindex(b"\xff\xda", 0, scan.start) : scan.end]
    with pytest.raises(ValueError, match="a JPEG of 50[0-9]{2} scans: more than 100"):
        load_image(io.BytesIO(data[:-2] + 5000 * last + data[-2:]))


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_no_whole_jpeg_is_refused(data):
    height, width = data.draw(st.tuples(st.integers(1, 70), st.integers(1, 70)))
    seed, kind = data.draw(st.integers(0, 99)), data.draw(st.sampled_from(["noise", "flat", "ramp", "disc"]))
    rng, (y, x) = np.random.default_rng(seed), np.mgrid[:height, :width]
    disc = np.hypot(y - height / 2, x - width / 2) < min(height, width) / 3
    pixels = {
        "noise": rng.integers(0, 256, (height, width, 3)),
        "flat": np.broadcast_to(rng.integers(0, 256, 3), (height, width, 3)),
        "ramp": np.stack([x + y, 2 * x, 3 * y], axis=-1) % 256,
        "disc": np.where(disc[..., None], rng.integers(0, 256, (height, width, 3)), 0),
    }[kind].astype(np.uint8)
    mode = data.draw(st.sampled_from(["L", "RGB", "CMYK"]))
    options = dict(quality=data.draw(st.integers(1, 100)), optimize=data.draw(st.booleans()))
    if mode != "CMYK":
        options["subsampling"] = data.draw(st.integers(0, 2))
    if data.draw(st.booleans()):
        options["restart_marker_blocks"] = data.draw(st.integers(1, 9))
    file = io.BytesIO()
    try:
        PIL.Image.fromarray(pixels).convert(mode).save(file, "JPEG", **options)
    except OSError:
        return  # Pillow's buffer is too small for some
    refuse_cut_jpeg(file.getvalue() + b"trailing bytes", "it")


def decodes(data: bytes) -> bool:
    try:
        PIL.Image.open(io.BytesIO(data)).load()
    except OSError:
        return False
    return True


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_wrong_checksums_are_refused(kind):
    """Pillow leaves a PNG's unread, and libtiff stops once it has all pixels: flipped bits may go unnoticed."""
    data = saved(kind, **({"compression": "tiff_adobe_deflate"} if kind == "TIFF" else {}))
    load_image(io.BytesIO(data))
    flipped = (data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :] for at in range(len(data) // 5, len(data) - 12, 97))
    checksum = data.index(b"IEND") - 5 if kind == "PNG" else None
    unnoticed = [changed for changed in flipped if kind == "TIFF" and decodes(changed)][:20]
    unnoticed += [data[:checksum] + bytes([data[checksum] ^ 1]) + data[checksum + 1 :]] if checksum else []
    assert unnoticed
    for changed in unnoticed:
        assert decodes(changed)
        with pytest.raises(ValueError, match="`image` must be a file that can be read, but it cannot"):
            load_image(io.BytesIO(changed))


def retagged(data: bytes, tag: int, value: int) -> bytes:
    """A little-endian TIFF with another value of a tag that has one."""
    start = int.from_bytes(data[4:8], "little")
    for entry in range(start + 2, start + 2 + 12 * int.from_bytes(data[start : start + 2], "little"), 12):
        if int.from_bytes(data[entry : entry + 2], "little") == tag:
            return data[: entry + 8] + value.to_bytes(4, "little") + data[entry + 12 :]
    raise AssertionError(f"no tag {tag}")


STRIPS = {
    "an empty strip": ((279, 0), "some of its strips are empty"),
    "a strip beyond the end": ((273, 10**6), "beyond its end"),
    "a strip too long": ((279, 10**6), "beyond its end"),
    "missing strips": ((278, 40), "some of its strips are missing"),
}


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "tiff_adobe_deflate", "packbits"])
@pytest.mark.parametrize("case", STRIPS)
def test_strips_that_are_not_there_are_refused(case, compression):
    (tag, value), message = STRIPS[case]
    data = saved("TIFF", PHOTO[:, :, 0], compression=compression, strip_size=10**6)
    load_image(io.BytesIO(data))
    with pytest.raises(ValueError, match=message):
        load_image(io.BytesIO(retagged(data, tag, value)))


def test_a_deflated_strip_of_a_tiff_is_bounded():
    """As a bomb is: a strip that unpacks to more than any image may."""
    data = saved("TIFF", np.zeros((8, 8), np.uint8), compression="tiff_adobe_deflate")
    packer = zlib.compressobj(1)
    bomb = b"".join(packer.compress(bytes(1 << 20)) for _ in range(520)) + packer.flush()
    changed = retagged(retagged(data, 279, len(bomb)), 273, len(data))
    with pytest.raises(ValueError, match="unpacks to at most 512 MB"):
        load_image(io.BytesIO(changed + bomb))


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "JPEG", "WEBP", "GIF", "JPEG2000", "BMP", "PPM", "AVIF"])
def test_files_that_are_cut_are_refused(kind):
    data = saved(kind)
    load_image(io.BytesIO(data))
    for length in (0, 1, 11, len(data) // 3, len(data) // 2, len(data) * 9 // 10):
        with pytest.raises(ValueError, match="`image` must be a file that can be read, but it cannot"):
            load_image(io.BytesIO(data[:length]))
