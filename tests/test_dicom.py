"""DICOM as a viewer would first show it: rescaling, windows, inversion, padding; what is refused."""

from pathlib import Path

import numpy as np
import pytest

from medseglatdiff.data.dicom import is_dicom, read_dicom
from medseglatdiff.data.images import load_image, preprocess
from medseglatdiff.data.spacing import pixel_spacing

pydicom = pytest.importorskip("pydicom", reason="needs the extra `dicom`")
from dicom_fixtures import window_by_the_standard  # noqa: E402
from pydicom.data import get_testdata_file  # noqa: E402
from pydicom.dataset import FileMetaDataset  # noqa: E402
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid  # noqa: E402

STORED = np.array([[0, 500, 1000, 1500], [2000, 2500, 3000, 3500]], np.uint16)


@pytest.fixture
def write(tmp_path):
    """Writes `STORED` as a DICOM file with these attributes more; `None` takes one away."""

    def write(stored: np.ndarray = STORED, name: str = "slice.dcm", **attributes):
        dataset = pydicom.Dataset()
        dataset.Rows, dataset.Columns = stored.shape
        dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
        dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 16, 15, 0
        dataset.PixelData = stored.astype("<u2").tobytes()
        for key, value in attributes.items():
            if value is None:
                delattr(dataset, key)
            else:
                setattr(dataset, key, value)
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        dataset.file_meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
        dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=["test"])
        dataset.save_as(tmp_path / name, enforce_file_format=True)
        return tmp_path / name

    return write


def test_without_a_window_the_full_range_is_shown(write):
    assert np.allclose(load_image(write())[:, :, 0], STORED / 3500)
    assert np.allclose(load_image(write(WindowCenter="", WindowWidth=""))[:, :, 0], STORED / 3500)


def test_monochrome1_is_inverted(write):
    assert np.allclose(read_dicom(write(PhotometricInterpretation="MONOCHROME1")), 1 - STORED / 3500)
    window = dict(WindowCenter=1750.5, WindowWidth=3501)
    light = read_dicom(write(**window))
    assert np.allclose(read_dicom(write(PhotometricInterpretation="MONOCHROME1", **window)), 1 - light)


def test_windows_follow_the_standard(write):
    hounsfield = STORED.astype(float) - 1024
    shared = dict(RescaleIntercept=-1024, RescaleSlope=1, WindowCenter=40, WindowWidth=1400)
    assert np.allclose(read_dicom(write(**shared)), window_by_the_standard(hounsfield, 40, 1400), atol=1e-6)
    assert np.allclose(read_dicom(write(**shared, VOILUTFunction="")), read_dicom(write(**shared)))
    exact = ((hounsfield - 40) / 1400 + 0.5).clip(0, 1)
    assert np.allclose(read_dicom(write(**shared, VOILUTFunction="LINEAR_EXACT")), exact, atol=1e-6)
    sigmoid = 1 / (1 + np.exp(-4 * (hounsfield - 40) / 1400))
    assert np.allclose(read_dicom(write(**shared, VOILUTFunction="SIGMOID")), sigmoid, atol=1e-6)


def test_the_first_of_several_windows_counts_and_stretch_ignores_them(write):
    several = dict(WindowCenter=[1000, 2000], WindowWidth=[800, 400])
    assert np.allclose(read_dicom(write(**several)), read_dicom(write(WindowCenter=1000, WindowWidth=800)))
    assert np.allclose(load_image(write(**several), stretch=True)[:, :, 0], STORED / 3500)


def test_padding_takes_the_darkest_scanned_value(write):
    padded = STORED.copy()
    padded[0, :2], padded[1, 3] = 63536, 63000
    found = read_dicom(write(padded, PixelPaddingValue=63536, PixelPaddingRangeLimit=62000))
    expected = np.array([[0, 0, 0, 500], [1000, 1500, 2000, 0]]) / 2000
    assert np.allclose(found, expected)
    inverted = dict(PhotometricInterpretation="MONOCHROME1", PixelPaddingValue=63536, PixelPaddingRangeLimit=62000)
    darkest = read_dicom(write(padded, **inverted))
    assert darkest[0, 0] == 0 and darkest[0, 2] == 1


def test_a_real_slice_and_a_name_without_suffix(tmp_path):
    source = Path(get_testdata_file("CT_small.dcm", download=False))
    dataset = pydicom.dcmread(source)
    (tmp_path / "slice").write_bytes(source.read_bytes())
    assert is_dicom(tmp_path / "slice") and not is_dicom(tmp_path / "nothing.png")
    shown = load_image(tmp_path / "slice", stretch=True)[:, :, 0]
    hounsfield = dataset.pixel_array * dataset.RescaleSlope + dataset.RescaleIntercept
    assert np.allclose(shown, (hounsfield - hounsfield.min()) / np.ptp(hounsfield), atol=1e-6)
    assert pixel_spacing(tmp_path / "slice") == pytest.approx((0.661468, 0.661468))
    pixels, sizes = preprocess(tmp_path / "slice", num_channels=1, sample_size=64)
    assert pixels.shape == (1, 1, 64, 64) and sizes == [(128, 128)]


def test_spacing_where_it_is_not_told(write, tmp_path):
    assert pixel_spacing(write()) is None and pixel_spacing(tmp_path / "image.png") is None
    assert pixel_spacing(write(PixelSpacing=[0.5, 0.7])) == (0.5, 0.7)


REFUSED = {
    "no pixels": (dict(PixelData=None), "with pixel data"),
    "no colour that is known": (dict(PhotometricInterpretation="HSV", SamplesPerPixel=3), "grey or in colour"),
    "several frames": (dict(NumberOfFrames=2), "of a single frame, but .* has 2: choose one by `frame`, from 0 to 1"),
    "no rows": (dict(Rows=None), "1 to [0-9,]+ pixels, but .* has 0 x 4"),
    "too many pixels": (dict(Rows=65535, Columns=65535), "1 to 89,478,485 pixels, but .* has 65535 x 65535"),
    "too few bytes": (dict(PixelData=b"\0\0"), "pixel data that can be decoded"),
    "no sign": (dict(PixelRepresentation=None), "pixel data that can be decoded"),
    "window of no width": (dict(WindowCenter=40, WindowWidth=0), "a window of positive width"),
    "window without width": (dict(WindowCenter=40), "a window of positive width"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_has_no_plain_meaning_is_refused(case, write):
    attributes, message = REFUSED[case]
    with pytest.raises(ValueError, match=f"`image` must .*{message}"):
        load_image(write(**attributes))


@pytest.mark.filterwarnings("ignore::UserWarning")  # what pydicom thinks of the damage
def test_damaged_files_are_refused_whatever_the_damage(tmp_path):
    whole = Path(get_testdata_file("CT_small.dcm", download=False)).read_bytes()
    path, rng = tmp_path / "slice.dcm", np.random.default_rng(0)
    path.write_text("not a DICOM file")
    with pytest.raises(ValueError, match="slice.dcm cannot"):
        load_image(path)
    for round_ in range(200):
        damaged = np.frombuffer(whole[: rng.integers(len(whole)) if round_ % 2 else None], np.uint8).copy()
        damaged[rng.integers(0, len(damaged), 3) % 3000 % len(damaged)] = rng.integers(0, 256, 3)
        path.write_bytes(damaged.tobytes())
        try:
            load_image(path)  # the damage may be harmless
        except ValueError as error:
            assert "`image` must" in str(error)
