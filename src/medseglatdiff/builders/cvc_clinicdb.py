"""CVC-ClinicDB, polyps in colonoscopy: 612 frames of 29 sequences, in its PNG or its TIF layout."""

import re
from bisect import bisect_left
from functools import partial
from pathlib import Path

import numpy as np

from .archives import Source
from .build import Row, build, parser, provenance
from .picture_files import read_mask, read_picture

IMAGE = re.compile(r"(?P<folder>(?:.*/)?)Original/(?P<frame>\d+)\.(?P<kind>png|tiff?)")
LAST_FRAMES = (
    *(25, 50, 67, 78, 103, 126, 151, 177, 199, 205, 227, 252, 277, 297, 317),
    *(342, 363, 383, 408, 428, 447, 466, 478, 503, 528, 546, 571, 591, 612),
)
VALIDATION, TEST = (5, 13, 20), (2, 9, 14, 17, 25)  # sequences


def sequence_of(frame: int) -> int:
    """The number of the sequence, 1 to 29, that a frame, 1 to 612, belongs to."""
    if not 1 <= frame <= LAST_FRAMES[-1]:
        raise ValueError(f"`frame` must be between 1 and {LAST_FRAMES[-1]}, but was {frame}.")
    return bisect_left(LAST_FRAMES, frame) + 1


def split_by_sequence(frames: list[int]) -> dict[int, str]:
    """The split of each frame by whole sequences, so that no near copies lie in two splits."""
    names = {**dict.fromkeys(VALIDATION, "validation"), **dict.fromkeys(TEST, "test")}
    return {frame: names.get(sequence_of(frame), "train") for frame in frames}


def split_by_frame(frames: list[int]) -> dict[int, str]:
    """The random 80/10/10 split of the literature; it leaks near copies: for comparison only."""
    order = np.random.RandomState(42).permutation(len(frames))
    train, validation = int(0.8 * len(frames)), int(0.9 * len(frames))
    names = ["train"] * train + ["validation"] * (validation - train) + ["test"] * (len(frames) - validation)
    return {sorted(frames)[index]: name for index, name in zip(order, names, strict=True)}


def cvc_jobs(source: Source, split: str) -> list[tuple[str, str, int, str]]:
    """`(image's name, mask's name, frame, split)` of each frame; PNG if the source holds both layouts."""
    matches = [match for name in source.names if (match := IMAGE.fullmatch(name))]
    kind = "png" if any(match["kind"] == "png" for match in matches) else "tif"
    matches = [match for match in matches if match["kind"].startswith(kind)]
    frames = {int(match["frame"]): match for match in matches if 1 <= int(match["frame"]) <= LAST_FRAMES[-1]}
    if not frames:
        raise ValueError(
            "`sources` must hold Original/N.png and Ground Truth/N.png (or .tif), but hold "
            f"{len(source.names)} files: {', '.join(source.names[:3]) or 'none'} ..."
        )
    splits = (split_by_sequence if split == "sequences" else split_by_frame)(sorted(frames))
    masks = {frame: f"{m['folder']}Ground Truth/{m['frame']}.{m['kind']}" for frame, m in frames.items()}
    return [(frames[frame][0], masks[frame], frame, splits[frame]) for frame in sorted(frames)]


def cvc_rows(source: Source, job: tuple[str, str, int, str]) -> list[Row]:
    """The one row of a frame."""
    name, mask_name, frame, split = job
    image = read_picture(source, name, modes=("RGB",))
    mask = read_mask(source, mask_name, image.pixels.shape[:2])
    return [Row(image, [mask], str(frame), str(sequence_of(frame)), split)]


def main(argv: list[str] | None = None) -> Path:
    """Builds the data set from command-line arguments."""
    options = parser(__doc__, "cvc-clinicdb")
    options.add_argument("sources", nargs="+", help="the archive or its folder")
    options.add_argument(
        "--split",
        choices=("sequences", "frames"),
        default="sequences",
        help="the unit of the split; frames, common in the literature, puts near copies of training images into "
        "test: for comparison only (default: %(default)s)",
    )
    args = options.parse_args(argv)
    source = Source(args.sources)
    jobs = cvc_jobs(source, args.split)
    used = {name for job in jobs for name in job[:2]}
    folders = {Path(name).parent for name in used}
    strays = [name for name in source.names if Path(name).parent in folders and name not in used]
    leaks, rows = args.split == "frames", partial(cvc_rows, source)
    return build(args, "card_cvc_clinicdb.md", jobs, rows, provenance(args, source), strays, groups_may_cross=leaks)
