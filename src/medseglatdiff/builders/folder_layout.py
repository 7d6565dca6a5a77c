"""Parallel folders: which image has which masks, by the names of folders and files."""

import os
import re
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

import PIL.Image

from ..data.groups import FILLERS, SPLIT_OF_WORD, name_words, plain_name, split_in_name, word_set
from .archives import Source

IMAGE_FOLDERS, MASK_FOLDERS = ("images", "image"), ("masks", "mask")
DOCUMENTS = word_set(
    """.txt .csv .tsv .json .jsonl .parquet .xml .md .rst .pdf .html .htm .yaml .yml .log .doc .docx .xls .xlsx
    .ods .rtf .py .ipynb .zip .sh"""
)
MASK_WORDS = word_set(
    "mask masks segmentation seg label labels gt ground truth groundtruth annotation annotations manual"
)
NOT_A_RATER = word_set(
    """left right lesion lesions tumor tumour nodule polyp lung liver organ background foreground edge edges
    boundary contour outline overlay preview vis visual color colour heatmap prob probability pred prediction predicted
    auto consensus majority mean average staple fused final old backup copy orig original raw instance instances edema
    core necrosis cup disc class"""
)
READER = re.compile(r"(rater|reader|annotator|expert|observer|doctor|physician|radiologist|r)[_\-. ]?\d+", re.I)
SUFFIX = re.compile(r"\.(?=[^.]*[a-z])[^./ ]{1,8}$", re.I)  # with a letter: ".5" may end a DICOM file's UID
WAYS = (
    "put each rater's masks into a folder masks-NAME/, or name each image's files in the column `mask_file_names` of "
    "a metadata.jsonl"
)
SEPARATOR = re.compile(r"[_\-. ]+")


@dataclass(frozen=True)
class Entry:
    """An image, its masks in the order of their raters, and what is known about it.

    Args:
        image (`str`): the file.
        masks (`tuple[str, ...]`): the files.
        name (`str`): with subfolders, without suffix, without the folders that name a split or a kind of file.
        image_id (`str`): unique.
        split (`str`, *optional*): where folders or tables name it; empty elsewhere.
        group (`str`, *optional*): where a table names it; empty elsewhere.
    """

    image: str
    masks: tuple[str, ...]
    name: str
    image_id: str
    split: str = ""
    group: str = ""


@dataclass(frozen=True)
class Place:
    """The parts of a path in parallel folders; an image and its masks have the same folders and stem."""

    file: str
    kind: str  # "image" or "mask"
    above: tuple[str, ...]  # folders above images/ or masks/, without those that name a split
    below: tuple[str, ...]
    stem: str
    split: str | None
    rater: str | None  # "" if none is named, `None` if it is ambiguous

    @property
    def key(self) -> tuple:
        return self.split, self.above, self.below, self.stem


def natural_order(name: str) -> list[tuple[int, int, str]]:
    """A key that sorts numbers inside names by their value: "", "2", "10", "anna", "rater2", "rater10"."""
    parts = re.findall(r"\d+|\D+", name)
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts]


def stem_of(file: str) -> str:
    """A file's name without its folders and its suffix."""
    name = plain_name(file).rpartition("/")[2]
    return SUFFIX.sub("", name).strip() or name


def parallel_entries(source: Source) -> tuple[list[Entry], list[str], dict[str, str]]:
    """The images below images/ with their masks below masks/ or masks-RATER/.

    Returns:
        the entries, the raters' names, and unusable files with the reason.

    Raises:
        ValueError: for a folder that looks like a split, but does not say which.
    """
    places = [place for name in source.names if (place := _place(source, name))]
    images = [place for place in places if place.kind == "image"]
    keys = {image.key for image in images}
    bad: dict[str, str] = {}
    unclear: dict[tuple, str] = {}
    masks: dict[tuple, dict[str, str]] = {}
    # 1. the masks of each image
    for mask in (place for place in places if place.kind == "mask"):
        mask = mask if mask.key in keys else _with_rater_in_file_name(mask, keys)
        of_image = masks.setdefault(mask.key, {})
        if mask.key not in keys:
            bad[mask.file] = "belongs to no image: misnamed?"
        elif mask.rater is None:
            unclear[mask.key] = f"{mask.file} may be a rater's, or one of several structures: {WAYS}"
        elif mask.rater in of_image:
            unclear[mask.key] = f"{mask.file} is a second mask by one rater beside {of_image[mask.rater]}"
        if mask.rater is not None:
            of_image[mask.rater] = mask.file
    # 2. the images with unambiguous masks
    shared = len(os.path.commonprefix([image.above for image in images]))
    entries = []
    for image in images:
        of_image = masks.get(image.key, {})
        if "" in of_image and len(of_image) > 1:
            unclear.setdefault(image.key, f"{of_image['']} names no rater, but other masks do: {WAYS}")
        if image.key in unclear:
            bad[image.file] = unclear[image.key]
        else:
            entries.append(_entry(image, of_image, shared))
    raters = {rater for of_image in masks.values() for rater in of_image if rater}
    return entries, sorted(raters, key=natural_order), bad


