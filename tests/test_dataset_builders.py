"""The builders from source to data set: right rows, bad input, nothing half-written."""

import json
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "dataset_scripts"))

import cvc_clinicdb
import folder
import isic2018
import lidc_idri
import numpy as np
import phantom
import pytest
from archives import Source
from common import BadFile, read_mask, split_of
from dataset_fixtures import DATA, ROOT, disc, png, slices, write_folder, write_zip
from datasets import Image, List, load_dataset

SPLITS = ("train", "validation", "test")


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))


def rows_of(out, decode=True):
    loaded = load_dataset(str(out), cache_dir=str(out) + "-cache")
    if not decode:
        loaded = loaded.cast_column("image", Image(decode=False)).cast_column("masks", List(Image(decode=False)))
    return {row["image_id"]: {**row, "split": split} for split in loaded for row in loaded[split]}


def nothing_left(tmp_path):
    return not [path.name for path in tmp_path.iterdir() if path.name.startswith((".out", "out"))]


def test_split_rule_against_hand_computed_hash():
    import hashlib

    u = int(hashlib.sha256(b"LIDC-IDRI-0001").hexdigest()[:8], 16) / 2**32
    assert split_of("LIDC-IDRI-0001") == ("train" if u < 0.7 else "validation" if u < 0.8 else "test")


@pytest.mark.parametrize("kind", ["zip", "folder", "tar"])
def test_slices_come_back_bit_for_bit_and_empty_rows_are_dropped(tmp_path, kind):
    files = slices()
    source = write_folder(tmp_path / "in", files) if kind != "zip" else write_zip(tmp_path / "in.zip", files)
    if kind == "tar":
        with tarfile.open(tmp_path / "in.tar.gz", "w:gz") as archive:
            archive.add(source, "in")
        source = tmp_path / "in.tar.gz"
    out = lidc_idri.main([str(source), "--out", str(tmp_path / "out")])
    rows = rows_of(out, decode=False)
    assert sorted(rows) == [f"LIDC-IDRI-000{p}/nodule-0/slice-{k}" for p in (1, 2, 3) for k in (0, 1)]
    for image_id, row in rows.items():
        patient, nodule, k = image_id.split("/")
        stem = f"LIDC-IDRI-slices/{patient}/{nodule}"
        assert row["image"]["bytes"] == files[f"{stem}/images/{k}.png"]
        assert [m["bytes"] for m in row["masks"]] == [files[f"{stem}/mask-{i}/{k}.png"] for i in range(4)]
        assert row["group_id"] == patient and row["split"] == split_of(patient)
    report = json.loads((out / "report.json").read_text())
    assert [d["image_id"][-7:] for d in report["dropped"]] == ["slice-2"] * 3
    assert report["groups_across_splits"] == []
    assert (out / "contact_sheet.png").is_file() and "3 rows dropped" in (out / "README.md").read_text()


def test_workers_change_nothing(tmp_path):
    source = write_zip(tmp_path / "in.zip", slices())
    command = [sys.executable, str(ROOT / "dataset_scripts" / "lidc_idri.py"), str(source), "--num-workers", "2"]
    subprocess.run([*command, "--out", str(tmp_path / "two")], check=True, capture_output=True)
    one = lidc_idri.main([str(source), "--out", str(tmp_path / "one")])
    for path in (one / "data").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / "data" / path.name).read_bytes()


def test_all_bad_files_stand_in_one_error_or_are_skipped(tmp_path):
    files, stem = slices(), "LIDC-IDRI-slices/LIDC-IDRI-000{}/nodule-0/{}"
    missing, corrupt, empty, other_size, misnamed = (
        stem.format(1, "mask-2/slice-0.png"),
        stem.format(1, "images/slice-1.png"),
        stem.format(2, "images/slice-0.png"),
        stem.format(2, "mask-0/slice-1.png"),
        stem.format(3, "images/slce-1.png"),
    )
    del files[missing]
    files[corrupt] = files[corrupt][:40]
    files[empty] = b""
    files[other_size] = png(disc(3, side=20))
    files[misnamed] = png(disc(3))
    source = write_zip(tmp_path / "in.zip", files)
    with pytest.raises(ValueError) as error:
        lidc_idri.main([str(source), "--out", str(tmp_path / "out")])
    for name in (missing, corrupt, empty, other_size, misnamed):
        assert name in str(error.value)
    assert nothing_left(tmp_path)
    out = lidc_idri.main([str(source), "--out", str(tmp_path / "out"), "--skip-bad"])
    assert len(rows_of(out)) == 2
    assert len(json.loads((out / "report.json").read_text())["skipped"]) == 5


