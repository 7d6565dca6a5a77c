"""DICOM as it comes: objects that are no pictures, files without preamble, bombs, pipes, missing decoders, colour."""

import io
import os
import resource
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest

pydicom = pytest.importorskip("pydicom", reason="needs the extra `dicom`")
from dicom_fixtures import STORED, make, written  # noqa: E402
from pydicom.encaps import encapsulate  # noqa: E402
from pydicom.pixels import get_decoder  # noqa: E402
from pydicom.pixels.decoders import gdcm, pyjpegls, pylibjpeg  # noqa: E402
from pydicom.uid import (  # noqa: E402
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    ImplicitVRLittleEndian,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from medseglatdiff.data import limits  # noqa: E402
from medseglatdiff.data.dicom import is_dicom, read_dicom  # noqa: E402
from medseglatdiff.data.images import load_image  # noqa: E402
from medseglatdiff.data.spacing import pixel_spacing  # noqa: E402

NO_PICTURES = {
    "481.2": "RT Dose Storage",
    "481.3": "RT Structure Set Storage",
    "66.4": "Segmentation Storage",
    "66": "Raw Data Storage",
    "11.1": "Grayscale Softcopy Presentation State Storage",
    "88.11": "Basic Text SR Storage",
    "104.1": "Encapsulated PDF Storage",
    "9.1.1": "12-lead ECG Waveform Storage",
    "30": "Parametric Map Storage",
    "4.2": "MR Spectroscopy Storage",
    "67": "Real World Value Mapping Storage",
    "68.1": "Surface Scan Mesh Storage",
    "91.1": "Microscopy Bulk Simple Annotations Storage",
}


@pytest.mark.parametrize("kind", NO_PICTURES)
def test_objects_that_are_no_pictures_are_refused_by_class(kind):
    uid = pydicom.uid.UID(f"1.2.840.10008.5.1.4.1.1.{kind}")
    with pytest.raises(ValueError, match=f"a DICOM image, but it is of the class {NO_PICTURES[kind]}"):
        load_image(written(make(sop_class=uid)))


@pytest.mark.parametrize("kind", ["1.1", "2", "4", "6.1", "7", "12.1", "481.1", "77.1.4", "128", "7.2"])
def test_pictures_of_other_classes_are_read(kind):
    assert load_image(written(make(sop_class=pydicom.uid.UID(f"1.2.840.10008.5.1.4.1.1.{kind}")))).shape == (2, 4, 1)


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian])
@pytest.mark.parametrize("with_meta", [False, True])
def test_files_without_preamble(syntax, with_meta, tmp_path):
    data = written(make(syntax=syntax)).getvalue()[132:]
    if not with_meta:
        data = data[12 + struct.unpack_from("<I", data, 8)[0] :]
    for name in ("bare.dcm", "bare"):
        (tmp_path / name).write_bytes(data)
        assert is_dicom(tmp_path / name)
        np.testing.assert_allclose(load_image(tmp_path / name)[:, :, 0], STORED / 3500, atol=1e-6)


def test_what_does_not_begin_as_dicom_is_none(tmp_path):
    for name, data in {"a.png": b"\x89PNG\r\n", "b": b"", "c": b"\x08\x00", "d": b"BM" * 90, "e": bytes(200)}.items():
        (tmp_path / name).write_bytes(data)
        assert not is_dicom(tmp_path / name)
        (tmp_path / f"{name}.dcm").write_bytes(data)
        with pytest.raises(ValueError, match=f"{name}.dcm cannot: it does not begin like a DICOM file"):
            load_image(tmp_path / f"{name}.dcm")


def test_datasets_and_file_objects_are_taken():
    dataset = make()
    for source in (dataset, written(dataset), pydicom.dcmread(written(dataset))):
        assert is_dicom(source)
        np.testing.assert_allclose(load_image(source)[:, :, 0], STORED / 3500, atol=1e-6)
    file = written(dataset)
    load_image(file)
    assert not file.closed  # it is the caller's
    with pytest.raises(ValueError, match="name its transfer syntax"):
        bare = pydicom.Dataset()
        bare.update({element.tag: element for element in dataset})
        load_image(bare)


def test_deflated_files_are_read_and_bombs_are_not():
    deflated = make(syntax=DeflatedExplicitVRLittleEndian)
    np.testing.assert_allclose(read_dicom(written(deflated)), STORED / 3500, atol=1e-6)
    with pytest.raises(ValueError, match="cut short"):
        read_dicom(io.BytesIO(written(deflated).getvalue()[:-9]))
    data = written(deflated).getvalue()
    head = data[: 132 + 12 + struct.unpack_from("<I", data, 140)[0]]
    packer = zlib.compressobj(1, zlib.DEFLATED, -15)
    body = packer.compress(struct.pack("<HH2sHI", 0x7FE0, 0x0010, b"OB", 0, 600 << 20))
    body += b"".join(packer.compress(bytes(1 << 20)) for _ in range(600)) + packer.flush()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for read in (read_dicom, pixel_spacing):
        with pytest.raises(ValueError, match="unpacks to at most 512 MB"):
            read(io.BytesIO(head + body))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 * 2**10  # kilobytes


