"""What a user takes home: masks as PNG and npz, the numbers as JSON, and DICOM Segmentation for DICOM input."""

import io
import json
import tempfile
import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pydicom

from ..pipeline.aggregation import to_pil
from ..pipeline.dicom_seg import write_segmentation
from ..pipeline.files import write_png
from .sampling import Job, Segmentation

ARRAYS = ("masks", "confidence", "uncertainty", "consensus")


class Downloads(NamedTuple):
    """Paths of the files; no DICOM Segmentation where the input was none, or lacks what the standard asks for."""

    masks: str
    arrays: str
    dicom: str | None


def write_downloads(job: Job, segmentation: Segmentation, folder: Path) -> Downloads:
    """Writes the results into `folder`, which must exist, under names that tell nothing of the upload."""
    files = Downloads(*(str(folder / name) for name in ("masks.zip", "arrays.npz", "segmentation.dcm")))
    arrays = {name: getattr(segmentation, name) for name in ARRAYS}
    np.savez_compressed(files.arrays, image=job.upload.image, **arrays)
    with tempfile.TemporaryDirectory() as pictures, zipfile.ZipFile(files.masks, "w") as archive:
        for name, array in arrays.items():
            write_png(Path(pictures), "mask" if name == "masks" else name, to_pil(array))
        for picture in sorted(Path(pictures).iterdir()):
            archive.write(picture, picture.name)
    if job.upload.dicom is None or not write_dicom(job.upload.dicom, job.model, segmentation, files.dicom):
        return files._replace(dicom=None)
    return files


def write_numbers(numbers: dict, folder: Path) -> str:
    """Writes settings and numbers as JSON, and tells where."""
    path = folder / "numbers.json"
    path.write_text(json.dumps(numbers, indent=2) + "\n")
    return str(path)


def write_dicom(source: bytes, model: str, segmentation: Segmentation, path: str) -> bool:
    """Writes the consensus (segment 1) and the hypotheses (from 2) as binary segments that refer to the source image.

    The file names the patient, as every DICOM object must: it goes back to whoever sent the image.

    Returns:
        whether it could be written: the source may lack attributes that the standard asks for.
    """
    masks = np.concatenate([segmentation.consensus[None], segmentation.masks])[:, None]  # [1 + M, 1, H, W]
    try:
        write_segmentation(path, [pydicom.dcmread(io.BytesIO(source))], model=model, masks=masks)
    except ValueError:
        return False
    return True
