"""Masks, splits and groups from tables beside the images."""

import json
import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path, PurePosixPath

from ..data.groups import SPLITS, plain_name, split_in_name
from ..data.names import printable
from .archives import Source
from .folder_layout import SUFFIX, Entry, kind_of_folder, split_of_folder
from .tables import OTHER_TABLES, TABLES, read_table

FILE_COLUMNS = ("file_name", "image_file_name", "filename", "file", "image", "image_name", "path")
NAME_COLUMNS = (*FILE_COLUMNS, "image_id", "name", "id")
MASK_COLUMNS = ("mask_file_names", "mask_file_name", "masks_file_names", "masks", "mask")
SPLIT_COLUMNS = ("split", "subset", "partition", "phase", "set", "fold")
GROUP_COLUMNS = (
    *("group_id", "group", "patient_id", "patientid", "patient", "subject_id", "subject", "case_id", "case"),
    *("sequence_id", "sequence", "lesion_id", "series_id", "study_id"),
)


def metadata_entries(source: Source, beside_parallel_folders: bool) -> list[Entry]:
    """An entry for each row of each metadata table that names masks.

    Raises:
        ValueError: for a row without `file_name`, whose masks are not a list, or whose split is unknown, and for two
            such tables in one folder.
    """
    tables = {}
    for name in source.names:
        path = PurePosixPath(name)
        if path.stem.lower() != "metadata" or path.suffix.lower() not in TABLES:
            continue
        rows = read_table(source.read(name), name)
        if beside_parallel_folders and not any(_column(row, MASK_COLUMNS) for row in rows):
            continue  # only splits and groups
        if path.parent in tables:
            raise ValueError(f"{str(path.parent)!r} must hold one metadata table, but holds several.")
        tables[path.parent] = name, rows
    shared = len(os.path.commonprefix([folder.parts for folder in tables]))
    entries = []
    for folder, (name, rows) in tables.items():
        texts = name.lower().endswith((".csv", ".tsv"))
        for number, row in enumerate(rows, start=1):
            try:
                entries.append(_metadata_entry(source, folder, folder.parts[shared:], row, texts))
            except (KeyError, TypeError, ValueError) as error:
                reason = repr(error) if isinstance(error, KeyError) else error
                raise ValueError(f"{printable(name)}, line {number}, cannot be used: {reason}") from error
    return entries


def _metadata_entry(
    source: Source, folder: PurePosixPath, above: tuple[str, ...], row: dict, cells_are_texts: bool
) -> Entry:
    # 1. files
    column = _column(row, MASK_COLUMNS) or "mask_file_names"
    file, masks = row[_column(row, FILE_COLUMNS) or "file_name"], row[column]
    if isinstance(masks, str) and (cells_are_texts or not column.endswith("s")):
        masks = _listed(masks)
    if not isinstance(masks, list) or not all(isinstance(name, str) for name in (file, *masks)):
        raise TypeError(f"`mask_file_names` must be a list, but was {masks!r} of `file_name` {file!r}")
    image, *masks = (source.spelled(f"{folder}/{plain_name(name)}") for name in (file, *masks))
    # 2. the split, by the table or by folders
    split = _split(value) if (value := row.get(_column(row, SPLIT_COLUMNS))) else None
    parts = enumerate(PurePosixPath(plain_name(image)).parts[:-1])
    of_folders = {named for index, part in parts if (named := split_of_folder(part, source, index))}
    if len(of_folders | {split} - {None}) > 1:
        raise ValueError(f"`split` is {split!r}, but the image lies in folders of {', '.join(sorted(of_folders))}")
    of_folder = next(iter(of_folders), "")
    # 3. names
    *subfolders, stem = SUFFIX.sub("", plain_name(file)).split("/")
    image_id = "/".join([*(part for part in above if split_in_name(part) is None), *subfolders, stem])
    if of_folder and not any(split_in_name(part) for part in subfolders):
        image_id = f"{of_folder}/{image_id}"
    plain = [part for part in (*above, *subfolders) if split_in_name(part) is None and not kind_of_folder(part)]
    group = row.get(_column(row, GROUP_COLUMNS))
    return Entry(
        image,
        tuple(masks),
        "/".join([*plain, stem]),
        str(row.get("image_id") or image_id),
        split or of_folder,
        "" if group is None else str(group),
    )


def _listed(text: str) -> list[str]:
    """Several names in one cell: a JSON list, or names separated by semicolons."""
    return json.loads(text) if text.startswith("[") else [name.strip() for name in text.split(";") if name.strip()]


def _split(value) -> str:
    split = split_in_name(value) if isinstance(value, str) else None
    if split is None:
        raise ValueError(f"`split` must be one of {', '.join(SPLITS)}, but was {value!r}")
    return split


def _column(row: dict, names: Iterable[str]) -> str | None:
    """The first of these columns that a row has, in any case."""
    of_row = {key.strip().lower(): key for key in row if isinstance(key, str)}
    return next((of_row[name] for name in names if of_row.get(name) is not None), None)


