"""DICOM slices as volumes: a series of single frames in a folder, or the frames of one file, sorted and checked."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .dicom import is_dicom, read_dataset
from .dicom_files import refuse_other_classes
from .frames import frame_values, shown_values
from .limits import BadImage, unreadable
from .volumes import Volume, check_geometry

SLICE_CLASSES = tuple(
    f"1.2.840.10008.5.1.4.1.1.{kind}" for kind in ("2", "2.1", "2.2", "4", "4.1", "4.4", "128", "130")
)
SAME_PLACE = 0.01  # mm
UNEVEN = 0.1  # share of the distance between slices by which one may differ: positions come rounded
SHEAR = 0.5  # pixels by which slices may lie beside the line along their normal


class Plane(NamedTuple):
    """Where a frame lies: its name in errors, and what the geometry is made of."""

    name: str
    position: np.ndarray  # [3], of the first pixel's centre
    orientation: np.ndarray  # [6], directions of a row and of a column
    spacing: np.ndarray  # [2], between rows and between columns
    thickness: float | None
    size: tuple[int, int]


def is_slice(path: Path) -> bool:
    """Whether a DICOM file is a slice of something: CT, MR or PET, or with a position in the patient."""
    try:
        header = read_dataset(path, stop_before_pixels=True)
        return "Rows" in header and (
            "ImagePositionPatient" in header or str(header.get("SOPClassUID")) in SLICE_CLASSES
        )
    except Exception:  # damage, which pydicom meets as nearly anything, is told of when the file is read
        return False


def number_of_frames(path: Path) -> int:
    """Of a DICOM file; 1 where it is damaged, which is told of when it is read."""
    try:
        return int(read_dataset(path, stop_before_pixels=True).get("NumberOfFrames") or 1)
    except Exception:  # pydicom meets damage as nearly anything
        return 1


@contextmanager
def naming_damage(path: Path) -> Iterator[None]:
    """Turns whatever pydicom raises into an error that names the path: it decodes values at their first use."""
    try:
        yield
    except (BadImage, ImportError):
        raise
    except Exception as error:
        raise unreadable(str(path), error) from error


def read_series(folder: Path) -> Volume:
    """The volume of a folder's DICOM files; other files and DICOM objects without pixels are passed over.

    Raises:
        ValueError: see `read_volume`.
    """
    # 1. the headers of one series
    headers = {}
    for file in sorted(folder.iterdir()):
        if file.is_file() and is_dicom(file) and "Rows" in (header := read_dataset(file, stop_before_pixels=True)):
            headers[file] = header
    series: dict[str, list[Path]] = {}
    for file, header in headers.items():
        series.setdefault(str(header.get("SeriesInstanceUID")), []).append(file)
    if len(series) != 1:
        found = ", ".join(f"{uid} ({len(files)} files, such as {files[0].name})" for uid, files in series.items())
        advice = "put each series into a folder of its own" if series else "pass a folder that directly holds one"
        raise BadImage(f"{folder} must hold one DICOM series, but holds {found or 'none'}: {advice}.")
    if any(int(header.get("NumberOfFrames") or 1) > 1 for header in headers.values()):
        raise BadImage(f"{folder} must hold single frames, but holds multi-frame files: pass one of these as a file.")
    # 2. sorted along the normal
    planes = [_plane(header, 0, file.name, file) for file, header in headers.items()]
    order, geometry = _sorted(folder, planes)
    files, sources = ([list(part)[number] for number in order] for part in (headers, headers.values()))
    for header, file in zip(sources, files, strict=True):
        _check_grey(header, file)

    def frame_of(index: int) -> tuple:
        return read_dataset(files[index]), 0, files[index]

    return _volume(folder, sources, geometry, planes[0].size, frame_of)


def read_multiframe(path: Path) -> Volume:
    """The volume of a file's frames, placed by its functional groups (PS3.3 C.7.6.16).

    Raises:
        ValueError: see `read_volume`.
    """
    dataset = read_dataset(path, stop_before_pixels=True)
    count = int(dataset.get("NumberOfFrames") or 1)
    _check_grey(dataset, path)
    groups = dataset.get("PerFrameFunctionalGroupsSequence") or []
    if len(groups) != count:
        raise BadImage(
            f"{path} must say where each of its {count} frames lies, but does so for {len(groups)}: frames of a film "
            "are no volume, pass them as images."
        )
    planes = [_plane(dataset, number, f"frame {number + 1}", path) for number in range(count)]
    order, geometry = _sorted(path, planes)
    whole = cache(lambda: read_dataset(path))

    def frame_of(index: int) -> tuple:
        return whole(), order[index], path

    return _volume(path, [dataset], geometry, planes[0].size, frame_of, order)


def _volume(path: Path, sources: Sequence, geometry: tuple, size, frame_of, frames: Sequence[int] = ()) -> Volume:
    """`frame_of(index)` gives dataset, frame and file of a slice."""
    depth, origin, spacing, direction = geometry
    check_geometry(path, (depth, *size), origin, spacing, direction)

    def read(index: int) -> np.ndarray:
        with naming_damage(path):
            return frame_values(*frame_of(index))  # [H, W]

    def show(values: np.ndarray, index: int) -> np.ndarray:
        with naming_damage(path):
            return shown_values(values, *frame_of(index))  # [H, W]

    uid = str(sources[0].get("SeriesInstanceUID"))
    return Volume(path, uid, (depth, *size), origin, spacing, direction, read, show, sources, tuple(frames))


def _check_grey(header, file: Path):
    refuse_other_classes(header, str(file))
    photometric = header.get("PhotometricInterpretation")
    if photometric not in ("MONOCHROME1", "MONOCHROME2"):
        raise BadImage(f"{file} must be grey as a slice of a volume, but is {photometric}: pass it as an image.")


def _plane(header, frame: int, name: str, file: Path) -> Plane:
    """The geometry of a frame: by its functional groups, those shared by all, or the file."""
    groups = [*(header.get("PerFrameFunctionalGroupsSequence") or [])[frame : frame + 1]]
    groups += header.get("SharedFunctionalGroupsSequence") or []

    def find(macro: str, *keywords: str):
        items = (item for group in groups for item in group.get(macro) or [])
        found = (item.get(keyword) for item in (*items, header) for keyword in keywords)
        return next((value for value in found if value is not None), None)

    def numbers(keyword: str, macro: str, count: int) -> np.ndarray:
        value = find(macro, keyword)
        try:
            found = np.asarray(value, float).ravel()
        except (TypeError, ValueError):
            found = np.empty(0)
        if found.shape != (count,) or not np.isfinite(found).all():
            what = f"be {count} finite numbers, but that of {name} is {'missing' if value is None else value}"
            raise BadImage(f"`{keyword}` of {file} must {what}: a volume needs the geometry of each slice.")
        return found

    thickness = find("PixelMeasuresSequence", "SpacingBetweenSlices", "SliceThickness")
    return Plane(
        name,
        numbers("ImagePositionPatient", "PlanePositionSequence", 3),
        numbers("ImageOrientationPatient", "PlaneOrientationSequence", 6),
        numbers("PixelSpacing", "PixelMeasuresSequence", 2),
        None if thickness is None else float(thickness),
        (int(header.get("Rows") or 0), int(header.get("Columns") or 0)),
    )


def _sorted(path: Path, planes: list[Plane]) -> tuple[list[int], tuple]:
    """The order of the planes along their normal, and depth, origin, spacing and direction of the volume."""
    first = planes[0]
    _check_agreement(path, planes)
    row, column = first.orientation.reshape(2, 3)
    normal = np.cross(row, column)
    direction = np.stack([row, column, normal], axis=1)  # [3, 3]
    check_geometry(path, (len(planes), *first.size), first.position, first.spacing, direction)
    order = sorted(range(len(planes)), key=lambda number: float(planes[number].position @ normal))
    planes = [planes[number] for number in order]
    gap = _gap(path, planes, normal)
    _check_upright(path, planes, gap * normal)
    return order, (len(planes), planes[0].position, np.array([first.spacing[1], first.spacing[0], gap]), direction)


def _check_agreement(path: Path, planes: list[Plane]):
    for what in ("size", "orientation", "spacing"):
        for plane in planes:
            value, first = getattr(plane, what), getattr(planes[0], what)
            if not np.allclose(value, first, rtol=1e-3, atol=1e-3):
                found = f"{plane.name} has {value} and {planes[0].name} {first}"
                raise BadImage(f"The slices of {path} must agree in {what}, but {found}: leave out what differs.")


def _gap(path: Path, planes: list[Plane], normal: np.ndarray) -> float:
    """The distance between slices in mm, which must be the same everywhere; of a single slice its thickness."""
    if len(planes) == 1:
        if planes[0].thickness is None:
            raise BadImage(f"`SliceThickness` of {path} must be given for a single slice, but is missing.")
        return planes[0].thickness
    gaps = np.diff([plane.position @ normal for plane in planes])  # [D - 1]
    usual = float(np.median(gaps))
    for before, after, gap in zip(planes, planes[1:], gaps, strict=False):
        pair = f"{before.name} and {after.name}"
        if gap < SAME_PLACE:
            raise BadImage(
                f"{path} must hold one image at each position, but {pair} lie at the same one: leave out duplicates, "
                "and put times, echoes and phases into folders of their own."
            )
        if abs(gap - usual) > UNEVEN * usual:
            kind = "slices are missing" if gap > usual else "slices overlap"
            raise BadImage(
                f"The slices of {path} must lie {usual:g} mm apart, but between {pair} there are {gap:g} mm: {kind}; "
                "export the whole series again, or resample it."
            )
    return float(gaps.mean())


def _check_upright(path: Path, planes: list[Plane], step: np.ndarray):
    """Refuses slices that lie beside the line along their normal, as those of a tilted gantry do."""
    for number, plane in enumerate(planes):
        away = plane.position - planes[0].position - number * step  # [3]
        normal = step / np.linalg.norm(step)  # [3]
        beside = float(np.linalg.norm(away - (away @ normal) * normal))
        if beside > SHEAR * plane.spacing.min():
            raise BadImage(
                f"The slices of {path} must lie one above the other along their normal, but {plane.name} lies "
                f"{beside:.2f} mm beside it, as with a tilted gantry: resample the series upright."
            )
