"""Your own images: both layouts, every kind of picture, label maps, and what is refused."""

import io
import json
from pathlib import Path

import numpy as np
import PIL.ExifTags
import PIL.Image
import pytest
from dataset_fixtures import disc, encode, nothing_left, own_cache, rgb, rows_of, write_folder  # noqa: F401

from medseglatdiff.builders import folder
from medseglatdiff.builders.build import split_of

DEEP = (np.arange(256, dtype=np.uint16) * 200).reshape(16, 16)


def build(tmp_path: Path, files: dict[str, bytes], *options: str) -> dict[str, dict]:
    """The rows built from these files."""
    number = len(list(tmp_path.iterdir()))
    source = write_folder(tmp_path / f"in-{number}", files)
    return rows_of(folder.main([str(source), "--out", str(tmp_path / f"built-{number}"), *options]))


def refusal(tmp_path: Path, files: dict[str, bytes], *options: str) -> str:
    """The error that building from these files gives."""
    with pytest.raises(ValueError) as error:
        folder.main([str(write_folder(tmp_path / "in", files)), "--out", str(tmp_path / "out"), *options])
    assert nothing_left(tmp_path)
    return str(error.value)


def test_raters_are_in_the_order_of_their_numbers(tmp_path):
    files = {"images/a.png": encode(disc(7)), "images/b.png": encode(disc(6))}
    files |= {f"masks-{n}/a.png": encode(disc(n % 7)) for n in (1, 2, 10)}
    files["masks-2/b.png"] = encode(disc(5) // 255)  # 0 and 1
    rows = build(tmp_path, files)
    assert [np.asarray(mask).tolist() for mask in rows["a"]["masks"]] == [disc(n % 7).tolist() for n in (1, 2, 10)]
    assert np.array_equal(np.asarray(rows["b"]["masks"][0]), disc(5)) and len(rows["b"]["masks"]) == 1
    assert rows["a"]["group_id"] == "a" and rows["a"]["split"] == split_of("a")


def dicom_file() -> bytes:
    pydicom = pytest.importorskip("pydicom", reason="DICOM needs pydicom")
    return Path(pydicom.data.get_testdata_file("CT_small.dcm", download=False)).read_bytes()


@pytest.mark.parametrize(
    ("name", "data", "expected"),
    [
        ("grey.png", encode(disc(6)), disc(6)),
        ("rgb.png", encode(rgb(disc(6))), rgb(disc(6))),
        ("deep.png", encode(DEEP), DEEP),
        ("deep.tif", encode(DEEP, "TIFF"), DEEP),
        ("palette.png", encode(disc(6), mode="P"), np.stack([disc(6)] * 3, -1)),
        ("opaque.png", encode(rgb(disc(6)), mode="RGBA"), rgb(disc(6))),
        ("bits.png", encode(disc(6), mode="1"), disc(6)),
        ("grey.bmp", encode(disc(6), "BMP"), disc(6)),
    ],
)
def test_every_kind_of_image_keeps_its_pixels(tmp_path, name, data, expected):
    stem = name.split(".")[0]
    row = build(tmp_path, {f"images/{name}": data, f"masks/{stem}.png": encode(disc(3))})[stem]
    assert np.array_equal(np.asarray(row["image"]), expected) and row["image"].mode in ("L", "RGB", "I;16")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_stay_as_their_pixels_lie(tmp_path, orientation):
    """As their masks do, and as the pipeline reads the same file."""
    exif, file = PIL.Image.Exif(), io.BytesIO()
    exif[PIL.ExifTags.Base.Orientation] = orientation
    pixels = np.arange(64, dtype=np.uint8).reshape(8, 8) * 3
    PIL.Image.fromarray(pixels).save(file, "PNG", exif=exif)
    files = {"images/a.png": file.getvalue(), "masks/a.png": encode(disc(3, side=8))}
    assert np.array_equal(np.asarray(build(tmp_path, files)["a"]["image"]), pixels)


def test_dicom_becomes_what_the_package_reads(tmp_path):
    from medseglatdiff.data.dicom import read_dicom

    data = dicom_file()
    (row,) = build(tmp_path, {"images/ct.dcm": data, "masks/ct.png": encode(disc(9, side=128))}).values()
    expected = (read_dicom(io.BytesIO(data)) * 255).round()
    assert row["image"].mode == "L" and np.array_equal(np.asarray(row["image"]), expected)
    assert expected.min() < 20 and expected.max() > 235
    told = refusal(tmp_path, {"images/ct.dcm": data[:900], "masks/ct.png": encode(disc(9, side=128))})
    assert "images/ct.dcm: `image` must" in told and "BytesIO" not in told


def test_what_has_no_plain_meaning_is_refused(tmp_path):
    clear = PIL.Image.fromarray(rgb(disc(6))).convert("RGBA")
    clear.putalpha(PIL.Image.fromarray(disc(6)))
    frames = io.BytesIO()
    PIL.Image.fromarray(disc(6)).save(frames, "TIFF", save_all=True, append_images=[PIL.Image.fromarray(disc(5))])
    images = {
        "clear.png": encode(np.asarray(clear)),
        "float.tif": encode(np.full((16, 16), 0.5, np.float32), "TIFF"),
        "frames.tif": frames.getvalue(),
        "size.png": encode(disc(6, side=20)),
        "lonely.png": encode(disc(6)),
        "values.png": encode(disc(6)),
        "same.png": encode(disc(6)),
        "same.bmp": encode(disc(6), "BMP"),
    }
    files = {f"images/{name}": data for name, data in images.items()}
    stems = {name.split(".")[0] for name in images} - {"lonely", "values"}
    files |= {f"masks/{stem}.png": encode(disc(3)) for stem in stems}
    files |= {"masks/values.png": encode(disc(3) // 5 + disc(2) // 5), "masks/stray.png": encode(disc(3))}
    told = refusal(tmp_path, files)
    for reason in (
        "clear.png: has transparent pixels",
        "float.tif: is of mode F",
        "frames.tif: holds 2 frames",
        "size.png: (16, 16) (height, width) pixels, but its image has (20, 20)",
        "masks/lonely.png: missing",
        "values.png: holds 3 values",
        "same: a second image with this id",
        "masks/stray.png: belongs to no image",
    ):
        assert reason in told
    assert told.startswith("8 files")


def test_label_maps(tmp_path):
    labels = disc(5) // 255 + disc(2) // 255
    palette = PIL.Image.fromarray(labels)
    palette.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0])
    file = io.BytesIO()
    palette.save(file, "PNG")
    files = {"images/a.png": encode(disc(6)), "masks-1/a.png": encode(labels), "masks-2/a.png": file.getvalue()}
    files["masks-3/a.png"] = encode(np.stack([labels] * 3, -1))
    (row,) = build(tmp_path, files, "--num-classes", "2").values()
    assert [np.asarray(mask).tolist() for mask in row["masks"]] == [labels.tolist()] * 3
    assert {mask.mode for mask in row["masks"]} == {"L"}
    assert "holds the label 2, but --num-classes is 1" in refusal(tmp_path, files, "--num-classes", "1")
    coloured = {**files, "masks-3/a.png": encode(rgb(labels))}
    assert "coloured label map" in refusal(tmp_path, coloured, "--num-classes", "2")


def test_metadata(tmp_path):
    line = {"file_name": "a.png", "mask_file_names": ["m0.png", "m1.png"], "group_id": "p7", "split": "validation"}
    other = {"file_name": "b.png", "mask_file_names": ["m0.png"], "group_id": 0}
    files = {
        name: encode(disc(radius)) for name, radius in {"a.png": 6, "b.png": 5, "m0.png": 2, "m1.png": -1}.items()
    }
    files["metadata.jsonl"] = f"{json.dumps(line)}\n{json.dumps(other)}\n".encode()
    rows = build(tmp_path, files)
    assert [rows["a"][key] for key in ("split", "group_id", "image_id")] == ["validation", "p7", "a"]
    assert [int((np.asarray(mask) > 0).sum()) for mask in rows["a"]["masks"]] == [13, 0]
    assert (rows["b"]["group_id"], rows["b"]["split"]) == ("0", split_of("0"))
    crossing = f"{json.dumps(line)}\n{json.dumps({**other, 'group_id': 'p7', 'split': 'train'})}".encode()
    assert "p7" in refusal(tmp_path, {**files, "metadata.jsonl": crossing})


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"file_name": "a.png"}', "line 1, cannot be used: KeyError('mask_file_names')"),
        ('{"file_name": "a.png", "mask_file_names": "m.png"}', "must be a list"),
        ('{"file_name": "a.png", "mask_file_names": ["m.png"], "split": "dev"}', "`split` must be one of"),
        ('{"file_name": "a.png", "mask_file_names": []}', "a.png: has no mask"),
        ('{"file_name": "a.png", "mask_file_names": ["../../m.png"]}', "missing"),
        ("[1]", "line 1"),
        ("{", "line 1"),
    ],
)
def test_bad_metadata_is_named(tmp_path, line, reason):
    files = {"a.png": encode(disc(6)), "m.png": encode(disc(2)), "metadata.jsonl": line.encode()}
    assert reason in refusal(tmp_path, files)


def test_folders_named_after_splits_may_repeat_names(tmp_path):
    files = {f"{split}/{kind}/1.png": encode(disc(4)) for split in ("train", "test") for kind in ("images", "masks")}
    rows = build(tmp_path, files)
    assert {key: row["split"] for key, row in rows.items()} == {"train/1": "train", "test/1": "test"}
    assert {row["group_id"] for row in rows.values()} == set(rows)
    line = b'{"file_name": "1.png", "mask_file_names": ["m/1.png"]}'
    lines = {f"{split}/metadata.jsonl": line for split in ("train", "validation")}
    lines |= {f"{split}/{name}": encode(disc(4)) for split in ("train", "validation") for name in ("1.png", "m/1.png")}
    assert {row["split"] for row in build(tmp_path, lines).values()} == {"train", "validation"}
