"""What a user takes home: masks as PNG and npz, numbers as JSON, a picture, and DICOM Segmentation for DICOM input."""

import io
import json
import tempfile
import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import PIL.Image
import pydicom

from ..overview import draw_overview
from ..pipeline.aggregation import to_pil
from ..pipeline.dicom_seg import write_segmentation
from ..pipeline.files import mean_pairwise_dice, write_png
from .numbers import numbers
from .sampling import Job, Segmentation
from .texts import NO_SEG, NO_SEG_CLASSES

ARRAYS = ("masks", "confidence", "uncertainty", "consensus")


class Downloads(NamedTuple):
    """Paths of the files; no DICOM Segmentation where there is none, with the sentence that says why."""

    masks: str
    arrays: str
    numbers: str
    overview: str
    dicom: str | None
    note: str = ""


def write_downloads(job: Job, segmentation: Segmentation, folder: Path) -> Downloads:
    """Writes the results into `folder`, which must exist, under the upload's name where that tells of no patient."""
    kinds = ("masks.zip", "arrays.npz", "numbers.json", "overview.png", "segmentation.dcm")
    masks, npz, json_file, picture_file, dicom = (str(folder / f"{job.name}-{kind}") for kind in kinds)
    files = Downloads(masks, npz, json_file, picture_file, dicom=None)
    arrays = {name: getattr(segmentation, name) for name in ARRAYS}
    np.savez_compressed(files.arrays, image=job.upload.image, **arrays)
    Path(files.numbers).write_text(json.dumps(numbers(job, segmentation), indent=2) + "\n")
    overview(job, segmentation).save(files.overview)
    with tempfile.TemporaryDirectory() as pictures, zipfile.ZipFile(files.masks, "w") as archive:
        for name, array in arrays.items():
            write_png(Path(pictures), "mask" if name == "masks" else name, to_pil(array))
        for picture in sorted(Path(pictures).iterdir()):
            archive.write(picture, picture.name)
        archive.write(files.overview, "overview.png")
    if job.upload.dicom is None:
        return files
    if segmentation.num_classes > 1:
        return files._replace(note=NO_SEG_CLASSES)
    if not write_dicom(job, job.upload.dicom, segmentation, dicom):
        return files._replace(note=NO_SEG)
    return files._replace(dicom=dicom)


def overview(job: Job, segmentation: Segmentation) -> PIL.Image.Image:
    """The picture that the command line draws."""
    agreement = mean_pairwise_dice(segmentation.masks, segmentation.num_classes)
    arrays = {name: getattr(segmentation, name) for name in (*ARRAYS, "threshold")}
    settings = f"seed {job.seed}, {job.num_inference_steps} steps, model {job.model}"
    subtitle = f"{settings}  |  agreement of the masks (mean pairwise Dice) {agreement:.2f}"
    return draw_overview(job.upload.image, **arrays, title=job.name, subtitle=subtitle)


def write_dicom(job: Job, source: bytes, segmentation: Segmentation, path: str) -> bool:
    """Writes the consensus (segment 1) and the hypotheses (from 2) as binary segments that refer to the source image.

    The file names the patient, as every DICOM object must: it goes back to whoever sent the image.

    Returns:
        whether it could be written: the source may lack attributes that the standard asks for.
    """
    masks = np.concatenate([segmentation.consensus[None], segmentation.masks])[:, None]  # [1 + M, 1, H, W]
    try:
        sources, finding = [pydicom.dcmread(io.BytesIO(source))], job.pipeline.config.finding
        write_segmentation(path, sources, model=job.model, masks=masks, finding=finding)
    except ValueError:
        return False
    return True
