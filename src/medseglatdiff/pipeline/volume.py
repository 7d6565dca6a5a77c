"""One finding of a volume, followed slice by slice from a point: each hypothesis is one body. Extra `volumes`."""

import math
import warnings
from collections.abc import Iterator

import numpy as np
import torch

from ..data.volumes import Volume
from .aggregation import aggregate, convert
from .finding import FindingResult
from .inputs import check_counts, field_of_view
from .pipeline import MedSegLatDiffPipeline
from .regions import Window, cut, paste, region_window
from .selection import representatives

MAX_EXTENT = 40.0  # mm: no nodule is longer, lung masses are up to about twice that
MAX_BEYOND = 3.0  # mm


def segment_finding(
    pipeline: MedSegLatDiffPipeline,
    volume: Volume,
    point: tuple[float, float, float],
    *,
    num_masks: int | None = None,
    num_inference_steps: int | None = None,
    seed: int = 0,
    max_extent_mm: float = MAX_EXTENT,
) -> FindingResult:
    """Follows a finding from its point through the slices, up and down, until no hypothesis is left.

    Where the consensus has ended, the hypotheses that are left are followed for at most 3 mm more, but at least one
    slice: a checkpoint that has only seen crops of findings lets a few hypotheses go on for ever.

    Candidates are drawn on the point's slice, and the representative masks chosen there: they are those of a call for
    this slice alone, and the finding ends where the last of them does, not the last of all candidates. On every other
    slice the same hypotheses are drawn again, each from the noise, and under the symmetry, that it had: neighbouring
    slices look alike, so that it gives one body. On the point's slice a hypothesis keeps the part nearest to the
    point, on others the parts that touch what it kept on the slice before: vessels and other nodules do not belong to
    it.

    The window that the model sees has the checkpoint's field of view. It lies around the point first, then around the
    centroid of the consensus on the slice before, as the model knows findings in the middle of its crops; where the
    consensus has ended, it stays where it is, so that a few hypotheses do not lead it away.

    Values: where the checkpoint wants images stretched (`config.stretch`), each window from its least to its greatest
    value, as it was trained; otherwise by `volume.shown`, with the window of the point's slice for all slices.

    Args:
        pipeline (`MedSegLatDiffPipeline`): with one class.
        volume (`Volume`): its slices are read when their turn comes.
        point (`tuple[float, float, float]`): indices `(x, y, z)` in the volume; `volume.index_of` gives them for mm.
        num_masks, num_inference_steps, seed: as for the pipeline.
        max_extent_mm (`float`, *optional*, defaults to 40): how far from the point's slice it is followed at most, in
            each direction. A finding that goes on is warned about.

    Raises:
        ImportError: without the extra `volumes`.
        ValueError: for a point outside the volume, a checkpoint of several classes, and arguments that cannot be.
    """
    # 1. what is asked for
    if pipeline.num_classes != 1:
        raise ValueError(f"`pipeline` must have one class to follow a finding, but has {pipeline.num_classes}.")
    if len(point) != 3 or not volume.holds(point):
        size = " x ".join(map(str, volume.shape[::-1]))
        raise ValueError(f"`point` must be (x, y, z) in the {size} voxels of {volume.path}, but was {tuple(point)}.")
    if not 0 <= max_extent_mm < math.inf:
        raise ValueError(f"`max_extent_mm` must be at least 0 and finite, but was {max_extent_mm}.")
    num_masks = pipeline.config.default_num_masks if num_masks is None else num_masks
    check_counts(num_masks=num_masks)
    x, y, start = (min(max(value, 0), length - 1) for value, length in zip(point, volume.shape[::-1], strict=True))
    start = round(start)
    steps, beyond = (int(length / volume.spacing[2] + 1e-6) for length in (max_extent_mm, MAX_BEYOND))  # slices
    follower = _Follower(pipeline, volume, start, num_masks, num_inference_steps, seed)
    # 2. the point's slice
    first = follower.first((x, y))  # [M, H, W]
    # 3. down, then up
    for step in (-1, 1):
        kept, last, follower.centre = first, start, (x, y)  # [M, H, W]
        end = min(max(start + step * steps, 0), volume.shape[0] - 1)
        for index in range(start + step, end + step, step):
            if follower.agreed(kept).any():
                last = index - step  # of the consensus
            if not kept.any() or abs(index - last) > max(1, beyond):
                break
            kept = follower.next(index, kept)  # [M, H, W]
        if 0 < end < volume.shape[0] - 1 and end in follower.parts and follower.agreed(kept).any():
            warnings.warn(
                f"The finding at {tuple(round(value) for value in point)} in {volume.path.name} goes on beyond "
                f"{max_extent_mm:g} mm from its point: it is cut off at slice {end}. Raise `max_extent_mm`.",
                UserWarning,
                stacklevel=2,
            )
    pipeline.maybe_free_model_hooks()
    return follower.result((point[0], point[1], point[2]))


