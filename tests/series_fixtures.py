"""Synthetic chest CT with a planted nodule, written as DICOM series, multi-frame DICOM and what SimpleITK writes."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, EnhancedCTImageStorage, ExplicitVRLittleEndian, generate_uid
from scipy.ndimage import gaussian_filter

from medseglatdiff.pipeline.finding import FindingResult

AXIAL = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0))  # directions of a row and of a column, as ImageOrientationPatient has them
OBLIQUE = ((0.8, 0.6, 0.0), (-0.36, 0.48, 0.8))
UPSIDE_DOWN = ((1.0, 0.0, 0.0), (0.0, -1.0, 0.0))  # slices go from head to feet
SECRET = "SECRET"  # stands in attributes that must not be copied


class Chest(NamedTuple):
    """Hounsfield units, int16 `(D, H, W)`, the nodule, bool `(D, H, W)`, its centre `(x, y, z)` and spacing in mm."""

    values: np.ndarray
    nodule: np.ndarray
    centre: tuple[int, int, int]
    spacing: tuple[float, float, float]


def draw_chest(
    shape: tuple[int, int, int] = (20, 512, 512),
    spacing: tuple[float, float, float] = (0.7, 0.7, 2.0),
    diameter: float = 10.0,
    vessels: int = 140,
    clearance: float = 8.0,
    seed: int = 0,
) -> Chest:
    """Two lungs in a body, vessels that run through them, and one nodule of `diameter` mm in the left half."""
    rng = np.random.default_rng(seed)
    depth, height, width = shape
    z, y, x = np.meshgrid(
        *(np.arange(length) * mm for length, mm in zip(shape, spacing[::-1], strict=True)), indexing="ij"
    )
    across, down = width * spacing[0], height * spacing[1]  # mm

    def ellipse(centre: tuple[float, float], radii: tuple[float, float]) -> np.ndarray:
        return ((x / across - centre[0]) / radii[0]) ** 2 + ((y / down - centre[1]) / radii[1]) ** 2 < 1

    # 1. body and lungs
    values = np.where(ellipse((0.5, 0.5), (0.46, 0.36)), 40.0, -1000.0)
    lungs = ellipse((0.3, 0.5), (0.15, 0.26)) | ellipse((0.7, 0.5), (0.15, 0.26))
    values[lungs] = -860.0
    # 2. vessels: tubes up to 45 degrees from the axis, in the lungs, none within `clearance` mm of the nodule
    centre = (round(0.3 * width), round(0.46 * height), depth // 2)
    middle = np.multiply(centre, spacing)  # mm
    drawn, (heights, columns) = 0, (z[:, 0, 0], np.arange(width) * spacing[0])
    rows = np.arange(height) * spacing[1]
    while drawn < vessels:
        side, radius = rng.choice([0.3, 0.7]), rng.uniform(0.7, 1.8)
        start = np.array([across * (side + rng.uniform(-0.12, 0.12)), down * (0.5 + rng.uniform(-0.22, 0.22))])
        tilt = rng.uniform(-1, 1, 2)
        paths = start + tilt * (heights[:, None] - heights.mean())  # [D, 2]
        if np.hypot(*(paths - middle[:2]).T).min() < diameter / 2 + radius + clearance:
            continue
        drawn += 1
        for index, (px, py) in enumerate(paths):
            top, bottom = np.searchsorted(rows, (py - 3, py + 3))
            left, right = np.searchsorted(columns, (px - 3, px + 3))
            part = np.s_[index, top:bottom, left:right]
            values[part][(np.hypot(x[part] - px, y[part] - py) < radius) & lungs[part]] = 20.0
    # 3. the nodule, blur and noise
    nodule = (x - middle[0]) ** 2 + (y - middle[1]) ** 2 + (z - middle[2]) ** 2 < (diameter / 2) ** 2
    values[nodule] = 30.0
    values = gaussian_filter(values, (0, 0.6, 0.6)) + rng.normal(0, 18, shape)
    return Chest(values.round().astype(np.int16), nodule, centre, spacing)


def _header(rows: int, columns: int) -> Dataset:
    dataset = Dataset()
    dataset.PatientName, dataset.PatientID, dataset.PatientBirthDate, dataset.PatientSex = (
        "Doe^Jane",
        "P1",
        "19500101",
        "F",
    )
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = generate_uid(), generate_uid()
    dataset.FrameOfReferenceUID, dataset.PositionReferenceIndicator = generate_uid(), ""
    dataset.StudyDate, dataset.StudyTime, dataset.StudyID, dataset.Modality = "20240101", "120000", "S1", "CT"
    dataset.AccessionNumber = dataset.ReferringPhysicianName = dataset.InstitutionName = dataset.StationName = SECRET
    dataset.PatientComments = dataset.Occupation = dataset.StudyDescription = dataset.OperatorsName = SECRET
    dataset.Rows, dataset.Columns, dataset.SamplesPerPixel, dataset.PhotometricInterpretation = (
        rows,
        columns,
        1,
        "MONOCHROME2",
    )
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 16, 15, 0
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    return dataset


def _save(dataset: Dataset, path: Path):
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.save_as(path, enforce_file_format=True)


def positions(count: int, gap: float, orientation=AXIAL, origin=(-120.0, -100.0, 50.0)) -> np.ndarray:
    """Where the first pixel of each slice lies, `(D, 3)`, along the slices' normal."""
    return np.add(origin, np.arange(count)[:, None] * gap * np.cross(*orientation))


