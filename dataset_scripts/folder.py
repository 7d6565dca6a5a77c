"""Your own images with the masks of one or more raters.

Either parallel folders, images/ and masks/ (or masks-1/, masks-2/, ... one per rater), whose files have the same names
before the dot; or an imagefolder with metadata.jsonl, whose lines have `file_name`, `mask_file_names` and, if you
like, `group_id` and `split`. Either may lie in folders named train, validation and test. Images may be grey, RGB,
16-bit grey or DICOM.
"""

import io
import json
import re
from functools import partial
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
import PIL.Image
from archives import Source
from common import SPLITS, BadFile, Picture, Row, build, parser, picture, provenance, read_picture, split_of

IMAGE = re.compile(r"(?P<folder>(?:.*/)?)images/(?P<stem>[^/]+?)\.[^/.]+")
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
        ValueError: for a line that is no JSON object with `file_name` and `mask_file_names`, or an unknown split.
    """
    jobs = []
    for name in (name for name in source.names if PurePosixPath(name).name == "metadata.jsonl"):
        folder = PurePosixPath(name).parent
        for number, line in enumerate(source.read(name).decode().splitlines(), start=1):
            try:
                row = json.loads(line)
                image, masks = str(folder / row["file_name"]), [str(folder / mask) for mask in row["mask_file_names"]]
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(
                    f"{name}, line {number}, needs `file_name` and `mask_file_names`: {error!r}"
                ) from error
            image_id = str(PurePosixPath(row["file_name"]).with_suffix(""))
            group = str(row.get("group_id") or image_id)
            split = row.get("split") or _split_by_folder(image) or split_of(group)
            if split not in SPLITS:
                raise ValueError(
                    f"{name}, line {number}: `split` must be one of {', '.join(SPLITS)}, but was {split!r}."
                )
            jobs.append(Job(image, masks, image_id, group, split))
    return jobs


def parallel_jobs(source: Source) -> list[Job]:
    """A job for each file below images/, with the masks of the same name in the order of the raters' numbers."""
    masks = {}
    for match in filter(None, map(MASK.fullmatch, source.names)):
        masks.setdefault((match["folder"], match["stem"]), []).append((int(match["rater"] or 0), match[0]))
    jobs = []
    for match in filter(None, map(IMAGE.fullmatch, source.names)):
        own = [name for _, name in sorted(masks.get((match["folder"], match["stem"]), []))]
        expected = own or [f"{match['folder']}masks/{match['stem']}.png"]
        split = _split_by_folder(match[0]) or split_of(match["stem"])
        jobs.append(Job(match[0], expected, match["stem"], match["stem"], split))
    return jobs


def _split_by_folder(name: str) -> str | None:
    return next((part for part in reversed(PurePosixPath(name).parts[:-1]) if part in SPLITS), None)


def folder_rows(source: Source, num_classes: int | None, job: Job) -> list[Row]:
    """The one row of an image."""
    if not job.masks:
        raise BadFile(job.image, "has no mask")
    dicom = job.image.lower().endswith((".dcm", ".dicom"))
    image = _read_dicom(source, job.image) if dicom else read_picture(source, job.image, ("L", "RGB", "I;16"))
    masks = [_read_own_mask(source, name, image.pixels.shape[:2], num_classes) for name in job.masks]
    return [Row(image, masks, job.image_id, job.group_id, job.split)]


def _read_dicom(source: Source, name: str) -> Picture:
    from medseglatdiff.dicom import read_dicom

    try:
        return picture((read_dicom(io.BytesIO(source.read(name))) * 255).round().astype(np.uint8))
    except (OSError, ValueError) as error:
        raise BadFile(name, str(error)) from error


def _read_own_mask(source: Source, name: str, size: tuple[int, int], num_classes: int | None) -> Picture:
    """0/255 from a mask of 0 and one other value; with `num_classes`, the label map as it is, uint8."""
    mask = read_picture(source, name)
    if mask.pixels.shape[:2] != size:
        raise BadFile(name, f"{mask.pixels.shape[:2]} (height, width) pixels, but its image has {size}")
    pixels = mask.pixels
    if pixels.ndim == 3:
        with PIL.Image.open(io.BytesIO(mask.data)) as image:
            pixels = np.asarray(image.convert("L"))  # [H, W]
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
    options = parser(__doc__)
    options.add_argument("sources", nargs="+", help="folder or archive")
    options.add_argument("--num-classes", type=int, help="masks are label maps of 0 (background) to this number")
    args = options.parse_args(argv)
    source = Source(args.sources)
    jobs = metadata_jobs(source) or parallel_jobs(source)
    if not jobs:
        raise ValueError(
            "`sources` must hold a metadata.jsonl, or images/ and masks/ (or masks-1/, masks-2/, ...), but hold "
            f"{len(source.names)} files: {', '.join(source.names[:3]) or 'none'} ..."
        )
    used = {name for job in jobs for name in (job.image, *job.masks)}
    strays = [name for name in source.names if MASK.fullmatch(name) and name not in used]
    rows = partial(folder_rows, source, args.num_classes)
    return build(args, "card_folder.md", jobs, rows, provenance(args, source), strays)


if __name__ == "__main__":
    main()
