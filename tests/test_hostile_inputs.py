"""Changed bytes of tiny files, and every file that pydicom ships: an image or a sentence, never another exception."""

import io
import warnings
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from faults.ledger import within
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medseglatdiff.data.images import load_image
from medseglatdiff.data.spacing import pixel_spacing

pydicom = pytest.importorskip("pydicom", reason="needs the extra `dicom`")
from dicom_fixtures import STORED, item, make, written  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # what pydicom and Pillow think of the damage
ERRORS = (ValueError, TypeError, OSError)
OF_PILLOW = (OSError, SyntaxError, ValueError, PIL.Image.DecompressionBombError)
RGB = np.random.default_rng(0).integers(0, 256, (9, 11, 3), dtype=np.uint8)


def picture(format: str, **options) -> bytes:
    file = io.BytesIO()
    PIL.Image.fromarray(RGB).save(file, format, **options)
    return file.getvalue()


def enhanced() -> bytes:
    group = item(
        PixelMeasuresSequence=item(PixelSpacing=[1, 2]),
        FrameVOILUTSequence=item(WindowCenter=40, WindowWidth=400),
        PixelValueTransformationSequence=item(RescaleSlope=1, RescaleIntercept=-1024),
    )
    return written(make(np.stack([STORED] * 2), SharedFunctionalGroupsSequence=group)).getvalue()


def tables() -> bytes:
    table = item(LUTDescriptor=[4, 0, 16], LUTData=b"\1\0\2\0\3\0\4\0")
    return written(make(VOILUTSequence=table, PixelPaddingValue=3500, PixelSpacing=[1, 1])).getvalue()


FILES = [
    *(picture(format) for format in ("PNG", "JPEG", "TIFF", "GIF", "WEBP", "BMP", "PPM", "JPEG2000")),
    picture("TIFF", compression="tiff_lzw"),
    picture("TIFF", compression="tiff_adobe_deflate"),
    picture("JPEG", progressive=True),
    written(make()).getvalue(),
    written(make(RGB)).getvalue(),
    written(make(syntax=pydicom.uid.ImplicitVRLittleEndian)).getvalue(),
    written(make(syntax=pydicom.uid.DeflatedExplicitVRLittleEndian)).getvalue(),
    enhanced(),
    tables(),
]


@st.composite
def changed_files(draw) -> bytes:
    data = bytearray(draw(st.sampled_from(FILES)))
    for _ in range(draw(st.integers(1, 6))):
        at = draw(st.integers(0, len(data) - 1))
        kind = draw(st.sampled_from(["byte", "bit", "zeros", "ones", "repeat", "remove"]))
        length = draw(st.integers(1, 12))
        if kind == "byte":
            data[at] = draw(st.integers(0, 255))
        elif kind == "bit":
            data[at] ^= 1 << draw(st.integers(0, 7))
        elif kind in ("zeros", "ones"):
            data[at : at + length] = (b"\0" if kind == "zeros" else b"\xff") * min(length, len(data) - at)
        elif kind == "repeat":
            data[at:at] = data[at : at + length]
        elif len(data) > length:
            del data[at : at + length]
    return bytes(data[: draw(st.integers(1, len(data)))] if draw(st.booleans()) else data)


def read_or_refuse(data: bytes, stretch: bool, frame: int | None):
    for read in (lambda: load_image(io.BytesIO(data), stretch, frame), lambda: pixel_spacing(io.BytesIO(data))):
        try:
            result = read()
        except ERRORS as error:
            assert not isinstance(error, UnicodeError) and len(str(error)) > 10
        else:
            if isinstance(result, np.ndarray):
                assert result.ndim == 3 and 0 <= result.min() <= result.max() <= 1
            elif result is not None:
                assert len(result) == 2 and all(0 < distance < np.inf for distance in result)


@pytest.mark.parametrize("data", FILES, ids=range(len(FILES)))
def test_unchanged_files_are_read(data):
    assert load_image(io.BytesIO(data), frame=0).shape[:2] in (RGB.shape[:2], STORED.shape)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(changed_files(), st.booleans(), st.sampled_from([None, 0, 1]))
