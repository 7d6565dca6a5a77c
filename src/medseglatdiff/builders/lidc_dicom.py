"""LIDC-IDRI as the official collection: DICOM series, each with an XML file of annotations."""

import io
from pathlib import PurePosixPath
from typing import NamedTuple

import numpy as np
import PIL.Image

from ..data.dicom import decode_frame, read_dataset
from ..data.dicom_values import frame_header, modality_values
from ..data.spacing import pixel_spacing
from .archives import Source
from .build import Row, split_of
from .lidc_contours import Annotation, group_nodules, parse_annotations, rasterise
from .lidc_slices import NUM_MASKS
from .picture_files import BadFile, picture

SIDE = 128  # pixels of a crop


class Slice(NamedTuple):
    """Header of a DICOM file; position along the patient and pixel spacing (between rows, columns) in mm."""

    name: str
    uid: str
    series_uid: str
    patient: str
    position: float
    shape: tuple[int, int]
    spacing: tuple[float, float]


def series_jobs(source: Source) -> list[tuple[str, list[str]]]:
    """`(XML file, DICOM files of its folder)` of each series of CT; readings of chest X-rays are skipped."""
    dicoms = _dicoms_by_folder(source)
    xmls = [name for name in source.names if name.lower().endswith(".xml") and PurePosixPath(name).parent in dicoms]
    readings = [name for name in xmls if b"<IdriReadMessage" not in source.read(name)[:1000]]
    return [(name, dicoms[PurePosixPath(name).parent]) for name in readings]


def series_strays(source: Source) -> list[str]:
    """XML files without DICOM files beside them, and the first file of each series without XML."""
    dicoms = _dicoms_by_folder(source)
    xmls = {name: PurePosixPath(name).parent for name in source.names if name.lower().endswith(".xml")}
    lonely = [name for name, folder in xmls.items() if folder not in dicoms]
    return lonely + [names[0] for folder, names in dicoms.items() if folder not in xmls.values()]


def _dicoms_by_folder(source: Source) -> dict[PurePosixPath, list[str]]:
    dicoms: dict[PurePosixPath, list[str]] = {}
    for name in source.names:
        if name.lower().endswith(".dcm"):
            dicoms.setdefault(PurePosixPath(name).parent, []).append(name)
    return dicoms


def series_rows(source: Source, window: tuple[float, float], pixel_mm: float | None, job: tuple) -> list[Row]:
    """One row for each slice of each nodule on which any reader drew, with four masks.

    Readers who did not mark the nodule, or not on this slice, have an empty mask.

    Args:
        source (`Source`): of the files.
        window (`tuple[float, float]`): centre and width in Hounsfield units.
        pixel_mm (`float`, *optional*): resample crops to this pixel size; by default they keep that of the scan.
        job (`tuple`): an entry of `series_jobs`.
    """
    xml, names = job
    # 1. the slices by position along the patient, and the annotations
    slices = sorted((_header(source, name) for name in names), key=lambda item: item.position)
    annotations = _annotations(source, xml, slices)
    # 2. nodules
    first, number_of = slices[0], {item.uid: number for number, item in enumerate(slices)}
    drawn = [rasterise(annotation, first.shape) for annotation in annotations]
    volumes = [{number_of[uid]: mask for uid, mask in masks.items()} for masks in drawn]
    rows = []
    for index, nodule in enumerate(group_nodules([annotation.reader for annotation in annotations], volumes)):
        numbers = sorted({number for member in nodule for number in volumes[member]})
        if not numbers:
            continue
        union = np.logical_or.reduce([mask for member in nodule for mask in volumes[member].values()])
        crop = _Crop(union, first.spacing, pixel_mm)
        # 3. one row per slice
        for number in numbers:
            image = crop.image(_shown(source, slices[number], window))  # [128, 128]
            masks = [crop.mask(volumes[member].get(number)) for member in nodule]  # R * [128, 128]
            masks += [crop.mask(None)] * (NUM_MASKS - len(masks))
            image_id = f"{first.patient}/{first.series_uid}/nodule-{index}/slice-{number}"
            split = split_of(first.patient)
            rows.append(Row(picture(image), [picture(mask) for mask in masks], image_id, first.patient, split))
    return rows


