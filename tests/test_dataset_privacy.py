"""What files say beside their pixels stays out of data sets, and so do names of people, disks and users."""

import io
import json
import struct
import zlib
from pathlib import Path

import numpy as np
import PIL.ExifTags
import PIL.Image
import PIL.PngImagePlugin
import PIL.TiffImagePlugin
import pytest
from dataset_fixtures import disc, encode, isic, own_cache, rows_of, slices, write_folder, write_zip  # noqa: F401

from medseglatdiff.builders import folder, isic2018, lidc_idri
from medseglatdiff.builders.names import look_like_people
from medseglatdiff.builders.stripping import strip_metadata
from medseglatdiff.cli import main

SECRET = "SECRET"
NOISE = np.random.default_rng(0).integers(0, 255, (24, 32, 3), np.uint8)
GREY = NOISE[:, :, 0]


def exif(orientation: int | None = None) -> PIL.Image.Exif:
    tags = PIL.Image.Exif()
    tags[PIL.ExifTags.Base.ImageDescription] = tags[PIL.ExifTags.Base.Artist] = SECRET
    tags.get_ifd(PIL.ExifTags.IFD.GPSInfo)[PIL.ExifTags.GPS.GPSLatitude] = (48.0, 8.0, 0.0)
    if orientation:
        tags[PIL.ExifTags.Base.Orientation] = orientation
    return tags


def saved(kind: str, pixels: np.ndarray = NOISE, mode: str | None = None, **options) -> bytes:
    data, image = io.BytesIO(), PIL.Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(data, kind, **options)
    return data.getvalue()


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def with_chunk(data: bytes, kind: bytes, body: bytes) -> bytes:
    return data[:33] + chunk(kind, body) + data[33:]  # behind IHDR