def test_escaping_names_links_and_bombs_are_refused(tmp_path):
    for name in ("../evil.png", "/etc/evil.png", "a/../../evil.png", "C:/evil.png"):
        with pytest.raises(ValueError, match="refused"):
            Source([write_zip(tmp_path / "a.zip", {name: b"x"})])
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        link = tarfile.TarInfo("link.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    with pytest.raises(ValueError, match="link"):
        Source([tmp_path / "a.tar"])
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "link.png").symlink_to("/etc/passwd")
    with pytest.raises(ValueError, match="symbolic link"):
        Source([tmp_path / "folder"])
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros.png", bytes(101 * 2**20))
    with pytest.raises(ValueError, match="bomb"):
        Source([tmp_path / "bomb.zip"])


def test_truncated_archive_and_wrong_layout_say_what_was_found(tmp_path):
    whole = write_zip(tmp_path / "in.zip", slices()).read_bytes()
    (tmp_path / "cut.zip").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="cut.zip"):
        Source([tmp_path / "cut.zip"])
    other = write_zip(tmp_path / "other.zip", {"pictures/cat.png": png(disc(3))})
    for builder, expected in ((lidc_idri, "slice-K"), (isic2018, "Training_Input"), (cvc_clinicdb, "Ground Truth")):
        with pytest.raises(ValueError, match=expected) as error:
            builder.main([str(other), "--out", str(tmp_path / "out")])
        assert "pictures/cat.png" in str(error.value)
    with pytest.raises(ValueError, match="metadata.jsonl"):
        folder.main([str(other), "--out", str(tmp_path / "out")])
    assert nothing_left(tmp_path)


def test_overwrite_replaces_only_what_was_built_here(tmp_path):
    source, out = write_zip(tmp_path / "in.zip", slices()), tmp_path / "out"
    out.mkdir()
    (out / "thesis.txt").write_text("precious")
    with pytest.raises(FileExistsError):
        lidc_idri.main([str(source), "--out", str(out), "--overwrite"])
    assert (out / "thesis.txt").read_text() == "precious"
    built = lidc_idri.main([str(source), "--out", str(tmp_path / "new")])
    with pytest.raises(FileExistsError, match="--overwrite"):
        lidc_idri.main([str(source), "--out", str(built)])
    smaller = write_zip(tmp_path / "small.zip", slices(num_patients=1))
    lidc_idri.main([str(smaller), "--out", str(built), "--overwrite"])
    assert len(rows_of(built)) == 2


def test_full_disk_leaves_nothing(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (200, 200), np.uint8)
    files = slices()
    for name in files:
        files[name] = png(noise) if "/images/" in name else png(np.full((200, 200), 255, np.uint8))
    source = write_zip(tmp_path / "in.zip", files)
    code = (
        "import resource, sys, lidc_idri; resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000));"
        f"lidc_idri.main([{str(source)!r}, '--out', {str(tmp_path / 'out')!r}])"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT / "dataset_scripts"), "PYTHONDONTWRITEBYTECODE": "1"}
    failed = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert failed.returncode != 0 and "File too large" in failed.stderr
    assert nothing_left(tmp_path)


