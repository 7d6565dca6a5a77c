"""`medseglatdiff segment` and `medseglatdiff info`: the pipeline from the command line."""

import argparse
import os
import re
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError

from .aggregation import to_pil
from .dicom import pixel_spacing
from .images import load_image
from .overview import draw_overview
from .pipeline import MedSegLatDiffPipeline
from .pipeline_output import MedSegLatDiffPipelineOutput

WRITTEN = re.compile(
    r"((mask|confidence|uncertainty)-\d{2,}|confidence|uncertainty|consensus|overview)\.png|masks\.npz"
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; 0 if all went well, 2 after bad input, which is told in one sentence on stderr."""
    options = build_parser().parse_args(arguments)
    try:
        options.command(options)
    except (ImportError, OSError, TypeError, ValueError) as error:
        print(f"medseglatdiff: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


def build_parser() -> argparse.ArgumentParser:
    """The commands and their options."""
    parser = argparse.ArgumentParser(prog="medseglatdiff", description="Several plausible masks for a medical image.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    segment = commands.add_parser("segment", help="segment images: masks, confidence and a picture of them for each")
    segment.add_argument("images", nargs="+", type=Path, metavar="IMAGE", help="PNG, JPEG, TIFF, DICOM, ...")
    segment.add_argument("--model", required=True, metavar="PATH_OR_ID", help="a pipeline's folder or Hub id")
    segment.add_argument("--out", required=True, type=Path, metavar="DIR", help="each image gets a folder in it")
    segment.add_argument("--num-masks", type=int, metavar="N", help="hypotheses per image (default: the checkpoint's)")
    segment.add_argument("--steps", type=int, metavar="N", help="denoising steps (default: the checkpoint's)")
    segment.add_argument("--seed", type=int, default=0, help="of every image's noise (default: 0)")
    segment.add_argument("--format", choices=("png", "npz"), default="png", help="of masks and maps (default: png)")
    segment.set_defaults(command=run_segment)
    info = commands.add_parser("info", help="what a checkpoint consists of and wants")
    info.add_argument("model", metavar="PATH_OR_ID", help="a pipeline's folder or Hub id")
    info.set_defaults(command=run_info)
    return parser


def run_segment(options: argparse.Namespace):
    """Checks every image, then segments, writes and reports one after the other.

    Each image starts from the same seed, so that its masks do not depend on what else is segmented.
    """
    # 1. whatever can be wrong is found before anything is sampled
    for name in ("num_masks", "steps"):
        count = getattr(options, name)
        if count is not None and count < 1:
            raise ValueError(f"`--{name.replace('_', '-')}` must be at least 1, but was {count}.")
    if not 0 <= options.seed < 2**63:
        raise ValueError(f"`--seed` must lie in [0, 2**63), but was {options.seed}.")
    pipeline = load_pipeline(options.model)
    images = [load_named(path, pipeline.config.stretch) for path in options.images]  # n * [H, W, C]
    spacings = [pixel_spacing(path) for path in options.images]
    steps = pipeline.config.default_num_inference_steps if options.steps is None else options.steps
    options.out.mkdir(parents=True, exist_ok=True)
    # 2. segment
    for path, name, image, spacing in zip(options.images, output_names(options.images), images, spacings, strict=True):
        pipeline.set_progress_bar_config(desc=path.name)
        generator = torch.Generator().manual_seed(options.seed)
        output = pipeline(image, options.num_masks, steps, generator=[generator])
        agreement = mean_pairwise_dice(output.masks[0], pipeline.num_classes)
        # 3. write and report
        settings = f"seed {options.seed}, {steps} steps, model {Path(options.model).name}"
        picture = draw_overview(
            image,
            *(column[0] for column in output.to_tuple()),
            threshold=pipeline.config.threshold,
            title=path.name,
            subtitle=f"{settings}  |  agreement of the hypotheses (mean pairwise Dice) {agreement:.2f}",
        )
        try:
            write_output(options.out / name, output, picture, options.format)
        except OSError as error:
            raise OSError(f"{options.out / name} cannot be written: {error}") from error
        print(f"\n{path} -> {options.out / name}")
        print(report(output.masks[0], output.consensus[0], pipeline.num_classes, spacing))
        print(f"  agreement    {agreement:.2f} (mean pairwise Dice of the hypotheses)", flush=True)


def run_info(options: argparse.Namespace):
    """Prints a checkpoint's components and defaults."""
    pipeline = load_pipeline(options.model)
    for name, component in pipeline.components.items():
        size = f"{component.num_parameters():>14,} parameters" if isinstance(component, torch.nn.Module) else ""
        print(f"{name:<22}{type(component).__name__:<28}{size}".rstrip())
    rows = {
        "sample size": f"{pipeline.config.sample_size} x {pipeline.config.sample_size} pixels",
        "image channels": pipeline.image_encoder.config.in_channels,
        "foreground classes": pipeline.num_classes,
        "stretches images": "yes" if pipeline.config.stretch else "no",
        "default masks": pipeline.config.default_num_masks,
        "of candidates": pipeline.num_drawn(pipeline.config.default_num_masks),
        "default steps": pipeline.config.default_num_inference_steps,
        "consensus threshold": pipeline.config.threshold,
        "calibrated": "yes" if pipeline.config.calibration else "no",
    }
    for name, value in rows.items():
        print(f"{name:<22}{value}")


def load_pipeline(model: str) -> MedSegLatDiffPipeline:
    """The pipeline of a folder or Hub id, on the GPU where there is one.

    Raises:
        ValueError: if it cannot be loaded.
    """
    try:
        pipeline = MedSegLatDiffPipeline.from_pretrained(model)
    except (AttributeError, KeyError, OSError, RuntimeError, SafetensorError, TypeError, ValueError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(f"`--model` must be a pipeline's folder or Hub id, but {model} is not: {reason}") from error
    return pipeline.to("cuda" if torch.cuda.is_available() else "cpu")


def load_named(path: Path, stretch: bool) -> np.ndarray:
    """`load_image` of a file; its errors name the file."""
    try:
        return load_image(path, stretch)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path} cannot be segmented: {error}") from error


def output_names(paths: Sequence[Path]) -> list[str]:
    """A folder's name for each image: its own without suffix, numbered where another image has it already."""
    names = []
    for path in paths:
        name, number = path.stem, 2
        while name.lower() in (taken.lower() for taken in names):
            name, number = f"{path.stem}-{number}", number + 1
        names.append(name)
    return names


def mean_pairwise_dice(masks: np.ndarray, num_classes: int) -> float:
    """Mean Dice over distinct pairs of hypotheses, `(M, H, W)`, and classes; two empty masks agree, 1.

    A single hypothesis agrees with itself: 1.
    """
    if len(masks) == 1:
        return 1.0
    scores = []
    for k in range(1, num_classes + 1):
        flat = (masks == k).reshape(len(masks), -1).astype(np.float64)  # [M, H * W]
        areas = flat.sum(axis=1)  # [M]
        total = areas[:, None] + areas  # [M, M]
        dice = np.where(total > 0, 2 * (flat @ flat.T) / np.maximum(total, 1), 1)  # [M, M]
        scores.append(dice[~np.eye(len(masks), dtype=bool)].mean())
    return float(np.mean(scores))


def report(
    masks: np.ndarray, consensus: np.ndarray, num_classes: int, spacing: tuple[float, float] | None, columns: int = 8
) -> str:
    """A table of foreground areas, in pixels and, where the spacing in mm is known, in mm², eight columns a line."""
    heads = [str(index + 1) for index in range(len(masks))] + ["consensus"]
    lines = [("hypothesis", heads)]
    for k in range(1, num_classes + 1):
        areas = [int((mask == k).sum()) for mask in (*masks, consensus)]
        name = "area" if num_classes == 1 else f"class {k}"
        lines.append((f"{name} (px)", [str(area) for area in areas]))
        if spacing:
            lines.append((f"{name} (mm²)", [f"{area * spacing[0] * spacing[1]:.1f}" for area in areas]))
    blocks = [
        "\n".join(
            f"  {name:<13}" + "".join(f"{cell:>10}" for cell in cells[first : first + columns])
            for name, cells in lines
        )
        for first in range(0, len(heads), columns)
    ]
    return "\n".join(blocks)


def write_output(folder: Path, output: MedSegLatDiffPipelineOutput, picture: Image.Image, file_format: str):
    """Writes one image's masks, maps and picture into `folder`, all or nothing: full disks leave no half behind.

    What an earlier run wrote there is replaced; other files stay. `png`: masks 0/255, labels where there are several
    classes, maps with 0..255 for 0..1. `npz`: the exact arrays `masks`, `confidence`, `uncertainty`, `consensus`.
    """
    arrays = {name: output[name][0] for name in ("masks", "confidence", "uncertainty", "consensus")}
    with tempfile.TemporaryDirectory(prefix=".medseglatdiff-", dir=folder.parent) as temporary:
        new = Path(temporary)
        if file_format == "npz":
            np.savez_compressed(new / "masks.npz", **arrays)
        else:
            for name, array in arrays.items():
                write_png(new, "mask" if name == "masks" else name, to_pil(array))
        picture.save(new / "overview.png")
        folder.mkdir(exist_ok=True)
        for file in folder.iterdir():
            if WRITTEN.fullmatch(file.name):
                file.unlink()
        for file in sorted(new.iterdir()):
            os.replace(file, folder / file.name)


def write_png(folder: Path, name: str, images: Image.Image | list[Image.Image]):
    """NAME.png, or NAME-01.png and so on for several."""
    if not isinstance(images, list):
        images.save(folder / f"{name}.png")
        return
    digits = max(2, len(str(len(images))))
    for index, image in enumerate(images, start=1):
        image.save(folder / f"{name}-{index:0{digits}}.png")
