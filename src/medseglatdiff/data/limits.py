"""Limits on what is opened and how large it may be, the same for files, arrays and tensors."""

import io
import os
import stat
import zlib
from pathlib import Path
from typing import BinaryIO

MAX_PIXELS = 89_478_485  # more than any detector has: Pillow's default limit, whatever a caller sets it to
CHUNK = 2**20  # bytes
MAX_MASKS, MAX_CANDIDATES, MAX_STEPS = 1024, 4096, 1000  # per image; steps are of one candidate
MAX_UNPACKED_BYTES = 512 * 2**20  # of a deflated file: more than `MAX_PIXELS` take at 32 bits


class BadImage(ValueError):
    """An image that cannot be used: the message says what it must be and what it was."""


def unreadable(name: str, reason) -> BadImage:
    """The error for a file that cannot be read."""
    return BadImage(f"`image` must be a file that can be read, but {name} cannot: {str(reason).rstrip('.')}.")


def check_size(height: int, width: int, name: str = "it"):
    """Refuses an empty image, or one with too many pixels.

    Raises:
        BadImage: unless there are 1 to `MAX_PIXELS` pixels.
    """
    if height < 1 or width < 1 or height * width > MAX_PIXELS:
        raise BadImage(f"`image` must have 1 to {MAX_PIXELS:,} pixels, but {name} has {height} x {width}.")


def is_file_object(source) -> bool:
    """Whether a source is an open binary file, `io.BytesIO` included."""
    return hasattr(source, "read") and hasattr(source, "seek") and not isinstance(source, io.TextIOBase)


def name_of(source) -> str:
    """What error messages call a source: its path, or "it"."""
    return os.fspath(source) if isinstance(source, (str, os.PathLike)) else "it"


def open_regular(source) -> BinaryIO:
    """A file object of a path, or a copy of the given one. Pipes and devices are not read: they may never end.

    Raises:
        BadImage: for URLs, folders, pipes, devices and missing files.
    """
    if is_file_object(source):
        source.seek(0)
        return io.BytesIO(source.read())  # no reader closes the caller's file
    if "://" in str(source):
        raise BadImage(f"`image` must be a path, but was the URL {source}: download the file first.")
    try:
        mode = os.stat(source).st_mode
        if stat.S_ISREG(mode):
            return Path(source).open("rb")
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        raise unreadable(name_of(source), getattr(error, "strerror", None) or error) from error
    raise unreadable(name_of(source), "it is a folder" if stat.S_ISDIR(mode) else "it is a pipe or a device")


def unpacked_size(file: BinaryIO, wbits: int) -> int:
    """The number of bytes that a deflate stream unpacks to, counted without keeping them; `wbits` as in zlib.

    Raises:
        zlib.error, EOFError: for a damaged stream, and one that is cut short.
        BadImage: for more than `MAX_UNPACKED_BYTES`.
    """
    inflater, size, packed = zlib.decompressobj(wbits), 0, file.read(CHUNK)
    while packed and not inflater.eof:
        size += len(inflater.decompress(packed, CHUNK))
        if size > MAX_UNPACKED_BYTES:
            limit = f"{MAX_UNPACKED_BYTES // 2**20} MB"
            raise BadImage(f"`image` must be a file that unpacks to at most {limit}, but unpacks to more.")
        packed = inflater.unconsumed_tail or file.read(CHUNK)
    if not inflater.eof:
        raise EOFError("the deflated data are cut short")
    return size
