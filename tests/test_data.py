"""The column contract, splits in memory, and the stream of training samples."""

import json
from pathlib import Path

import numpy as np
import PIL.ExifTags
import PIL.Image
import pytest
import torch

from medseglatdiff.data.splits import (
    COLUMNS,
    load_split,
    one_hot,
    open_split,
    resize_labels,
    rows_at,
    to_labels,
)


def row(masks: list[np.ndarray], size: int = 8, mode: str = "L") -> dict:
    image = PIL.Image.fromarray(np.arange(size * size, dtype=np.uint8).reshape(size, size)).convert(mode)
    return {"image": image, "masks": [PIL.Image.fromarray(mask) for mask in masks], "image_id": "a", "group_id": "a"}


def square(value: int = 255, size: int = 8) -> np.ndarray:
    mask = np.zeros((size, size), np.uint8)
    mask[2:5, 1:4] = value
    return mask


def test_split_keeps_ragged_raters_and_values():
    split = load_split([row([square()]), row([square(), 0 * square(), square()])], 1, 8)
    assert len(split) == 2 and split.first.tolist() == [0, 1, 4]
    assert split.raters(1).sum(dim=(1, 2)).tolist() == [9, 0, 9]
    assert torch.allclose(split.pixels([0])[0, 0].flatten(), torch.arange(64) / 127.5 - 1)


def test_consensus_takes_half_of_the_raters_and_the_higher_of_equal_classes():
    masks = [square(), square(), square() * 0, square() * 0]
    split = load_split([row(masks)], 1, 8)
    assert torch.equal(split.consensus(0), torch.from_numpy(square(1)))
    assert load_split([row(masks[1:])], 1, 8).consensus(0).sum() == 0
    assert load_split([row([square(1), square(2), square(0)])], 1, 8, num_classes=2).consensus(0).max() == 2


def test_labels():
    assert to_labels(square(200), 1).sum() == 9 and to_labels(square(0), 1).sum() == 0
    assert to_labels(square(2), 3).max() == 2
    with pytest.raises(ValueError, match="`masks` must hold labels up to 3"):
        to_labels(square(4), 3)
    with pytest.raises(ValueError, match="`masks` must hold 0 and 255, but hold up to 1"):
        to_labels(square(1), 1)
    with pytest.raises(ValueError, match=r"`masks` must be grey, but were of shape \(8, 8, 3\)"):
        to_labels(np.stack([square()] * 3, -1), 1)
    labels = torch.tensor([[[0, 2], [1, 0]]])
    assert torch.equal(one_hot(labels, 2).argmax(dim=1), labels) and one_hot(labels, 2).shape == (1, 3, 2, 2)


def test_resized_labels_keep_the_largest_class():
    labels = torch.zeros(1, 8, 8, dtype=torch.uint8)
    labels[:, :4, :] = 2
    assert resize_labels(labels, 4, 2)[0].tolist() == [[2] * 4, [2] * 4, [0] * 4, [0] * 4]


def test_stream_is_a_permutation_per_epoch_and_can_be_entered_anywhere():
    stream = rows_at(range(30), 10, seed=3)
    assert sorted(stream[:10]) == sorted(stream[10:20]) == list(range(10))
    assert stream[:10] != stream[10:20]
    assert rows_at(range(7, 23), 10, seed=3) == stream[7:23]
    assert rows_at(range(10), 10, seed=4) != stream[:10]


def test_bad_rows_are_named():
    with pytest.raises(ValueError, match="`masks` of a must be one or more of the image's size"):
        load_split([row([square(size=6)])], 1, 8)
    with pytest.raises(ValueError, match="`masks` of a"):
        load_split([row([])], 1, 8)


def test_data_sets_without_the_contract_are_refused(tmp_path):
    datasets = pytest.importorskip("datasets")
    datasets.Dataset.from_dict({"image": [1], "label": [2]}).to_parquet(tmp_path / "a" / "train.parquet")
    with pytest.raises(ValueError, match="`dataset` must have the columns"):
        open_split(str(tmp_path / "a"), "train")
    with pytest.raises(ValueError, match="`split` must be one of train of .*, but was 'test'"):
        open_split(str(tmp_path / "a"), "test")
    datasets.Dataset.from_dict({name: ["x"] for name in COLUMNS}).to_parquet(tmp_path / "b" / "train.parquet")
    with pytest.raises(ValueError, match="list of images as `masks`"):
        open_split(str(tmp_path / "b"), "train")


