"""What the command writes and prints of one image, or of one finding in a volume."""

import warnings
from dataclasses import dataclass, field
from pathlib import Path

from ..data.dicom_files import is_dicom
from ..data.images import load_image
from ..data.spacing import pixel_spacing
from ..data.volumes import Volume
from ..overview import draw_overview
from .dicom_seg import check_dicom, write_finding, write_segmentation
from .files import mean_pairwise_dice, report, write_output
from .geometry_outputs import draw_finding, write_nifti
from .measurements import measure_finding, measure_masks, measurement_table
from .output import MedSegLatDiffPipelineOutput
from .pipeline import MedSegLatDiffPipeline
from .volume import segment_finding

IMAGE_FORMATS, VOLUME_FORMATS = ("png", "npz", "dicom-seg"), ("nifti", "dicom-seg")


@dataclass(frozen=True)
class SegmentSettings:
    """What decides about results, besides the source and the model's weights.

    Args:
        num_masks, num_inference_steps (`int`, *optional*): the checkpoint's if `None`.
        seed (`int`, *optional*, defaults to 0): of every case's noise.
        formats (`tuple[str, ...]`, *optional*): of `IMAGE_FORMATS` for images, of `VOLUME_FORMATS` for volumes; the
            first of these if empty.
    """

    num_masks: int | None = None
    num_inference_steps: int | None = None
    seed: int = 0
    formats: tuple[str, ...] = ()


@dataclass
class CaseResult:
    """What was found: lines for the terminal, and a row of `measurements.csv` where there is a finding to measure."""

    lines: list[str] = field(default_factory=list)
    row: dict | None = None


def segment_image(
    pipeline: MedSegLatDiffPipeline,
    path: str,
    region: tuple[float, ...] | None,
    settings: SegmentSettings,
    model: str,
    folder: Path,
    measured: bool,
) -> CaseResult:
    """Segments an image, or a region of it, into `folder`; a row of measurements where `measured`.

    Raises:
        TypeError, ValueError: for an image, a region or a format that cannot be used.
    """
    # 1. segment
    formats = check_formats(settings.formats, IMAGE_FORMATS, path)
    if "dicom-seg" in formats and (not is_dicom(path) or pipeline.num_classes != 1):
        raise ValueError(
            f"`--format dicom-seg` needs a DICOM source and a model of one class, but {path} has not both."
        )
    if region is not None and len(region) == 3:
        raise ValueError(f"{path} is a single image: a point must be X,Y, but was {_numbers(region)}.")
    image = load_image(path, pipeline.config.stretch)  # [H, W, C]
    steps = settings.num_inference_steps or pipeline.config.default_num_inference_steps
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        columns = pipeline(path, settings.num_masks, steps, return_dict=False, seed=settings.seed, regions=[region])
    output = MedSegLatDiffPipelineOutput(*columns)
    masks, confidence, uncertainty, consensus = (column[0] for column in columns)
    agreement = mean_pairwise_dice(masks, pipeline.num_classes)
    # 2. write
    subtitle = _subtitle(settings.seed, steps, model, agreement)
    maps = (masks, confidence, uncertainty, consensus)
    picture = draw_overview(image, *maps, pipeline.config.threshold, title=Path(path).name, subtitle=subtitle)
    write_output(folder, output, picture, formats)
    if "dicom-seg" in formats:
        _write_image_segmentation(folder, path, maps, pipeline, model)
    # 3. report
    spacing = pixel_spacing(path)
    lines = [report(masks, consensus, pipeline.num_classes, spacing)]
    lines.append(f"  agreement    {agreement:.2f} (mean pairwise Dice of the masks)")
    lines += _warnings(caught)
    row = {"uid": "", "slice": 0} | measure_masks(masks > 0, consensus > 0, spacing) if measured else None
    return CaseResult(lines, row)


def segment_in_volume(
    pipeline: MedSegLatDiffPipeline,
    volume: Volume,
    point: tuple[float, float, float],
    settings: SegmentSettings,
    model: str,
    folder: Path,
) -> CaseResult:
    """Follows the finding at `point`, indices `(x, y, z)`, through the volume and writes it to `folder`.

    Raises:
        ImportError: without the extra `volumes`.
        TypeError, ValueError: for a point or a format that cannot be used.
    """
    formats = check_formats(settings.formats, VOLUME_FORMATS, str(volume.path))
    if "dicom-seg" in formats:
        check_dicom(volume)
    steps = settings.num_inference_steps or pipeline.config.default_num_inference_steps
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = segment_finding(
            pipeline,
            volume,
            point,
            num_masks=settings.num_masks,
            num_inference_steps=steps,
            seed=settings.seed,
        )
    row = measure_finding(result)
    subtitle = _subtitle(settings.seed, steps, model, row["agreement_dice"])
    title = f"{volume.path.name}, slice {result.main_slice}"
    draw_finding(result, volume, title, subtitle).save(folder / "overview.png")
    if "nifti" in formats:
        write_nifti(folder, result, volume)
    if "dicom-seg" in formats:
        write_finding(folder, result, volume, model=model, finding=pipeline.config.finding, hypotheses=True)
    lines = [f"  slices {result.slices.start} to {result.slices.stop - 1} looked at, at {_numbers(point)}"]
    return CaseResult([*lines, measurement_table([row]), *_warnings(caught)], row)


def check_formats(formats: tuple[str, ...], possible: tuple[str, ...], path: str) -> tuple[str, ...]:
    """The formats to write, by default the first possible one.

    Raises:
        ValueError: for a format that a source of this kind does not have.
    """
    for name in formats:
        if name not in possible:
            raise ValueError(f"`--format` must be one of {', '.join(possible)} for {path}, but was {name}.")
    return formats or possible[:1]


def _write_image_segmentation(folder: Path, path: str, maps: tuple, pipeline: MedSegLatDiffPipeline, model: str):
    """`seg.dcm`, consensus and masks as segments, and `seg-confidence.dcm` of a DICOM image."""
    import numpy as np
    import pydicom

    masks, confidence, _, consensus = maps
    sources = [pydicom.dcmread(path, stop_before_pixels=True)]
    options = dict(model=model, finding=pipeline.config.finding)
    segments = np.concatenate([consensus[None], masks])[:, None]  # [1 + M, 1, H, W]
    write_segmentation(folder / "seg.dcm", sources, masks=segments, **options)
    write_segmentation(folder / "seg-confidence.dcm", sources, confidence=confidence[None], **options)


def _subtitle(seed: int, steps: int, model: str, agreement: float) -> str:
    settings = f"seed {seed}, {steps} steps, model {model}"
    return f"{settings}  |  agreement of the masks (mean pairwise Dice) {agreement:.2f}"


def _warnings(caught: list) -> list[str]:
    return [f"  warning: {entry.message}" for entry in caught if entry.category is UserWarning]


def _numbers(values: tuple[float, ...]) -> str:
    return ",".join(f"{value:g}" for value in values)
