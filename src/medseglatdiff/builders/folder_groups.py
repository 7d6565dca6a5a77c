"""The group and the split of each image of a folder, and how they were chosen."""

import argparse
import hashlib
import re
from collections import Counter, defaultdict
from dataclasses import replace

from ..data.groups import SPLITS, guess_groups, looks_like_one_sequence
from .build import split_of
from .folder_layout import Entry
from .folder_tables import groups_of_file

WAYS = "--group-from, --group-pattern, --groups FILE.csv or `group_id` in a metadata table set the group"


def with_groups(entries: list[Entry], args: argparse.Namespace) -> tuple[list[Entry], str, list[str]]:
    """The entries with their groups, a description of what served as the group, and warnings.

    Raises:
        ValueError: if an option gives no group for an image, or subfolders may be patients or classes.
    """
    if args.groups:
        return _filled(entries, groups_of_file(args.groups, entries)), "the table of --groups", []
    if args.group_pattern:
        groups = [_by_pattern(args.group_pattern, entry) for entry in entries]
        return _filled(entries, groups), "the pattern of --group-pattern on names", []
    if args.group_from == "folder":
        groups = [entry.name.rpartition("/")[0].split("/")[0] for entry in entries]
        if not all(groups):
            lonely = entries[groups.index("")].image
            raise ValueError(f"`--group-from folder` needs every image in a subfolder, but {lonely!r} lies in none.")
        return _filled(entries, groups), "subfolders", []
    unnamed = [entry for entry in entries if not entry.group or args.group_from]
    if not unnamed:
        return entries, "`group_id` of the metadata", []
    names = [entry.name for entry in unnamed]
    guessed: list[str | None] = [None] * len(names)
    taken = "each image on its own"
    if args.group_from != "image":
        by_name = args.group_from == "name"
        guessed, taken = guess_groups([name.rpartition("/")[2] for name in names] if by_name else names)
        if by_name and not any(guessed):
            raise ValueError("`--group-from name` needs names that begin alike, such as `patient03_slice12`.")
    warnings = [] if any(guessed) else _doubts(names, args)
    ids = iter(group or entry.image_id for group, entry in zip(guessed, unnamed, strict=True))
    taken = taken if len(unnamed) == len(entries) else f"`group_id` of the metadata, and where it is missing {taken}"
    named = [replace(entry, group=next(ids)) if not entry.group or args.group_from else entry for entry in entries]
    return named, taken, warnings


def shown(name: str, args: argparse.Namespace) -> str:
    """A name as it may appear in a warning, since warnings are published with the data."""
    return "(name left out)" if args.anonymous_ids else repr(name)


def _doubts(names: list[str], args: argparse.Namespace) -> list[str]:
    """Reasons to doubt that each image is a separate group."""
    if looks_like_one_sequence(names):
        return [
            f"all file names begin like {shown(names[0], args)}, so they may show one patient or sequence, but "
            f"each image is a separate group, and neighbours may lie in different splits: {WAYS}."
        ]
    try:
        alike = list(filter(None, guess_groups(names)[0]))
    except ValueError:
        return []
    if not alike:
        return []
    group, count = Counter(alike).most_common(1)[0]
    return [
        f"file names look like patients or sequences ({count} begin with {shown(group, args)}), but each image is a "
        f"separate group because of --group-from image: one patient may lie in several splits. {WAYS}."
    ]


def _by_pattern(pattern: re.Pattern, entry: Entry) -> str:
    found = pattern.search(entry.name)
    if not found or not found[1]:
        raise ValueError(
            f"`--group-pattern` {pattern.pattern!r} must match every name, but does not match {entry.name!r}."
        )
    return found[1]


def _filled(entries: list[Entry], groups: list[str]) -> list[Entry]:
    return [replace(entry, group=group) for entry, group in zip(entries, groups, strict=True)]


def with_splits(entries: list[Entry], args: argparse.Namespace) -> tuple[list[Entry], str, list[str]]:
    """The entries with their splits, a description of how they were chosen, and warnings.

    Raises:
        ValueError: if a group lies in several splits, or `args.fractions` is set although splits are given.
    """
    given = [entry for entry in entries if entry.split]
    if given and args.fractions:
        raise ValueError("`--fractions` must be left out if folders or tables name the splits, as they do here.")
    unassigned = {entry.group for entry in entries if not entry.split}
    splits = (
        _shares(unassigned, args.fractions) if args.fractions else {group: split_of(group) for group in unassigned}
    )
    entries = [entry if entry.split else replace(entry, split=splits[entry.group]) for entry in entries]
    _refuse_crossing(entries)
    if not unassigned:
        return entries, "as folders or tables name it", []
    taken = "by --fractions over groups in the order of their hashes" if args.fractions else "by the hash of the group"
    if not given:
        return entries, taken, []
    count = len(entries) - len(given)
    return entries, f"as tables name it, else {taken}", [f"{count} images without a split were assigned {taken}."]


def _shares(groups: set[str], fractions: list[float]) -> dict[str, str]:
    """The split of each group by exact shares in the order of hashes, at least one group for each share above 0."""
    order = sorted(groups, key=lambda group: (hashlib.sha256(group.encode()).hexdigest(), group))
    wanted = sum(fraction > 0 for fraction in fractions)
    if len(order) < wanted:
        raise ValueError(
            f"`--fractions` needs at least one group for each of {wanted} splits, but there are {len(order)}."
        )
    counts = [max(round(len(order) * fraction), fraction > 0) for fraction in fractions]
    largest = max(range(len(counts)), key=counts.__getitem__)
    counts[largest] += len(order) - sum(counts)
    names = [split for split, count in zip(SPLITS, counts, strict=True) for _ in range(count)]
    return dict(zip(order, names, strict=True))


def _refuse_crossing(entries: list[Entry]):
    where: dict[str, set[str]] = defaultdict(set)
    for entry in entries:
        where[entry.group].add(entry.split)
    crossing = sorted(group for group, splits in where.items() if len(splits) > 1)
    if crossing:
        raise ValueError(
            f"a group must lie in one split, but {len(crossing)} lie in several, such as {crossing[0]!r} in "
            f"{' and '.join(sorted(where[crossing[0]]))}. {WAYS}; --group-from image makes each image a group."
        )


def ways_to_fill_splits(entries: list[Entry], args: argparse.Namespace) -> str:
    """Advice if a split is empty; none if the user gave shares."""
    if args.fractions:
        return ""
    return (
        f"{len({entry.group for entry in entries})} groups are too few for a hash to fill all splits. "
        "--fractions .6 .2 .2 sets exact shares; folders named train, validation and test or a column `split` in a "
        f"metadata.csv set the splits; {WAYS}."
    )
