"""LIDC-IDRI as the official collection: series of DICOM files with one XML file of annotations beside each."""

import io
from pathlib import PurePosixPath

import numpy as np
import PIL.Image
from archives import Source
from common import BadFile, Row, picture, split_of
from lidc_contours import group_nodules, parse_annotations, rasterise

SIDE = 128  # pixels of a crop
NUM_MASKS = 4


def series_jobs(source: Source) -> list[tuple[str, list[str]]]:
    """`(XML file, DICOM files of its folder)` of each series."""
    dicoms = {}
    for name in source.names:
        if name.lower().endswith(".dcm"):
            dicoms.setdefault(PurePosixPath(name).parent, []).append(name)
    xmls = [name for name in source.names if name.lower().endswith(".xml")]
    return [(name, dicoms[PurePosixPath(name).parent]) for name in xmls if PurePosixPath(name).parent in dicoms]


def series_rows(source: Source, window: tuple[float, float], pixel_mm: float | None, job: tuple) -> list[Row]:
    """One row for each slice of each nodule on which any reader drew, with four masks.

    A reader who saw the nodule but not on this slice, and one who did not mark it, has an empty mask.

    Args:
        source (`Source`): of the files.
        window (`tuple[float, float]`): centre and width in Hounsfield units.
        pixel_mm (`float`, *optional*): resample crops to this pixel size; without it they keep the scan's own.
        job (`tuple`): an entry of `series_jobs`.
    """
    xml, names = job
    # 1. read the series, its slices by position along the patient, and the annotations
    slices = sorted((_header(source, name) for name in names), key=lambda item: float(item[1].ImagePositionPatient[2]))
    index_of = {header.SOPInstanceUID: index for index, (_, header) in enumerate(slices)}
    try:
        series_uid, annotations = parse_annotations(source.read(xml))
    except ValueError as error:
        raise BadFile(xml, str(error)) from error
    first = slices[0][1]
    if series_uid and series_uid != first.SeriesInstanceUID:
        raise BadFile(xml, f"is about series {series_uid}, but lies beside series {first.SeriesInstanceUID}")
    missing = {where for a in annotations for where, _, _ in a.contours} - set(index_of)
    if missing:
        raise BadFile(
            xml, f"has contours on {len(missing)} slices that the series lacks, such as {sorted(missing)[0]}"
        )
    # 2. nodules
    volumes = [rasterise(annotation, (first.Rows, first.Columns)) for annotation in annotations]
    rows, patient = [], str(first.PatientID)
    for number, nodule in enumerate(group_nodules([annotation.reader for annotation in annotations], volumes)):
        union = [mask for member in nodule for mask in volumes[member].values()]
        if not union:
            continue
        crop = _Crop(np.logical_or.reduce(union), float(first.PixelSpacing[0]), pixel_mm)
        # 3. one row per slice
        for where in sorted({where for member in nodule for where in volumes[member]}, key=index_of.get):
            image = crop.image(_shown(source, slices[index_of[where]][0], window))  # [128, 128]
            masks = [crop.mask(volumes[member].get(where)) for member in nodule]  # R * [128, 128]
            masks += [crop.mask(None)] * (NUM_MASKS - len(masks))
            image_id = f"{patient}/nodule-{number}/slice-{index_of[where]}"
            rows.append(Row(picture(image), [picture(m) for m in masks], image_id, patient, split_of(patient)))
    return rows


class _Crop:
    """A square around the middle of what was drawn, moved inside the scan where it would stick out."""

    def __init__(self, drawn: np.ndarray, spacing: float, pixel_mm: float | None):
        self.side = round(SIDE * pixel_mm / spacing) if pixel_mm else SIDE
        middle = [(np.flatnonzero(drawn.any(axis))[[0, -1]].sum() + 1) // 2 for axis in (1, 0)]
        room = [max(length - self.side, 0) for length in drawn.shape]
        self.corner = [int(np.clip(m - self.side // 2, 0, r)) for m, r in zip(middle, room, strict=True)]

    def _cut(self, pixels: np.ndarray) -> np.ndarray:
        top, left = self.corner
        cut = pixels[top : top + self.side, left : left + self.side]
        return np.pad(cut, [(0, self.side - length) for length in cut.shape])  # [side, side]

    def image(self, pixels: np.ndarray) -> np.ndarray:
        """uint8 `(128, 128)`; beyond the scan 0."""
        image = PIL.Image.fromarray(self._cut(pixels))
        return np.asarray(image.resize((SIDE, SIDE), PIL.Image.Resampling.BILINEAR))

    def mask(self, drawn: np.ndarray | None) -> np.ndarray:
        """bool `(128, 128)`; empty for `None`."""
        if drawn is None:
            return np.zeros((SIDE, SIDE), bool)
        mask = PIL.Image.fromarray(self._cut(drawn).astype(np.uint8))
        return np.asarray(mask.resize((SIDE, SIDE), PIL.Image.Resampling.NEAREST)) > 0


def _header(source: Source, name: str):
    dataset = _dataset(source, name, stop_before_pixels=True)
    absent = [tag for tag in ("ImagePositionPatient", "PixelSpacing", "Rows", "SOPInstanceUID") if tag not in dataset]
    if absent:
        raise BadFile(name, f"lacks {', '.join(absent)}")
    return name, dataset


def _shown(source: Source, name: str, window: tuple[float, float]) -> np.ndarray:
    """A slice windowed in Hounsfield units, uint8 `(H, W)`; its own photometric interpretation changes no unit."""
    from pydicom.pixels import apply_modality_lut

    dataset = _dataset(source, name, stop_before_pixels=False)
    try:
        values = apply_modality_lut(dataset.pixel_array, dataset).astype(float)  # [H, W]
    except (AttributeError, NotImplementedError, RuntimeError, ValueError) as error:
        raise BadFile(name, f"pixels cannot be decoded: {error}") from error
    centre, width = window
    return (((values - centre) / width + 0.5).clip(0, 1) * 255).round().astype(np.uint8)


def _dataset(source: Source, name: str, stop_before_pixels: bool):
    try:
        import pydicom
    except ImportError as error:
        raise ImportError('DICOM needs `pip install "medseglatdiff[dicom]"`.') from error
    try:
        return pydicom.dcmread(io.BytesIO(source.read(name)), stop_before_pixels=stop_before_pixels)
    except (OSError, EOFError, pydicom.errors.InvalidDicomError) as error:
        raise BadFile(name, f"is no readable DICOM file: {error}") from error
