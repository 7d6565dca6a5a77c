"""Writes rows as Parquet shards of a data set, and the card."""

import string
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import DatasetInfo, Features, Image, List, SplitDict, SplitInfo, Value
from datasets.info import DatasetInfosDict
from huggingface_hub import DatasetCardData

from .picture_files import Row

FEATURES = Features(
    {"image": Image(), "masks": List(Image()), "image_id": Value("string"), "group_id": Value("string")}
)
SHARD_BYTES = 400 * 2**20
BATCH_ROWS = 100  # a row group; small enough for streaming and random access


class ShardWriter:
    """One Parquet writer per split, which starts a new shard when one is full; `close` sets the final names.

    Args:
        folder (`Path`): where to write SPLIT-0000K-of-0000N.parquet.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        # by split
        self.num_bytes: dict[str, int] = {}
        self.rows_of: dict[str, int] = {}
        self._writers: dict[str, pq.ParquetWriter] = {}
        self._batches: dict[str, list[dict]] = {}
        self._shards: dict[str, list[Path]] = {}
        folder.mkdir()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        for writer in self._writers.values():
            writer.close()

    @property
    def num_rows(self) -> int:
        return sum(self.rows_of.values())

    def write(self, row: Row):
        """Adds a row to its split."""
        pictures = (row.image, *row.masks)
        image, *masks = [{"bytes": picture.data, "path": None} for picture in pictures]
        batch = self._batches.setdefault(row.split, [])
        batch.append({"image": image, "masks": masks, "image_id": row.image_id, "group_id": row.group_id})
        size = sum(len(picture.data) for picture in pictures)
        self.num_bytes[row.split] = self.num_bytes.get(row.split, 0) + size
        self.rows_of[row.split] = self.rows_of.get(row.split, 0) + 1
        if len(batch) == BATCH_ROWS:
            self._flush(row.split)

    def close(self):
        """Writes the remaining rows and gives each shard its final name."""
        for split in list(self._batches):
            self._flush(split)
        for split, shards in self._shards.items():
            if split in self._writers:
                self._writers.pop(split).close()
            for index, path in enumerate(shards):
                path.rename(self.folder / f"{split}-{index:05d}-of-{len(shards):05d}.parquet")

    def _flush(self, split: str):
        rows = self._batches.pop(split)
        if split not in self._writers:
            shards = self._shards.setdefault(split, [])
            shards.append(self.folder / f"{split}-{len(shards)}.partial")
            self._writers[split] = pq.ParquetWriter(shards[-1], FEATURES.arrow_schema, compression="none")
        self._writers[split].write_table(pa.Table.from_pylist(rows, FEATURES.arrow_schema))
        if self._shards[split][-1].stat().st_size > SHARD_BYTES:
            self._writers.pop(split).close()


def write_card(folder: Path, template: str, shards: ShardWriter, summary: dict[str, str]):
    """Writes README.md: the filled template, with `dataset_info` and `configs` added to its YAML.

    Args:
        folder (`Path`): of the data set.
        template (`str`): a file beside this one, with `$`-placeholders for the entries of `summary`.
        shards (`ShardWriter`): closed.
        summary (`dict[str, str]`): from `Report.summary`.
    """
    front, body = Path(__file__).with_name(template).read_text().split("---\n", 2)[1:]
    splits = [split for split in ("train", "validation", "test") if split in shards.rows_of]
    infos = SplitDict({split: SplitInfo(split, shards.num_bytes[split], shards.rows_of[split]) for split in splits})
    size = sum(path.stat().st_size for path in shards.folder.iterdir())
    info = DatasetInfo(
        features=FEATURES, splits=infos, download_size=size, dataset_size=sum(shards.num_bytes.values())
    )
    data = DatasetCardData()
    DatasetInfosDict({"default": info}).to_dataset_card_data(data)
    files = [{"split": split, "path": f"data/{split}-*"} for split in splits]
    data["configs"] = [{"config_name": "default", "data_files": files}]
    text = string.Template(body).substitute(summary)
    (folder / "README.md").write_text(f"---\n{front}{data.to_yaml()}\n---\n{text}")
