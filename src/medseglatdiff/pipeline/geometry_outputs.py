"""A finding in the geometry of its source: NIfTI of the whole volume, and a picture of its main slice."""

from pathlib import Path

import numpy as np
import PIL.Image

from ..data.volumes import Volume
from ..overview import draw_overview
from .finding import FindingResult


def write_nifti(folder: str | Path, result: FindingResult, volume: Volume):
    """Writes `consensus.nii.gz` and `mask-01.nii.gz` and so on (uint8, 0 and 1), and `confidence.nii.gz` (float32).

    Each has the size, spacing, origin and directions of the volume, so that viewers lay them over it. One is made
    after the other: memory holds a single one.

    Args:
        folder (`str` or `Path`): which exists; files of these names are replaced.
        result (`FindingResult`): of this volume.
        volume (`Volume`): where it was found.

    Raises:
        ImportError: without the extra `volumes`.
        OSError: if they cannot be written.
    """
    digits = max(2, len(str(len(result.masks))))
    maps = {"consensus": result.consensus, "confidence": result.confidence}
    maps |= {f"mask-{number:0{digits}}": mask for number, mask in enumerate(result.masks, start=1)}
    for name, values in maps.items():
        values = values.astype(np.uint8) if values.dtype == bool else values  # [d, h, w]
        _write(Path(folder) / f"{name}.nii.gz", result.in_volume(values, volume.shape), volume)


def _write(path: Path, values: np.ndarray, volume: Volume):
    """Values of the whole volume, `(D, H, W)`."""
    try:
        import SimpleITK
    except ImportError as error:
        raise ImportError('Writing NIfTI needs `pip install "medseglatdiff[volumes]"`.') from error
    image = SimpleITK.GetImageFromArray(values)
    image.SetOrigin(volume.origin.tolist())
    image.SetSpacing(volume.spacing.tolist())
    image.SetDirection(volume.direction.ravel().tolist())
    try:
        SimpleITK.WriteImage(image, path)
    except RuntimeError as error:
        raise OSError(f"{path} cannot be written: {str(error).strip().splitlines()[-1]}") from error


def draw_finding(result: FindingResult, volume: Volume, title: str, subtitle: str) -> PIL.Image.Image:
    """The command line's picture, of the slice on which the consensus is largest, zoomed to the finding.

    The slice is shown as `volume.shown` gives it.
    """
    index = result.main_slice
    inside = index - result.offset[0]
    maps = (result.masks[:, inside], result.confidence[inside], result.uncertainty[inside], result.consensus[inside])
    # [M, H, W], [H, W], [H, W], [H, W]
    masks, confidence, uncertainty, consensus = (result.in_slices(values, volume.shape) for values in maps)
    image = volume.shown(volume.slice(index), index)[:, :, None]  # [H, W, 1]
    return draw_overview(
        image,
        masks,
        confidence,
        uncertainty,
        consensus,
        threshold=result.threshold,
        title=title,
        subtitle=subtitle,
    )
