"""Your own images with the masks of one or more raters.

Layouts, in folders or archives:
  images/X.png and masks/X.png; with several raters masks-1/, masks-2/ or masks-anna/, masks-bob/, or
  masks/X_anna.png, masks/X_bob.png; with a single rater also masks/X_mask.png or masks/X_segmentation.png; or
  metadata.jsonl (.csv, .tsv, .parquet) with `file_name`, `mask_file_names` and, optionally, `image_id`, `group_id`
  and `split`.
Images may be grey, RGB, 16-bit grey or DICOM (windowed, in 8 bits); their metadata is removed.

Groups (patients, sequences, lesions) must not cross splits. They are taken from a table's `group_id`, else from
subfolders (images/patient1/ and masks/patient1/, or patient1/images/ and patient1/masks/), else from names that begin
alike up to a number (patient03_slice12); else each image is a group. The options below override this.

Splits are taken from folders named train, validation and test (any case; training, val, test_set, ...), a column
`split` of metadata.csv or splits.csv, or lists train.txt, val.txt and test.txt; else groups are assigned by their
hash: 70 % train, 10 % validation, 20 % test.

Masks are used as they are if they are unambiguous: 0 and one other grey, black and one other colour, one colour on
transparent pixels, black and white as JPEG. Ambiguous masks are refused with the option that resolves them.
"""

import argparse
import io
import re
from functools import partial
from pathlib import Path

import numpy as np
import PIL.Image

from .archives import Source
from .build import Row, build, parser, positive, provenance
from .folder_groups import shown, ways_to_fill_splits, with_groups, with_splits
from .folder_layout import Entry, parallel_entries, unused_pictures
from .folder_tables import metadata_entries, with_tables
from .mask_files import MaskRule, read_mask_by_rule
from .picture_files import BadFile, Picture, picture, read_picture

# mode of a file -> mode as stored
STORED = {"1": "L", "L": "L", "LA": "L", "P": "RGB", "PA": "RGB", "RGB": "RGB", "RGBA": "RGB"}


def folder_rows(source: Source, rule: MaskRule, entry: Entry) -> list[Row]:
    """The one row of an image."""
    if not entry.masks:
        raise BadFile(entry.image, "has no mask")
    image = (_read_dicom if _is_dicom(source, entry.image) else _read_image)(source, entry.image)
    masks = [read_mask_by_rule(source, name, image.pixels.shape[:2], rule) for name in entry.masks]
    return [Row(image, masks, entry.image_id, entry.group, entry.split)]


def _read_image(source: Source, name: str) -> Picture:
    """The file without metadata if it is a grey, 16-bit grey or RGB PNG or JPEG, else the same pixels as PNG."""
    original = read_picture(source, name)
    with PIL.Image.open(io.BytesIO(original.data)) as image:
        if image.has_transparency_data and np.asarray(image.convert("RGBA"))[..., 3].min() < 255:
            raise BadFile(name, "has transparent pixels: flatten it onto a background first")
        if image.mode.startswith("I;16"):
            return original if image.format == "PNG" else picture(original.pixels.astype(np.uint16), original.removed)
        if image.mode not in STORED:
            raise BadFile(name, f"is of mode {image.mode}, but must be grey, 16-bit grey or RGB")
        if image.mode == STORED[image.mode] and image.format in ("PNG", "JPEG"):
            return original
        return picture(np.asarray(image.convert(STORED[image.mode])), original.removed)


def _is_dicom(source: Source, name: str) -> bool:
    if name.lower().endswith((".dcm", ".dicom")):
        return True
    has_suffix = "." in name.rpartition("/")[2]
    try:
        return not has_suffix and name in source and source.read(name)[128:132] == b"DICM"
    except OSError as error:
        raise BadFile(name, str(error)) from error


def _read_dicom(source: Source, name: str) -> Picture:
    from ..data.dicom import read_dicom

    if name not in source:
        raise BadFile(name, "missing")
    try:
        file = io.BytesIO(source.read(name))
        return picture((read_dicom(file) * 255).round().astype(np.uint8), frozenset({"DICOM header"}))
    except (OSError, ValueError) as error:
        raise BadFile(name, str(error).replace(repr(file), "it")) from error


def _pattern(text: str) -> re.Pattern:
    """An option's value that must be a regular expression with one group in parentheses."""
    try:
        pattern = re.compile(text)
    except re.error as error:
        raise argparse.ArgumentTypeError(f"must be a regular expression, but {error}: {text}") from error
    if pattern.groups != 1:
        raise argparse.ArgumentTypeError(f"must have one part in parentheses, but has {pattern.groups}: {text}")
    return pattern


