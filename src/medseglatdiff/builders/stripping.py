"""Removes metadata from PNG and JPEG files without touching a pixel: the files are cut, never encoded again.

Only what decoders need is kept (PNG: ISO/IEC 15948, 5.6; JPEG: ITU-T T.81, B.1 and B.2, and T.871 for JFIF).
Colour profiles are removed too: neither Pillow nor `datasets` nor the pipeline applies them, so no number changes, and
their descriptions identify devices.
"""

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
# frames of animations (acTL, fcTL, fdAT) stay, so that readers still see an animation
PNG_KEPT = set(b"IHDR PLTE IDAT IEND tRNS gAMA cHRM sRGB sBIT bKGD pHYs acTL fcTL fdAT".split())
PNG_KINDS = {b"tEXt": "text", b"zTXt": "text", b"iTXt": "text", b"eXIf": "EXIF", b"tIME": "time", b"iCCP": "profile"}
JPEG_KINDS = (  # marker, beginning of the segment, kind
    (0xE1, b"Exif\0", "EXIF"),
    (0xE1, b"http://ns.adobe.com/x", "XMP"),
    (0xE2, b"ICC_PROFILE\0", "profile"),
    (0xE2, b"MPF\0", "further pictures"),
    (0xED, b"", "IPTC"),
    (0xFE, b"", "comment"),
)
JFIF_HEADER = 14  # bytes without a thumbnail
JPEG_ALONE = {0x01, *range(0xD0, 0xD8)}  # markers without a length
SOI, EOI, SOS, COM, APP0, APP14 = 0xD8, 0xD9, 0xDA, 0xFE, 0xE0, 0xEE


def strip_metadata(data: bytes) -> tuple[bytes, frozenset[str]]:
    """A PNG or JPEG file without metadata, and the kinds that were removed; other files unchanged.

    Raises:
        ValueError: for a file that breaks off inside a header.
    """
    if data.startswith(PNG_SIGNATURE):
        return _strip_png(data)
    if data.startswith(b"\xff\xd8\xff"):
        return _strip_jpeg(data)
    return data, frozenset()


def _strip_png(data: bytes) -> tuple[bytes, frozenset[str]]:
    kept, removed, start = [PNG_SIGNATURE], set(), len(PNG_SIGNATURE)
    while start < len(data):
        kind, end = data[start + 4 : start + 8], start + 12 + int.from_bytes(data[start : start + 4])
        if end > len(data):
            kept.append(data[start:])  # cut off: the decoder will report it
            break
        if kind in PNG_KEPT:
            kept.append(data[start:end])
        else:
            removed.add(PNG_KINDS.get(kind, "private chunks"))
        start = end
        if kind == b"IEND":
            removed |= {"bytes after the picture"} if start < len(data) else set()
            break
    return b"".join(kept), frozenset(removed)


def _strip_jpeg(data: bytes) -> tuple[bytes, frozenset[str]]:
    kept, removed, start = [data[:2]], set(), 2
    while start < len(data):
        # 1. the next marker; any number of 0xFF may stand before it
        while data[start : start + 2] == b"\xff\xff":
            start += 1
        if data[start] != 0xFF or start + 1 >= len(data):
            raise ValueError(f"no JPEG marker at byte {start}")
        marker = data[start + 1]
        if marker == EOI:
            kept.append(data[start : start + 2])
            removed |= {"bytes after the picture"} if start + 2 < len(data) else set()
            break
        if marker in JPEG_ALONE:
            kept.append(data[start : start + 2])
            start += 2
            continue
        # 2. its segment
        end = start + 2 + int.from_bytes(data[start + 2 : start + 4])
        if end > len(data) or end < start + 4:
            raise ValueError(f"the JPEG segment at byte {start} breaks off")
        body = data[start + 4 : end]
        if marker == SOS:
            end = _end_of_scan(data, end)
        # 3. keep what decoding needs
        if marker == APP0 and body.startswith(b"JFIF\0") and len(body) >= JFIF_HEADER:
            kept.append(b"\xff\xe0\x00\x10" + body[: JFIF_HEADER - 2] + b"\0\0")
            removed |= {"thumbnail"} if len(body) > JFIF_HEADER else set()
        elif marker == APP14 and body.startswith(b"Adobe") and len(body) >= 12:
            kept.append(b"\xff\xee\x00\x0e" + body[:12])
        elif marker == COM or APP0 <= marker < APP0 + 16:
            named = (kind for number, beginning, kind in JPEG_KINDS if number == marker and body.startswith(beginning))
            removed.add(next(named, "application segments"))
        else:
            kept.append(data[start:end])
        start = end
    return b"".join(kept), frozenset(removed)


def _end_of_scan(data: bytes, start: int) -> int:
    """Where the first marker after a scan's coded data begins; 0xFF00 is a coded byte, RST0 to RST7 lie inside."""
    while (start := data.find(b"\xff", start)) >= 0 and start + 1 < len(data):
        if data[start + 1] not in (0x00, 0xFF, *range(0xD0, 0xD8)):
            return start
        start += 1 if data[start + 1] == 0xFF else 2
    return len(data)
