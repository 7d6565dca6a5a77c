"""A picture of what an evaluation measured: random, best and worst images with readers, hypotheses and confidence.

It shows images of the data set, so it stays beside the results: `publish` never uploads it.
"""

import hashlib
from collections.abc import Sequence

import numpy as np
import PIL.Image
from PIL import ImageDraw, ImageFont

from ..data.images import load_image
from ..data.splits import read_raters
from ..overview import FAINT_INK, INK, VIRIDIS, colour_map, colour_of, outline, resize_image, resize_map, resize_mask

EXAMPLES = 3  # images of each section
TILE, GAP, TEXT = 224, 8, 22  # pixels
PANELS = ("image", "readers", "hypotheses", "confidence")


def choose_examples(rows: Sequence[dict]) -> dict[str, list[dict]]:
    """`EXAMPLES` measured rows per section: random, but always the same; the best (of images with a lesion) and worst
    Dice of the consensus; and, with several hypotheses, the images on which these disagree most."""
    lesions = [row for row in rows if row["reference_area"] > 0]
    orders = {
        "random": sorted(rows, key=lambda row: hashlib.sha256(row["image_id"].encode()).digest()),
        "best Dice": sorted(lesions, key=lambda row: (-row["dice"], row["image_id"])),
        "worst Dice": sorted(rows, key=lambda row: (row["dice"], row["image_id"])),
    }
    if all("diversity" in row for row in rows):
        orders["most disagreement"] = sorted(rows, key=lambda row: (-row["diversity"], row["image_id"]))
    return {title: order[:EXAMPLES] for title, order in orders.items() if order}


def draw_contact_sheet(
    examples: dict[str, list[dict]], rows: dict[str, dict], predictions: dict[str, tuple], num_classes: int
) -> PIL.Image.Image:
    """One line for each example: the image, outlines of the readers and of the hypotheses, the confidence.

    Args:
        examples (`dict[str, list[dict]]`): measured rows by the title of their section.
        rows (`dict[str, dict]`): the rows of the data set by their `image_id`.
        predictions (`dict[str, tuple]`): the pipeline's masks, confidence, uncertainty and consensus by `image_id`.
        num_classes (`int`): foreground classes; with several, outlines have the colours of their class.
    """
    lines = [(title, measured) for title, chosen in examples.items() for measured in chosen]
    width, height = len(PANELS) * (TILE + GAP) + GAP, TILE + TEXT + GAP
    sheet = PIL.Image.new("RGB", (width, len(lines) * height + GAP + TEXT), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(14)
    for column, panel in enumerate(PANELS):
        draw.text((GAP + column * (TILE + GAP), 4), panel, INK, font)
    for line, (title, measured) in enumerate(lines):
        image_id, top = measured["image_id"], TEXT + line * height
        text = f"{title}: {image_id}, Dice {measured['dice']:.3f}"
        if "diversity" in measured:
            text += f", disagreement {measured['diversity']:.3f}"
        draw.text((GAP, top + 3), text.encode("ascii", "replace").decode(), FAINT_INK, font)
        for column, tile in enumerate(draw_line(rows[image_id], predictions[image_id], num_classes)):
            sheet.paste(tile, (GAP + column * (TILE + GAP), top + TEXT))
    return sheet


def draw_line(row: dict, prediction: tuple, num_classes: int) -> list[PIL.Image.Image]:
    """The panels of one row of the data set; `prediction` as the pipeline returns it."""
    masks, confidence, *_ = prediction  # [M, H, W], [H, W] or [K, H, W]
    image = load_image(row["image"])  # [H, W, C]
    longest = max(image.shape[:2])
    size = tuple(max(1, round(TILE * side / longest)) for side in image.shape[1::-1])
    scan = resize_image(image, size)  # [h, w, 3]
    highest = confidence.max(axis=0) if confidence.ndim == 3 else confidence  # [H, W]
    panels = [scan, _outlined(scan, read_raters(row, num_classes), num_classes)]
    panels += [_outlined(scan, masks, num_classes), resize_map(colour_map(highest, VIRIDIS), size)]
    return [PIL.Image.fromarray(panel) for panel in panels]


def _outlined(scan: np.ndarray, masks: np.ndarray, num_classes: int) -> np.ndarray:
    """Masks `(N, H, W)` outlined in different colours, or label maps in those of the classes; `(h, w, 3)`."""
    picture = scan.copy()  # [h, w, 3]
    for index, mask in enumerate(masks):
        for k in range(1, num_classes + 1):
            colour = colour_of(index if num_classes == 1 else k - 1)
            picture[outline(resize_mask(mask == k, scan.shape[1::-1]), 1)] = colour
    return picture