def test_changed_bytes_are_an_image_or_a_sentence(data, stretch, frame):
    read_or_refuse(data, stretch, frame)


@pytest.mark.slow
@settings(max_examples=10_000, deadline=None, suppress_health_check=list(HealthCheck))
@given(changed_files(), st.booleans(), st.sampled_from([None, 0, 1]))
def test_ten_thousand_changed_files(data, stretch, frame):
    read_or_refuse(data, stretch, frame)


def independent(path: Path, frame: int) -> np.ndarray:
    """A file's values by a second formula, which shares nothing with the package's but pydicom's decoding."""
    dataset = pydicom.dcmread(path, force=True)
    stored = pydicom.pixels.pixel_array(dataset, index=frame)
    if dataset.PhotometricInterpretation == "PALETTE COLOR":
        stored = pydicom.pixels.apply_color_lut(stored, dataset)
        return stored / (255 if stored.dtype == np.uint8 else 65535)
    if stored.ndim == 3:
        return stored / (2.0**dataset.BitsStored - 1)
    values = np.float64(dataset.get("RescaleSlope") or 1) * stored + np.float64(dataset.get("RescaleIntercept") or 0)
    if dataset.get("PixelPaddingValue") is not None:
        empty = (stored.astype(int) - int(dataset.PixelPaddingValue)) % 2**16 == 0
        values[empty] = values[~empty].min()
    centers, widths = (np.atleast_1d(dataset.get(name) or []) for name in ("WindowCenter", "WindowWidth"))
    if len(centers):
        low, high = centers[0] - 0.5 - (widths[0] - 1) / 2, centers[0] - 0.5 + (widths[0] - 1) / 2
        shown = np.interp(values, [low, high], [0, 1])
    else:
        shown = np.interp(values, [values.min(), values.max()], [0, 1])
    return 1 - shown if dataset.PhotometricInterpretation == "MONOCHROME1" else shown


@pytest.mark.slow
def test_every_file_that_pydicom_ships():
    """Values within .002 of an independent formula where they are read, a sentence elsewhere."""
    paths = [Path(name) for name in pydicom.data.get_testdata_files() if Path(name).is_file()]
    read, told = {}, {}
    for path in paths:
        for frame in (None, 0):
            with within(60):
                try:
                    read[path, frame] = load_image(path, frame=frame)
                    pixel_spacing(path)
                except (*ERRORS, ImportError) as error:
                    told[path, frame] = error
                    assert "`" in str(error) and "Traceback" not in str(error), (path, error)
    for (path, frame), found in read.items():
        expected = independent(path, frame or 0)
        assert np.abs(found.squeeze() - expected).max() < 0.002, path
    assert len({path for path, _ in read}) >= 64 and len(read) + len(told) == 2 * len(paths)


@pytest.mark.slow
def test_every_picture_that_the_environment_ships():
    """Pillow's wheel holds no test images: those of the other packages do, if there are any."""
    root = Path(PIL.__file__).parent.parent
    suffixes = {".png", ".jpg", ".jpeg", ".gif", ".tif", ".tiff", ".bmp", ".webp", ".ppm", ".pgm", ".ico"}
    paths = [path for path in sorted(root.rglob("*")) if path.suffix.lower() in suffixes and path.is_file()][:300]
    if not paths:
        pytest.skip(f"no package in {root} ships pictures")
    num_read = 0
    for path in paths:
        with within(60), warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            try:
                found = load_image(path)
            except ERRORS as error:
                known = ("be opaque", "hold a single frame", "be of type", "hold floats")
                if not str(error).startswith(tuple(f"`image` must {reason}" for reason in known)):
                    with pytest.raises(OF_PILLOW):  # Pillow cannot either
                        PIL.Image.open(path).load()
            else:
                num_read += 1
                with PIL.Image.open(path) as image:
                    deep = image.mode.startswith("I")
                    expected = np.asarray(image) / 65535 if deep else np.asarray(image.convert("RGB")) / 255
                    assert np.abs(found - np.atleast_3d(expected)).max() < 0.02, path
    assert num_read  # how many there are, and how many are opaque, is up to the packages
