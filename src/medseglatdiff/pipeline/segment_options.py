"""The options of the command `segment`."""

import argparse
from pathlib import Path

FORMATS = ("png", "npz", "nifti", "dicom-seg")


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """The options of the command.

    Raises:
        ValueError: for counts, seeds and regions that cannot be.
    """
    parser = argparse.ArgumentParser(
        prog="medseglatdiff segment",
        description="Segments images: several plausible masks, their confidence and a picture of them for each. "
        "Finished cases are skipped when the same command runs again.",
    )
    parser.add_argument(
        "inputs",
        nargs="+",
        metavar="INPUT",
        help="images (PNG, JPEG, TIFF, DICOM, ...), volumes (a folder of a DICOM series, NIfTI, NRRD, MetaImage), "
        "folders of these, or patterns in quotes (at least one)",
    )
    parser.add_argument(
        "--model", required=True, metavar="PATH_OR_ID", help="folder of a pipeline, or its id on the Hub (required)"
    )
    parser.add_argument(
        "--out", required=True, type=Path, metavar="DIR", help="folder in which each case gets one (required)"
    )
    parser.add_argument(
        "--point",
        metavar="X,Y[,Z]",
        help="pixel of an image, or voxel of a volume with its slice Z, both from 0, around which to look, at the "
        "checkpoint's field of view (default: the whole image)",
    )
    parser.add_argument(
        "--box",
        metavar="L,T,R,B",
        help="part of the image to look at, in pixels: left, top, right, bottom (default: the whole image)",
    )
    parser.add_argument(
        "--findings",
        type=Path,
        metavar="CSV",
        help="list of points, as case,x,y[,z] (indices) or as LUNA16's seriesuid,coordX,coordY,coordZ (LPS mm); the "
        "cases that it names are segmented (default: all cases, once)",
    )
    parser.add_argument(
        "--num-masks", type=int, metavar="N", help="masks per case, at least 1 (default: the checkpoint's)"
    )
    parser.add_argument(
        "--steps", type=int, metavar="N", help="denoising steps per mask, at least 1 (default: the checkpoint's)"
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="S", help="of every case's noise, a whole number (default: 0)"
    )
    parser.add_argument(
        "--format",
        nargs="+",
        choices=FORMATS,
        default=[],
        metavar="NAME",
        help=f"of masks and maps, one or several of {', '.join(FORMATS)} (default: png for images, nifti for volumes)",
    )
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="compute cases again that were finished with other settings (default: refuse them)",
    )
    options = parser.parse_args(arguments)
    for name in ("num_masks", "steps"):
        count = getattr(options, name)
        if count is not None and count < 1:
            raise ValueError(f"`--{name.replace('_', '-')}` must be at least 1, but was {count}.")
    if not 0 <= options.seed < 2**63:
        raise ValueError(f"`--seed` must lie in [0, 2**63), but was {options.seed}.")
    given = [name for name in ("point", "box", "findings") if getattr(options, name)]
    if len(given) > 1:
        raise ValueError(f"`--{given[0]}` and `--{given[1]}` must not be given together.")
    return options


def parse_region(options: argparse.Namespace) -> tuple[float, ...] | None:
    """`--point` or `--box` as numbers.

    Raises:
        ValueError: unless they are as many numbers as it takes, with commas in between.
    """
    forms = {"point": (options.point, (2, 3), "X,Y or X,Y,Z"), "box": (options.box, (4,), "LEFT,TOP,RIGHT,BOTTOM")}
    for name, (text, counts, form) in forms.items():
        if text is None:
            continue
        try:
            numbers = tuple(float(part) for part in text.split(","))
        except ValueError:
            numbers = ()
        if len(numbers) not in counts:
            raise ValueError(f"`--{name}` must be {form} in pixels, but was {text!r}.")
        return numbers
    return None
