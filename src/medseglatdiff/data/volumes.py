"""Volumes: DICOM series, multi-frame DICOM, NIfTI, NRRD and MetaImage, with their place in the patient in LPS mm.

Needs the extra `volumes`. DICOM is decoded frame by frame, by the rules of single images; the rest by SimpleITK.
"""

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np

from .dicom import is_dicom
from .limits import BadImage, unreadable
from .written_geometry import check_written_geometry

MAX_VOXELS = 2**30  # 1,024 slices of 1,024 x 1,024
SUFFIXES = (".nii", ".nii.gz", ".nrrd", ".nhdr", ".mha", ".mhd")


@dataclass(frozen=True, eq=False)
class Volume:
    """Slices with their geometry. Indices are `(x, y, z)`: column, row, slice; whole numbers are voxels' centres.

    Args:
        path (`Path`): of the file or folder.
        uid (`str`): series instance UID, or the file's name without its suffix.
        shape (`tuple[int, int, int]`): slices, rows and columns, `(D, H, W)`.
        origin (`np.ndarray` of shape `(3,)`): where the centre of voxel (0, 0, 0) lies, in mm; x to the patient's
            left, y to the back, z to the head (LPS).
        spacing (`np.ndarray` of shape `(3,)`): distance of voxels' centres along x, y and z, in mm.
        direction (`np.ndarray` of shape `(3, 3)`): its columns are the directions of x, y and z, unit vectors in LPS.
        read (`Callable`): float32 `(H, W)` of a slice; see `slice`.
        show (`Callable`): see `shown`.
        sources (`Sequence[pydicom.Dataset]`): headers without pixels: one for each slice of a series, in the order of
            z, or the one of a multi-frame file; empty for what is not DICOM.
        frames (`Sequence[int]`): the frame of each slice in a multi-frame file, from 0; empty for all else.
    """

    path: Path
    uid: str
    shape: tuple[int, int, int]
    origin: np.ndarray
    spacing: np.ndarray
    direction: np.ndarray
    read: Callable[[int], np.ndarray] = field(repr=False)
    show: Callable[[np.ndarray, int], np.ndarray] = field(repr=False)
    sources: Sequence = field(default=(), repr=False)
    frames: Sequence[int] = field(default=(), repr=False)

    @property
    def pixel_spacing(self) -> tuple[float, float]:
        """Distance between rows and between columns, in mm."""
        return float(self.spacing[1]), float(self.spacing[0])

    def slice(self, index: int) -> np.ndarray:
        """Values of slice `index`, float32 `(H, W)`: what was measured, such as Hounsfield units, more is brighter.

        Raises:
            ValueError: for what cannot be decoded, and NaN or infinity (which SimpleITK reads as 0 in NIfTI).
        """
        values = self.read(index)
        if not np.isfinite(values).all():
            raise BadImage(f"Slice {index} of {self.path} must hold finite values, but holds NaN or infinity.")
        return values

    def shown(self, values: np.ndarray, index: int) -> np.ndarray:
        """Values of any slice in [0, 1], float32, as slice `index` would be shown: by its window in DICOM, elsewhere
        between its least and its greatest value. One window for a whole finding keeps its slices comparable."""
        return self.show(values, index).clip(0, 1).astype(np.float32)

    def index_of(self, point_mm: Sequence[float]) -> tuple[float, float, float]:
        """Indices `(x, y, z)` of a point in LPS mm."""
        return tuple((self.direction.T @ (np.asarray(point_mm, float) - self.origin) / self.spacing).tolist())

    def point_of(self, index: Sequence[float]) -> tuple[float, float, float]:
        """LPS mm of indices `(x, y, z)`."""
        return tuple((self.origin + self.direction @ (self.spacing * np.asarray(index, float))).tolist())

    def holds(self, index: Sequence[float]) -> bool:
        """Whether indices `(x, y, z)` lie in a voxel: at most half a voxel from its centre."""
        return all(-0.5 <= value < length - 0.5 for value, length in zip(index, self.shape[::-1], strict=True))


def is_volume(path) -> bool:
    """Whether a path leads to a volume: a folder with a DICOM series, multi-frame DICOM, NIfTI, NRRD or MetaImage.

    A folder of single DICOM images, such as radiographs, is none: its first image must be a slice, one of CT, MR or
    PET or with a position in the patient.
    """
    path = Path(path)
    if path.is_dir():
        from .series import is_slice

        files = (file for file in sorted(path.iterdir()) if file.is_file() and is_dicom(file))
        return next((True for file in files if is_slice(file)), False)
    if path.name.lower().endswith(SUFFIXES):
        return True
    if path.is_file() and is_dicom(path):
        from .series import number_of_frames

        return number_of_frames(path) > 1
    return False


