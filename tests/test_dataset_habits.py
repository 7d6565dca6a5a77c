"""Folders as people have them: raters, suffixes, desktop files, Unicode, tables; right or refused by name."""

import json
import os
import tempfile
from pathlib import Path

import numpy as np
import pytest
from dataset_fixtures import disc, encode, nothing_left, own_cache, rows_of, write_folder, write_zip  # noqa: F401
from hypothesis import given, settings
from hypothesis import strategies as st

from medseglatdiff.builders import folder
from medseglatdiff.builders.archives import Source
from medseglatdiff.builders.command import main
from medseglatdiff.builders.folder_layout import Entry
from medseglatdiff.builders.folder_tables import metadata_entries, with_tables
from medseglatdiff.builders.tables import TABLES
from medseglatdiff.data.groups import SPLITS

IMAGE, MASK = encode(disc(6)), encode(disc(3))
COMPOSED, DECOMPOSED = "M\u00fcller", "Mu\u0308ller"


def build(tmp_path: Path, files: dict[str, bytes], *options: str) -> dict[str, dict]:
    source = write_folder(tmp_path / "in", files)
    return rows_of(folder.main([str(source), "--out", str(tmp_path / "out"), *options]))


def refusal(tmp_path: Path, files: dict[str, bytes], *options: str) -> str:
    with pytest.raises(ValueError) as error:
        folder.main([str(write_folder(tmp_path / "in", files)), "--out", str(tmp_path / "out"), *options])
    assert nothing_left(tmp_path)
    return str(error.value)


# the files that hold discs of radius 1, 2, ... as masks of images/a.png, in the order of their raters
RATERS = {
    "one": ["masks/a.png"],
    "numbers": ["masks-1/a.png", "masks-2/a.png", "masks-10/a.png"],
    "underscores": ["masks_rater1/a.png", "masks_rater2/a.png", "masks_rater10/a.png"],
    "names": ["masks-anna/a.png", "masks-bob/a.png"],
    "spaces": ["masks anna/a.png", "masks bob/a.png"],
    "capitals": ["Masks_Anna/a.PNG", "Masks_Bob/a.PNG"],
    "names of files": ["masks/a_anna.png", "masks/a_bob.png"],
    "numbered readers": ["masks/a-reader1.png", "masks/a-reader2.png", "masks/a-reader10.png"],
    "names and kind": ["masks/a_anna_mask.png", "masks/a_bob_mask.png"],
    "segmentation": ["masks/a_segmentation.png"],
    "mask": ["masks/a_mask.png"],
    "seg": ["mask/a-seg.tif"],
    "ground truth": ["masks/a_ground_truth.bmp"],
    "raters with suffixes": ["masks-anna/a_mask.png", "masks-bob/a_mask.png"],
}


@pytest.mark.parametrize("layout", RATERS)
def test_raters_are_recognised_by_folder_or_file(tmp_path, layout):
    names = RATERS[layout]
    kinds = {"tif": "TIFF", "bmp": "BMP"}
    masks = {name: encode(disc(n), kinds.get(name[-3:], "PNG")) for n, name in enumerate(names, start=1)}
    row = build(tmp_path, {"train/images/a.png": IMAGE} | {f"train/{name}": data for name, data in masks.items()})[
        "train/a"
    ]
    assert [np.asarray(mask).tolist() for mask in row["masks"]] == [disc(n).tolist() for n in range(1, len(names) + 1)]


