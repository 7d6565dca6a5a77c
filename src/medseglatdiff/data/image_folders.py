"""An imagefolder of `datasets` with a metadata table, as rows by the column contract."""

from pathlib import PurePath

import PIL.ExifTags
import PIL.Image

from .groups import guess_groups, names_below


def by_contract(splits: dict) -> dict:
    """An imagefolder with a metadata table, as `medseglatdiff dataset folder` reads it.

    Its `mask_file_names` are the masks. A row without `image_id` gets its file's name; one without `group_id` gets
    the group that its subfolder or file name suggests (`guess_groups`), else it is a separate group. A column `split`
    takes precedence.

    Raises:
        ValueError: if a group lies in several splits, or subfolders may be patients or classes.
    """
    from datasets import Image, concatenate_datasets

    rows = concatenate_datasets(list(splits.values()))
    if "mask" in rows.column_names:
        rows = rows.rename_column("mask", "masks")
    files = [file["path"] for file in rows.cast_column("image", Image(decode=False))["image"]]
    for file in files:
        _check_upright(file)
    rows = _filled(rows, "split", [name for name, part in splits.items() for _ in range(len(part))])
    names = names_below(files)
    stems = [PurePath(file).stem for file in files]
    keys = list(zip(rows["split"], stems, strict=True))
    rows = _filled(rows, "image_id", stems if len(set(keys)) == len(keys) else names)
    given = rows["group_id"] if "group_id" in rows.column_names else [None] * len(rows)
    unnamed = [index for index, group in enumerate(given) if group is None]
    groups, _ = guess_groups([names[index] for index in unnamed])
    guessed = dict(zip(unnamed, groups, strict=True))
    rows = _filled(rows, "group_id", [guessed.get(index) or name for index, name in enumerate(rows["image_id"])])
    _refuse_crossing(rows["group_id"], rows["split"], {index for index, group in guessed.items() if group is None})
    named = rows["split"]
    return {
        name: rows.select([index for index, split in enumerate(named) if split == name])
        for name in dict.fromkeys(named)
    }


def _refuse_crossing(groups: list[str], splits: list[str], ungrouped: set[int]):
    """Refuses groups that lie in two splits; ungrouped images may have the same name in several splits."""
    where: dict[str, str] = {}
    for index, (group, split) in enumerate(zip(groups, splits, strict=True)):
        if index not in ungrouped and where.setdefault(group, split) != split:
            raise ValueError(
                f"`dataset` must hold each group in one split, but {group!r} lies in {where[group]} and {split}: "
                "name patients or sequences in the column `group_id`."
            )


def _filled(rows, name: str, defaults: list[str]):
    """The rows with a column `name` in which missing values are filled from `defaults`."""
    if name not in rows.column_names:
        return rows.add_column(name, list(defaults))
    values = [default if value is None else value for value, default in zip(rows[name], defaults, strict=True)]
    return rows.remove_columns(name).add_column(name, values)


def _check_upright(file: str):
    """`datasets` applies an EXIF orientation to the image, but not to its masks; inference does not apply it."""
    with PIL.Image.open(file) as image:
        orientation = image.getexif().get(PIL.ExifTags.Base.Orientation, 1)
    if orientation != 1:
        raise ValueError(
            f"`dataset` must hold images without an EXIF orientation, but {PurePath(file).name} has {orientation}: "
            "`medseglatdiff dataset folder` stores such images without it."
        )
