"""Deterministic multi-rater phantoms as a data set, for anyone without data."""

from functools import partial
from pathlib import Path

import numpy as np

from ..data.phantom import phantom_rows
from .build import Row, build, parser, positive, provenance, split_of
from .picture_files import picture


def make_row(phantom: dict) -> list[Row]:
    """The row of a phantom."""
    image, *masks = [picture(np.asarray(drawn)) for drawn in (phantom["image"], *phantom["masks"])]
    return [Row(image, masks, phantom["image_id"], phantom["group_id"], split_of(phantom["group_id"]))]


def main(argv: list[str] | None = None) -> Path:
    """Builds the data set from command-line arguments."""
    options = parser(__doc__, "phantom")
    add_number = partial(options.add_argument, type=positive, metavar="N")
    add_number("--num-rows", default=1000, help="number of images (default: %(default)s)")
    add_number("--size", default=128, help="pixels of each side, 16 at least (default: 128)")
    add_number("--num-raters", default=4, help="masks per image (default: %(default)s)")
    add_number("--num-classes", default=1, help="tissues of a lesion, 1 to 3 (default: %(default)s)")
    options.add_argument("--seed", type=int, default=0, help="of the random numbers (default: %(default)s)")
    args = options.parse_args(argv)
    phantoms = phantom_rows(args.num_rows, args.size, args.num_raters, args.seed, args.num_classes)
    return build(args, "card_phantom.md", phantoms, make_row, provenance(args))