UNCLEAR = {
    "two lesions": (["masks/a_mask.png", "masks/a_mask_1.png"], "masks-NAME/"),
    "left and right": (["masks/a_left.png", "masks/a_right.png"], "masks-NAME/"),
    "numbers of files": (["masks/a_1.png", "masks/a_2.png"], "masks-NAME/"),
    "organs": (["masks/a_lung.png", "masks/a_liver.png"], "masks-NAME/"),
    "a consensus": (["masks-anna/a.png", "masks-consensus/a.png"], "'masks-consensus' does not look like a rater's"),
    "an overlay": (["masks/a.png", "masks/a_overlay.png"], "a_overlay.png may be a rater's"),
    "with and without a name": (["masks/a.png", "masks/a_anna.png"], "masks/a.png names no rater"),
    "two suffixes": (["masks/a.png", "masks/a.bmp"], "second mask by one rater"),
    "two spellings": (["masks/a.png", "masks/a_mask.png"], "second mask by one rater"),
    "a stray": (["masks/a.png", "masks/b.png"], "masks/b.png: belongs to no image"),
    "none": (["masks/b.png"], "in/train/masks/a.png: missing"),
}


@pytest.mark.parametrize("layout", UNCLEAR)
def test_masks_of_which_it_is_unclear_whose_they_are_are_refused(tmp_path, layout):
    names, reason = UNCLEAR[layout]
    assert reason in refusal(tmp_path, {"train/images/a.png": IMAGE} | {f"train/{name}": MASK for name in names})


def test_skipping_bad_files_never_takes_half_of_an_unclear_image(tmp_path):
    files = {f"train/images/{n}.png": IMAGE for n in "abc"} | {f"train/masks/{n}.png": MASK for n in "abc"}
    files |= {"train/masks/a.bmp": encode(disc(1), "BMP"), "train/masks/b_2.png": MASK}
    assert list(build(tmp_path, files, "--skip-bad")) == ["train/c"]


JUNK = """Thumbs.db images/thumbs.db images/.DS_Store masks/desktop.ini images/._a.png __MACOSX/images/a.png .git/a.png
    masks/ehthumbs.db images/@eaDir/a.png images/.ipynb_checkpoints/a-checkpoint.png $RECYCLE.BIN/a.png
    .partial-0a1b2c3d-out/a.png"""


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_what_desktops_leave_behind_is_passed_over(tmp_path, kind):
    files = {"train/images/a.png": IMAGE, "train/masks/a.png": MASK} | {
        f"train/{name}": b"junk" for name in JUNK.split()
    }
    source = write_zip(tmp_path / "in.zip", files) if kind == "zip" else write_folder(tmp_path / "in", files)
    out = folder.main([str(source), "--out", str(tmp_path / "out")])
    report = json.loads((out / "report.json").read_text())
    assert report["skipped"] == [] and list(rows_of(out)) == ["train/a"]
    assert not any("belong to no row" in warning for warning in report["warnings"])


HABITS = {  # files -> image ids
    "NFD image, NFC mask": ({f"images/{DECOMPOSED}.png": IMAGE, f"masks/{COMPOSED}.png": MASK}, [COMPOSED]),
    "NFC image, NFD folder of a rater": (
        {f"images/{COMPOSED}.png": IMAGE, f"masks-{DECOMPOSED}/{DECOMPOSED}.png": MASK},
        [COMPOSED],
    ),
    "capitals": ({"Images/A.PNG": IMAGE, "MASKS/A.PNG": MASK}, ["A"]),
    "spaces at the end": ({"images/a .png": IMAGE, "masks /a.png": MASK}, ["a"]),
    "dots inside": ({"images/1.2.840.png": IMAGE, "masks/1.2.840.png": MASK}, ["1.2.840"]),
    "a name of dots": ({"images/...png": IMAGE, "masks/...png": MASK}, [".."]),
    "documents beside": (
        {"images/a.png": IMAGE, "masks/a.png": MASK, "images/a.json": b"{}", "readme.md": b"x"},
        ["a"],
    ),
    "a folder above": ({"my study/images/a.png": IMAGE, "my study/masks/a.png": MASK}, ["a"]),
    "a folder called images": ({"images/images/a.png": IMAGE, "images/masks/a.png": MASK}, ["a"]),
    "Windows in metadata": (
        {"i/a.png": IMAGE, "m/a.png": MASK, "metadata.csv": b"file_name,mask_file_names\r\ni\\a.png,m\\a.png\r\n"},
        ["i/a"],
    ),
    "NFC in metadata": (
        {f"{DECOMPOSED}.png": IMAGE, "m.png": MASK, "metadata.csv": f"file_name,mask\n{COMPOSED}.png,m.png".encode()},
        [COMPOSED],
    ),
    "byte order mark, blank lines": (
        {
            "a.png": IMAGE,
            "m.png": MASK,
            "metadata.csv": "\ufefffile_name;mask_file_names\r\n;\r\n\r\na.png;m.png\r\n".encode(),
        },
        ["a"],
    ),
    "blank lines in JSON lines": (
        {
            "a.png": IMAGE,
            "m.png": MASK,
            "metadata.jsonl": b'\n{"file_name": "a.png", "mask_file_names": ["m.png"]}\r\n\n',
        },
        ["a"],
    ),
    "UTF-16 from Excel": (
        {"a.png": IMAGE, "m.png": MASK, "metadata.tsv": "file_name\tmask_file_names\na.png\tm.png\n".encode("utf-16")},
        ["a"],
    ),
    "a list in a cell": (
        {
            "a.png": IMAGE,
            "m.png": MASK,
            "metadata.csv": b'file_name,mask_file_names\na.png,"[""m.png"", ""m.png""]"\n',
        },
        ["a"],
    ),
    "an id of its own": (
        {"a.png": IMAGE, "m.png": MASK, "metadata.csv": b"file_name,mask,image_id\na.png,m.png,seven\n"},
        ["seven"],
    ),
}