def imagefolder(folder: Path, lines: list[dict]) -> Path:
    """An imagefolder as one makes it by hand: images 20 x 16, masks in a folder of their own, metadata.jsonl."""
    folder.mkdir(parents=True)
    for number, line in enumerate(lines):
        PIL.Image.fromarray(np.full((16, 20), 10 * number, np.uint8)).save(folder / line["file_name"])
        for rater, name in enumerate(line["mask_file_names"]):
            mask = np.zeros((16, 20), np.uint8)
            mask[2 : 5 + number + rater, 3:9] = 255
            (folder / name).parent.mkdir(exist_ok=True)
            PIL.Image.fromarray(mask).save(folder / name)
    (folder / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def test_imagefolder_by_name_and_by_folder(tmp_path):
    pytest.importorskip("datasets")
    for split in ("train", "validation"):
        lines = [{"file_name": f"{n}.png", "mask_file_names": [f"masks/{n}-0.png", f"masks/{n}-1.png"]} for n in "abc"]
        imagefolder(tmp_path / "d" / split, lines)
    for rows in (
        open_split("imagefolder", "validation", data_dir=str(tmp_path / "d")),
        open_split(str(tmp_path / "d"), "validation"),
    ):
        assert rows["image_id"] == rows["group_id"] == ["a", "b", "c"]
        assert [int((np.asarray(mask) > 0).sum()) for mask in rows[1]["masks"]] == [24, 30]
        assert np.unique(rows[2]["image"]).tolist() == [20]


def test_imagefolder_keeps_what_its_metadata_says(tmp_path):
    pytest.importorskip("datasets")
    names = [{"file_name": f"{n}.png", "mask_file_names": [f"m/{n}.png"], "image_id": f"i{n}"} for n in range(3)]
    splits = ("train", "test", "train")
    groups = {"train": "p", "test": "q"}
    lines = [{**name, "group_id": groups[split], "split": split} for name, split in zip(names, splits, strict=True)]
    folder = str(imagefolder(tmp_path / "d", lines))
    rows = open_split("imagefolder", "train", data_dir=folder)
    assert rows["image_id"] == ["i0", "i2"] and rows["group_id"] == ["p", "p"]
    with pytest.raises(ValueError, match="`split` must be one of train, test"):
        open_split("imagefolder", "validation", data_dir=folder)


def test_rows_that_name_no_split_lie_in_their_folders_split_alone(tmp_path):
    pytest.importorskip("datasets")
    lines = [{"file_name": f"{n}.png", "mask_file_names": [f"m/{n}.png"]} for n in range(3)]
    lines[0] |= {"split": "test", "group_id": "p", "image_id": "i0"}
    folder = str(imagefolder(tmp_path / "d", lines))
    assert open_split("imagefolder", "test", data_dir=folder)["image_id"] == ["i0"]
    train = open_split("imagefolder", "train", data_dir=folder)
    assert train["image_id"] == train["group_id"] == ["1", "2"]


def test_an_image_that_datasets_would_turn_away_from_its_masks_is_refused(tmp_path):
    pytest.importorskip("datasets")
    folder = imagefolder(tmp_path / "d", [{"file_name": "a.jpg", "mask_file_names": ["m/a.png"]}])
    exif = PIL.Image.Exif()
    exif[PIL.ExifTags.Base.Orientation] = 3
    PIL.Image.new("L", (20, 16)).save(folder / "a.jpg", exif=exif)
    with pytest.raises(ValueError, match="without an EXIF orientation, but a.jpg has 3"):
        open_split("imagefolder", "train", data_dir=str(folder))


def test_phantom_splits_differ():
    with pytest.raises(ValueError, match="`split` must be one of train, validation, test, but was 'dev'"):
        open_split("phantom", "dev")
    train, validation = (open_split("phantom", split, 32) for split in ("train", "validation"))
    assert len(train) == 256 and len(validation) == 32
    assert {row["group_id"] for row in train}.isdisjoint(row["group_id"] for row in validation)