def segment(marker: int, body: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body


def with_segment(data: bytes, marker: int, body: bytes) -> bytes:
    return data[:2] + segment(marker, body) + data[2:]


def texts() -> PIL.PngImagePlugin.PngInfo:
    info = PIL.PngImagePlugin.PngInfo()
    info.add_text("PatientName", SECRET)
    info.add_text("Comment", SECRET, zip=True)
    info.add_itxt("XML:com.adobe.xmp", f"<x>{SECRET}</x>")
    return info


HIDDEN = SECRET.encode() * 2
PROFILE = b"\0" * 100 + HIDDEN
PNG, JPEG = saved("PNG"), saved("JPEG", quality=90)
JFIF_THUMBNAIL = b"JFIF\0\x01\x02\0\0\x01\0\x01\x02\x02" + HIDDEN
DIRTY = {  # a file with something to hide -> the kinds that the report counts
    "PNG texts": (saved("PNG", pnginfo=texts()), {"text"}),
    "PNG EXIF": (saved("PNG", exif=exif()), {"EXIF"}),
    "PNG time": (with_chunk(PNG, b"tIME", b"\x07\xb2\x01\x01\0\0\0"), {"time"}),
    "PNG profile": (saved("PNG", icc_profile=PROFILE), {"profile"}),
    "PNG private chunk": (with_chunk(PNG, b"diCm", HIDDEN), {"private chunks"}),
    "PNG with bytes behind": (PNG + HIDDEN, {"bytes after the picture"}),
    "PNG, 16 bits": (saved("PNG", GREY.astype(np.uint16) * 200, pnginfo=texts()), {"text"}),
    "JPEG EXIF": (saved("JPEG", exif=exif()), {"EXIF"}),
    "JPEG comment": (saved("JPEG", comment=HIDDEN), {"comment"}),
    "JPEG XMP": (saved("JPEG", xmp=HIDDEN), {"XMP"}),
    "JPEG profile": (saved("JPEG", icc_profile=PROFILE), {"profile"}),
    "JPEG IPTC": (with_segment(JPEG, 0xED, b"Photoshop 3.0\0" + HIDDEN), {"IPTC"}),
    "JPEG thumbnail": (with_segment(JPEG[:2] + JPEG[20:], 0xE0, JFIF_THUMBNAIL), {"thumbnail"}),
    "JPEG extension": (with_segment(JPEG, 0xE0, b"JFXX\0\x10" + HIDDEN), {"application segments"}),
    "JPEG private segment": (with_segment(JPEG, 0xEB, HIDDEN), {"application segments"}),
    "JPEG with bytes behind": (JPEG + HIDDEN, {"bytes after the picture"}),
    "progressive JPEG": (saved("JPEG", progressive=True, exif=exif()), {"EXIF"}),
    "JPEG with restarts": (saved("JPEG", restart_marker_rows=1, comment=HIDDEN), {"comment"}),
    "grey JPEG": (saved("JPEG", GREY, exif=exif()), {"EXIF"}),
    "CMYK JPEG, Adobe": (saved("JPEG", mode="CMYK", comment=HIDDEN), {"comment"}),
    "phone JPEG with a second picture": (
        saved("MPO", save_all=True, append_images=[PIL.Image.fromarray(NOISE[::-1])], exif=exif()),
        {"EXIF", "further pictures", "bytes after the picture"},
    ),
}


@pytest.mark.parametrize("name", DIRTY)
def test_metadata_goes_and_pixels_stay(name):
    data, kinds = DIRTY[name]
    stripped, removed = strip_metadata(data)
    assert removed == kinds and SECRET.encode() not in stripped
    before, after = (PIL.Image.open(io.BytesIO(file)) for file in (data, stripped))
    assert before.mode == after.mode and np.array_equal(np.asarray(before), np.asarray(after))
    assert strip_metadata(stripped) == (stripped, frozenset()) and not after.getexif()


@pytest.mark.parametrize(
    "data", [PNG, JPEG, saved("PNG", mode="P"), saved("PNG", GREY), saved("BMP"), b"", b"\xff\xd8\xff"]
)
def test_files_without_metadata_stay_as_they_are(data):
    if data == b"\xff\xd8\xff":
        with pytest.raises(ValueError, match="no JPEG marker"):
            strip_metadata(data)
    else:
        assert strip_metadata(data) == (data, frozenset())


def test_damaged_files_raise_nothing_but_value_errors():
    random = np.random.default_rng(0)
    for data in (saved("JPEG", progressive=True, exif=exif()), saved("PNG", pnginfo=texts())):
        for _ in range(300):
            damaged = np.frombuffer(data, np.uint8).copy()[: random.integers(4, len(data))]
            damaged[random.integers(2, len(damaged), 4)] = random.integers(256, size=4)
            try:
                strip_metadata(damaged.tobytes())
            except ValueError as error:
                assert "JPEG" in str(error)


TIFF = PIL.TiffImagePlugin.ImageFileDirectory_v2()
TIFF[270], TIFF[315], TIFF[700] = SECRET, SECRET, HIDDEN
SOURCES = {
    "tif": (saved("TIFF", tiffinfo=TIFF), {"text", "XMP"}),
    "webp": (saved("WEBP", exif=exif(), lossless=True), {"EXIF"}),
    "gif": (saved("GIF", GREY, comment=HIDDEN), {"comment"}),
    "jpg": (saved("JPEG", exif=exif(6), comment=HIDDEN), {"EXIF", "comment", "orientation"}),
    "png": (saved("PNG", pnginfo=texts()), {"text"}),
}


@pytest.mark.parametrize("suffix", SOURCES)
def test_nothing_of_it_is_in_the_data_set_and_the_report_counts_it(tmp_path, suffix):
    data, kinds = SOURCES[suffix]
    mask = saved("PNG", np.pad(disc(5), ((4, 4), (8, 8))), pnginfo=texts())
    files = {f"train/images/a.{suffix}": data, "train/masks/a.png": mask}
    out = folder.main([str(write_folder(tmp_path / "in", files)), "--out", str(tmp_path / "out")])
    assert SECRET.encode() not in b"".join(path.read_bytes() for path in out.rglob("*") if path.is_file())
    report = json.loads((out / "report.json").read_text())
    removed = {kind: 1 for kind in kinds} | {"text": 1 + ("text" in kinds)}
    assert report["metadata_removed"] == removed
    assert all(f"{kind} {count}" in (out / "README.md").read_text() for kind, count in removed.items())
    (row,) = rows_of(out).values()  # as `datasets` reads it: no orientation turns the image away from its mask
    assert np.array_equal(
        np.asarray(row["image"].convert("RGB")), np.asarray(PIL.Image.open(io.BytesIO(data)).convert("RGB"))
    )
    assert any("EXIF orientation" in warning for warning in report["warnings"]) == ("orientation" in kinds)


def test_other_builders_strip_too(tmp_path):
    files = isic()
    files["ISIC2018_Task1-2_Training_Input/ISIC_0000001.jpg"] = saved(
        "JPEG", np.full((20, 40, 3), 9, np.uint8), exif=exif()
    )
    out = isic2018.main([str(write_zip(tmp_path / "in.zip", files)), "--out", str(tmp_path / "out")])
    assert SECRET.encode() not in b"".join(path.read_bytes() for path in (out / "data").iterdir())
    assert json.loads((out / "report.json").read_text())["metadata_removed"] == {"EXIF": 1}


def test_anonymous_ids_leave_no_name_anywhere(tmp_path, capsys):
    names = [f"Mueller_Anna_{n:02d}_{k}" for n in range(30) for k in (1, 2)]
    files = {f"images/{name}.png": encode(disc(5)) for name in names} | {"images/Mueller_Bad.png": b""}
    files |= {f"masks/{name}.png": encode(disc(3)) for name in (*names, "Mueller_Bad", "Mueller_Stray")}
    source = write_zip(tmp_path / "Mueller.zip", files)
    (tmp_path / "jane.doe").mkdir()
    groups = tmp_path / "Mueller.csv"
    groups.write_text("file,group\n" + "".join(f"{n},{n.rpartition('_')[0]}\n" for n in (*names, "Mueller_Bad")))
    command = [str(source), "--out", str(tmp_path / "jane.doe" / "out"), "--skip-bad", "--fractions", ".6", ".2", ".2"]
    named = folder.main([*command, "--groups", str(groups)])
    report = json.loads((named / "report.json").read_text())
    assert any("60 names" in w or "names of images or groups look like people's" in w for w in report["warnings"])
    assert "--anonymous-ids replaces them by numbers" in (named / "README.md").read_text()
    kept = rows_of(named)
    out = folder.main([*command, "--groups", str(groups), "--anonymous-ids", "--overwrite"])
    for path in out.rglob("*"):
        if path.is_file():
            assert b"Mueller" not in path.read_bytes(), path.name
    rows = rows_of(out)
    assert len(rows) == len(kept) == 60 and len({row["group_id"] for row in rows.values()}) == 30
    assert sorted(row["split"] for row in rows.values()) == sorted(row["split"] for row in kept.values())
    report = json.loads((out / "report.json").read_text())
    assert len(report["skipped"]) == 2 and not any("people" in warning for warning in report["warnings"])
    again = folder.main(
        [*command[:2], str(tmp_path / "again"), *command[3:], "--groups", str(groups), "--anonymous-ids"]
    )
    assert {path.name: path.read_bytes() for path in (again / "data").iterdir()} == {
        path.name: path.read_bytes() for path in (out / "data").iterdir()
    }


def test_no_paths_of_a_disk_are_published(tmp_path):
    home = tmp_path / "home" / "jane.doe"
    home.mkdir(parents=True)
    source = write_zip(home / "in.zip", slices())
    outs = [lidc_idri.main([str(source), "--out", str(home / "lidc")])]
    main(["dataset", "phantom", "--num-rows", "20", "--size", "16", "--out", str(home / "phantoms")])
    for out in (*outs, home / "phantoms"):
        for name in ("README.md", "report.json"):
            text = Path(out, name).read_text()
            assert "jane.doe" not in text and str(tmp_path) not in text


PEOPLE = {
    "Anna_Schmidt": True,
    "Schmidt, Anna": True,
    "SCHMIDT^ANNA": True,
    "scan_1959-03-12": True,
    "12.03.1959": True,
    "19590312_1": True,
    "p7/Jane-Doe": True,
    "patient03_slice12": False,
    "ISIC_0000001": False,
    "LIDC-IDRI-0001/nodule-0/slice-2": False,
    "Left_Lung": False,
    "IMG_19991": False,
    "1.3.6.1.4.1.14519.5.2.1.6279.6001": False,
    "benign (12)": False,
}


@pytest.mark.parametrize("name", PEOPLE)
def test_names_of_people_and_dates_are_recognised(name):
    assert look_like_people(name) == PEOPLE[name]
