"""What the demo accepts and what it refuses, with a sentence each time."""

import io
import logging
import warnings

import numpy as np
import PIL.Image
import pydicom
import pytest
from demo_fixtures import SECRET, dicom, phantom_png, png, png_bomb, text_bomb
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.uid import DeflatedExplicitVRLittleEndian, RLELossless

from medseglatdiff.data.images import load_image
from medseglatdiff.demo import limits
from medseglatdiff.demo.limits import InputError, check_settings, read_upload


def encapsulated() -> bytes:
    dataset = pydicom.dcmread(io.BytesIO(dicom()))
    dataset.compress(RLELossless)
    file = io.BytesIO()
    dataset.save_as(file)
    return file.getvalue()


def animation() -> bytes:
    frames = [PIL.Image.new("L", (8, 8), value) for value in (0, 255)]
    return png(frames[0], save_all=True, append_images=frames[1:])


def encoded(kind: str, **options) -> bytes:
    file = io.BytesIO()
    PIL.Image.effect_noise((40, 30), 60).save(file, kind, **options)
    return file.getvalue()


def tiff(pages: int = 1) -> bytes:
    more = [PIL.Image.new("L", (40, 30), 9) for _ in range(pages - 1)]
    return encoded("TIFF", save_all=True, append_images=more, compression="tiff_lzw")


