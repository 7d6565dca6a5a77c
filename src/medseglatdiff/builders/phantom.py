"""Deterministic multi-rater phantoms as a data set, for anyone without data."""

from pathlib import Path

import numpy as np

from ..data.phantom import phantom_rows
from .build import Row, build, parser, positive, provenance, split_of
from .picture_files import picture


def make_row(phantom: dict) -> list[Row]:
    """The row of one phantom."""
    image, *masks = [picture(np.asarray(drawn)) for drawn in (phantom["image"], *phantom["masks"])]
    return [Row(image, masks, phantom["image_id"], phantom["group_id"], split_of(phantom["group_id"]))]


def main(argv: list[str] | None = None) -> Path:
    """Build the data set from the command line's arguments."""
    options = parser(__doc__, "phantom")
    options.add_argument("--num-rows", type=positive, default=1000)
    options.add_argument("--size", type=positive, default=128, help="pixels of each side")
    options.add_argument("--num-raters", type=positive, default=4)
    options.add_argument("--num-classes", type=positive, default=1, help="tissues of a lesion, 1 to 3")
    options.add_argument("--seed", type=int, default=0)
    args = options.parse_args(argv)
    phantoms = phantom_rows(args.num_rows, args.size, args.num_raters, args.seed, args.num_classes)
    return build(args, "card_phantom.md", phantoms, make_row, provenance(args))
