"""The distance between pixels in mm, by one rule for all front ends."""

import math

from .dicom_files import is_dicom, read_dataset
from .dicom_values import frame_header, numbers
from .limits import BadImage, name_of, unreadable

CENTIMETRES, TWO_DIMENSIONAL = 3, 1  # PS3.3 C.8.5.5.1.15 and C.8.5.5.1.1


def pixel_spacing(source, frame: int = 0) -> tuple[float, float] | None:
    """Distance between pixels in mm, `(between rows, between columns)`, or `None` if the file does not state it.

    What counts, in this order:

    1. `PixelSpacing`, of the frame's functional groups in enhanced objects, else of the file: a distance in the
       patient (PS3.3 10.7.1.1). Where it only repeats `ImagerPixelSpacing` without a `PixelSpacingCalibrationType`, it
       is a distance on the detector (10.7.1.3), and rule 3 decides.
    2. The physical deltas of ultrasound regions (C.8.5.5), where all two-dimensional regions in centimetres agree.
    3. `ImagerPixelSpacing` divided by `EstimatedRadiographicMagnificationFactor`. Without the factor it does not
       count: a detector lies behind the patient and sees everything magnified by an unknown factor.

    `NominalScannedPixelSpacing` does not count: it is a distance on a film of unknown magnification. A spacing of 0
    means that the writer did not know it.

    Args:
        source: a path, a file object or a `pydicom.Dataset`; pictures that are not DICOM have no spacing.
        frame (`int`, *optional*, defaults to 0): index of the frame in a multi-frame file.

    Raises:
        ImportError: without pydicom.
        ValueError: where a spacing is not two positive finite numbers, or two statements contradict each other.
    """
    if not is_dicom(source):
        return None
    dataset, name = read_dataset(source, stop_before_pixels=True), name_of(source)
    try:
        return _spacing(dataset, frame, name)
    except (BadImage, ImportError):
        raise
    except Exception as error:  # values are decoded on first use, and damage raises almost any exception
        raise unreadable(name, error) from error


def _spacing(dataset, frame: int, name: str) -> tuple[float, float] | None:
    header = frame_header(dataset, frame, name)
    spacing, detector = (_pair(header, keyword, name) for keyword in ("PixelSpacing", "ImagerPixelSpacing"))
    if spacing == detector and not header.get("PixelSpacingCalibrationType"):
        spacing = None
    regions = _ultrasound_spacing(dataset, name)
    if (
        spacing
        and regions
        and not all(math.isclose(*pair, rel_tol=0.01) for pair in zip(spacing, regions, strict=True))
    ):
        raise BadImage(
            f"`PixelSpacing` must agree with the ultrasound regions, but {name} has {spacing} and {regions} mm."
        )
    return spacing or regions or _at_the_patient(header, detector, name)


def _pair(header, keyword: str, name: str) -> tuple[float, float] | None:
    values = numbers(header, keyword, name, finite=False)
    if not values or (len(values) == 2 and 0 in values and all(0 <= value < math.inf for value in values)):
        return None
    if len(values) != 2 or not all(0 < value < math.inf for value in values):
        text = ", ".join(f"{value:g}" for value in values)
        raise BadImage(f"`{keyword}` must be two positive distances in mm, but that of {name} is {text}.")
    return values[0], values[1]


def _ultrasound_spacing(dataset, name: str) -> tuple[float, float] | None:
    """That of the two-dimensional regions, if all are in centimetres and agree: a finding may lie in any of them."""
    found = set()
    for region in dataset.get("SequenceOfUltrasoundRegions") or []:
        units = [region.get(f"PhysicalUnits{axis}Direction") for axis in "XY"]
        if region.get("RegionSpatialFormat") != TWO_DIMENSIONAL:
            continue
        if units != [CENTIMETRES] * 2:
            return None
        # deltas are per pixel and may be negative
        deltas = [abs(value) for axis in "YX" for value in numbers(region, f"PhysicalDelta{axis}", name)[:1]]
        if len(deltas) != 2 or 0 in deltas:
            return None
        found.add((10 * deltas[0], 10 * deltas[1]))
    return found.pop() if len(found) == 1 else None


def _at_the_patient(header, detector: tuple[float, float] | None, name: str) -> tuple[float, float] | None:
    factor = numbers(header, "EstimatedRadiographicMagnificationFactor", name)
    if detector is None or not factor or factor[0] == 0:
        return None
    if factor[0] < 1:
        raise BadImage(
            f"`EstimatedRadiographicMagnificationFactor` must be at least 1, but that of {name} is {factor[0]}."
        )
    return detector[0] / factor[0], detector[1] / factor[0]
