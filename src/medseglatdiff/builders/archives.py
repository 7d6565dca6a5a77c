"""Reads folders, zips and tars without unpacking them and without trusting them."""

import bz2
import gzip
import hashlib
import io
import lzma
import re
import stat
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterable
from functools import cached_property, partial
from pathlib import Path

from ..data.files import file_sha256
from ..data.groups import plain_name
from ..data.names import printable

MAX_MEMBER_BYTES = 4 * 2**30
MAX_RATIO = 200  # unpacked bytes per packed byte, over the whole archive; photographs and masks stay below 20
SMALL_BYTES = 100 * 2**20  # smaller archives are not bombs, whatever their ratio
Opener = Callable[[Path], io.BufferedIOBase]
# by the first bytes of a file
COMPRESSED: dict[bytes, Opener] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\0": lzma.open}
DAMAGES = (zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, RuntimeError)
Reader = Callable[[], bytes]
JUNK = re.compile(  # leftovers of desktops, network drives, and builds that run or were killed
    r"__macosx|\.ds_store|\._.*|\.appledouble|\.spotlight-v100|\.trashes|\.fseventsd|icon\r|thumbs\.db|ehthumbs\.db"
    r"|desktop\.ini|\$recycle\.bin|system volume information|@eadir|\.directory|\.ipynb_checkpoints|\.git"
    r"|\.partial-.*|\..*\.partial",
    re.IGNORECASE,
)


class Source:
    """The files of one or more folders, zips, tars or plain files, as one list of names.

    A folder's files are named as in an archive of the folder. No member is ever written to disk: it is read into
    memory by its name. A `Source` can be sent to another process, which reopens the archives at the first read.

    Args:
        paths (`Iterable[str | Path]`): given by the user. A file that is not an archive is a source of one file.

    Raises:
        ValueError: for a path that does not exist, a member whose name leads out of the archive or is not text, a
            link, a device, a member or an archive that unpacks to far more than its size, or a repeated name.
    """

    def __init__(self, paths: Iterable[str | Path]):
        self.paths = [Path(path) for path in paths]
        self.names = sorted(name for name in self._readers if not _is_junk(name))
        self._spelled: dict[str, str] = {}
        for name in self.names:
            twin = self._spelled.setdefault(plain_name(name), name)
            if twin != name:
                raise ValueError(f"`sources` hold {name!r} and {twin!r}, which are the same name on other systems.")

    def __getstate__(self):
        return {key: value for key, value in vars(self).items() if key != "_readers"}

    @cached_property
    def _readers(self) -> dict[str, Reader]:
        readers: dict[str, Reader] = {}
        for path in self.paths:
            for name, reader in _readers(path).items():
                if name in readers:
                    raise ValueError(f"`sources` hold the file {name!r} twice.")
                if any(0xD800 <= ord(character) < 0xE000 for character in name):
                    raise ValueError(f"`sources` hold the file {name!r}, whose name is not UTF-8: rename it.")
                readers[name] = reader
        return readers

    def __contains__(self, name: str) -> bool:
        return name in self._readers

    def spelled(self, name: str) -> str:
        """The file that a name in a table refers to, in any Unicode normalisation and with either separator."""
        return self._spelled.get(plain_name(name), name)

    def read(self, name: str) -> bytes:
        """The bytes of one file; `OSError` if they cannot be read in full, `ValueError` if the source is gone."""
        try:
            return self._readers[name]()
        except (*DAMAGES, OSError) as error:
            gone = [path.name for path in self.paths if not path.exists()]
            if gone:
                raise ValueError(f"`sources` disappeared while they were read: {', '.join(gone)}") from error
            if isinstance(error, OSError):
                raise
            raise OSError(f"damaged or locked in its archive: {error}") from error

    def fingerprint(self) -> dict[str, str]:
        """The SHA-256 of each source: of a file's bytes, or of a folder's names and sizes."""
        named = {path: f"{path.resolve().name}{', names and sizes' * path.is_dir()}" for path in self.paths}
        return {name: _sha256(path) for path, name in named.items()}


def _is_junk(name: str) -> bool:
    return any(map(JUNK.fullmatch, name.split("/")))