def _annotations(source: Source, xml: str, slices: list[Slice]) -> list[Annotation]:
    try:
        series_uid, annotations = parse_annotations(source.read(xml))
    except (OSError, ValueError) as error:
        raise BadFile(xml, str(error)) from error
    if {item.series_uid for item in slices} != {series_uid}:
        raise BadFile(xml, f"is about series {series_uid}, but lies beside series {slices[0].series_uid}")
    if len({item.shape for item in slices}) > 1:
        raise BadFile(xml, "lies beside slices that differ in size")
    missing = {uid for annotation in annotations for uid, _, _ in annotation.contours} - {item.uid for item in slices}
    if missing:
        raise BadFile(xml, f"has contours on {len(missing)} slices missing in the series, such as {min(missing)}")
    return annotations


class _Crop:
    """A square around the middle of the drawn region, moved inside the scan if it would stick out."""

    def __init__(self, drawn: np.ndarray, spacing: tuple[float, float], pixel_mm: float | None):
        self.sides = [round(SIDE * pixel_mm / length) if pixel_mm else SIDE for length in spacing]
        middle = [(np.flatnonzero(drawn.any(axis))[[0, -1]].sum() + 1) // 2 for axis in (1, 0)]
        corner = zip(middle, self.sides, drawn.shape, strict=True)
        self.corner = [int(np.clip(m - side // 2, 0, max(length - side, 0))) for m, side, length in corner]

    def _cut(self, pixels: np.ndarray) -> np.ndarray:
        (top, left), (height, width) = self.corner, self.sides
        cut = pixels[top : top + height, left : left + width]
        return np.pad(cut, [(0, side - length) for side, length in zip(self.sides, cut.shape, strict=True)])

    def image(self, pixels: np.ndarray) -> np.ndarray:
        """uint8 `(128, 128)`; 0 beyond the scan."""
        image = PIL.Image.fromarray(self._cut(pixels))
        return np.asarray(image.resize((SIDE, SIDE), PIL.Image.Resampling.BILINEAR))

    def mask(self, drawn: np.ndarray | None) -> np.ndarray:
        """bool `(128, 128)`; empty for `None`."""
        if drawn is None:
            return np.zeros((SIDE, SIDE), bool)
        mask = PIL.Image.fromarray(self._cut(drawn).astype(np.uint8))
        return np.asarray(mask.resize((SIDE, SIDE), PIL.Image.Resampling.NEAREST)) > 0


def _header(source: Source, name: str) -> Slice:
    dataset = _dataset(source, name, stop_before_pixels=True)
    try:
        spacing, position = pixel_spacing(dataset), float(dataset.ImagePositionPatient[2])
        if spacing is None or not all(0.01 <= length <= 10 for length in spacing):
            raise ValueError(f"pixels of {spacing or 'unknown'} mm")
        if not np.isfinite(position):
            raise ValueError(f"a position of {position} mm")
        uid, series_uid = str(dataset.SOPInstanceUID), str(dataset.SeriesInstanceUID)
        shape = int(dataset.Rows), int(dataset.Columns)
        return Slice(name, uid, series_uid, str(dataset.PatientID), position, shape, spacing)
    except Exception as error:  # values are decoded on first use, and damage raises almost any exception
        raise BadFile(name, f"has no usable header: {error}") from error


def _shown(source: Source, item: Slice, window: tuple[float, float]) -> np.ndarray:
    """A slice windowed in Hounsfield units, uint8 `(H, W)`; the photometric interpretation is ignored."""
    dataset = _dataset(source, item.name, stop_before_pixels=False)
    try:
        stored = decode_frame(dataset, 0, item.name)  # [H, W]
        values = modality_values(stored, frame_header(dataset, 0, item.name), item.name)  # [H, W]
    except ValueError as error:
        raise BadFile(item.name, f"pixels cannot be decoded: {error}") from error
    if values.shape != item.shape:
        raise BadFile(item.name, f"must be one grey image of {item.shape} pixels, but is of shape {values.shape}")
    centre, width = window
    return (((values - centre) / width + 0.5).clip(0, 1) * 255).round().astype(np.uint8)


def _dataset(source: Source, name: str, stop_before_pixels: bool):
    try:
        return read_dataset(io.BytesIO(source.read(name)), stop_before_pixels)
    except (OSError, ValueError) as error:
        raise BadFile(name, f"is not a readable DICOM file: {error}") from error
