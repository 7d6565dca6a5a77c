"""A data set as one lossless file: for machines where many small files are slow or `datasets` is not installed.

    medseglatdiff dataset pack data/lidc-idri --out lidc-idri.safetensors
    medseglatdiff train --dataset lidc-idri.safetensors ...

It is a safetensors file with two tensors per split: `SPLIT.files`, the encoded images and masks of the data set,
one after another; and `SPLIT.rows`, a JSON list with each row's ids and the number of bytes of its image and
its masks. No image is encoded again, and nothing in the file is ever executed.
"""

import argparse
import io
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import PIL.Image
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from .files import replacing

FORMAT = {"format": "medseglatdiff-packed-1"}
SUFFIX = ".safetensors"
IDS = ("image_id", "group_id")


def is_packed(dataset: str) -> bool:
    """Whether this names a packed file rather than a folder or a repository."""
    return Path(dataset).suffix == SUFFIX


class PackedRows:
    """The rows of a split by the column contract, decoded on access.

    Args:
        files (`bytes`): all images and masks, encoded.
        rows (`list[dict]`): each with `image_id`, `group_id` and `sizes`, the bytes of its image and of each mask.
    """

    def __init__(self, files: bytes, rows: list[dict]):
        self.files, self.rows = files, rows
        counts = [len(row["sizes"]) for row in rows]
        ends = np.cumsum([0, *(size for row in rows for size in row["sizes"])])
        if ends[-1] != len(files) or min(counts, default=2) < 2:
            raise ValueError("`dataset` must be a whole packed file, but its rows and its bytes do not agree.")
        self.ends, self.first = ends, np.cumsum([0, *counts])

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[dict]:
        return map(self.__getitem__, range(len(self)))

    def __getitem__(self, index: int) -> dict:
        row = self.rows[index]
        first = self.first[index % len(self)]
        bounds = self.ends[first : first + len(row["sizes"]) + 1]
        pictures = [self.files[start:end] for start, end in zip(bounds[:-1], bounds[1:], strict=True)]
        image, *masks = (PIL.Image.open(io.BytesIO(picture)) for picture in pictures)
        return {"image": image, "masks": masks, **{name: row[name] for name in IDS}}


def open_packed(path: str | Path, split: str) -> PackedRows:
    """The rows of a split of a packed file.

    Raises:
        OSError: if there is no such file.
        ValueError: if it is damaged, is not a packed file, or has no such split.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"`dataset` must be a packed file that exists, but was {path}.")
    try:
        with safe_open(path, "numpy") as packed:
            found = packed.metadata() or {}
            if found.get("format") != FORMAT["format"]:
                raise ValueError(f"`dataset` must be written by `medseglatdiff dataset pack`, but {path} is not.")
            splits = [name.removesuffix(".rows") for name in packed.keys() if name.endswith(".rows")]  # noqa: SIM118
            if split not in splits:
                raise ValueError(f"`split` must be one of {', '.join(splits)} of {path}, but was {split!r}.")
            files, rows = (packed.get_tensor(f"{split}.{part}").tobytes() for part in ("files", "rows"))
    except SafetensorError as error:
        raise ValueError(f"`dataset` must be a whole packed file, but {path} is damaged: {error}.") from error
    return PackedRows(files, json.loads(rows))


def encoded(picture) -> bytes:
    """The bytes of an undecoded image of `datasets`, or of a decoded image as a PNG."""
    if isinstance(picture, dict):
        return Path(picture["path"]).read_bytes() if picture["bytes"] is None else picture["bytes"]
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    return stream.getvalue()


def undecoded(rows: Iterable[dict]) -> Iterable[dict]:
    """Rows of `datasets` with their images left encoded; other rows unchanged."""
    if not hasattr(rows, "cast_column"):
        return rows
    from datasets import Image, List

    return rows.cast_column("image", Image(decode=False)).cast_column("masks", List(Image(decode=False)))


def pack(splits: dict[str, Iterable[dict]], out: str | Path):
    """Writes the rows of these splits to `out`, whole or not at all."""
    tensors = {}
    for split, rows in splits.items():
        files, index = [], []
        for row in undecoded(rows):
            pictures = [encoded(picture) for picture in (row["image"], *row["masks"])]
            files += pictures
            index.append({**{name: row[name] for name in IDS}, "sizes": [len(picture) for picture in pictures]})
        for name, content in (("files", b"".join(files)), ("rows", json.dumps(index).encode())):
            tensors[f"{split}.{name}"] = torch.frombuffer(bytearray(content), dtype=torch.uint8)
    with replacing(out) as partial:
        save_file(tensors, partial, metadata=FORMAT)


def main(arguments: list[str] | None = None):
    """`medseglatdiff dataset pack`."""
    from .splits import open_split

    parser = argparse.ArgumentParser(
        prog="medseglatdiff dataset pack",
        description="Packs a data set into one lossless file, which `--dataset` takes wherever it takes a folder.",
    )
    parser.add_argument("dataset", help="a folder, a Hub id, or phantom")
    parser.add_argument("--out", type=Path, required=True, help="the file to write, NAME.safetensors")
    parser.add_argument("--splits", nargs="+", default=["train", "validation"], help="default: train validation")
    args = parser.parse_args(arguments)
    if args.out.suffix != SUFFIX:
        raise ValueError(f"`out` must be a file NAME{SUFFIX}, but was {args.out}.")
    if args.out.exists():
        raise ValueError(f"`out` must be a new file, but {args.out} exists.")
    pack({split: open_split(args.dataset, split) for split in args.splits}, args.out)
    print(f"{args.out}: {args.out.stat().st_size / 1e6:.1f} MB")
