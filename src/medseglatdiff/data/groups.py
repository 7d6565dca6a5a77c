"""Splits and groups (patients or sequences, which must not cross splits) from the names of folders and files."""

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from pathlib import PurePosixPath


def word_set(text: str) -> frozenset[str]:
    """The words of a text.

    >>> sorted(word_set("train val train"))
    ['train', 'val']
    """
    return frozenset(text.split())


SPLITS = ("train", "validation", "test")
WORDS_OF_SPLITS = {
    "train": ("train", "training", "trainset"),
    "validation": ("val", "valid", "validation", "validate", "valset"),
    "test": ("test", "tests", "testing", "testset"),
}
SPLIT_OF_WORD = {word: split for split, words in WORDS_OF_SPLITS.items() for word in words}
FILLERS = word_set("set sets data dataset split part subset images image imgs img masks mask list files ids")
# "dev" is for training in medicine and for validation elsewhere; "eval" is either validation or test
UNCLEAR = word_set("dev devset development eval evaluation fold folds kfold cv trainval holdout heldout split splits")
WORD = re.compile(r"[^\W\d_]+?(?=[A-Z][a-z]|[\W\d_]|$)")
TOKEN = re.compile(r"[^\W_]+")
TWO_NUMBERED_WORDS = re.compile(r"([^\W\d_]+\d+)([^\W\d_]+\d+)")  # p3t1


def plain_name(name: str) -> str:
    """A name in one spelling for all systems: composed letters (NFC), slashes, no spaces around its parts."""
    parts = unicodedata.normalize("NFC", name).replace("\\", "/").split("/")
    return "/".join(part.strip() for part in parts if part.strip() not in ("", "."))


def name_words(name: str) -> list[str]:
    """The words of a name in lower case, without numbers: `TrainImages_2` has "train" and "images"."""
    return [word.casefold() for word in WORD.findall(name)]


def split_in_name(name: str) -> str | None:
    """The split that a name stands for, in any case and spelling, or `None`.

    Raises:
        ValueError: for a name that looks like a split, but does not say which of the three.
    """
    words = name_words(name)
    splits = {SPLIT_OF_WORD[word] for word in words if word in SPLIT_OF_WORD}
    if not splits and not UNCLEAR & set(words):
        return None
    if len(splits) == 1 and set(words) <= FILLERS | SPLIT_OF_WORD.keys():
        return splits.pop()
    raise ValueError(
        f"{name!r} looks like a split, but does not say which: `split` must be one of {', '.join(SPLITS)}. "
        "Rename it, or name each image's split in the column `split` of a metadata.csv."
    )


def names_below(files: Sequence[str]) -> list[str]:
    """Paths as names for `guess_groups`: without suffixes, shared parent folders and folders named after splits."""
    paths = [PurePosixPath(plain_name(file)).with_suffix("") for file in files]
    shared = len(os.path.commonprefix([path.parts[:-1] for path in paths]))
    return ["/".join([*(p for p in path.parts[shared:-1] if not _is_split(p)), path.name]) for path in paths]


def _is_split(folder: str) -> bool:
    try:
        return split_in_name(folder) is not None
    except ValueError:
        return False


def guess_groups(names: Sequence[str]) -> tuple[list[str | None], str]:
    """The group of each image, guessed from its name, or `None`; and a description of what served as the group.

    Subfolders are groups, the topmost ones if they are nested. Without subfolders, images are a group if their names
    begin alike up to a number, as in `patient03_slice12`, `p3-t1`, `IMG_003_001` or `case 3 (2)`. Separating such
    images would do more harm than keeping them together.

    Args:
        names (`Sequence[str]`): without suffixes, with subfolders, without folders that all share.

    Raises:
        ValueError: if no subfolder has a number in its name, so that they may be classes as well as patients.
    """
    folders = [name.rpartition("/")[0].split("/")[0] for name in names]
    found = sorted(set(folders) - {""})
    if len(found) > 1 or (found and "" in folders):
        if not any(re.search(r"\d", folder) for folder in found):
            raise ValueError(
                f"Subfolders such as {', '.join(map(repr, found[:3]))} may be patients, or classes: "
                "`--group-from folder` keeps each together, `--group-from image` makes each image a group."
            )
        return [folder or None for folder in folders], "subfolders"
    groups = _groups_by_beginning([name.rpartition("/")[2] for name in names])
    return groups, "the beginnings of file names" if any(groups) else "each image on its own"


def _groups_by_beginning(stems: list[str]) -> list[str | None]:
    tokens = [_tokens(stem) for stem in stems]
    shared = 0
    while all(len(name) > shared + 1 for name in tokens) and len({name[shared][0] for name in tokens}) == 1:
        shared += 1
    groups = []
    for stem, name in zip(stems, tokens, strict=True):
        ends = [end for token, end in name[shared:-1] if re.search(r"\d", token)]
        groups.append(stem[: ends[0]] if ends else None)
    sizes = Counter(group for _, group in set(zip(stems, groups, strict=True)) if group)
    tells = len(sizes) > 1 and max(sizes.values()) > 1
    return groups if tells else [None] * len(stems)


def _tokens(stem: str) -> list[tuple[str, int]]:
    """The words and numbers of a name, each with its end position."""
    pair = TWO_NUMBERED_WORDS.fullmatch(stem)
    if pair:
        return [(pair[number], pair.end(number)) for number in (1, 2)]
    return [(match[0], match.end()) for match in TOKEN.finditer(stem)]


def looks_like_one_sequence(names: Sequence[str]) -> bool:
    """Whether all names begin with the same number, as frames of one video do: `video1_0001`, `video1_0002`."""
    tokens = [_tokens(name.rpartition("/")[2]) for name in names]
    if len(names) < 2 or min(map(len, tokens)) < 2:
        return False
    first = [tuple(token for token, _ in name[:-1]) for name in tokens]
    return len(set(first)) == 1 and any(re.search(r"\d", token) for token in first[0])