BAD_FILES = {
    "nothing": (lambda: None, limits.UPLOAD_FIRST),
    "empty": (lambda: b"", limits.EMPTY),
    "too large": (lambda: bytes(40_000_001), limits.TOO_BIG),
    "100 megapixels": (lambda: png(PIL.Image.new("1", (10_000, 10_000))), limits.TOO_MANY_PIXELS),
    "a bomb by its header": (lambda: png_bomb(60_000, 60_000), limits.TOO_MANY_PIXELS),
    "a comment that unpacks to 200 MB": (text_bomb, limits.DAMAGED),
    "text": (lambda: b"just a text, called image.png", limits.NO_IMAGE),
    "a TIFF in name only": (lambda: b"II*\0" + bytes(200), limits.NO_IMAGE),
    "a TIFF of two pages": (lambda: tiff(pages=2), limits.ANIMATED),
    "a GIF": (lambda: encoded("GIF"), limits.NO_IMAGE),
    "cut short": (lambda: phantom_png()[:-60], limits.DAMAGED),
    "animated": (animation, limits.ANIMATED),
    "several frames": (lambda: dicom(NumberOfFrames=2), limits.SEVERAL_FRAMES),
    "colour": (lambda: dicom(PhotometricInterpretation="RGB", SamplesPerPixel=3), limits.COLOUR_DICOM),
    "compressed": (encapsulated, limits.COMPRESSED_DICOM),
    "deflated": (lambda: dicom(DeflatedExplicitVRLittleEndian), limits.COMPRESSED_DICOM),
    "many pixels in DICOM": (lambda: dicom(Rows=60_000, Columns=60_000), limits.DICOM_TOO_LARGE),
    "DICOM without an image": (lambda: dicom(Rows=None), limits.NO_PIXELS),
    "DICOM without its pixels": (lambda: dicom(PixelData=None), limits.DAMAGED_DICOM),
    "DICOM cut short": (lambda: dicom()[:-9000], limits.DAMAGED_DICOM),
    "DICOM in name only": (lambda: bytes(128) + b"DICM" + bytes(range(256)), limits.DAMAGED_DICOM),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_file(name):
    make, sentence = BAD_FILES[name]
    with pytest.raises(InputError) as told:
        read_upload(make(), stretch=False)
    assert str(told.value) == sentence and sentence.endswith(".")
    assert told.value.__context__ is None or told.value.__suppress_context__  # no parser's message goes with it


def test_transparency_and_odd_modes_are_told_in_words():
    see_through = PIL.Image.new("RGBA", (8, 8), (1, 2, 3, 4))
    with pytest.raises(InputError, match="^The image must be opaque.*flatten it"):
        read_upload(png(see_through), stretch=False)
    file = io.BytesIO()
    PIL.Image.new("CMYK", (8, 8)).save(file, "JPEG")
    assert read_upload(file.getvalue(), stretch=False).image.shape == (8, 8, 3)


def test_a_phones_photo_with_a_preview_is_the_photo():
    file, photo = io.BytesIO(), PIL.Image.effect_noise((64, 48), 40)
    photo.save(file, "MPO", save_all=True, append_images=[photo.resize((8, 6))])
    assert read_upload(file.getvalue(), stretch=False).image.shape == (48, 64, 1)


def test_a_wrong_checksum_is_told():
    data = bytearray(phantom_png())
    data[data.index(b"IEND") - 5] ^= 1
    with pytest.raises(InputError, match="^The image must be a file that can be read"):
        read_upload(bytes(data), stretch=False)


@pytest.mark.parametrize(
    "values, name, given_",
    [
        ((0, 10, 0), "hypotheses", "0"),
        ((10_000, 10, 0), "hypotheses", "10000"),
        ((4, 51, 0), "steps", "51"),
        ((4, 2.5, 0), "steps", "2.5"),
        ((4, 2, -1), "seed", "-1"),
        ((4, 2, float("nan")), "seed", "nan"),
        ((None, 2, 0), "hypotheses", "nothing"),
        (("4", 2, 0), "hypotheses", "4"),
    ],
)
def test_bad_settings(values, name, given_):
    with pytest.raises(InputError, match=f"whole number from . to .* for .*{name}; you gave {given_}"):
        check_settings(*values)


def test_good_settings_become_integers():
    checked = check_settings(32, 50.0, 2**32 - 1)
    assert checked == (32, 50, 2**32 - 1) and all(type(value) is int for value in checked)


@pytest.mark.parametrize("stretch", (False, True))
def test_good_files_are_read_as_the_package_reads_them(stretch, tmp_path):
    for name, data in (("a.png", phantom_png()), ("b.dcm", dicom()), ("c.tif", tiff())):
        path = tmp_path / name
        path.write_bytes(data)
        upload = read_upload(data, stretch)
        np.testing.assert_array_equal(upload.image, load_image(path, stretch))
        assert (upload.dicom, upload.spacing) == ((data, (0.661468, 0.661468)) if name == "b.dcm" else (None, None))


def test_a_large_photo_is_shown_smaller_and_segmented_from_the_original():
    rng, file = np.random.default_rng(0), io.BytesIO()
    photo = np.kron(rng.integers(0, 256, (30, 50), dtype=np.uint8), np.ones((100, 100), np.uint8))  # 15 megapixels
    PIL.Image.fromarray(photo).save(file, "PNG")
    upload = read_upload(file.getvalue(), stretch=False)
    height, width = upload.image.shape[:2]
    assert upload.size == photo.shape and 0.99 < height * width / limits.MAX_RESULT_PIXELS <= 1
    assert width / height == pytest.approx(5 / 3, abs=0.002)
    np.testing.assert_array_equal(load_image(upload.source())[..., 0], (photo / np.float32(255)).astype(np.float32))
    assert abs(upload.image.mean() - photo.mean() / 255) < 1e-3
    small = read_upload(phantom_png(), stretch=False)
    assert small.size == small.image.shape[:2] and small.source() is small.image


def test_an_impossible_spacing_is_none():
    assert read_upload(dicom(PixelSpacing=[0, 0.5]), stretch=False).spacing is None
    assert read_upload(dicom(PixelSpacing=None), stretch=False).spacing is None


def test_patient_data_stays_out_of_warnings_and_logs(caplog):
    limits.silence_pydicom()
    data = dicom().replace(b"19640812", SECRET.encode()[:8])  # a birth date that is none: pydicom would quote it
    with warnings.catch_warnings(record=True) as warned, caplog.at_level(logging.DEBUG):
        upload = read_upload(data, stretch=False)
    assert SECRET[:8] not in "".join(map(str, warned)) + caplog.text + repr(upload)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_flipped_bytes_are_read_or_refused(data):
    good = data.draw(st.sampled_from([phantom_png(), dicom()]))
    broken = bytearray(good)
    for position in data.draw(st.lists(st.integers(0, min(len(good), 3000) - 1), min_size=1, max_size=8)):
        broken[position] = data.draw(st.integers(0, 255))
    try:
        upload = read_upload(bytes(broken[: data.draw(st.integers(1, len(good)))]), stretch=True)
        assert upload.image.ndim == 3 and 0 <= upload.image.min() <= upload.image.max() <= 1
    except InputError as error:
        assert str(error).endswith(".")