@pytest.mark.parametrize("depth", [300, 5000])
def test_nested_sequences_are_a_sentence(depth, tmp_path):
    start = struct.pack("<HH2sHI", 8, 0x1140, b"SQ", 0, 2**32 - 1) + struct.pack("<HHI", 0xFFFE, 0xE000, 2**32 - 1)
    end = struct.pack("<HHI", 0xFFFE, 0xE00D, 0) + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
    data = written(make()).getvalue()
    at = data.index(struct.pack("<HH", 8, 0x16))
    (tmp_path / "nested.dcm").write_bytes(data[:at] + start * depth + end * depth + data[at:])
    for read in (load_image, pixel_spacing):
        with pytest.raises(ValueError, match="nested.dcm cannot: its sequences are nested too deeply"):
            read(tmp_path / "nested.dcm")


@pytest.mark.parametrize("name", ["thing", "thing.dcm", "thing.png"])
def test_folders_pipes_devices_and_missing_files_are_sentences(name, tmp_path):
    path = tmp_path / name
    with pytest.raises(ValueError, match=f"{name} cannot: No such file"):
        load_image(path)
    path.mkdir()
    with pytest.raises(ValueError, match=f"{name} cannot: it is a folder"):
        load_image(path)
    path.rmdir()
    os.mkfifo(path)
    with pytest.raises(ValueError, match=f"{name} cannot: it is a pipe or a device"):
        load_image(path)
    path.unlink()
    path.symlink_to("/dev/zero")
    with pytest.raises(ValueError, match=f"{name} cannot: it is a pipe or a device"):
        load_image(path)


TRUNCATED = {
    "native": ({}, 5),
    "native, half a frame": ({}, 8),
    "RLE": (dict(syntax=RLELossless), 12),
}


@pytest.mark.parametrize("case", TRUNCATED)
def test_truncated_pixels_are_refused(case):
    options, less = TRUNCATED[case]
    data = written(make()).getvalue()
    if options:
        dataset = pydicom.dcmread(io.BytesIO(data))
        dataset.compress(RLELossless)
        data = written(dataset).getvalue()
        np.testing.assert_allclose(read_dicom(io.BytesIO(data)), STORED / 3500, atol=1e-6)
    with pytest.raises(ValueError, match="`image` must"):
        read_dicom(io.BytesIO(data[:-less]))


@pytest.mark.parametrize("rows, columns", [(0, 4), (2, 0), (65535, 65535), (30000, 30000)])
def test_sizes_are_bounded_before_anything_is_decoded(rows, columns):
    limit = f"1 to {limits.MAX_PIXELS:,} pixels, but it has {rows} x {columns}"
    with pytest.raises(ValueError, match=limit):
        read_dicom(written(make(Rows=rows, Columns=columns)))


DECODERS = {  # transfer syntax -> the package that the message names
    JPEGLosslessSV1: "python-gdcm",
    JPEGLSLossless: "python-gdcm or pyjpegls",
    HTJ2KLossless: "pylibjpeg-openjpeg",
}


@pytest.mark.parametrize("syntax", DECODERS, ids=lambda syntax: syntax.keyword)
def test_a_missing_decoder_is_named_with_its_package(syntax, monkeypatch):
    dataset = make()
    dataset.file_meta.TransferSyntaxUID, dataset.PixelData = syntax, encapsulate([bytes(100)])
    dataset["PixelData"].VR, dataset["PixelData"].is_undefined_length = "OB", True
    decoder = get_decoder(syntax)
    plugins = {"gdcm": gdcm, "pyjpegls": pyjpegls, "pylibjpeg": pylibjpeg}
    names = (*decoder._available, *decoder._unavailable)
    lacking = {name: plugins[name].DECODER_DEPENDENCIES[syntax] for name in names}
    monkeypatch.setattr(decoder, "_available", {})
    monkeypatch.setattr(decoder, "_unavailable", lacking)
    with pytest.raises(ValueError, match=rf'which needs {DECODERS[syntax]}: `pip install "medseglatdiff\[dicom\]"`'):
        read_dicom(written(dataset))


def test_video_is_refused():
    dataset = make()
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.MPEG4HP41
    dataset.PixelData = encapsulate([bytes(100)])
    dataset["PixelData"].is_undefined_length = True
    with pytest.raises(ValueError, match="must be a picture, but it is compressed as MPEG-4"):
        read_dicom(dataset)


def test_jpeg_lossless_is_read_where_its_decoder_is_installed():
    pytest.importorskip("gdcm", reason="needs python-gdcm of the extra `dicom`")
    path = Path(pydicom.data.get_testdata_file("SC_rgb_jpeg_gdcm.dcm", download=False))
    plain = Path(pydicom.data.get_testdata_file("SC_rgb_rle.dcm", download=False))
    np.testing.assert_allclose(load_image(path), load_image(plain))
