"""Whether the scans of a JPEG are complete, which libjpeg knows but Pillow does not report (ITU-T T.81).

A sequential scan is probed: the last bytes of each interval are changed, and both versions are decoded. In a complete
file this changes the last few blocks of the interval. If it changes much earlier blocks, the blocks after them were
filled in because the data had ended; if it changes nothing, the decoder had finished early because damaged data led it
astray. A progressive file must send every coefficient down to its last bit.
"""

import io
import re
import struct
import warnings
from typing import NamedTuple

import numpy as np
import PIL.Image

from .limits import check_size, unreadable

PROBED = 8  # bytes at an interval's end
LEAST_BITS = 2  # of a block: one for its mean, one for its end
END_OF_SCAN = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
RESTART = re.compile(rb"\xff[\xd0-\xd7]")
SOF, SOS, DRI, EOI = (0xC0, 0xC1, 0xC2), 0xDA, 0xDD, 0xD9
PROGRESSIVE = 0xC2
MAX_SCANS = 100  # progressive files have about ten; thousands keep a decoder busy for minutes


class Scan(NamedTuple):
    """Which components a scan sends, which of their coefficients down to which bit, and where its data lie."""

    components: bytes
    first: int
    last: int
    low_bit: int
    start: int
    end: int


class Frame(NamedTuple):
    """The headers of a JPEG: process, size, sampling of each component by identifier, restart interval and scans."""

    process: int
    height: int
    width: int
    sampling: dict[int, tuple[int, int]]
    interval: int
    scans: list[Scan]


def refuse_cut_jpeg(data: bytes, name: str):
    """Checks the first picture of a file; warns if its decoder finishes before the data end.

    Raises:
        BadImage: for a file that is cut short.
    """
    frame = read_frame(data)
    if frame is None:
        return  # a rare process, or so damaged that Pillow raises an error
    check_size(frame.height, frame.width, name)
    if len(frame.scans) > MAX_SCANS:
        raise unreadable(name, f"it is a JPEG of {len(frame.scans)} scans: more than {MAX_SCANS} would take minutes")
    if frame.process == PROGRESSIVE:
        if not _all_sent(frame):
            raise unreadable(name, "it is a progressive JPEG whose last scans are missing")
    elif len(frame.scans) == 1 and len(frame.scans[0].components) == len(frame.sampling):
        _refuse_cut_scan(data, frame, name)


def _refuse_cut_scan(data: bytes, frame: Frame, name: str):
    try:
        first_changed = _probe(data, frame, 0x5A)
        if first_changed and None in first_changed:  # possibly by chance: probe again
            again = _probe(data, frame, 0x33) or first_changed
            first_changed = [b if a is None else a for a, b in zip(first_changed, again, strict=True)]
    except (OSError, SyntaxError):
        return  # Pillow cannot decode it, and will say why
    several = len(frame.sampling) > 1
    blocks = sum(across * down for across, down in frame.sampling.values()) if several else 1
    last_units = 8 * PROBED // (LEAST_BITS * blocks) + 2
    if first_changed is None or any(units is not None and units > last_units for units in first_changed):
        raise unreadable(name, "it is a JPEG that is damaged or cut short: its data end before the picture does")
    if None in first_changed:
        message = f"{name} may be a damaged JPEG: its picture ends before its data do."
        warnings.warn(message, UserWarning, stacklevel=2)


