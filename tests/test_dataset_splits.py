"""Groups and splits of own images: honoured as named, or refused by a sentence; no group in two splits, ever."""

import io
import json
from collections import defaultdict
from pathlib import Path

import pytest
from dataset_fixtures import disc, encode, nothing_left, own_cache, rows_of, write_folder  # noqa: F401
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medseglatdiff.builders import folder
from medseglatdiff.builders.build import split_of
from medseglatdiff.builders.folder_layout import Entry
from medseglatdiff.data.groups import SPLITS, guess_groups, names_below, plain_name, split_in_name
from medseglatdiff.data.splits import open_split

IMAGE, MASK = encode(disc(6)), encode(disc(3))
PATIENTS = [f"p{patient:02d}" for patient in range(40)]
PLAIN = [f"x{number:03d}" for number in range(40)]


def pairs(names, images: str = "images", masks: str = "masks") -> dict[str, bytes]:
    return {f"{images}/{name}.png": IMAGE for name in names} | {f"{masks}/{name}.png": MASK for name in names}


def build(tmp_path: Path, files: dict[str, bytes], *options: str) -> Path:
    return folder.main([str(write_folder(tmp_path / "in", files)), "--out", str(tmp_path / "out"), *options])


def report_of(out: Path) -> dict:
    return json.loads((out / "report.json").read_text())


