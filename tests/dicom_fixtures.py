"""DICOM files for tests: tiny, made here, with any attribute in any value representation."""

import io

import numpy as np
import pydicom
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    CTImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    generate_uid,
)

from medseglatdiff.data.dicom import read_dicom

SYNTAXES = {"explicit": ExplicitVRLittleEndian, "implicit": ImplicitVRLittleEndian, "big": ExplicitVRBigEndian}
WINDOW = dict(WindowCenter=1000, WindowWidth=2001)
STORED = np.array([[0, 500, 1000, 1500], [2000, 2500, 3000, 3500]], np.uint16)


def item(**attributes) -> Sequence:
    """A sequence of one item of these attributes."""
    dataset = pydicom.Dataset()
    for key, value in attributes.items():
        setattr(dataset, key, value)
    return Sequence([dataset])


def make(stored=STORED, syntax=ExplicitVRLittleEndian, sop_class=CTImageStorage, raw=(), **attributes) -> FileDataset:
    """A dataset of grey pixels, or colour ones `(H, W, 3)`; `raw` holds `(keyword, VR, value)`, `None` takes away."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID, meta.MediaStorageSOPClassUID = syntax, sop_class
    meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=["test"])
    encoding = dict(is_implicit_VR=syntax.is_implicit_VR, is_little_endian=syntax.is_little_endian)
    dataset = FileDataset("", {}, file_meta=meta, preamble=bytes(128), **encoding)
    dataset.SOPClassUID, dataset.SOPInstanceUID = sop_class, meta.MediaStorageSOPInstanceUID
    frames, stored = (1, stored) if stored.ndim == 2 or stored.shape[-1] == 3 else (len(stored), stored)
    dataset.Rows, dataset.Columns = stored.shape[:2] if frames == 1 else stored.shape[1:3]
    if frames > 1:
        dataset.NumberOfFrames = frames
    colour = stored.ndim > 2 and stored.shape[-1] == 3
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = (3, "RGB") if colour else (1, "MONOCHROME2")
    if colour:
        dataset.PlanarConfiguration = 0
    bits = 8 * stored.dtype.itemsize
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = bits, bits, bits - 1
    dataset.PixelRepresentation = int(stored.dtype.kind == "i")
    order = ">" if syntax == pydicom.uid.ExplicitVRBigEndian else "<"
    dataset.PixelData = stored.astype(stored.dtype.newbyteorder(order)).tobytes() + bytes(stored.nbytes % 2)
    dataset["PixelData"].VR = "OW" if bits > 8 else "OB"
    for key, value in attributes.items():
        if value is None:
            delattr(dataset, key)
        else:
            setattr(dataset, key, value)
    for keyword, vr, value in raw:
        dataset.add_new(keyword, vr, value)
    return dataset


def written(dataset: FileDataset) -> io.BytesIO:
    """A dataset as a file."""
    file = io.BytesIO()
    dataset.save_as(file, enforce_file_format=True)
    file.seek(0)
    return file


def shown(stored=STORED, frame=None, stretch=False, **options) -> np.ndarray:
    """The picture of a dataset that `make` makes and a file holds."""
    return read_dicom(written(make(stored, **options)), stretch, frame)


def window_by_the_standard(values, center, width):
    """The pseudo-code of PS3.3 C.11.2.1.2.1, value by value, for an output from 0 to 1."""

    def one(x):
        if x <= center - 0.5 - (width - 1) / 2:
            return 0.0
        if x > center - 0.5 + (width - 1) / 2:
            return 1.0
        return (x - (center - 0.5)) / (width - 1) + 0.5

    return np.vectorize(one)(values.astype(float))