def read_frame(data: bytes) -> Frame | None:
    """The headers of the first picture; `None` if they cannot be parsed or it is not Huffman-coded."""
    position, interval = 2, 0
    frame: Frame | None = None
    scans: list[Scan] = []
    while match := re.compile(rb"\xff+([^\x00\xff])").search(data, position):
        marker, position = match[1][0], match.end()
        if marker == EOI:
            break
        if marker == 0x01 or 0xD0 <= marker <= 0xD8 or len(data) < position + 2:
            continue
        body = data[position + 2 : position + int.from_bytes(data[position : position + 2])]
        position += 2 + len(body)
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            if marker not in SOF or len(body) < 6 or len(body) != 6 + 3 * body[5]:
                return None
            height, width = struct.unpack(">HH", body[1:5])
            parts = [body[at : at + 2] for at in range(6, len(body), 3)]
            sampling = {part[0]: (part[1] >> 4, part[1] & 15) for part in parts}  # horizontal, vertical
            frame = Frame(marker, height, width, sampling, 0, scans)
        elif marker == DRI and len(body) == 2:
            interval = int.from_bytes(body)
        elif marker == SOS:
            if not body or len(body) != 4 + 2 * body[0]:
                return None
            end = END_OF_SCAN.search(data, position)
            stop = end.start() if end else len(data)
            scans.append(Scan(body[1:-3:2], body[-3], body[-2], body[-1] & 15, position, stop))
            position = stop
    if not frame or not scans or 0 in (frame.height, frame.width, *(n for s in frame.sampling.values() for n in s)):
        return None
    return frame._replace(interval=interval)


def _all_sent(frame: Frame) -> bool:
    low_bits = {component: [14] * 64 for component in frame.sampling}
    for scan in frame.scans:
        for component in scan.components:
            for coefficient in range(scan.first, min(scan.last, 63) + 1):
                low_bits.setdefault(component, [14] * 64)[coefficient] = scan.low_bit
    return not any(any(bits) for bits in low_bits.values())


def _with_changed_ends(data: bytes, frame: Frame, pattern: int) -> tuple[bytes, list[tuple[int, int]]]:
    """The file with other bytes at the end of each interval (markers and stuffing aside), and all bounds."""
    scan, changed = frame.scans[0], bytearray(data)
    ends = [match.start() for match in RESTART.finditer(data, scan.start, scan.end)] if frame.interval else []
    bounds = list(zip([scan.start, *ends], [*ends, scan.end], strict=True))
    for start, end in bounds:
        for at in range(max(start + 2, end - PROBED), end):
            if 0xFF not in (data[at - 1], data[at], data[at] ^ pattern):
                changed[at] ^= pattern
    return bytes(changed), bounds


def _probe(data: bytes, frame: Frame, pattern: int) -> list[int | None] | None:
    """How many coded units before the end of each interval its first change lies; `None` where nothing changes.

    `None` instead of the list if there are fewer intervals than the picture needs.
    """
    # 1. decode both
    changed, bounds = _with_changed_ends(data, frame, pattern)
    before, after = _decoded(data), _decoded(changed)  # [H, W, C] twice
    # 2. which minimum coded units (8 x 8 pixels times the sampling) differ
    several = len(frame.sampling) > 1
    across, down = (8 * max(s[axis] for s in frame.sampling.values()) if several else 8 for axis in (0, 1))
    differs = (before != after).any(axis=2)  # [H, W]
    differs = np.pad(differs, [(0, -differs.shape[0] % down), (0, -differs.shape[1] % across)])
    units = differs.reshape(differs.shape[0] // down, down, -1, across)  # [rows, down, columns, across]
    anywhere = units.any(axis=(1, 3)).ravel()  # [units]
    inside = units[:, 2:-2, :, 2:-2].any(axis=(1, 3)).ravel()  # [units], away from mixed edges
    # 3. by intervals
    length, found = frame.interval or len(inside), []
    if len(bounds) < -(-len(inside) // length):
        return None
    for start, (first, last) in zip(range(0, len(inside), length), bounds, strict=False):  # bytes may follow the last
        part = inside[start : start + length]
        seen = anywhere[start : start + length].any() or last - first < 2 * PROBED  # few bytes may change too little
        found.append(len(part) - int(part.argmax()) if part.any() else 0 if seen else None)
    return found


def _decoded(data: bytes) -> np.ndarray:
    with PIL.Image.open(io.BytesIO(data), formats=("JPEG", "MPO")) as image:
        image.draft("YCbCr" if image.mode == "RGB" else image.mode, image.size)  # without colour conversion
        return np.atleast_3d(np.asarray(image))
