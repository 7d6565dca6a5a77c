"""Damage that decoders pass over in silence: what the formats themselves tell of a file that is no longer whole.

PNG and deflated TIFF carry checksums, which Pillow leaves unread; TIFF says where its strips lie. JPEG has nothing of
the kind: libjpeg fills what is missing with grey, and Pillow passes on no warnings of it, so the scan is probed here.
Formats without redundancy (BMP, WebP, plain TIFF) cannot be checked for changed values by anyone.
"""

import io
import zlib

import PIL.Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2, TiffImageFile

from .jpeg_scan import refuse_cut_jpeg
from .limits import unpacked_size, unreadable

DEFLATE = (8, 32946)  # TIFF's compressions with zlib's checksum
OFFSETS, COUNTS = (273, 324), (279, 325)  # of strips and of tiles
COMPRESSION, LENGTH, ROWS_PER_STRIP, WIDTH, TILE_WIDTH, TILE_LENGTH, PLANAR, SAMPLES = (
    259,
    257,
    278,
    256,
    322,
    323,
    284,
    277,
)
SEPARATE = 2  # planes, each of which has strips


def refuse_damage(file, image: PIL.Image.Image, name: str):
    """Checks an opened file of a format that can tell; reads `file` anew.

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
        return  # old writers leave the counts of their only strip away
    size = file.seek(0, io.SEEK_END)
    if len(offsets) != len(counts) or len(counts) < _strips_needed(tags):
        raise unreadable(name, "strips of it are missing")
    if not all(counts) or any(offset + count > size for offset, count in zip(offsets, counts, strict=True)):
        raise unreadable(name, "strips of it are empty or lie beyond its end")
    if tags.get(COMPRESSION) in DEFLATE:
        for offset, count in zip(offsets, counts, strict=True):
            file.seek(offset)
            try:
                unpacked_size(io.BytesIO(file.read(count)), zlib.MAX_WBITS)
            except (EOFError, zlib.error) as error:
                raise unreadable(name, f"a strip of it is damaged: {error}") from error


def _strips_needed(tags: ImageFileDirectory_v2) -> int:
    width, length = tags[WIDTH], tags[LENGTH]
    if TILE_WIDTH in tags:
        planes = -(-width // tags[TILE_WIDTH]) * -(-length // tags[TILE_LENGTH])
    else:
        planes = -(-length // min(tags.get(ROWS_PER_STRIP, length), length))
    return planes * (tags.get(SAMPLES, 1) if tags.get(PLANAR) == SEPARATE else 1)
