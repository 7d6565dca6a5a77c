"""The real archives: counts and splits as published, masks bit for bit as in the archive. Skipped without them."""

import json

import numpy as np
from dataset_fixtures import rows_of, write_zip

from medseglatdiff.builders import cvc_clinicdb, isic2018, lidc_idri
from medseglatdiff.builders.archives import Source
from medseglatdiff.builders.build import split_of
from medseglatdiff.builders.lidc_slices import IMAGE, slice_jobs
from medseglatdiff.builders.picture_files import read_mask

SPLITS = ("train", "validation", "test")


def count(rows: dict[str, dict]) -> list[int]:
    return [sum(row["split"] == split for row in rows.values()) for split in SPLITS]


def test_cvc(tmp_path, real_data):
    path = real_data / "CVC-ClinicDB.zip"
    rows, source = rows_of(cvc_clinicdb.main([str(path), "--out", str(tmp_path / "out")])), Source([path])
    assert count(rows) == [373, 70, 113]
    groups = {split: {int(row["group_id"]) for row in rows.values() if row["split"] == split} for split in SPLITS}
    assert groups["validation"] == {5, 13, 20} and groups["test"] == {2, 9, 14, 17, 25}
    assert not groups["train"] & (groups["validation"] | groups["test"])
    for image_id in list(rows)[::10]:
        mask = read_mask(source, f"CVC-ClinicDB/PNG/Ground Truth/{image_id}.png", (288, 384))
        assert np.array_equal(np.asarray(rows[image_id]["masks"][0]), mask.pixels)


def test_isic(tmp_path, real_data):
    path = real_data / "ISIC2018_Task1_256.zip"
    rows, source = rows_of(isic2018.main([str(path), "--out", str(tmp_path / "out")]), decode=False), Source([path])
    assert count(rows) == [1624, 249, 462]
    for image_id, row in rows.items():
        name = f"ISIC2018_Task1_Training_GroundTruth/{image_id}_segmentation.png"
        assert row["masks"][0]["bytes"] == source.read(name)


def test_lidc_splits_and_a_few_patients(tmp_path, real_data):
    """`benchmarks/build_lidc.py` builds the whole archive and compares each mask."""
    source = Source([real_data / "LIDC-IDRI-slices.zip"])
    patients = [IMAGE.fullmatch(name)["patient"] for name in slice_jobs(source)]
    splits = [split_of(patient) for patient in patients]
    assert [splits.count(split) for split in SPLITS] == [9684, 1416, 2811]
    assert [len({p for p in patients if split_of(p) == split}) for split in SPLITS] == [550, 78, 160]
    few = sorted(set(patients))[:8]
    files = {name: source.read(name) for name in source.names if name.split("/")[1] in few}
    out = lidc_idri.main([str(write_zip(tmp_path / "few.zip", files)), "--out", str(tmp_path / "out")])
    rows, report = rows_of(out, decode=False), json.loads((out / "report.json").read_text())
    assert len(rows) + len(report["dropped"]) == sum(patient in few for patient in patients)
    for image_id, row in rows.items():
        patient, nodule, k = image_id.split("/")
        for i, mask in enumerate(row["masks"]):
            assert mask["bytes"] == files[f"LIDC-IDRI-slices/{patient}/{nodule}/mask-{i}/{k}.png"]