def test_own_folder_with_raters_classes_and_16_bit(tmp_path):
    deep = (np.arange(256, dtype=np.uint16) * 200).reshape(16, 16)
    files = {"images/a.png": png(deep), "masks-1/a.png": png(disc(3)), "masks-2/a.png": png(disc(5) // 255)}
    out = folder.main([str(write_folder(tmp_path / "in", files)), "--out", str(tmp_path / "out")])
    (row,) = rows_of(out).values()
    assert np.array_equal(np.asarray(row["image"]), deep)
    assert np.array_equal(np.asarray(row["masks"][0]), disc(3)) and np.array_equal(
        np.asarray(row["masks"][1]), disc(5)
    )
    labels = disc(5) // 255 + disc(2) // 255
    files = {"x/images/a.png": png(disc(6)), "x/masks/a.png": png(labels)}
    source = str(write_folder(tmp_path / "labels", files))
    with pytest.raises(ValueError, match="--num-classes"):
        folder.main([source, "--out", str(tmp_path / "l")])
    (row,) = rows_of(folder.main([source, "--out", str(tmp_path / "l"), "--num-classes", "2"])).values()
    assert np.array_equal(np.asarray(row["masks"][0]), labels)


def test_own_folder_with_metadata(tmp_path):
    line = {"file_name": "a.png", "mask_file_names": ["m0.png", "m1.png"], "group_id": "p7", "split": "validation"}
    files = {"a.png": png(disc(6)), "m0.png": png(disc(2)), "m1.png": png(disc(-1))}
    files["metadata.jsonl"] = json.dumps(line).encode()
    (row,) = rows_of(folder.main([str(write_folder(tmp_path / "in", files)), "--out", str(tmp_path / "out")])).values()
    assert (row["split"], row["group_id"], row["image_id"]) == ("validation", "p7", "a")
    assert [int((np.asarray(mask) > 0).sum()) for mask in row["masks"]] == [13, 0]
    second = {**line, "split": "train"}
    (tmp_path / "in" / "metadata.jsonl").write_text(json.dumps(line) + "\n" + json.dumps(second))
    with pytest.raises(ValueError, match="p7"):
        folder.main([str(tmp_path / "in"), "--out", str(tmp_path / "crossing")])


def test_phantoms_equal_what_the_package_draws(tmp_path):
    from medseglatdiff.phantom import phantom_rows

    rows = rows_of(phantom.main(["--num-rows", "12", "--size", "32", "--seed", "3", "--out", str(tmp_path / "out")]))
    for expected in phantom_rows(12, 32, 4, seed=3):
        row = rows[expected["image_id"]]
        assert np.array_equal(np.asarray(row["image"]), np.asarray(expected["image"]))
        for mask, drawn in zip(row["masks"], expected["masks"], strict=True):
            assert mask.mode == "L" and np.array_equal(np.asarray(mask), np.asarray(drawn))


def test_isic_official_parts_and_sizes(tmp_path):
    from io import BytesIO

    import PIL.Image

    files = {}
    for number, part in enumerate(("Training", "Validation", "Test")):
        photo = BytesIO()
        PIL.Image.new("RGB", (40, 20), (200, 100, 90)).save(photo, "JPEG")
        files[f"ISIC2018_Task1-2_{part}_Input/ISIC_000000{number}.jpg"] = photo.getvalue()
        mask = np.zeros((20, 40), np.uint8)
        mask[4:16, 10:30] = 255
        files[f"ISIC2018_Task1_{part}_GroundTruth/ISIC_000000{number}_segmentation.png"] = png(mask)
    source = str(write_zip(tmp_path / "in.zip", files))
    rows = rows_of(isic2018.main([source, "--size", "20", "--out", str(tmp_path / "out")]))
    assert [rows[f"ISIC_000000{i}"]["split"] for i in range(3)] == list(SPLITS)
    assert rows["ISIC_0000000"]["image"].size == (20, 10) and rows["ISIC_0000000"]["image"].mode == "RGB"
    assert (np.asarray(rows["ISIC_0000000"]["masks"][0]) > 0).sum() == 60
    rows = rows_of(isic2018.main([source, "--size", "8", "--square", "--out", str(tmp_path / "square")]))
    assert rows["ISIC_0000001"]["image"].size == (8, 8)


def test_cvc_sequences_and_frames():
    assert [cvc_clinicdb.sequence_of(frame) for frame in (1, 25, 26, 612)] == [1, 1, 2, 29]
    by_frame = cvc_clinicdb.split_by_frame(list(range(1, 101)))
    order = np.random.RandomState(42).permutation(100)
    assert by_frame[order[0] + 1] == "train" and by_frame[order[80] + 1] == "validation"
    assert [list(by_frame.values()).count(split) for split in SPLITS] == [80, 10, 10]


def test_greys_are_cut_at_127(tmp_path):
    source = Source([write_folder(tmp_path / "in", {"m.png": png(np.array([[0, 127, 128, 255]], np.uint8))})])
    assert read_mask(source, "in/m.png", (1, 4)).pixels.tolist() == [[0, 0, 255, 255]]
    with pytest.raises(BadFile):
        read_mask(source, "in/m.png", (4, 1))


@pytest.mark.skipif(not (DATA / "CVC-ClinicDB.zip").is_file(), reason="the real archives are not here")
class TestRealArchives:
    def test_cvc(self, tmp_path):
        out = cvc_clinicdb.main([str(DATA / "CVC-ClinicDB.zip"), "--out", str(tmp_path / "out")])
        loaded, source = load_dataset(str(out), cache_dir=str(tmp_path / "cache")), Source([DATA / "CVC-ClinicDB.zip"])
        assert {split: len(loaded[split]) for split in loaded} == {"train": 373, "validation": 70, "test": 113}
        groups = {split: {int(group) for group in loaded[split]["group_id"]} for split in loaded}
        assert groups["validation"] == {5, 13, 20} and groups["test"] == {2, 9, 14, 17, 25}
        assert not groups["train"] & (groups["validation"] | groups["test"])
        for row in loaded["test"].select(range(0, 113, 10)):
            name = f"CVC-ClinicDB/PNG/Ground Truth/{row['image_id']}.png"
            assert np.array_equal(np.asarray(row["masks"][0]), read_mask(source, name, (288, 384)).pixels)

    def test_isic(self, tmp_path):
        path = DATA / "ISIC2018_Task1_256.zip"
        out, source = isic2018.main([str(path), "--out", str(tmp_path / "out")]), Source([path])
        loaded = load_dataset(str(out), cache_dir=str(tmp_path / "cache"))
        assert {split: len(loaded[split]) for split in loaded} == {"train": 1624, "validation": 249, "test": 462}
        loaded = loaded.cast_column("masks", List(Image(decode=False)))
        for row in loaded["validation"]:
            name = f"ISIC2018_Task1_Training_GroundTruth/{row['image_id']}_segmentation.png"
            assert row["masks"][0]["bytes"] == source.read(name)

    def test_lidc(self, tmp_path):
        from lidc_slices import IMAGE, slice_jobs

        source = Source([DATA / "LIDC-IDRI-slices.zip"])
        jobs = slice_jobs(source)
        patients = [IMAGE.fullmatch(name)["patient"] for name in jobs]
        splits = [split_of(patient) for patient in patients]
        assert [splits.count(split) for split in SPLITS] == [9684, 1416, 2811]
        assert [len({p for p in patients if split_of(p) == split}) for split in SPLITS] == [550, 78, 160]
        few = sorted(set(patients))[:8]
        files = {name: source.read(name) for name in source.names if name.split("/")[1] in few}
        rows = rows_of(
            lidc_idri.main([str(write_zip(tmp_path / "few.zip", files)), "--out", str(tmp_path / "out")]), False
        )
        dropped = json.loads((tmp_path / "out" / "report.json").read_text())["dropped"]
        assert len(rows) + len(dropped) == sum(patient in few for patient in patients)
        for image_id, row in rows.items():
            patient, nodule, k = image_id.split("/")
            for i, mask in enumerate(row["masks"]):
                assert mask["bytes"] == files[f"LIDC-IDRI-slices/{patient}/{nodule}/mask-{i}/{k}.png"]
