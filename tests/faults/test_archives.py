"""Hostile archives: refused in one sentence; nothing gets out of them, and nothing stays of the build."""

import io
import os
import struct
import tarfile
import zipfile
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
from dataset_fixtures import disc, encode

from medseglatdiff.cli import main

from .processes import refused, tree

pytest.importorskip("datasets", reason="needs the extra `train`")
GOOD = {f"in/train/{kind}/{n}.png": encode(disc(n)) for kind in ("images", "masks") for n in range(1, 7)}
NAMES = [
    "../evil.png",
    "in/train/images/../../../../evil.png",
    "/tmp/evil.png",
    "C:/evil.png",
    "in\\..\\..\\evil.png",
    "//host/share/evil.png",
]
LINKS = {"link": tarfile.SYMTYPE, "hard link": tarfile.LNKTYPE, "device": tarfile.CHRTYPE, "pipe": tarfile.FIFOTYPE}


def zipped(path: Path, files: dict[str, bytes] = GOOD, **options):
    with zipfile.ZipFile(path, "w", **options) as archive:
        for name, data in files.items():
            archive.writestr(name, data)


def tarred(path: Path, more: Callable[[tarfile.TarFile], None] = lambda archive: None, mode: str = "w"):
    with tarfile.open(path, mode) as archive:
        for name, data in GOOD.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
        more(archive)


def tar_member(name: str, kind: bytes = tarfile.REGTYPE) -> Callable[[tarfile.TarFile], None]:
    def add(archive: tarfile.TarFile):
        member = tarfile.TarInfo(name)
        member.type, member.linkname = kind, "/etc/passwd"
        archive.addfile(member)

    return add


def zip_link(path: Path):
    member = zipfile.ZipInfo("in/train/images/1.png")
    member.external_attr = 0o120777 << 16
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(member, "/etc/passwd")


def zip_bomb(path: Path):
    zipped(path, GOOD | {"in/train/images/7.png": bytes(150 * 2**20)}, compression=zipfile.ZIP_DEFLATED)


def tar_bomb(path: Path):
    def add(archive: tarfile.TarFile):
        member = tarfile.TarInfo("in/train/images/7.png")
        member.size = 150 * 2**20
        archive.addfile(member, io.BytesIO(bytes(member.size)))

    tarred(path, add, "w:gz")


def lying_size(path: Path):
    """A member that claims to be 60 GB."""
    zipped(path)
    data = bytearray(path.read_bytes())
    at = data.rindex(b"PK\1\2")
    data[at + 24 : at + 28] = struct.pack("<I", 2**32 - 2)
    path.write_bytes(data)


def encrypted(path: Path):
    zipped(path)
    data = bytearray(path.read_bytes())
    for mark, offset in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        at = data.find(mark)
        while at >= 0:
            data[at + offset] |= 1
            at = data.find(mark, at + 4)
    path.write_bytes(data)


def twice(path: Path):
    with zipfile.ZipFile(path, "w") as archive:
        for data in (b"one", b"two"):
            archive.writestr("in/train/images/1.png", data)


def cut(make: Callable[[Path], None], share: float) -> Callable[[Path], None]:
    def write(path: Path):
        make(path)
        path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])

    return write


def flipped(path: Path):
    """One bit of a member's data."""
    zipped(path)
    data = bytearray(path.read_bytes())
    data[data.index(b"IDAT") + 10] ^= 1
    path.write_bytes(data)


def with_name(name: str) -> dict[str, tuple]:
    """A zip and a tar that hold a file of this name as well."""
    zips, tars = (lambda path: zipped(path, GOOD | {name: b"x"})), (lambda path: tarred(path, tar_member(name)))
    return {f"zip: {name}": ("a.zip", zips), f"tar: {name}": ("a.tar", tars)}


def with_link(kind: bytes) -> tuple:
    """A tar with a link, a device or a pipe in place of a picture."""
    return "a.tar", lambda path: tarred(path, tar_member("in/train/images/9.png", kind))


ESCAPE, PICKLE = {"in/train/masks/\x1b[2J.png": b"x"}, {"in/metadata.pkl": b"cos\nsystem\n(S'touch evil'\ntR."}
ARCHIVES = {
    **{label: case for name in NAMES for label, case in with_name(name).items()},
    **{f"tar: {label}": with_link(kind) for label, kind in LINKS.items()},
    "zip: symbolic link": ("a.zip", zip_link),
    "zip: bomb": ("a.zip", zip_bomb),
    "tar.gz: bomb": ("a.tar.gz", tar_bomb),
    "zip: lying size": ("a.zip", lying_size),
    "zip: encrypted": ("a.zip", encrypted),
    "zip: one name twice": ("a.zip", twice),
    "zip: cut": ("a.zip", cut(zipped, 0.6)),
    "tar: cut": ("a.tar", cut(tarred, 0.4)),
    "tar.gz: cut": ("a.tar.gz", cut(lambda path: tarred(path, mode="w:gz"), 0.7)),
    "zip: a flipped bit": ("a.zip", flipped),
    "zip: empty": ("a.zip", lambda path: zipped(path, {})),
    "zip: no zip": ("a.zip", lambda path: path.write_bytes(os.urandom(5000))),
    "zip: a name that acts on a terminal": ("a.zip", lambda path: zipped(path, GOOD | ESCAPE)),
    "zip: a pickle": ("a.zip", lambda path: zipped(path, GOOD | PICKLE)),
}


def judge(folder: Path, name: str, make: Callable[[Path], None]):
    """Raises an `AssertionError` unless an archive is refused in one sentence, and nothing else has changed."""
    make(folder / name)
    before = tree(folder)
    with redirect_stderr(io.StringIO()) as told, redirect_stdout(io.StringIO()):
        code = main(["dataset", "folder", str(folder / name), "--out", str(folder / "out")])
    refused(code, told.getvalue())
    assert told.getvalue().replace("\n", "").replace("\r", "").isprintable(), "control characters reach the terminal"
    changed = sorted(tree(folder).items() ^ before.items())
    assert not changed, f"half-written or out of the archive: {changed[0][0]}"
    assert not Path("/tmp/evil.png").exists(), "out of the archive"


def test_archives(tmp_path, ledger):
    what = "hostile archive"
    for index, (label, (name, make)) in enumerate(ARCHIVES.items()):
        folder = tmp_path / str(index) / "place"
        folder.mkdir(parents=True)
        with ledger.case(what, label):
            judge(folder, name, make)
            assert list(folder.parent.iterdir()) == [folder], "out of the archive"
    ledger.check(what, len(ARCHIVES))


def test_the_judge_sees_an_archive_that_is_taken(tmp_path):
    with pytest.raises(AssertionError, match="exit code 0"):
        judge(tmp_path, "a.zip", zipped)
