"""Lists of findings: CSV files that say where in which study something is to be looked at."""

import csv
import math
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from .volumes import Volume

MILLIMETRES: tuple[str, ...] = ("seriesuid", "coordX", "coordY", "coordZ")  # as in LUNA16's annotations.csv
VOXELS: tuple[str, ...] = ("case", "x", "y", "z")  # `z` may be left out for single images


@dataclass(frozen=True)
class Finding:
    """A point in a case.

    Args:
        case (`str`): series instance UID, or the name of a file without its suffix.
        point (`tuple[float, ...]`): in LPS mm or as indices `(x, y, z)`, of which z is the slice in the order of the
            patient, from 0; `(x, y)` in a single image.
        unit (`str`): `"mm"` or `"voxels"`.
        place (`str`): file and line, for errors.
    """

    case: str
    point: tuple[float, ...]
    unit: str
    place: str

    def index_in(self, volume: Volume) -> tuple[float, float, float]:
        """Indices `(x, y, z)` in a volume.

        Raises:
            ValueError: names file and line where the point has no z, and where it lies outside.
        """
        if len(self.point) != 3:
            raise ValueError(f"{self.place}: the column z must be given for a volume, {volume.path}.")
        index = volume.index_of(self.point) if self.unit == "mm" else self.point
        columns = MILLIMETRES[1:] if self.unit == "mm" else VOXELS[1:]
        for column, value, length, given in zip(columns, index, volume.shape[::-1], self.point, strict=True):
            if not -0.5 <= value < length - 0.5:
                where = f"index {value:.1f}, but there are 0 to {length - 1}"
                raise ValueError(f"{self.place}, column {column}: {given:g} lies outside {volume.path} ({where}).")
        return index


def read_findings(path) -> list[Finding]:
    """The findings of a CSV file, in its order.

    Its columns are LUNA16's `seriesuid,coordX,coordY,coordZ` in LPS mm, or `case,x,y,z` as indices, with `case,x,y`
    for single images. Other columns are passed over.

    Raises:
        ValueError: names file, line and column for a missing column, an empty case, and what is not a finite number.
    """
    path = Path(path)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.reader(file, strict=True))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} must be a CSV file that can be read, but cannot: {error}.") from error
    header = [name.strip() for name in rows[0]] if rows else []
    unit, columns = ("mm", MILLIMETRES) if MILLIMETRES[0] in header else ("voxels", VOXELS)
    if unit == "voxels" and "z" not in header:
        columns = VOXELS[:3]
    missing = [name for name in columns if name not in header]
    if missing:
        known = f"{','.join(MILLIMETRES)} (mm) or {','.join(VOXELS)} (indices)"
        found = ",".join(header) or "none"
        raise ValueError(f"{path}, line 1: the column {missing[0]} is missing; it must have {known}, but has {found}.")
    findings = []
    for line, row in enumerate(rows[1:], start=2):
        if not any(cell.strip() for cell in row):
            continue
        place = f"{path}, line {line}"
        if len(row) != len(header):
            raise ValueError(
                f"{place}: there must be {len(header)} values, as in the header, but there are {len(row)}."
            )
        cells = dict(zip(header, (cell.strip() for cell in row), strict=True))
        if not cells[columns[0]]:
            raise ValueError(f"{place}, column {columns[0]}: must name a case, but is empty.")
        point = tuple(_number(cells[name], f"{place}, column {name}") for name in columns[1:])
        findings.append(Finding(cells[columns[0]], point, unit, place))
    if not findings:
        raise ValueError(f"{path} must list at least one finding, but has none.")
    return findings


def check_cases(findings: list[Finding], cases: Collection[str]):
    """Raises a `ValueError` that names file, line and column for a finding whose case is not among `cases`."""
    for finding in findings:
        if finding.case not in cases:
            column = MILLIMETRES[0] if finding.unit == "mm" else VOXELS[0]
            known = ", ".join(sorted(cases)[:3]) + (", ..." if len(cases) > 3 else "")
            raise ValueError(
                f"{finding.place}, column {column}: {finding.case} is none of the {len(cases)} cases given ({known})."
            )


def _number(text: str, place: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"{place}: must be a finite number, but is {text or 'empty'}.")
    return value