@pytest.mark.parametrize("name", HABITS)
def test_folders_of_all_systems_are_read(tmp_path, name):
    files, expected = HABITS[name]
    rows = build(tmp_path, files)
    assert list(rows) == expected
    assert all(np.array_equal(np.asarray(mask), disc(3)) for row in rows.values() for mask in row["masks"])


NAMED = {
    "zero bytes": ({"images/a.png": b"", "masks/a.png": MASK}, "in/images/a.png: empty (zero bytes)"),
    "an empty mask file": ({"images/a.png": IMAGE, "masks/a.png": b""}, "in/masks/a.png: empty (zero bytes)"),
    "two suffixes": (
        {"images/a.png": IMAGE, "images/a.bmp": encode(disc(6), "BMP"), "masks/a.png": MASK},
        "a: a second image with this id",
    ),
    "two spellings": (
        {f"images/{n}.png": IMAGE for n in (COMPOSED, DECOMPOSED)} | {f"masks/{COMPOSED}.png": MASK},
        "which are the same name on other systems",
    ),
    "a volume": ({"images/a.nii.gz": b"x", "masks/a.nii.gz": b"x"}, "cannot be decoded"),
    "a turned mask": (
        {"images/a.png": encode(disc(6)[:, :9]), "masks/a.png": encode(disc(3)[:9])},
        "drawn on a turned image",
    ),
    "two tables": (
        {"metadata.csv": b"file_name,mask\na,b\n", "metadata.jsonl": b'{"file_name": "a", "mask_file_names": ["b"]}'},
        "must hold one metadata table",
    ),
    "a table that is no text": ({"metadata.csv": b"file_name,mask\n\xff\xe9,b\n"}, "must be text in UTF-8"),
    "a table that is no Parquet": ({"metadata.parquet": b"PAR1"}, "cannot be read as Parquet"),
    "deep JSON": ({"metadata.jsonl": b"[" * 100_000}, "line 1, cannot be used"),
}


@pytest.mark.parametrize("name", NAMED)
def test_what_cannot_be_used_is_named_as_what_it_is(tmp_path, name):
    files, reason = NAMED[name]
    assert reason in refusal(tmp_path, files)


@pytest.mark.parametrize("kind", ["a link", "a link to a folder", "a broken link", "a pipe"])
def test_links_and_pipes_are_refused_by_name(tmp_path, kind):
    source = write_folder(tmp_path / "in", {"images/a.png": IMAGE, "masks/a.png": MASK})
    odd = source / "images" / "b\x1b.png"
    if kind == "a pipe":
        os.mkfifo(odd)
    else:
        odd.symlink_to({"a link": source / "images/a.png", "a link to a folder": source}.get(kind, "nowhere"))
    with pytest.raises(ValueError, match=r"symbolic links or devices, which are refused: 'images/b\\x1b.png'"):
        folder.main([str(source), "--out", str(tmp_path / "out")])


