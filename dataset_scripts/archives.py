"""Read what people download, a folder, a zip or a tar, without unpacking it and without trusting it."""

import hashlib
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterable
from functools import partial
from pathlib import Path, PurePosixPath

MAX_MEMBER_BYTES = 4 * 2**30
MAX_RATIO = 200  # unpacked bytes per packed byte, over the whole archive; photographs and masks stay below 20
SMALL_BYTES = 100 * 2**20  # archives that unpack to less than this are no bombs, whatever their ratio
JUNK = ("__MACOSX", ".DS_Store", "Thumbs.db")


class Source:
    """The files of one or more folders, zips, tars or plain files, as one list of names.

    A folder's files are named after the folder, as in an archive of it. Nothing is ever written to disk: a member is
    read into memory by its name. A `Source` can be sent to another process, which opens the archives anew.

    Args:
        paths (`Iterable[str | Path]`): what the user named. A file of another kind counts as a source of one file.

    Raises:
        ValueError: for a path that does not exist, a member whose name leads out of the archive, a link, a device, a
            member or an archive that unpacks to far more than its size, or the same name in two sources.
    """

    def __init__(self, paths: Iterable[str | Path]):
        self.paths = [Path(path) for path in paths]
        self._open()

    def __reduce__(self):
        return Source, (self.paths,)

    def _open(self):
        self._readers = {}
        for path in self.paths:
            for name, reader in _readers(path).items():
                if name in self._readers:
                    raise ValueError(f"`sources` hold the file {name!r} twice.")
                self._readers[name] = reader
        self.names = sorted(name for name in self._readers if not set(JUNK) & set(PurePosixPath(name).parts))

    def __contains__(self, name: str) -> bool:
        return name in self._readers

    def read(self, name: str) -> bytes:
        """The bytes of one file; `OSError` if they cannot be read in full."""
        try:
            return self._readers[name]()
        except (zipfile.BadZipFile, zlib.error, tarfile.TarError, EOFError, RuntimeError) as error:
            raise OSError(f"damaged or locked in its archive: {error}") from error

    def fingerprint(self) -> dict[str, str]:
        """What was read: the SHA-256 of each file, and of each folder's list of names and sizes."""
        return {path.name: _sha256(path) for path in self.paths}


def _readers(path: Path) -> dict:
    if path.is_dir():
        return _folder_readers(path)
    if not path.is_file():
        raise ValueError(f"`sources` must be existing folders or files, but {str(path)!r} is neither.")
    if zipfile.is_zipfile(path):
        return _zip_readers(path)
    if tarfile.is_tarfile(path):
        return _tar_readers(path)
    if path.suffix.lower() in (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz"):
        raise ValueError(f"{path.name} is no readable archive: truncated, or not downloaded in full?")
    return {path.name: path.read_bytes}


def _folder_readers(folder: Path) -> dict:
    folder = folder.resolve()
    files = [path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir()]
    links = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_symlink()]
    if links:
        raise ValueError(f"{folder.name} holds symbolic links, which are refused: {', '.join(sorted(links)[:10])}")
    return {path.relative_to(folder.parent).as_posix(): path.read_bytes for path in files}


def _zip_readers(path: Path) -> dict:
    try:
        archive = zipfile.ZipFile(path)
    except zipfile.BadZipFile as error:
        raise ValueError(f"{path.name} is no readable zip: {error}") from error
    members = [member for member in archive.infolist() if not member.is_dir()]
    for member in members:
        _check_name(path, member.filename)
        if stat.S_ISLNK(member.external_attr >> 16):
            raise ValueError(f"{path.name} holds a symbolic link, which is refused: {member.filename!r}")
    _check_sizes(path, {member.filename: member.file_size for member in members})
    return {member.filename: lambda member=member: archive.read(member) for member in members}


def _tar_readers(path: Path) -> dict:
    with tarfile.open(path) as archive:
        members = [member for member in archive.getmembers() if not member.isdir()]
    for member in members:
        _check_name(path, member.name)
        if not member.isfile():
            raise ValueError(f"{path.name} holds a link or a device, which is refused: {member.name!r}")
    _check_sizes(path, {member.name: member.size for member in members})
    return {member.name.removeprefix("./"): partial(_read_tar_member, path, member) for member in members}


def _read_tar_member(path: Path, member: tarfile.TarInfo) -> bytes:
    with tarfile.open(path) as archive:
        return archive.extractfile(member).read()


def _check_name(path: Path, name: str):
    parts = PurePosixPath(name).parts
    if name.startswith("/") or ".." in parts or "\\" in name or ":" in parts[0] or "\0" in name:
        raise ValueError(f"{path.name} holds a file whose name leads out of the archive, which is refused: {name!r}")


def _check_sizes(path: Path, sizes: dict[str, int]):
    large = [name for name, size in sizes.items() if size > MAX_MEMBER_BYTES]
    total, packed = sum(sizes.values()), path.stat().st_size
    if large or total > max(MAX_RATIO * packed, SMALL_BYTES):
        what = f"its file {large[0]!r}" if large else f"it ({packed:,} bytes)"
        size = sizes[large[0]] if large else total
        raise ValueError(f"{path.name} looks like a decompression bomb: {what} unpacks to {size:,} bytes.")


def _sha256(path: Path) -> str:
    if path.is_file():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    files = sorted((p.relative_to(path).as_posix(), p.stat().st_size) for p in path.rglob("*") if p.is_file())
    return hashlib.sha256(repr(files).encode()).hexdigest()
