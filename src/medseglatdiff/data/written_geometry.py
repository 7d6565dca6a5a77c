"""What NIfTI, NRRD and MetaImage files themselves say of their geometry: SimpleITK fills in what they do not say."""

import gzip
import struct
from pathlib import Path

import numpy as np

from .limits import BadImage

SPACING_FIELDS = {"spacings", "space directions", "elementspacing", "elementsize"}  # of NRRD and MetaImage


def check_written_geometry(path: Path):
    """Refuses a file that does not say its spacing or place, or contradicts itself.

    SimpleITK takes a spacing of 1 mm, an origin of 0 and straight axes for what is missing, without a word.

    Raises:
        OSError: if it cannot be read.
        ValueError: names the file and what to do.
    """
    if path.name.lower().endswith((".nii", ".nii.gz")):
        _check_nifti(path)
        return
    with path.open("rb") as file:
        head = file.read(2**16).split(b"\n\n")[0].split(b"ElementDataFile")[0].decode("latin-1").lower()
    fields = {line.split("=")[0].split(":")[0].strip() for line in head.splitlines()}
    known = head.startswith("nrrd") or "ndims" in fields  # else SimpleITK says what is wrong
    if known and not SPACING_FIELDS & fields:
        raise BadImage(f"{path} must say its spacing in mm, but has none: export it again with its geometry.")


def _check_nifti(path: Path):
    with gzip.open(path) if path.name.lower().endswith(".gz") else path.open("rb") as file:
        head = file.read(540)
    order = next((order for order in "<>" if struct.unpack(f"{order}i", head[:4])[0] in (348, 540)), None)
    if order is None:
        return  # SimpleITK says what is wrong
    if struct.unpack(f"{order}i", head[:4])[0] == 348:  # NIfTI-1: offsets from nifti1.h
        fields = (80, "3f"), (252, "2h"), (280, "12f")
    else:  # NIfTI-2
        fields = (112, "3d"), (344, "2i"), (400, "12d")
    lengths, codes, rows = (np.array(struct.unpack_from(order + form, head, at)) for at, form in fields)
    if codes.max() <= 0:
        raise BadImage(f"{path} must say where it lies in the patient, but sets neither qform nor sform: set one.")
    if not (np.isfinite(lengths) & (lengths > 0)).all():
        raise BadImage(f"{path} must say its spacing in mm, but has {_plain(lengths)}: export it with its geometry.")
    if codes[1] > 0:
        by_form = np.linalg.norm(rows.reshape(3, 4)[:, :3], axis=0)  # [3]
        if not np.allclose(by_form, lengths, rtol=0.01):
            found = f"pixdim says {_plain(lengths)} mm and sform {_plain(by_form)}"
            raise BadImage(f"The spacing of {path} must be one, but {found}: correct the one that is wrong.")


def _plain(values: np.ndarray) -> str:
    return " x ".join(f"{value:g}" for value in values)