def test_names_that_are_no_text_are_refused(tmp_path):
    write_folder(tmp_path / "in", {"images/a.png": IMAGE, "masks/a.png": MASK})
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/in/images/\xff.png")).write_bytes(IMAGE)
    with pytest.raises(ValueError, match="whose name is not UTF-8"):
        folder.main([str(tmp_path / "in"), "--out", str(tmp_path / "out")])


def test_dicom_without_suffix_is_read(tmp_path):
    pydicom = pytest.importorskip("pydicom")
    data = Path(pydicom.data.get_testdata_file("CT_small.dcm", download=False)).read_bytes()
    rows = build(tmp_path, {"images/IM0001": data, "masks/IM0001.png": encode(disc(9, side=128))})
    assert list(rows) == ["IM0001"] and rows["IM0001"]["image"].size == (128, 128)


TABLE_TEXT = st.text(st.sampled_from('abfile_namesplit,;\t\n\r"{}[]:\ufeff\0 01é\\/.'), max_size=80).map(str.encode)
BEGINNINGS = st.sampled_from(
    [b"file_name,split\n", b"file\tgroup\n", b'{"file_name": "a", "split": ', b"file_name,mask\n", b""]
)


@given(
    BEGINNINGS, st.binary(max_size=40) | TABLE_TEXT, st.sampled_from(TABLES), st.sampled_from(["metadata", "splits"])
)
@settings(max_examples=200, deadline=None)
def test_any_table_is_read_or_refused(beginning, rest, suffix, stem):
    with tempfile.TemporaryDirectory() as folder_name:
        source = Source([write_folder(Path(folder_name, "in"), {f"{stem}{suffix}": beginning + rest, "a.png": IMAGE})])
        entries = [Entry("in/a.png", ("in/a.png",), "a", "a")]
        for read in (lambda: with_tables(entries, source)[0], lambda: metadata_entries(source, True)):
            try:
                assert all(entry.split in ("", *SPLITS) for entry in read())
            except ValueError as error:
                assert str(error)


def test_report_flags_masks_that_are_full_empty_or_copies(tmp_path):
    nearly = np.full((16, 16), 255, np.uint8)
    nearly[0, :3] = 0
    drawn = {"full": (disc(99), disc(2)), "nearly": (nearly, disc(2)), "empty": (disc(-1), disc(-1))}
    drawn |= {"copies": (disc(3), disc(3)), "fine": (disc(3), disc(4)), "large": (disc(8), disc(2))}
    files = {f"train/images/{name}.png": encode(disc(6, side=16)) for name in drawn}
    files |= {f"train/masks-{r}/{name}.png": encode(masks[r]) for name, masks in drawn.items() for r in (0, 1)}
    out = folder.main([str(write_folder(tmp_path / "in", files)), "--out", str(tmp_path / "out")])
    report = json.loads((out / "report.json").read_text())
    assert report["nearly_full_masks"] == ["train/full", "train/nearly"]
    assert report["empty_masks_only"] == ["train/empty"] and report["identical_raters"] == ["train/copies"]
    for sentence in ("2 of 6 images, such as train/full, have a mask of more than 95% foreground", "copies?"):
        assert any(sentence in warning for warning in report["warnings"])


def test_help_explains_every_option_with_its_default(capsys):
    for builder in ("folder", "phantom", "lidc-idri", "cvc-clinicdb", "isic2018"):
        with pytest.raises(SystemExit):
            main([builder, "--help"])
        text = capsys.readouterr().out.partition("options:")[2]
        for entry in text.split("\n  --")[1:]:
            entry = " ".join(entry.split())
            assert "(default: " in entry or "required)" in entry, entry