def _entry(image: Place, masks: dict[str, str], shared: int) -> Entry:
    files = tuple(masks[rater] for rater in sorted(masks, key=natural_order))
    name = "/".join((*image.above[shared:], *image.below, image.stem))
    folder = PurePosixPath(image.file).parts
    expected = ("/".join((*folder[: _kind_at(folder[:-1])], "masks", *image.below, f"{image.stem}.png")),)
    split = image.split or ""
    return Entry(image.file, files or expected, name, f"{split}/{name}" if split else name, split)


def _place(source: Source, file: str) -> Place | None:
    """The parts of a path; `None` for documents and files outside folders of images and masks."""
    *folders, name = PurePosixPath(plain_name(file)).parts
    at = _kind_at(folders)
    kind = kind_of_folder(folders[at]) if at is not None else None
    if at is None or kind is None or PurePosixPath(name).suffix.lower() in DOCUMENTS:
        return None
    splits = [split_of_folder(folder, source, index) for index, folder in enumerate(folders)]
    named = {split for split in splits if split}
    if len(named) > 1:
        raise ValueError(f"{file!r} lies in folders of several splits: {', '.join(sorted(named))}.")
    plain = [folder if split is None else None for folder, split in zip(folders, splits, strict=True)]
    above, below = (tuple(folder for folder in part if folder) for part in (plain[:at], plain[at + 1 :]))
    rater = _rater_of_folder(folders[at])
    return Place(file, kind, above, below, stem_of(file), named.pop() if named else None, rater)


def _kind_at(folders) -> int | None:
    return next((index for index in reversed(range(len(folders))) if kind_of_folder(folders[index])), None)


def kind_of_folder(folder: str) -> str | None:
    """ "image" or "mask" by a folder's name, such as `Images`, `train_images` or `masks-anna`."""
    words = name_words(folder)
    rest = [word for word in words if word not in SPLIT_OF_WORD]
    if rest and rest[0] in MASK_FOLDERS:
        return "mask"
    return "image" if any(word in IMAGE_FOLDERS for word in rest) and set(rest) <= FILLERS else None


def _rater_of_folder(folder: str) -> str:
    """The part after "masks": a number, a name or nothing."""
    named = re.search(r"masks?[_\-. ]*(.*)$", folder, re.IGNORECASE)
    rater = named[1].strip() if named else ""
    words = set(name_words(rater))
    if words & SPLIT_OF_WORD.keys():
        return ""
    if words & NOT_A_RATER:
        raise ValueError(f"{folder!r} does not look like a rater's masks: {WAYS}, or take it out of `sources`.")
    return rater


def _with_rater_in_file_name(mask: Place, keys: set) -> Place:
    """`X_segmentation.png` is the mask of X, `X_anna.png` that of Anna; the rater is `None` if it is ambiguous."""
    for separator in reversed(list(SEPARATOR.finditer(mask.stem))):
        shorter = replace(mask, stem=mask.stem[: separator.start()].strip())
        if shorter.key not in keys:
            continue
        words = SEPARATOR.split(mask.stem[separator.end() :])
        label = "_".join(word for word in words if word.casefold() not in MASK_WORDS)
        if not label:
            return shorter
        named = READER.fullmatch(label) or re.fullmatch(r"[^\W\d_]+", label)
        plain = named and not mask.rater and label.casefold() not in NOT_A_RATER
        return replace(shorter, rater=label if plain else None)
    return mask


def _is_root(folder: str, source: Source) -> bool:
    return len(source.paths) == 1 and source.paths[0].is_dir() and folder == plain_name(source.paths[0].resolve().name)


def split_of_folder(folder: str, source: Source, index: int) -> str | None:
    """The split that a folder names; an unclear name of the source folder itself is ignored."""
    words = set(name_words(folder))
    if index == 0 and _is_root(folder, source) and not words <= FILLERS | SPLIT_OF_WORD.keys():
        return None
    return split_in_name(folder)


def unused_pictures(source: Source, used: set[str]) -> list[str]:
    """Pictures that belong to no row.

    Raises:
        ValueError: if one lies in a folder that names a split, which would be left out by mistake.
    """
    suffixes = {*PIL.Image.registered_extensions(), ".dcm", ".dicom", ".nii", ".npy", ".mha", ".nrrd"}
    unused = [name for name in source.names if name not in used and PurePosixPath(name).suffix.lower() in suffixes]
    for name in unused:
        for index, folder in enumerate(PurePosixPath(plain_name(name)).parts[:-1]):
            if split_of_folder(folder, source, index):
                raise ValueError(
                    f"{folder!r} looks like a split, but {name!r} in it belongs to no row: "
                    f"lay out {folder}/images/ and {folder}/masks/, or take the folder out of `sources`."
                )
    return unused
