"""Your own images with the masks of one or more raters.

Either parallel folders, images/ and masks/ (or masks-1/, masks-2/, ... one per rater), whose files have the same names
before the dot; or an imagefolder with metadata.jsonl, whose lines have `file_name`, `mask_file_names` and, if you
like, `group_id` and `split`. Either may lie in folders named train, validation and test. Images may be grey, RGB,
16-bit grey or DICOM (as its window shows it, in 8 bits).
"""

import io
import json
import re
from functools import partial
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
import PIL.ExifTags
import PIL.Image

from .archives import Source
from .build import SPLITS, Row, build, parser, positive, provenance, split_of
from .picture_files import BadFile, Picture, picture, read_picture

IMAGE = re.compile(r"(?P<folder>(?:.*/)?)images/(?P<stem>[^/]+?)\.[^/.]+")
STORED = {"1": "L", "L": "L", "LA": "L", "P": "RGB", "PA": "RGB", "RGB": "RGB", "RGBA": "RGB"}  # mode by a file's mode
MASK = re.compile(r"(?P<folder>(?:.*/)?)masks(?:-(?P<rater>\d+))?/(?P<stem>[^/]+?)\.[^/.]+")


class Job(NamedTuple):
    """The files of one row."""

    image: str
    masks: list[str]
    image_id: str
    group_id: str
    split: str


def metadata_jobs(source: Source) -> list[Job]:
    """A job for each line of each metadata.jsonl.

    Raises:
        ValueError: for a line that is no JSON object with `file_name` and a list of `mask_file_names`, or whose split
            is unknown.
    """
    jobs = []
    for name in (name for name in source.names if PurePosixPath(name).name == "metadata.jsonl"):
        for number, line in enumerate(source.read(name).splitlines(), start=1):
            try:
                jobs.append(_metadata_job(PurePosixPath(name).parent, json.loads(line)))
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(f"{name}, line {number}, cannot be used: {error!r}") from error
    return jobs


def _metadata_job(folder: PurePosixPath, row: dict) -> Job:
    image, masks = str(folder / row["file_name"]), row["mask_file_names"]
    if not isinstance(masks, list):
        raise TypeError(f"`mask_file_names` must be a list, but was {masks!r}")
    image_id = _image_id(image, str(PurePosixPath(row["file_name"]).with_suffix("")))
    group_id = image_id if row.get("group_id") is None else str(row["group_id"])
    split = row.get("split") or _split_by_folder(image) or split_of(group_id)
    if split not in SPLITS:
        raise ValueError(f"`split` must be one of {', '.join(SPLITS)}, but was {split!r}")
    return Job(image, [str(folder / mask) for mask in masks], image_id, group_id, split)


def parallel_jobs(source: Source) -> list[Job]:
    """A job for each file below images/, with the masks of the same name in the order of the raters' numbers."""
    masks = {}
    for match in filter(None, map(MASK.fullmatch, source.names)):
        masks.setdefault((match["folder"], match["stem"]), []).append((int(match["rater"] or 0), match[0]))
    jobs = []
    for match in filter(None, map(IMAGE.fullmatch, source.names)):
        own = [name for _, name in sorted(masks.get((match["folder"], match["stem"]), []))]
        expected = own or [f"{match['folder']}masks/{match['stem']}.png"]
        image_id = _image_id(match[0], match["stem"])
        split = _split_by_folder(match[0]) or split_of(image_id)
        jobs.append(Job(match[0], expected, image_id, image_id, split))
    return jobs


def _split_by_folder(name: str) -> str | None:
    return next((part for part in reversed(PurePosixPath(name).parts[:-1]) if part in SPLITS), None)


def _image_id(name: str, stem: str) -> str:
    """The name in its folder, below its split where folders are named after splits: those may repeat names."""
    split = _split_by_folder(name)
    return stem if split is None or stem.startswith(f"{split}/") else f"{split}/{stem}"


