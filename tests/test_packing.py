"""A data set in one file: the same rows, without `datasets`; damage is an error."""

import subprocess
import sys

import numpy as np
import PIL.Image
import pytest
import torch
from safetensors.torch import save_file

from medseglatdiff.cli import main
from medseglatdiff.data.packing import open_packed, pack
from medseglatdiff.data.splits import load_split, open_split


def rows(count: int = 3) -> list[dict]:
    """RGB images of odd sizes with one to three raters, names that are no ASCII, and a label map."""
    generator = np.random.default_rng(0)
    found = []
    for index in range(count):
        shape = (5 + index, 9)
        image = PIL.Image.fromarray(generator.integers(0, 256, (*shape, 3), dtype=np.uint8))
        masks = [PIL.Image.fromarray(generator.integers(0, 4, shape, dtype=np.uint8)) for _ in range(index + 1)]
        found.append({"image": image, "masks": masks, "image_id": f"é{index}", "group_id": f"p{index}"})
    return found


def same(one: dict, other: dict) -> bool:
    pictures = [[row["image"], *row["masks"]] for row in (one, other)]
    return (one["image_id"], one["group_id"]) == (other["image_id"], other["group_id"]) and all(
        a.mode == b.mode and np.array_equal(np.asarray(a), np.asarray(b)) for a, b in zip(*pictures, strict=True)
    )


def test_rows_survive_packing(tmp_path):
    path = tmp_path / "set.safetensors"
    pack({"train": rows(), "test": rows(1)}, path)
    packed = open_packed(path, "train")
    assert len(packed) == 3 and len(open_split(str(path), "test")) == 1
    assert all(same(one, other) for one, other in zip(rows(), packed, strict=True)) and same(packed[-1], rows()[-1])
    assert [file.name for file in tmp_path.iterdir()] == ["set.safetensors"]


def test_a_folder_packed_is_the_same_split(tmp_path):
    pytest.importorskip("datasets")
    folder, path = tmp_path / "phantom", tmp_path / "phantom.safetensors"
    assert main(["dataset", "phantom", "--out", str(folder), "--num-rows", "24", "--size", "32"]) == 0
    assert main(["dataset", "pack", str(folder), "--out", str(path), "--splits", "train"]) == 0
    whole, packed = (load_split(open_split(str(source), "train"), 1, 32) for source in (folder, path))
    for name in ("images", "labels", "first"):
        assert torch.equal(getattr(whole, name), getattr(packed, name)) and len(whole) > 5


def test_packed_files_are_read_without_datasets(tmp_path):
    path = tmp_path / "set.safetensors"
    pack({"train": rows()}, path)
    script = (
        "import sys; sys.modules['datasets'] = None\n"
        "from medseglatdiff.data.splits import load_split, open_split\n"
        f"print(len(load_split(open_split({str(path)!r}, 'train'), 3, 8, num_classes=3)))"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ended.stdout == "3\n"


def test_damage_is_an_error(tmp_path):
    path = tmp_path / "set.safetensors"
    pack({"train": rows()}, path)
    with pytest.raises(ValueError, match="`split` must be one of train of .*, but was 'test'"):
        open_packed(path, "test")
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ValueError, match="`dataset` must be a whole packed file, but .* is damaged"):
        open_packed(path, "train")
    save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match="`dataset` must be written by `medseglatdiff dataset pack`"):
        open_packed(path, "train")
    with pytest.raises(FileNotFoundError, match="`dataset` must be a packed file that exists"):
        open_split(str(tmp_path / "no.safetensors"), "train")


@pytest.mark.parametrize("name, what", [("set.npz", "`out` must be a file NAME"), ("set.safetensors", "new file")])
def test_nothing_is_overwritten(tmp_path, capsys, name, what):
    path = tmp_path / name
    path.write_text("kept")
    assert main(["dataset", "pack", "phantom", "--out", str(path)]) == 2
    assert what in capsys.readouterr().err and path.read_text() == "kept"
