"""ISIC-2018, CVC-ClinicDB and phantoms: layouts, sizes and splits of each."""

import numpy as np
import pytest
from dataset_fixtures import cvc, disc, isic, rows_of, write_folder, write_zip

from medseglatdiff.builders import cvc_clinicdb, isic2018, phantom
from medseglatdiff.builders.build import split_of

SPLITS = ("train", "validation", "test")


def test_phantoms_equal_what_the_package_draws(tmp_path):
    from medseglatdiff.data.phantom import phantom_rows

    rows = rows_of(phantom.main(["--num-rows", "12", "--size", "32", "--seed", "3", "--out", str(tmp_path / "out")]))
    for expected in phantom_rows(12, 32, 4, seed=3):
        row = rows[expected["image_id"]]
        assert np.array_equal(np.asarray(row["image"]), np.asarray(expected["image"]))
        for mask, drawn in zip(row["masks"], expected["masks"], strict=True):
            assert mask.mode == "L" and np.array_equal(np.asarray(mask), np.asarray(drawn))


def test_isic_official_parts_and_sizes(tmp_path):
    parts = {"Training": 0, "Validation": 1, "Test": 2}
    archives = [str(write_zip(tmp_path / f"{part}.zip", isic([n], part))) for part, n in parts.items()]
    rows = rows_of(isic2018.main([*archives, "--out", str(tmp_path / "whole")]), decode=False)
    assert [rows[f"ISIC_000000{i}"]["split"] for i in range(3)] == list(SPLITS)
    assert rows["ISIC_0000002"]["image"]["bytes"] == isic([2], "Test")["ISIC2018_Task1-2_Test_Input/ISIC_0000002.jpg"]
    rows = rows_of(isic2018.main([*archives, "--size", "20", "--out", str(tmp_path / "long")]))
    assert rows["ISIC_0000000"]["image"].size == (20, 10) and rows["ISIC_0000000"]["image"].mode == "RGB"
    assert (np.asarray(rows["ISIC_0000000"]["masks"][0]) > 0).sum() == 60
    rows = rows_of(isic2018.main([*archives, "--size", "8", "--square", "--out", str(tmp_path / "square")]))
    assert rows["ISIC_0000001"]["image"].size == rows["ISIC_0000001"]["masks"][0].size == (8, 8)
    for wrong in (["--square"], ["--size", "0"], ["--num-workers", "0"]):
        with pytest.raises(SystemExit):
            isic2018.main([*archives, *wrong, "--out", str(tmp_path / "out")])
    with pytest.raises(ValueError, match="both or neither"):
        isic2018.main([*archives[:2], "--out", str(tmp_path / "out")])


def test_isic_training_part_alone_is_split_by_hash(tmp_path):
    rows = rows_of(isic2018.main([str(write_zip(tmp_path / "in.zip", isic())), "--out", str(tmp_path / "out")]))
    assert {key: row["split"] for key, row in rows.items()} == {key: split_of(key) for key in rows} and len(rows) == 6


@pytest.mark.parametrize("kind", ["png", "tif"])
def test_cvc_layouts(tmp_path, kind):
    files = cvc(kind=kind)
    rows = rows_of(cvc_clinicdb.main([str(write_folder(tmp_path / "in", files)), "--out", str(tmp_path / "out")]))
    assert {n: (row["group_id"], row["split"]) for n, row in rows.items()} == {
        "1": ("1", "train"),
        "2": ("1", "train"),
        "30": ("2", "test"),
        "110": ("6", "train"),
    }
    for n, row in rows.items():
        assert np.asarray(row["image"])[8, 8].tolist() == [255, 127, 0]
        assert np.array_equal(np.asarray(row["masks"][0]), disc(int(n) % 5 + 1))


def test_cvc_sequences_frames_and_misnamed_frames(tmp_path):
    assert [cvc_clinicdb.sequence_of(frame) for frame in (1, 25, 26, 612)] == [1, 1, 2, 29]
    by_frame = cvc_clinicdb.split_by_frame(list(range(1, 101)))
    order = np.random.RandomState(42).permutation(100)
    assert by_frame[order[0] + 1] == "train" and by_frame[order[80] + 1] == "validation"
    assert [list(by_frame.values()).count(split) for split in SPLITS] == [80, 10, 10]
    source = str(write_zip(tmp_path / "in.zip", cvc(range(1, 21))))
    rows = rows_of(cvc_clinicdb.main([source, "--split", "frames", "--out", str(tmp_path / "frames")]))
    assert [sum(row["split"] == split for row in rows.values()) for split in SPLITS] == [16, 2, 2]
    files = {**cvc(), **cvc([613]), "CVC-ClinicDB/PNG/Original/x.png": b""}
    with pytest.raises(ValueError, match="3 files cannot be used") as error:
        cvc_clinicdb.main([str(write_zip(tmp_path / "odd.zip", files)), "--out", str(tmp_path / "out")])
    assert "Original/613.png" in str(error.value) and "Original/x.png" in str(error.value)
