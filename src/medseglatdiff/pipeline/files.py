"""The files and the table of an image's segmentation: masks and maps as PNG or npz, and areas as text."""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from .aggregation import to_pil
from .output import MedSegLatDiffPipelineOutput

WRITTEN = re.compile(
    r"((mask|confidence|uncertainty)-\d{2,}|confidence|uncertainty|consensus|overview)\.png|masks\.npz"
)


def mean_pairwise_dice(masks: np.ndarray, num_classes: int) -> float:
    """Mean Dice over pairs of hypotheses, `(M, H, W)`, and over classes; two empty masks count as 1.

    1 for a single hypothesis.
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
    """A table of foreground areas, in pixels and, if the spacing in mm is known, in mm²; eight columns per line."""
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


def write_output(folder: Path, output: MedSegLatDiffPipelineOutput, picture: Image.Image, formats: Sequence[str]):
    """Writes one image's masks, maps and picture into `folder`.

    `png`: masks as 0/255, or labels with several classes; maps as 0..255 for 0..1. `npz`: the exact arrays
    `masks`, `confidence`, `uncertainty`, `consensus`.
    """
    arrays = {name: output[name][0] for name in ("masks", "confidence", "uncertainty", "consensus")}
    if "npz" in formats:
        np.savez_compressed(folder / "masks.npz", **arrays)
    if "png" in formats:
        for name, array in arrays.items():
            write_png(folder, "mask" if name == "masks" else name, to_pil(array))
    picture.save(folder / "overview.png")


def write_png(folder: Path, name: str, images: Image.Image | list[Image.Image]):
    """Writes NAME.png, or NAME-01.png, NAME-02.png, ... for a list."""
    if not isinstance(images, list):
        images.save(folder / f"{name}.png")
        return
    digits = max(2, len(str(len(images))))
    for index, image in enumerate(images, start=1):
        image.save(folder / f"{name}-{index:0{digits}}.png")
