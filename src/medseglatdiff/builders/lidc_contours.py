"""Masks from the contours in LIDC-IDRI's XML files: parsing, rasterising, grouping into nodules."""

import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np


@dataclass
class Annotation:
    """One reader's annotation of one nodule: `(SOP UID, inclusion, points [P, 2] as x, y)` per contour."""

    reader: int
    contours: list[tuple[str, bool, np.ndarray]] = field(default_factory=list)


class _TreeBuilder(ElementTree.TreeBuilder):
    def doctype(self, name: str, pubid: str | None, system: str | None):
        """Refuses document types, which can declare entities that explode in size or read other files."""
        raise ValueError("declares a document type, which is refused")


def parse_annotations(xml: bytes) -> tuple[str, list[Annotation]]:
    """The series' UID, and the nodules of 3 mm or more: those with a contour of more than one point.

    A contour names its slice by the SOP instance UID. Smaller nodules, which have a single point, and non-nodules are
    left out.

    Raises:
        ValueError: for XML that does not parse, declares a document type, or is not a reading of a CT.
    """
    try:
        root = ElementTree.fromstring(xml, ElementTree.XMLParser(target=_TreeBuilder()))
    except (ElementTree.ParseError, LookupError) as error:
        raise ValueError(f"cannot be parsed: {error}") from error
    if not root.tag.endswith("LidcReadMessage"):
        raise ValueError(f"must be a LidcReadMessage, but is a {root.tag.rsplit('}')[-1]}")
    annotations = []
    for reader, session in enumerate(root.iterfind("{*}readingSession")):
        for nodule in session.iterfind("{*}unblindedReadNodule"):
            annotation = Annotation(reader, [_contour(roi) for roi in nodule.iterfind("{*}roi")])
            if any(len(points) > 1 for _, _, points in annotation.contours):
                annotations.append(annotation)
    return root.findtext("{*}ResponseHeader/{*}SeriesInstanceUid", ""), annotations


def _contour(roi) -> tuple[str, bool, np.ndarray]:
    edges = [[int(e.findtext(f"{{*}}{axis}Coord", "none")) for axis in "xy"] for e in roi.iterfind("{*}edgeMap")]
    included = roi.findtext("{*}inclusion", "TRUE").strip().upper() == "TRUE"
    return roi.findtext("{*}imageSOP_UID", "").strip(), included, np.array(edges).reshape(-1, 2)


def fill_polygon(points: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """The pixels strictly inside a closed polygon, bool `(H, W)`, by the even-odd rule.

    LIDC's readers drew the outer border, "the first pixel outside the nodule", so pixels on the line do not count.

    Args:
        points (`np.ndarray`): `(P, 2)`, x and y in pixels; the last is joined to the first.
        shape (`tuple[int, int]`): of the mask.
    """
    mask = np.zeros(shape, bool)
    start, end = points.astype(float), np.roll(points, -1, axis=0).astype(float)  # [P, 2] twice
    left, right = int(points[:, 0].min()), int(points[:, 0].max())
    columns = np.arange(max(left, 0), min(right + 1, shape[1]))  # [w]
    for y in range(max(int(points[:, 1].min()), 0), min(int(points[:, 1].max()) + 1, shape[0])):
        # 1. where edges cross the middle of this row; an edge includes its upper end, not its lower
        crossing = (start[:, 1] <= y) != (end[:, 1] <= y)  # [P]
        (x0, y0), (x1, y1) = start[crossing].T, end[crossing].T
        at = x0 + (y - y0) * (x1 - x0) / (y1 - y0)  # [C]
        inside = (columns[:, None] < at).sum(1) % 2 == 1  # [w]
        # 2. remove pixels on the line: crossings, and edges along the row
        on_line = np.isclose(columns[:, None], at).any(1)  # [w]
        touching = (start[:, 1] == y) & (end[:, 1] == y)  # [P]
        for low, high in np.sort(np.stack([start[touching, 0], end[touching, 0]], 1)):
            on_line |= (columns >= low) & (columns <= high)
        on_line |= np.isin(columns, start[start[:, 1] == y, 0])
        mask[y, columns] = inside & ~on_line
    return mask


def rasterise(annotation: Annotation, shape: tuple[int, int]) -> dict[str, np.ndarray]:
    """Each slice's mask, bool `(H, W)`: inside an inclusion, not inside an exclusion; empty ones are left out."""
    masks: dict[str, np.ndarray] = {}
    for included in (True, False):
        for where, inclusion, points in annotation.contours:
            if inclusion != included or len(points) < 3:
                continue
            mask, drawn = masks.setdefault(where, np.zeros(shape, bool)), fill_polygon(points, shape)
            masks[where] = mask | drawn if included else mask & ~drawn
    return {where: mask for where, mask in masks.items() if mask.any()}


def group_nodules(readers: list[int], volumes: list[dict[int, np.ndarray]]) -> list[list[int]]:
    """Which annotations show the same nodule: those that overlap, the closest pairs first, one per reader at most.

    Annotations without a common pixel are compared by pixels on neighbouring slices.

    Args:
        readers (`list[int]`): who drew each annotation.
        volumes (`list[dict[int, np.ndarray]]`): their masks from `rasterise`, by slice number.

    Returns:
        a list of nodules, each a list of indices into `volumes`.
    """
    pairs = [(_closeness(volumes[i], volumes[j]), i, j) for i, j in combinations(range(len(volumes)), 2)]
    nodule_of = {index: [index] for index in range(len(volumes))}
    for closeness, i, j in sorted(pairs, key=lambda pair: pair[0], reverse=True):
        together = nodule_of[i] + nodule_of[j]
        if any(closeness) and len({readers[k] for k in together}) == len(together):
            nodule_of.update(dict.fromkeys(together, together))
    return sorted({id(nodule): sorted(nodule) for nodule in nodule_of.values()}.values())


def _closeness(a: dict[int, np.ndarray], b: dict[int, np.ndarray]) -> tuple[float, float]:
    """Common voxels of two volumes, and those common to neighbouring slices, both over the voxels of either."""
    shared, beside = (
        sum(np.count_nonzero(a[z] & b[z + step]) for z in a for step in steps if z + step in b)
        for steps in ((0,), (-1, 1))
    )
    total = sum(np.count_nonzero(mask) for volume in (a, b) for mask in volume.values())
    return shared / max(total - shared, 1), beside / max(total - shared, 1)