def folder_rows(source: Source, num_classes: int | None, job: Job) -> list[Row]:
    """The one row of an image."""
    if not job.masks:
        raise BadFile(job.image, "has no mask")
    dicom = job.image.lower().endswith((".dcm", ".dicom"))
    image = (_read_dicom if dicom else _read_own_image)(source, job.image)
    masks = [_read_own_mask(source, name, image.pixels.shape[:2], num_classes) for name in job.masks]
    return [Row(image, masks, job.image_id, job.group_id, job.split)]


def _read_own_image(source: Source, name: str) -> Picture:
    """Its bytes unchanged if it is a grey, 16-bit grey or RGB PNG or JPEG without an EXIF orientation, else the same
    pixels as PNG."""
    original = read_picture(source, name)
    with PIL.Image.open(io.BytesIO(original.data)) as image:
        if image.has_transparency_data and image.convert("RGBA").getchannel("A").getextrema()[0] < 255:
            raise BadFile(name, "has transparent pixels: flatten it onto a background first")
        upright = image.getexif().get(PIL.ExifTags.Base.Orientation, 1) == 1  # by others `datasets` turns the image
        if image.mode.startswith("I;16"):
            return original if upright and image.format == "PNG" else picture(original.pixels.astype(np.uint16))
        if image.mode not in STORED:
            raise BadFile(name, f"is of mode {image.mode}, but must be grey, 16-bit grey or RGB")
        if upright and image.mode == STORED[image.mode] and image.format in ("PNG", "JPEG"):
            return original
        return picture(np.asarray(image.convert(STORED[image.mode])))


def _read_dicom(source: Source, name: str) -> Picture:
    from ..data.dicom import read_dicom

    if name not in source:
        raise BadFile(name, "missing")
    try:
        file = io.BytesIO(source.read(name))
        return picture((read_dicom(file) * 255).round().astype(np.uint8))
    except (OSError, ValueError) as error:
        raise BadFile(name, str(error).replace(repr(file), "it")) from error


def _read_own_mask(source: Source, name: str, size: tuple[int, int], num_classes: int | None) -> Picture:
    """0/255 from a mask of 0 and one other value; with `num_classes`, the label map as it is, uint8."""
    pixels = read_picture(source, name).pixels
    if pixels.shape[:2] != size:
        raise BadFile(name, f"{pixels.shape[:2]} (height, width) pixels, but its image has {size}")
    if pixels.ndim == 3:
        colours = pixels[:, :, :3]  # without alpha
        if num_classes and (colours != colours[:, :, :1]).any():
            raise BadFile(name, "is a coloured label map, but must hold the labels themselves as greys or palette")
        pixels = colours.max(axis=2)  # [H, W]
    values = np.unique(pixels)
    if num_classes:
        if values.max() > num_classes:
            raise BadFile(name, f"holds the label {values.max()}, but --num-classes is {num_classes}")
        return picture(pixels.astype(np.uint8))
    if len(values[values > 0]) > 1:
        raise BadFile(name, f"holds {len(values)} values, not 0 and one other; label maps need --num-classes")
    return picture(pixels > 0)


def main(argv: list[str] | None = None) -> Path:
    """Build the data set from the command line's arguments."""
    options = parser(__doc__, "folder")
    options.add_argument("sources", nargs="+", help="folder or archive")
    options.add_argument("--num-classes", type=positive, help="masks are label maps of 0 (background) to this number")
    args = options.parse_args(argv)
    source = Source(args.sources)
    metadata = metadata_jobs(source)
    jobs = metadata or parallel_jobs(source)
    if not jobs:
        raise ValueError(
            "`sources` must hold a metadata.jsonl, or images/ and masks/ (or masks-1/, masks-2/, ...), but hold "
            f"{len(source.names)} files: {', '.join(source.names[:3]) or 'none'} ..."
        )
    used = {name for job in jobs for name in (job.image, *job.masks)}
    suffixes = PIL.Image.registered_extensions()
    unused = [name for name in source.names if name not in used and PurePosixPath(name).suffix.lower() in suffixes]
    strays = [name for name in unused if metadata or MASK.fullmatch(name)]
    rows = partial(folder_rows, source, args.num_classes)
    return build(args, "card_folder.md", jobs, rows, provenance(args, source), strays)
