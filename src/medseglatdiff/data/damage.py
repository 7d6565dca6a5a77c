"""Damage that decoders silently ignore, found by what the file formats themselves can check.

PNG and deflated TIFF carry checksums, which Pillow does not verify; TIFF states where its strips lie. JPEG has
neither: libjpeg fills missing data with grey, and Pillow does not pass on its warnings, so the scan is probed here. In
formats without redundancy (BMP, WebP, plain TIFF) changed values cannot be detected.
"""

import io
import zlib

import PIL.Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2, TiffImageFile

from .jpeg_scan import refuse_cut_jpeg
from .limits import unpacked_size, unreadable

DEFLATE = (8, 32946)  # TIFF's compressions with zlib's checksum
OFFSETS, COUNTS = (273, 324), (279, 325)  # of strips and of tiles
WIDTH, LENGTH, COMPRESSION, SAMPLES, ROWS_PER_STRIP, PLANAR = 256, 257, 259, 277, 278, 284
TILE_WIDTH, TILE_LENGTH = 322, 323
SEPARATE = 2  # planes, each of which has strips


def refuse_damage(file, image: PIL.Image.Image, name: str):
    """Checks an opened PNG, TIFF or JPEG file for damage; reads `file` again from its start.

    Raises:
        BadImage: for a PNG or a deflated TIFF whose checksums are wrong, a TIFF with strips that are missing, empty or
            beyond the file's end, and a JPEG that is cut short.
    """
    if image.format == "PNG":
        PIL.Image.open(file).verify()
    elif isinstance(image, TiffImageFile):
        _refuse_bad_strips(file, image, name)
    elif image.format in ("JPEG", "MPO"):
        file.seek(0)
        refuse_cut_jpeg(file.read(), name)


def _refuse_bad_strips(file, image: TiffImageFile, name: str):
    tags = image.tag_v2
    offsets, counts = (next((tags[tag] for tag in kinds if tag in tags), ()) for kinds in (OFFSETS, COUNTS))
    if not counts:
        return  # old writers omit the count of a single strip
    size = file.seek(0, io.SEEK_END)
    if len(offsets) != len(counts) or len(counts) < _strips_needed(tags):
        raise unreadable(name, "some of its strips are missing")
    if not all(counts) or any(offset + count > size for offset, count in zip(offsets, counts, strict=True)):
        raise unreadable(name, "some of its strips are empty or lie beyond its end")
    if tags.get(COMPRESSION) in DEFLATE:
        for offset, count in zip(offsets, counts, strict=True):
            file.seek(offset)
            try:
                unpacked_size(io.BytesIO(file.read(count)), zlib.MAX_WBITS)
            except (EOFError, zlib.error) as error:
                raise unreadable(name, f"one of its strips is damaged: {error}") from error


def _strips_needed(tags: ImageFileDirectory_v2) -> int:
    width, length = tags[WIDTH], tags[LENGTH]
    if TILE_WIDTH in tags:
        planes = -(-width // tags[TILE_WIDTH]) * -(-length // tags[TILE_LENGTH])
    else:
        planes = -(-length // min(tags.get(ROWS_PER_STRIP, length), length))
    return planes * (tags.get(SAMPLES, 1) if tags.get(PLANAR) == SEPARATE else 1)