# the names of images of 40 patients -> what keeps them together
LAYOUTS = {
    "patient03_slice12": [f"patient{n:02d}_slice{k}" for n in range(40) for k in (1, 12)],
    "p3-t1": [f"p{n}-t{k}" for n in range(40) for k in (1, 2)],
    "p3t1": [f"p{n}t{k}" for n in range(40) for k in (1, 2)],
    "IMG_003_001": [f"IMG_{n:03d}_{k:03d}" for n in range(40) for k in (1, 2)],
    "case 3 (2)": [f"case {n} ({k})" for n in range(40) for k in (1, 2)],
    "left and right": [f"{n:04d}_{side}" for n in range(40) for side in ("OD", "OS")],
    "study, patient, slice": [f"s1_pat{n}_sl{k}" for n in range(40) for k in (1, 2)],
    "subfolders": [f"{patient}/{k}" for patient in PATIENTS for k in (1, 2)],
    "nested subfolders": [f"{patient}/visit{v}/{k}" for patient in PATIENTS for v in (1, 2) for k in (1, 2)],
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_images_that_look_like_one_patients_stay_together(tmp_path, capsys, layout):
    names = LAYOUTS[layout]
    out = build(tmp_path, pairs(names))
    rows, where = rows_of(out), defaultdict(set)
    assert sorted(rows) == sorted(names) and len({row["group_id"] for row in rows.values()}) == 40
    for row in rows.values():
        where[row["group_id"]].add(row["split"])
    assert all(splits == {split_of(group)} for group, splits in where.items())
    taken = report_of(out)["built_from"]["groups"]
    assert taken.endswith(f"(40 of {len(names)} images)") and f"- groups: {taken}" in capsys.readouterr().out
    assert f"- groups: `{taken}`" in (out / "README.md").read_text()


OPTIONS = {
    "folder": (["--group-from", "folder"], [f"{kind}/{n}" for kind in ("old", "new", "odd") for n in range(9)], 3),
    "image": (["--group-from", "image"], [f"{kind}/{n}" for kind in ("old", "new") for n in range(20)], 40),
    "name": (["--group-from", "name"], [f"a{n}_{k}" for n in range(20) for k in (1, 2)], 20),
    "name in subfolders": (
        ["--group-from", "name"],
        [f"{kind}/a{n}_{k}" for n in range(20) for k, kind in enumerate(("new", "old"))],
        20,
    ),
    "pattern": (["--group-pattern", "^(...)"], [f"{n:03d}{k}" for n in range(20) for k in "ab"], 20),
    "pattern on folders": (["--group-pattern", "/(p[0-9]+)/"], [f"a/p{n}/{k}" for n in range(20) for k in (1, 2)], 20),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_options_name_the_group(tmp_path, name):
    option, names, count = OPTIONS[name]
    rows = rows_of(build(tmp_path, pairs(names), *option, "--fractions", ".4", ".3", ".3"))
    assert len(rows) == len(names) and len({row["group_id"] for row in rows.values()}) == count


GROUP_TABLES = {
    "csv": "file,group\n" + "".join(f"{name}.png,g{int(name[1:]) // 2}\n" for name in PLAIN),
    "tsv": "\ufeffimage_id\tpatient_id\r\n\r\n" + "".join(f" {name} \tg{int(name[1:]) // 2}\r\n" for name in PLAIN),
    "semicolons.csv": "File;Group;x\n" + "".join(f"images\\{name}.PNG;g{int(name[1:]) // 2};1\n" for name in PLAIN),
    "jsonl": "\n\n".join(json.dumps({"file_name": name, "group": f"g{int(name[1:]) // 2}"}) for name in PLAIN),
}


@pytest.mark.parametrize("kind", GROUP_TABLES)
def test_a_table_names_the_group(tmp_path, kind):
    table = tmp_path / f"groups.{kind}"
    table.write_bytes(GROUP_TABLES[kind].encode())
    out = build(tmp_path, pairs(PLAIN), "--groups", str(table), "--fractions", ".6", ".2", ".2")
    rows = rows_of(out)
    assert {name: row["group_id"] for name, row in rows.items()} == {name: f"g{int(name[1:]) // 2}" for name in PLAIN}
    assert str(tmp_path) not in (out / "report.json").read_text() + (out / "README.md").read_text()


BAD_GROUPS = {
    "one is missing": ("file,group\nx000,a\n", "39 are missing, such as 'in/images/x001.png'"),
    "no column": ("file,weight\nx000,3\n", "columns `file` .* and `group`"),
    "two groups": (GROUP_TABLES["csv"] + "x000,other\n", "one group for each image, but 'x000' has two"),
    "too many cells": ("file,group\nx000,a,b,c\n", "row 2, has 4 cells under 2 columns"),
    "twice a column": ("file,group,group\nx000,a,b\n", "columns of different names"),
    "no text": ("file,group\nx\u00e9,a\n".encode("latin-1"), "UTF-8"),
}


@pytest.mark.parametrize("name", BAD_GROUPS)
def test_a_table_that_cannot_name_the_group_is_refused(tmp_path, name):
    text, reason = BAD_GROUPS[name]
    (tmp_path / "groups.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=reason):
        build(tmp_path, pairs(PLAIN), "--groups", str(tmp_path / "groups.csv"))
    assert nothing_left(tmp_path)


HONOURED = [
    ("train", "validation", "test"),
    ("Train", "Val", "Test"),
    ("TRAIN", "VALID", "TESTING"),
    ("training", "val", "test_set"),
    ("TrainingSet", "validation-set", "TestData"),
    ("01_train", "02_val", "03_test"),
    ("train_data", "val_data", "test_data"),
]


@pytest.mark.parametrize("names", HONOURED)
@pytest.mark.parametrize("form", ["above", "below", "column", "lists"])
def test_splits_are_honoured_however_they_are_spelled(tmp_path, names, form):
    files, expected = {}, {}
    for split, name in zip(SPLITS, names, strict=True):
        own = [f"{split[:2]}{number}" for number in "abc"]
        if form in ("above", "below"):
            files |= pairs(
                own, *(f"{name}/{kind}" if form == "above" else f"{kind}/{name}" for kind in ("images", "masks"))
            )
            own = [f"{split}/{image}" for image in own]
        else:
            files |= pairs(own)
        if form == "lists":
            files[f"{name}.txt"] = "\r\n".join(f"images/{image}.png masks/{image}.png" for image in own).encode()
        expected |= dict.fromkeys(own, split)
    if form == "column":
        names = dict(zip(SPLITS, names, strict=True))
        lines = ["image_id,Split", *(f"{image},{names[split]}" for image, split in expected.items())]
        files["splits.csv"] = "\n".join(lines).encode()
    rows = rows_of(build(tmp_path, files))
    assert {image_id: row["split"] for image_id, row in rows.items()} == expected


def table(suffix: str) -> bytes:
    """A table of the 40 plain images with their splits, by the format's suffix."""
    rows = [{"file_name": f"{name}.png", "split": SPLITS[int(name[1:]) % 3]} for name in PLAIN]
    if suffix == "parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        data = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(rows), data)
        return data.getvalue()
    if suffix == "json":
        return json.dumps(
            {split: [row["file_name"] for row in rows if row["split"] == split] for split in SPLITS}
        ).encode()
    if suffix == "jsonl":
        return "\n".join(map(json.dumps, rows)).encode()
    comma = {"csv": ",", "tsv": "\t"}[suffix]
    return "\n".join(comma.join(row.values()) for row in [dict(a="file_name", b="split"), *rows]).encode()


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "json", "parquet"])
@pytest.mark.parametrize("stem", ["metadata", "splits"])
def test_tables_of_all_usual_formats_name_the_splits(tmp_path, stem, suffix):
    rows = rows_of(build(tmp_path, pairs(PLAIN) | {f"{stem}.{suffix}": table(suffix)}))
    assert {name: row["split"] for name, row in rows.items()} == {name: SPLITS[int(name[1:]) % 3] for name in PLAIN}


REFUSED = {
    "dev": ({**pairs("abc", "dev/images", "dev/masks"), **pairs("abc", "train/images", "train/masks")}, "'dev'"),
    "folds": (
        {k: v for n in range(3) for k, v in pairs("ab", f"fold{n}/images", f"fold{n}/masks").items()},
        "'fold0'",
    ),
    "one of several tests": (pairs("abc", "external_test/images", "external_test/masks"), "'external_test'"),
    "some in a split": (pairs("ab") | pairs("cd", "test/images", "test/masks"), "in no split"),
    "a part without masks": (pairs(PLAIN) | {"test/a.png": IMAGE}, "'test' looks like a split"),
    "two splits": (pairs("ab", "train/test/images", "train/test/masks"), "several splits: test, train"),
    "a list of some": (pairs(PLAIN) | {"train.txt": b"x000\nx001"}, "name 2 of 40"),
    "trainval.txt": (pairs(PLAIN) | {"trainval.txt": b"x000"}, "'trainval'"),
    "a table of some": (pairs(PLAIN) | {"splits.csv": b"file,split\nx000,train"}, "name 1 of 40"),
    "a table of others": (pairs(PLAIN) | {"splits.csv": b"file,split\nother,train"}, "names no image"),
    "folds in a table": (pairs(PLAIN) | {"folds.csv": b"file,fold\nx000,1"}, "`split` must be one of"),
    "numbers": (pairs(PLAIN) | {"splits.csv": b"file,split\nx000,0"}, "`split` must be one of"),
    "nnU-Net's folds": (pairs(PLAIN) | {"splits_final.json": b'[{"train": ["x000"], "val": []}]'}, "'splits_final'"),
    "Excel": (pairs(PLAIN) | {"splits.xlsx": b"PK"}, "save it as CSV"),
    "pickle": (pairs(PLAIN) | {"train.pkl": b"x"}, "save it as CSV"),
    "folder against table": (
        pairs("ab", "train/images", "train/masks") | {"splits.csv": b"file,split\na,train\nb,test"},
        "lies in train, but a table puts it in test",
    ),
    "classes or patients": (pairs([f"{k}/{n}" for k in ("benign", "malignant") for n in "abc"]), "--group-from image"),
    "a patient in two splits": (
        pairs(["p1_1", "p2_1"], "train/images", "train/masks") | pairs(["p1_2", "p2_2"], "test/images", "test/masks"),
        "'p1' in test and train",
    ),
    "too few": (pairs("abcd"), "--fractions .6 .2 .2"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_looks_like_splits_is_never_dealt_out(tmp_path, name):
    files, reason = REFUSED[name]
    with pytest.raises(ValueError, match=reason.replace("(", "\\(")):
        build(tmp_path, files)
    assert nothing_left(tmp_path)


def test_fractions_are_exact_and_fill_every_split(tmp_path, capsys):
    rows = rows_of(build(tmp_path, pairs(PLAIN[:10]), "--fractions", ".7", ".1", ".2"))
    assert [sum(row["split"] == split for row in rows.values()) for split in SPLITS] == [7, 1, 2]
    for wrong in ([".5", ".1", ".2"], ["-.1", ".1", "1"], ["1", "1", "1"], ["nan", "0", "1"]):
        with pytest.raises(SystemExit):
            folder.main(["in", "--out", "out", "--fractions", *wrong])
        assert "three shares that sum to 1" in capsys.readouterr().err
    with pytest.raises(ValueError, match="must be left out if"):
        build(tmp_path / "given", pairs("abc", "train/images", "train/masks"), "--fractions", ".6", ".2", ".2")


def test_few_groups_are_a_warning_that_says_what_means_little(tmp_path, capsys):
    out = build(tmp_path, pairs(PLAIN[:10]), "--fractions", ".7", ".1", ".2")
    warnings = report_of(out)["warnings"]
    assert any(w.startswith("validation has 1 group, fewer than 10: threshold, calibration") for w in warnings)
    assert any(w.startswith("test has 2 groups, fewer than 10: measures") for w in warnings)
    card, told = (out / "README.md").read_text(), capsys.readouterr().out
    assert all(f"- {warning}" in card and f"warning: {warning}" in told for warning in warnings)


@pytest.mark.parametrize("names", [LAYOUTS["patient03_slice12"], [f"video1_{n:03d}" for n in range(40)]])
def test_a_warning_says_where_names_look_like_patients_but_images_stand_alone(tmp_path, names):
    options = ["--group-from", "image"] if names[0].startswith("patient") else []
    report = report_of(build(tmp_path, pairs(names), *options))
    assert any("patient" in warning and "--group-pattern" in warning for warning in report["warnings"])
    assert report["built_from"]["groups"].startswith("each image on its own")


PARTS = st.text(st.sampled_from("abp0123_- ()ä"), min_size=1, max_size=6).filter(lambda part: part.strip())


@given(st.lists(st.lists(PARTS, min_size=1, max_size=3).map("/".join), min_size=1, max_size=12, unique=True))
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_a_guessed_group_is_shared_by_names_that_begin_alike(names):
    names = [plain_name(name) for name in names]
    try:
        groups, _ = guess_groups(names)
    except ValueError:
        return  # subfolders without a number
    assert len(groups) == len(names)
    for name, group in zip(names, groups, strict=True):
        assert group is None or name.startswith(group) or name.rpartition("/")[2].startswith(group)


@given(st.permutations([f"{g}{k}" for g in ("a1_", "a2_", "b1_", "b2_") for k in range(3)]), st.integers(3, 12))
@settings(max_examples=50, deadline=None)
def test_no_group_crosses_whatever_is_dealt(names, count):
    from argparse import Namespace

    from medseglatdiff.builders.folder_groups import with_groups, with_splits

    args = Namespace(groups=None, group_pattern=None, group_from=None, anonymous_ids=False, fractions=[0.4, 0.3, 0.3])
    entries = [Entry(name, (), name, name) for name in names[:count]]
    entries, _, _ = with_groups(entries, args)
    if len({entry.group for entry in entries}) < 3:
        return
    where = defaultdict(set)
    for entry in with_splits(entries, args)[0]:
        where[entry.group].add(entry.split)
    assert all(len(splits) == 1 for splits in where.values()) and len(set.union(*where.values())) == 3


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("testis", None),
        ("valve", None),
        ("trains", None),
        ("images", None),
        ("TestSet", "test"),
        ("Val", "validation"),
    ],
)
def test_words_that_only_begin_like_splits_are_none(name, split):
    assert split_in_name(name) == split


def test_an_imagefolder_is_grouped_as_the_builder_groups_it(tmp_path):
    names = [f"patient{n}_slice{k}" for n in range(1, 4) for k in (1, 2)]
    files = {f"d/{kind}{name}.png": IMAGE if not kind else MASK for name in names for kind in ("", "m/")}
    lines = [{"file_name": f"{name}.png", "mask_file_names": [f"m/{name}.png"]} for name in names]
    write_folder(tmp_path, files | {"d/metadata.jsonl": "\n".join(map(json.dumps, lines)).encode()})
    rows = open_split("imagefolder", "train", data_dir=str(tmp_path / "d"))
    assert rows["group_id"] == [name.split("_")[0] for name in names]
    for line, split in zip(lines, ("train", "test") * 3, strict=True):
        line["split"] = split
    (tmp_path / "d" / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    with pytest.raises(ValueError, match="'patient1' lies in train and test"):
        open_split("imagefolder", "train", data_dir=str(tmp_path / "d"))
    assert names_below(["/a/b/train/p1/1.png", "/a/b/test/p2/1.png"]) == ["p1/1", "p2/1"]