def read_volume(path) -> Volume:
    """The volume of a path for which `is_volume` holds: geometry and headers now, slices when they are asked for.

    Slices of DICOM are sorted along their normal, which is the cross product of a row's and a column's direction.

    Raises:
        ImportError: without the extra `volumes`.
        ValueError: names the file and what to do: missing slices, several series, several images at a position,
            geometry that is missing, not finite, differs between slices or is sheared (gantry tilt), a fourth
            dimension, colour, and more than `MAX_VOXELS` voxels.
    """
    path = Path(path)
    if path.is_dir() or not path.name.lower().endswith(SUFFIXES):
        from .series import naming_damage, read_multiframe, read_series

        with naming_damage(path):
            return read_series(path) if path.is_dir() else read_multiframe(path)
    return _read_itk(path)


def stem(path: Path) -> str:
    """A file's name without the suffix of its format: a.nii.gz is a, 1.2.840.mhd is 1.2.840."""
    suffix = next(
        (suffix for suffix in sorted(SUFFIXES, key=len, reverse=True) if path.name.lower().endswith(suffix)), ""
    )
    return path.name[: len(path.name) - len(suffix)]


def check_geometry(path: Path, shape: Sequence[int], origin, spacing, direction):
    """Raises a `ValueError` unless the geometry is finite, with positive spacing and axes at right angles."""
    parts = (("origin", origin), ("spacing", spacing), ("direction", direction))
    wrong = next((name for name, value in parts if not np.isfinite(value).all()), None)
    if wrong or not np.greater(spacing, 0).all():
        value = ", ".join(f"{number:g}" for number in np.ravel(dict(parts)[wrong or "spacing"]))
        must = "finite" if wrong else "positive, in mm"
        raise BadImage(f"The {wrong or 'spacing'} of {path} must be {must}, but is {value}: export it again.")
    if not np.allclose(np.transpose(direction) @ direction, np.eye(3), atol=1e-3):
        raise BadImage(f"The axes of {path} must be at right angles: resample it to a grid that is not sheared.")
    if not 0 < np.prod(shape, dtype=float) <= MAX_VOXELS:
        size = " x ".join(map(str, shape))
        raise BadImage(f"{path} must have 1 to {MAX_VOXELS:,} voxels, but has {size}: crop it.")


def _read_itk(path: Path) -> Volume:
    try:
        import SimpleITK
    except ImportError as error:
        raise ImportError(f'Reading {path.name} needs `pip install "medseglatdiff[volumes]"`.') from error
    reader = SimpleITK.ImageFileReader()
    reader.SetFileName(str(path))
    # 1. what the header says
    try:
        check_written_geometry(path)
        reader.ReadImageInformation()
    except (OSError, EOFError, struct.error, RuntimeError) as error:
        raise unreadable(str(path), _itk_reason(error)) from error
    size = reader.GetSize()
    if len(size) != 3:
        what = (
            "a 4th dimension, such as time: save one of its volumes"
            if len(size) > 3
            else "a single plane: pass an image"
        )
        raise BadImage(f"{path} must be a volume of three dimensions, but has {' x '.join(map(str, size))}, {what}.")
    if reader.GetNumberOfComponents() != 1 or "complex" in SimpleITK.GetPixelIDValueAsString(reader.GetPixelID()):
        raise BadImage(f"{path} must be grey, but holds colour or vectors: save one channel of it.")
    origin, spacing = np.array(reader.GetOrigin()), np.array(reader.GetSpacing())
    direction = np.reshape(reader.GetDirection(), (3, 3))
    check_geometry(path, size, origin, spacing, direction)

    # 2. the voxels, all at once: compressed files cannot be read in parts
    @cache
    def voxels() -> np.ndarray:
        try:
            return SimpleITK.GetArrayFromImage(reader.Execute())  # [D, H, W]
        except RuntimeError as error:
            raise unreadable(str(path), _itk_reason(error)) from error

    def show(values: np.ndarray, index: int) -> np.ndarray:
        whole = voxels()[index].astype(np.float32)  # [H, W]
        return (values - whole.min()) / (np.ptp(whole) or 1)

    def read(index: int) -> np.ndarray:
        return voxels()[index].astype(np.float32)  # [H, W]

    return Volume(path, stem(path), size[::-1], origin, spacing, direction, read, show)


def _itk_reason(error: Exception) -> str:
    """The last sentence of SimpleITK's messages, which begin with places in its own source."""
    return str(error).strip().splitlines()[-1].split("ERROR: ")[-1].split(": ", 1)[-1]