class _Follower:
    """The hypotheses of a finding, slice after slice; what is kept of them in `parts`, by slice, for their windows."""

    def __init__(self, pipeline, volume: Volume, start: int, num_masks: int, num_inference_steps, seed: int):
        self.pipeline, self.volume, self.start, self.num_masks = pipeline, volume, start, num_masks
        self.options = dict(num_inference_steps=num_inference_steps, seed=seed, batch_size=num_masks)
        self.options["num_candidates"] = pipeline.num_drawn(num_masks)
        self.parts: dict[int, tuple[Window, torch.Tensor]] = {}  # [M, h, w]

    def first(self, centre: tuple[float, float]) -> np.ndarray:
        """Chooses the hypotheses; bool `(M, H, W)`, of each the part nearest to the centre `(x, y)`."""
        window, probabilities = self._look(self.start, centre)  # [N, 2, S, S]
        labels = probabilities.max(dim=1).indices  # [N, S, S]
        chosen = representatives(labels, self.num_masks, 1, self.pipeline.config.spread)  # [M]
        self.options["members"] = chosen.tolist()
        masks = self._masks(window, probabilities[chosen])  # [M, H, W]
        return self._keep(self.start, window, [nearest_part(mask, centre) for mask in masks])

    def next(self, index: int, before: np.ndarray) -> np.ndarray:
        """The same hypotheses on slice `index`, beside what was kept on the slice before: bool `(M, H, W)`."""
        agreed = np.argwhere(self.agreed(before))  # [n, 2]
        if len(agreed):
            self.centre = tuple(agreed.mean(axis=0)[::-1].tolist())
        window, probabilities = self._look(index, self.centre)  # [M, 2, S, S]
        masks = self._masks(window, probabilities)  # [M, H, W]
        return self._keep(index, window, [touching_parts(*pair) for pair in zip(masks, before, strict=True)])

    def agreed(self, masks: np.ndarray) -> np.ndarray:
        """The consensus of hypotheses, bool `(M, H, W)` -> `(H, W)`."""
        labels, config = torch.from_numpy(masks).to(torch.uint8), self.pipeline.config  # [M, H, W]
        return aggregate(labels, 1, config.threshold, config.calibration)[2].numpy() > 0

    def _look(self, index: int, centre: tuple[float, float]) -> tuple[Window, torch.Tensor]:
        """The window around a centre, and the probabilities there, `(n, 2, S, S)`."""
        config = self.pipeline.config
        window = region_window(centre, self.volume.shape[1:], field_of_view(self.volume.pixel_spacing, config))
        values = cut(self.volume.slice(index)[:, :, None], window)[:, :, 0]  # [h, w]
        if config.stretch:
            values = (values - values.min()) / (np.ptp(values) or 1)  # [h, w]
        else:
            values = self.volume.shown(values, self.start)  # [h, w]
        whole = (0, 0, *values.shape[::-1])
        candidates = self.pipeline.sample([values], regions=[whole], **self.options)
        with torch.no_grad():
            probabilities = self.pipeline.decode(candidates.latents[0], candidates.batch_size, candidates.members)
        return window, probabilities

    def _masks(self, window: Window, probabilities: torch.Tensor) -> np.ndarray:
        labels = self.pipeline.representative_labels(probabilities, len(probabilities), window.size)  # [M, h, w]
        return paste(labels, window, self.volume.shape[1:]).bool().cpu().numpy()  # [M, H, W]

    def _keep(self, index: int, window: Window, masks: list[np.ndarray]) -> np.ndarray:
        whole = np.stack(masks)  # [M, H, W]
        rows, columns = _bounds([window], self.volume.shape)
        box = Window(columns.start, rows.start, columns.stop, rows.stop)
        self.parts[index] = box, torch.from_numpy(whole[:, rows, columns].copy())  # [M, h, w]
        return whole

    def result(self, point: tuple[float, float, float]) -> FindingResult:
        """All slices in the box that their windows cover together."""
        volume, config = self.volume, self.pipeline.config
        rows, columns = _bounds([window for window, _ in self.parts.values()], volume.shape)
        kept = (
            paste(masks, window, volume.shape[1:])[:, rows, columns]
            for _, (window, masks) in sorted(self.parts.items())
        )
        masks = torch.stack(list(kept), dim=1)  # [M, d, h, w]
        flat = masks.flatten(1, 2).to(torch.uint8)  # [M, d*h, w]
        maps = convert((flat, *aggregate(flat, 1, config.threshold, config.calibration)), 1, "np")[1:]
        confidence, uncertainty, consensus = (values.reshape(masks.shape[1:]) for values in maps)  # [d, h, w] each
        depth, height, width = volume.spacing[::-1].tolist()
        return FindingResult(
            volume.uid,
            point,
            (min(self.parts), rows.start, columns.start),
            (depth, height, width),
            masks.numpy(),
            confidence,
            uncertainty,
            consensus,
            config.threshold,
        )


def nearest_part(mask: np.ndarray, point: tuple[float, float]) -> np.ndarray:
    """The connected part of a mask, bool `(H, W)`, that lies nearest to a point `(x, y)`; corners connect."""
    if not mask.any():
        return mask
    parts, pixels = _numbered(mask), np.argwhere(mask)  # [H, W], [n, 2]
    closest = pixels[((pixels - point[::-1]) ** 2).sum(axis=1).argmin()]  # [2]
    return parts == parts[tuple(closest)]


def _numbered(mask: np.ndarray) -> np.ndarray:
    """The connected parts of a mask, bool `(H, W)`, by numbers from 1; 0 elsewhere."""
    try:
        from skimage.measure import label
    except ImportError as error:
        raise ImportError('Following a finding needs `pip install "medseglatdiff[volumes]"`.') from error
    return label(mask, connectivity=2)


def touching_parts(mask: np.ndarray, before: np.ndarray) -> np.ndarray:
    """The connected parts of a mask, bool `(H, W)`, that share a pixel with the one of the slice before."""
    parts = _numbered(mask)  # [H, W]
    return np.isin(parts, np.setdiff1d(parts[before], 0))


def _bounds(windows: list[Window], shape: tuple[int, int, int]) -> Iterator[slice]:
    """Rows and columns of the volume that the windows cover together."""
    for first, last, length in (("top", "bottom", shape[1]), ("left", "right", shape[2])):
        yield slice(
            max(min(getattr(window, first) for window in windows), 0),
            min(max(getattr(window, last) for window in windows), length),
        )