class Names:
    """Finds the image that a table cell refers to: by its full name, its last parts or its stem."""

    def __init__(self, entries: list[Entry]):
        self._found: dict[str, set[int]] = {}
        for number, entry in enumerate(entries):
            for name in {plain_name(entry.image), entry.name, entry.image_id}:
                parts = name.split("/")
                for first in range(len(parts)):
                    tail = "/".join(parts[first:])
                    for key in {tail, SUFFIX.sub("", tail)}:
                        self._found.setdefault(key, set()).add(number)

    def __call__(self, cell) -> int | None:
        """The index of the entry; `None` if there is none.

        Raises:
            ValueError: if several images have this name.
        """
        name = plain_name(str(cell))
        found = self._found.get(name) or self._found.get(SUFFIX.sub("", name)) or set()
        if len(found) > 1:
            raise ValueError(f"{str(cell)!r} is the name of {len(found)} images: add their folders")
        return next(iter(found), None)


def with_tables(entries: list[Entry], source: Source) -> tuple[list[Entry], list[str]]:
    """The entries with splits and groups from further tables of the source, and the names of these tables.

    Raises:
        ValueError: for a table or a list that looks like splits, but names only some images or none, or one image
            in two splits, or cannot be read.
    """
    names = Names(entries)
    used: list[str] = []
    splits: dict[int, str] = {}
    groups: dict[int, str] = {}
    for table in source.names:
        for number, split, group in _table_rows(source, table, names):
            if split and splits.setdefault(number, split) != split:
                raise ValueError(f"{table!r} puts {entries[number].image_id!r} in {split} and {splits[number]}.")
            if group and groups.setdefault(number, group) != group:
                raise ValueError(f"{table!r} puts {entries[number].image_id!r} in two groups.")
            if used[-1:] != [table]:
                used.append(table)
    for what, named in (("split", splits), ("group", groups)):
        missing = [entry.image for number, entry in enumerate(entries) if number not in named]
        if named and missing:
            raise ValueError(
                f"{', '.join(map(repr, used))} must name the {what} of every image, but name {len(named)} of "
                f"{len(entries)}: {missing[0]!r} is missing."
            )
    for number, split in splits.items():
        if entries[number].split not in ("", split):
            raise ValueError(
                f"{entries[number].image!r} lies in {entries[number].split}, but a table puts it in {split}."
            )
    return [
        replace(entry, split=splits.get(number, entry.split), group=groups.get(number, entry.group))
        for number, entry in enumerate(entries)
    ], used


def _table_rows(source: Source, table: str, names: Names) -> list[tuple[int, str | None, str | None]]:
    """`(index of the image, split, group)` for each row of a table about these images."""
    if not _may_be_about_images(table):
        return []
    rows, stem = read_table(source.read(table), table), PurePosixPath(table).stem
    if any(_column(row, MASK_COLUMNS) for row in rows):
        return []  # read by `metadata_entries`
    split_column = any(_column(row, SPLIT_COLUMNS) for row in rows)
    of_table = None if split_column or stem.lower() == "metadata" else split_in_name(stem)
    found = []
    for row in rows:
        file, split, group = (row.get(_column(row, c)) for c in (NAME_COLUMNS, SPLIT_COLUMNS, GROUP_COLUMNS))
        try:
            number = _number(names, str(file or ""))
            if number is not None:
                split = _split(split) if split_column else of_table
                found.append((number, split, None if group is None else str(group)))
        except ValueError as error:
            raise ValueError(f"{table!r} cannot be used: {error}") from error
    if (split_column or of_table) and not found:
        raise ValueError(f"{table!r} looks like splits, but names no image: its column `file_name` must.")
    return [row for row in found if row[1] or row[2]]


def _may_be_about_images(table: str) -> bool:
    """Whether a file's name says that it may hold splits or groups.

    Raises:
        ValueError: if it looks like splits in a format that is not read.
    """
    suffix, stem = PurePosixPath(table).suffix.lower(), PurePosixPath(table).stem
    is_metadata, names_split = stem.lower() == "metadata", _names_split(stem)
    if suffix in OTHER_TABLES and suffix not in (".npy", ".npz", ".mat") and (is_metadata or names_split):
        raise ValueError(f"{table!r} looks like splits, but is not read: save it as CSV with `file_name` and `split`.")
    if suffix in (".txt", ".lst"):
        return names_split
    return suffix in TABLES and (suffix != ".json" or is_metadata or names_split)


def _number(names: "Names", cell: str) -> int | None:
    """The image that a cell, or the first word in a line of a list, refers to."""
    number = names(cell)
    return names(cell.split()[0]) if number is None and cell.split() else number


def _names_split(stem: str) -> bool:
    try:
        return split_in_name(stem) is not None
    except ValueError:
        return True


def groups_of_file(path: Path, entries: list[Entry]) -> list[str]:
    """The group of each image by the table that `--groups` names.

    Raises:
        ValueError: without a column of files or of groups, or if an image is missing or has two groups.
    """
    rows, names = read_table(path.read_bytes(), path.name), Names(entries)
    groups: dict[int, str] = {}
    for row in rows:
        file, group = (row.get(_column(row, columns)) for columns in (NAME_COLUMNS, GROUP_COLUMNS))
        if file is None or group is None:
            raise ValueError(
                f"`--groups` must be a table with the columns `file` (or `image_id`) and `group`, but {path.name} has "
                f"a row of {', '.join(map(repr, row)) or 'nothing'}."
            )
        number = names(file)
        if number is not None and groups.setdefault(number, str(group)) != str(group):
            raise ValueError(f"`--groups` must name one group for each image, but {file!r} has two.")
    missing = [entry.image for number, entry in enumerate(entries) if number not in groups]
    if missing:
        raise ValueError(f"`--groups` must name every image, but {len(missing)} are missing, such as {missing[0]!r}.")
    return [groups[number] for number in range(len(entries))]
