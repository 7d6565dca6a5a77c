"""Reading what people download: every kind of archive alike, and nothing that a hostile one asks for."""

import os
import pickle
import tarfile
import zipfile
from pathlib import Path

import pytest
from dataset_fixtures import write_folder, write_zip

from medseglatdiff.builders.archives import Source

FILES = {f"in/{name}": name.encode() * 1000 for name in ("a/1.png", "a/2.png", "b/1.png", "notes.txt")}


def write_tar(path: Path, files: dict[str, bytes], mode: str) -> Path:
    with tarfile.open(path, mode) as archive:
        archive.add(write_folder(path.parent / "files", files) / "in", "./in")
    return path


@pytest.mark.parametrize("kind", ["folder", "zip", "tar", "tar.gz", "tar.bz2", "tar.xz"])
def test_all_kinds_hold_the_same_and_travel_to_other_processes(tmp_path, kind):
    if kind == "folder":
        path = write_folder(tmp_path, FILES) / "in"
    elif kind == "zip":
        path = write_zip(tmp_path / "in.zip", FILES)
    else:
        path = write_tar(tmp_path / f"in.{kind}", FILES, "w:" + kind.removeprefix("tar").removeprefix("."))
    for source in (Source([path]), pickle.loads(pickle.dumps(Source([path])))):
        assert source.names == sorted(FILES)
        assert [source.read(name) for name in (*FILES, *reversed(FILES))] == [
            *FILES.values(),
            *reversed(FILES.values()),
        ]


def test_several_sources_are_one_and_junk_is_passed_over(tmp_path):
    one = write_zip(tmp_path / "one.zip", {"a.png": b"a", "__MACOSX/a.png": b"junk"})
    assert Source([one, write_zip(tmp_path / "two.zip", {"b.png": b"b"})]).names == ["a.png", "b.png"]
    with pytest.raises(ValueError, match="'a.png' twice"):
        Source([one, write_zip(tmp_path / "three.zip", {"a.png": b"other"})])
    with pytest.raises(ValueError, match="must be existing folders or files"):
        Source([tmp_path / "nowhere"])


@pytest.mark.parametrize(
    "name", ["../evil.png", "/etc/evil.png", "a/../../evil.png", "C:/evil.png", "a\\..\\evil.png"]
)
def test_names_that_lead_out_are_refused(tmp_path, name):
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as archive:
        archive.addfile(tarfile.TarInfo(name))
    for archive in (write_zip(tmp_path / "a.zip", {name: b"x"}), path):
        with pytest.raises(ValueError, match="leads out of the archive"):
            Source([archive])


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_in_tars_are_refused(tmp_path, kind):
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        member = tarfile.TarInfo("link.png")
        member.type, member.linkname = kind, "/etc/passwd"
        archive.addfile(member)
    with pytest.raises(ValueError, match="link or a device"):
        Source([tmp_path / "a.tar"])


def test_links_and_devices_elsewhere_are_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        member = zipfile.ZipInfo("link.png")
        member.external_attr = 0o120777 << 16
        archive.writestr(member, "/etc/passwd")
    with pytest.raises(ValueError, match="symbolic link"):
        Source([tmp_path / "a.zip"])
    for make in (lambda path: path.symlink_to("/etc/passwd"), lambda path: path.symlink_to("/etc"), os.mkfifo):
        folder = tmp_path / f"folder-{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        make(folder / "odd.png")
        with pytest.raises(ValueError, match="odd.png"):
            Source([folder])


def test_bombs_are_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros.png", bytes(101 * 2**20))
    (tmp_path / "zeros.png").write_bytes(bytes(101 * 2**20))
    with tarfile.open(tmp_path / "bomb.tar.gz", "w:gz", compresslevel=1) as archive:
        archive.add(tmp_path / "zeros.png", "zeros.png")
    for name in ("bomb.zip", "bomb.tar.gz"):
        with pytest.raises(ValueError, match="bomb"):
            Source([tmp_path / name])


def test_a_name_that_comes_twice_in_one_archive_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("a.png", b"one")
        archive.writestr("a.png", b"two")
    with pytest.raises(ValueError, match="occurs twice"):
        Source([tmp_path / "a.zip"])


@pytest.mark.parametrize("name", ["in.zip", "in.tar.gz", "in.tar"])
def test_truncated_archives_are_refused(tmp_path, name):
    files = {f"in/{k}.bin": os.urandom(5000) for k in range(4)}
    mode = {"in.tar.gz": "w:gz", "in.tar": "w"}.get(name)
    path = write_tar(tmp_path / name, files, mode) if mode else write_zip(tmp_path / name, files)
    path.write_bytes(path.read_bytes()[:12000])
    with pytest.raises((ValueError, OSError), match="in.zip|in.tar|damaged"):
        source = Source([path])
        [source.read(member) for member in files]


def test_a_damaged_member_is_an_error_when_it_is_read(tmp_path):
    path = write_zip(tmp_path / "in.zip", {"a.png": b"0123456789" * 10, "b.png": b"whole"})
    path.write_bytes(path.read_bytes().replace(b"0123456789", b"0123456780", 1))
    source = Source([path])
    assert source.read("b.png") == b"whole"
    with pytest.raises(OSError, match="damaged"):
        source.read("a.png")