def _readers(path: Path) -> dict[str, Reader]:
    if path.is_dir():
        return _folder_readers(path)
    if not path.is_file():
        raise ValueError(f"`sources` must be existing folders or files, but {str(path)!r} is neither.")
    try:
        if tarfile.is_tarfile(path):
            return _tar_readers(path)
        if zipfile.is_zipfile(path):
            return _zip_readers(path)
    except DAMAGES as error:
        raise ValueError(f"{path.name} is not a readable archive: {error}") from error
    if path.suffix.lower() in (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz"):
        raise ValueError(f"{path.name} is not a readable archive: truncated, or not fully downloaded?")
    return {path.name: path.read_bytes}


def _folder_readers(folder: Path) -> dict[str, Reader]:
    folder = folder.resolve()
    paths = [path for path in folder.rglob("*") if not _is_junk(path.relative_to(folder).as_posix())]
    odd = [path for path in paths if path.is_symlink() or not (path.is_dir() or path.is_file())]
    if odd:
        names = ", ".join(sorted(repr(path.relative_to(folder).as_posix()) for path in odd)[:10])
        raise ValueError(f"{printable(folder.name)} holds symbolic links or devices, which are refused: {names}")
    return {path.relative_to(folder.parent).as_posix(): path.read_bytes for path in paths if path.is_file()}


def _zip_readers(path: Path) -> dict[str, Reader]:
    archive = zipfile.ZipFile(path)
    members = [member for member in archive.infolist() if not member.is_dir()]
    for member in members:
        if stat.S_ISLNK(member.external_attr >> 16):
            raise ValueError(f"{path.name} holds a symbolic link, which is refused: {member.filename!r}")
    _check(path, [(member.filename, member.file_size) for member in members])
    return {member.filename: partial(archive.read, member) for member in members}


def _tar_readers(path: Path) -> dict[str, Reader]:
    archive = _open_tar(path)
    members = [member for member in archive.getmembers() if not member.isdir()]
    for member in members:
        if not member.isfile():
            raise ValueError(f"{path.name} holds a link or a device, which is refused: {member.name!r}")
    _check(path, [(member.name, member.size) for member in members])
    return {member.name.removeprefix("./"): partial(_read_member, archive, member) for member in members}


def _read_member(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(member)
    if file is None:
        raise tarfile.ReadError(f"{member.name!r} is not a file")
    return file.read()


def _open_tar(path: Path) -> tarfile.TarFile:
    """An opened tar; a compressed one is first unpacked to an unnamed file, since reading a member would otherwise
    start at the beginning of the archive each time."""
    with path.open("rb") as file:
        start = file.read(6)
    opener = next((opener for magic, opener in COMPRESSED.items() if start.startswith(magic)), None)
    if opener is None:
        return tarfile.open(path)  # noqa: SIM115 (stays open: its members are read on demand)
    plain = tempfile.TemporaryFile()  # noqa: SIM115 (the returned archive reads it)
    with opener(path) as packed:
        while chunk := packed.read(2**20):
            plain.write(chunk)
            if plain.tell() > max(MAX_RATIO * path.stat().st_size, SMALL_BYTES):
                raise ValueError(f"{path.name} looks like a decompression bomb: it unpacks to {plain.tell():,} bytes.")
    plain.seek(0)
    return tarfile.open(fileobj=plain)


def _check(path: Path, members: list[tuple[str, int]]):
    """Refuses names that lead out of the archive or occur twice, and sizes of decompression bombs."""
    sizes = dict(members)
    for name in sizes:
        if name.startswith("/") or ".." in name.split("/") or ":" in name.split("/")[0] or set(name) & set("\\\0"):
            raise ValueError(f"{path.name} holds a name that leads out of the archive, which is refused: {name!r}")
    if len(sizes) < len(members):
        raise ValueError(f"{path.name} holds {len(members) - len(sizes)} files with a name that occurs twice.")
    name, largest = max(members, key=lambda member: member[1], default=("", 0))
    total, packed = sum(sizes.values()), path.stat().st_size
    if largest > MAX_MEMBER_BYTES:
        raise ValueError(f"{path.name} looks like a decompression bomb: {name!r} unpacks to {largest:,} bytes.")
    if total > max(MAX_RATIO * packed, SMALL_BYTES):
        raise ValueError(f"{path.name} ({packed:,} bytes) looks like a decompression bomb: {total:,} bytes unpacked.")


def _sha256(path: Path) -> str:
    if path.is_file():
        return file_sha256(path)
    named = {found.relative_to(path).as_posix(): found for found in path.rglob("*") if found.is_file()}
    files = sorted((name, found.stat().st_size) for name, found in named.items() if not _is_junk(name))
    return hashlib.sha256(repr(files).encode()).hexdigest()
