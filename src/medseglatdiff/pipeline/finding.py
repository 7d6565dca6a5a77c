"""What is found at a point of a volume: hypotheses as bodies, their confidence and consensus, and where they lie."""

from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True, eq=False)
class FindingResult:
    """A finding's hypotheses and what follows from them, in the box of the volume that was looked at.

    Args:
        uid (`str`): of the volume.
        point (`tuple[float, float, float]`): from where it was followed, indices `(x, y, z)`.
        offset (`tuple[int, int, int]`): of the box's first voxel in the volume: slice, row, column.
        spacing (`tuple[float, float, float]`): between slices, rows and columns, in mm.
        masks (`np.ndarray`, bool `(M, d, h, w)`): hypotheses; an empty one sees no finding at the point.
        confidence (`np.ndarray`, float32 `(d, h, w)`): as in `MedSegLatDiffPipelineOutput`.
        uncertainty (`np.ndarray`, float32 `(d, h, w)`): in bits.
        consensus (`np.ndarray`, bool `(d, h, w)`): confidence >= the checkpoint's threshold.
        threshold (`float`): the checkpoint's.
    """

    uid: str
    point: tuple[float, float, float]
    offset: tuple[int, int, int]
    spacing: tuple[float, float, float]
    masks: np.ndarray = field(repr=False)
    confidence: np.ndarray = field(repr=False)
    uncertainty: np.ndarray = field(repr=False)
    consensus: np.ndarray = field(repr=False)
    threshold: float

    @property
    def slices(self) -> range:
        """The slices of the volume that were looked at."""
        return range(self.offset[0], self.offset[0] + self.consensus.shape[0])

    @property
    def main_slice(self) -> int:
        """Of the volume: where the consensus is largest, the point's slice where it is empty."""
        areas = self.consensus.sum(axis=(1, 2))  # [d]
        return self.offset[0] + int(areas.argmax()) if areas.any() else round(self.point[2])

    def in_slices(self, values: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
        """Values of the box, `(..., d, h, w)`, in whole slices of a volume of `shape`, `(..., d, H, W)`; else 0."""
        (_, top, left), (height, width) = self.offset, values.shape[-2:]
        whole = np.zeros((*values.shape[:-2], *shape[1:]), values.dtype)
        whole[..., top : top + height, left : left + width] = values
        return whole

    def in_volume(self, values: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
        """Values of the box, `(d, h, w)`, in a volume of `shape`, `(D, H, W)`; 0 elsewhere."""
        whole = np.zeros(shape, values.dtype)
        whole[self.slices.start : self.slices.stop] = self.in_slices(values, shape)
        return whole
