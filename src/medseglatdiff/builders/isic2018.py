"""ISIC-2018 Task 1, skin lesions: the official archives or folders, or their training part alone."""

import io
import re
from functools import partial
from pathlib import Path

import numpy as np
import PIL.Image

from .archives import Source
from .build import Row, build, parser, positive, provenance, split_of
from .picture_files import BadFile, Picture, picture, read_mask, read_picture

IMAGE = re.compile(r"(?:.*/)?ISIC2018_Task1-2_(?P<part>Training|Validation|Test)_Input/(?P<id>ISIC_\d{7})\.jpg")
MASK = re.compile(
    r"(?:.*/)?ISIC2018_Task1_(?P<part>Training|Validation|Test)_GroundTruth/(?P<id>ISIC_\d{7})_segmentation\.png"
)
OFFICIAL = {"Training": "train", "Validation": "validation", "Test": "test"}


def isic_jobs(source: Source) -> list[tuple[str, str, str, str]]:
    """`(image's name, mask's name, image id, split)` of each image.

    Raises:
        ValueError: without training images, or with only one of the official validation and test parts.
    """
    images = {(m["part"], m["id"]): m[0] for name in source.names if (m := IMAGE.fullmatch(name))}
    masks = {(m["part"], m["id"]): m[0] for name in source.names if (m := MASK.fullmatch(name))}
    parts = {part for part, _ in images}
    if parts not in ({"Training"}, set(OFFICIAL)):
        raise ValueError(
            "`sources` must hold ISIC2018_Task1-2_Training_Input/ISIC_*.jpg and ISIC2018_Task1_Training_GroundTruth/"
            "ISIC_*_segmentation.png, and both or neither of the Validation and Test parts, but hold images of "
            f"{', '.join(sorted(parts)) or 'none'} among {len(source.names)} files: {', '.join(source.names[:3])} ..."
        )
    jobs = []
    for (part, image_id), name in sorted(images.items(), key=lambda item: item[0][1]):
        mask = masks.get((part, image_id), f"ISIC2018_Task1_{part}_GroundTruth/{image_id}_segmentation.png")
        jobs.append((name, mask, image_id, OFFICIAL[part] if len(parts) == 3 else split_of(image_id)))
    return jobs


def isic_rows(source: Source, size: int | None, square: bool, job: tuple[str, str, str, str]) -> list[Row]:
    """The one row of an image."""
    name, mask_name, image_id, split = job
    image = read_picture(source, name, modes=("RGB",))
    mask = read_mask(source, mask_name, image.pixels.shape[:2])
    if not mask.pixels.any():
        raise BadFile(mask_name, "is an empty mask, but every image of this data set shows a lesion")
    if size:
        image, mask = _resized(image, size, square), _resized(mask, size, square)
    return [Row(image, [mask], image_id, image_id, split)]


def _resized(original: Picture, size: int, square: bool) -> Picture:
    height, width = original.pixels.shape[:2]
    scale = size / max(height, width)
    shape = (size, size) if square else (max(round(width * scale), 1), max(round(height * scale), 1))
    with PIL.Image.open(io.BytesIO(original.data)) as image:
        pixels = np.asarray(image.resize(shape, PIL.Image.Resampling.BILINEAR))  # [h, w] or [h, w, 3]
    return picture(pixels if pixels.ndim == 3 else pixels > 127)


def main(argv: list[str] | None = None) -> Path:
    """Builds the data set from command-line arguments."""
    options = parser(__doc__, "isic2018")
    options.add_argument("sources", nargs="+", help="archives or folders with the official names")
    size = "pixels of the long side, with --square of both sides (default: unchanged)"
    options.add_argument("--size", type=positive, metavar="N", help=size)
    options.add_argument(
        "--square", action="store_true", help="with --size: do not keep the aspect ratio (default: no)"
    )
    args = options.parse_args(argv)
    if args.square and not args.size:
        options.error("--square needs --size")
    source = Source(args.sources)
    jobs = isic_jobs(source)
    used = {name for job in jobs for name in job[:2]}
    strays = [name for name in source.names if name.endswith((".jpg", "_segmentation.png")) and name not in used]
    rows = partial(isic_rows, source, args.size, args.square)
    return build(args, "card_isic2018.md", jobs, rows, provenance(args, source), strays)