def _options() -> argparse.ArgumentParser:
    options = parser(__doc__, "folder")
    options.add_argument("sources", nargs="+", help="folders or archives (zip, tar) with images and masks")
    groups = options.add_argument_group("groups").add_mutually_exclusive_group()
    groups.add_argument(
        "--group-from",
        choices=("folder", "name", "image"),
        help="the group is the topmost subfolder, the beginning of the file name, or each image by itself "
        "(default: as described above)",
    )
    groups.add_argument(
        "--group-pattern",
        type=_pattern,
        metavar="REGEX",
        help="the group is what the parentheses match in SUBFOLDER/NAME without suffix, such as "
        "'^(patient\\d+)_' (default: none)",
    )
    groups.add_argument(
        "--groups",
        type=Path,
        metavar="FILE",
        help="CSV, TSV, JSON lines or Parquet with the columns `file` (or `image_id`) and `group` (default: none)",
    )
    options.add_argument(
        "--fractions",
        type=float,
        nargs=3,
        metavar=("TRAIN", "VALIDATION", "TEST"),
        help="shares of the groups in each split, at least one group each, in the order of their hashes "
        "(default: each group by its hash, .7 .1 .2 on average)",
    )
    masks = options.add_argument_group("masks")
    kinds = masks.add_mutually_exclusive_group()
    kinds.add_argument(
        "--num-classes",
        type=positive,
        help="masks are label maps of 0 (background) to this number (default: one class)",
    )
    kinds.add_argument(
        "--threshold",
        type=float,
        metavar="GREY",
        help="greys above this are foreground, in the units of the files (default: none, ambiguous greys are refused)",
    )
    kinds.add_argument(
        "--instances",
        action="store_true",
        help="every number above 0 and every colour but black is foreground (default: no, they are refused)",
    )
    masks.add_argument("--invert", action="store_true", help="the lesion is dark, the rest bright (default: no)")
    return options


def _entries(source: Source) -> tuple[list[Entry], list[str], dict[str, str]]:
    """The images with their masks, the raters' names, and unusable files with the reason."""
    entries, raters, bad = parallel_entries(source)
    metadata = metadata_entries(source, bool(entries or bad))
    entries, raters, bad = (metadata, [], {}) if metadata else (entries, raters, bad)
    if not entries and not bad:
        raise ValueError(
            "`sources` must hold a metadata.jsonl, or images/ and masks/ (or masks-1/, masks-2/, ...), but hold "
            f"{len(source.names)} files: {', '.join(map(repr, source.names[:3])) or 'none'} ..."
        )
    in_splits = [entry for entry in entries if entry.split]
    if not metadata and 0 < len(in_splits) < len(entries):
        lonely = next(entry.image for entry in entries if not entry.split)
        raise ValueError(
            f"{in_splits[0].image!r} lies in a folder of {in_splits[0].split}, but {lonely!r} in no split: put all "
            "images into folders named train, validation and test, or none."
        )
    return entries, raters, bad


def _named(raters: list[str], tables: list[str], args: argparse.Namespace) -> dict[str, str]:
    """The names of raters and of tables for the report; with `--anonymous-ids` their numbers."""
    found = {"raters": raters, "tables": [name.rpartition("/")[2] for name in tables]}
    return {
        kind: str(len(names)) if args.anonymous_ids else ", ".join(names) for kind, names in found.items() if names
    }


def main(argv: list[str] | None = None) -> Path:
    """Builds the data set from command-line arguments."""
    options = _options()
    args = options.parse_args(argv)
    if args.fractions and not (min(args.fractions) >= 0 and abs(sum(args.fractions) - 1) < 1e-6):
        options.error(f"--fractions must be three shares that sum to 1, but were {args.fractions}")
    if args.invert and args.num_classes:
        options.error("--invert is for masks of one class, but --num-classes was given")
    # 1. files
    source = Source(args.sources)
    entries, raters, bad = _entries(source)
    used = {name for entry in entries for name in (entry.image, *entry.masks)}
    unused = [] if bad else unused_pictures(source, used)
    # 2. groups and splits
    entries, tables = with_tables(entries, source)
    given = any(entry.split for entry in entries)
    entries, groups, doubts = with_groups(entries, args)
    entries, splits, assigned = with_splits(entries, args)
    warnings = [*doubts, *assigned]
    if unused:
        warnings.append(f"{len(unused)} pictures belong to no row, such as {shown(unused[0], args)}.")
    # 3. the data set
    taken = {"groups": f"{groups} ({len({entry.group for entry in entries})} of {len(entries)} images)"}
    taken |= {"splits": splits, **_named(raters, tables, args)}
    rule = MaskRule(args.num_classes, args.threshold, args.instances, args.invert)
    built_from = provenance(args, source, **taken)
    rows = partial(folder_rows, source, rule)
    ways = "" if given else ways_to_fill_splits(entries, args)
    return build(args, "card_folder.md", entries, rows, built_from, bad, warnings=warnings, ways_to_fill=ways)