def write_series(
    folder: Path,
    chest: Chest,
    orientation=AXIAL,
    reverse: bool = False,
    edit: Callable[[Dataset, int], None] | None = None,
    uid: str | None = None,
) -> Path:
    """One file a slice, `edit(dataset, z)` applied before it is saved; `reverse`: the files' names and numbers run
    against the slices' order in the patient."""
    folder.mkdir(parents=True, exist_ok=True)
    header = _header(*chest.values.shape[1:])
    header.SeriesInstanceUID = uid or header.SeriesInstanceUID
    header.RescaleSlope, header.RescaleIntercept, header.SOPClassUID = 1, -1024, CTImageStorage
    header.WindowCenter, header.WindowWidth = -600, 1500
    header.PixelSpacing, header.SliceThickness = [chest.spacing[1], chest.spacing[0]], chest.spacing[2]
    header.ImageOrientationPatient = [*orientation[0], *orientation[1]]
    count = len(chest.values)
    for z, position in enumerate(positions(count, chest.spacing[2], orientation)):
        number = count - z if reverse else z + 1
        dataset = Dataset()
        dataset.update(header)
        dataset.SOPInstanceUID, dataset.InstanceNumber = generate_uid(), number
        dataset.ImagePositionPatient = [f"{value:.6g}" for value in position]
        dataset.PixelData = (chest.values[z].astype(np.int32) + 1024).clip(0).astype("<u2").tobytes()
        if edit is not None:
            edit(dataset, z)
        _save(dataset, folder / f"slice-{number:03}.dcm")
    return folder


def write_multiframe(path: Path, chest: Chest, orientation=AXIAL, order: list[int] | None = None) -> Path:
    """An enhanced CT with the slices as frames, in the given order."""
    dataset = _header(*chest.values.shape[1:])
    dataset.SOPClassUID, dataset.SOPInstanceUID = EnhancedCTImageStorage, generate_uid()
    order = list(range(len(chest.values))) if order is None else order
    dataset.NumberOfFrames, dataset.InstanceNumber = len(order), 1
    shared, measures, plane, transform = Dataset(), Dataset(), Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = [chest.spacing[1], chest.spacing[0]], chest.spacing[2]
    plane.ImageOrientationPatient = [*orientation[0], *orientation[1]]
    transform.RescaleSlope, transform.RescaleIntercept, transform.RescaleType = 1, -1024, "HU"
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = [measures], [plane]
    shared.PixelValueTransformationSequence = [transform]
    dataset.SharedFunctionalGroupsSequence = [shared]
    places, frames = positions(len(order), chest.spacing[2], orientation), []
    for z in order:
        frame, place = Dataset(), Dataset()
        place.ImagePositionPatient = [f"{value:.6g}" for value in places[z]]
        frame.PlanePositionSequence = [place]
        frames.append(frame)
    dataset.PerFrameFunctionalGroupsSequence = frames
    dataset.PixelData = (chest.values[order].astype(np.int32) + 1024).clip(0).astype("<u2").tobytes()
    _save(dataset, path)
    return path


def write_itk(path: Path, chest: Chest, orientation=AXIAL) -> Path:
    """NIfTI, NRRD or MetaImage, by the suffix, with the geometry that `write_series` gives."""
    import SimpleITK

    image = SimpleITK.GetImageFromArray(chest.values)
    image.SetSpacing(chest.spacing)
    image.SetOrigin(positions(1, 1.0, orientation)[0].tolist())
    image.SetDirection(np.stack([*orientation, np.cross(*orientation)], axis=1).ravel().tolist())
    SimpleITK.WriteImage(image, path)
    return path


def datasets(folder: Path) -> list[Dataset]:
    """Of a series, by the names of its files."""
    return [pydicom.dcmread(path) for path in sorted(folder.iterdir())]


def finding_in(volume, slices: int = 3) -> FindingResult:
    """Hypotheses that differ on every slice and overlap, without symmetry: no flip leaves them as they are."""
    rng = np.random.default_rng(0)
    masks = rng.random((3, min(slices, volume.shape[0]), 12, 9)) < 0.4
    masks[:, :, 0, 0] = True
    share = masks.mean(axis=0, dtype=np.float32)
    offset = (2 if volume.shape[0] > 1 else 0, 10, 6)  # slice, row, column
    spacing = tuple(volume.spacing[::-1].tolist())
    return FindingResult(volume.uid, (9.0, 14.0, 3.0), offset, spacing, masks, share, share, share >= 0.5, 0.5)
