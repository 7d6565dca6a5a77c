"""The command `segment`: images in; masks, maps and a picture of them for each."""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from ..data.images import load_image
from ..data.spacing import pixel_spacing
from ..overview import draw_overview
from .files import mean_pairwise_dice, report, write_output
from .loading import load_pipeline


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """The options of the command."""
    segment = argparse.ArgumentParser(
        prog="medseglatdiff segment", description="Segments images: masks, confidence and a picture of them for each."
    )
    segment.add_argument("images", nargs="+", type=Path, metavar="IMAGE", help="PNG, JPEG, TIFF, DICOM, ...")
    segment.add_argument("--model", required=True, metavar="PATH_OR_ID", help="a pipeline's folder or Hub id")
    segment.add_argument("--out", required=True, type=Path, metavar="DIR", help="each image gets a folder in it")
    segment.add_argument("--num-masks", type=int, metavar="N", help="hypotheses per image (default: the checkpoint's)")
    segment.add_argument("--steps", type=int, metavar="N", help="denoising steps (default: the checkpoint's)")
    segment.add_argument("--seed", type=int, default=0, help="of every image's noise (default: 0)")
    segment.add_argument("--format", choices=("png", "npz"), default="png", help="of masks and maps (default: png)")
    return segment.parse_args(arguments)


def main(arguments: list[str] | None = None):
    """Checks every image, then segments, writes and reports one after the other.

    Each image starts from the same seed, so that its masks do not depend on what else is segmented.
    """
    options = parse_arguments(arguments)
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
