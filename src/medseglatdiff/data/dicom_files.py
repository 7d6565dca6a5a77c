"""DICOM files: how they are recognised and opened within limits, and which of them are not images."""

import os
import zlib
from pathlib import Path

from .limits import BadImage, is_file_object, name_of, open_regular, unpacked_size, unreadable

STORAGE = "1.2.840.10008.5.1.4.1.1."
NO_PICTURES = (  # storage classes (PS3.4 B.5) whose objects are not images, although some hold pixel data
    *("4.2", "9", "11", "30", "66", "67", "68", "79", "81", "88", "90", "91", "104", "200", "201"),
    *("481.2", "481.3", "481.4", "481.5", "481.6", "481.7", "481.8", "481.9"),
)


def is_dicom(source) -> bool:
    """Whether a path, a file object or a pydicom dataset is DICOM.

    By the suffixes .dcm and .dicom, by the mark "DICM" after the preamble of 128 bytes, or, as older files lack both,
    by the first element of a file without preamble.
    """
    if is_dataset(source):
        return True
    if is_file_object(source):
        position = source.tell()
        source.seek(0)
        head = source.read(132)
        source.seek(position)
    elif isinstance(source, (str, os.PathLike)):
        if Path(source).suffix.lower() in (".dcm", ".dicom"):
            return True
        if not os.path.isfile(source):
            return False
        with Path(source).open("rb") as file:
            head = file.read(132)
    else:
        return False
    return isinstance(head, bytes) and (head[128:] == b"DICM" or _starts_with_element(head))


def is_dataset(source) -> bool:
    """Whether this is a `pydicom.Dataset`, without importing pydicom."""
    return any(kind.__module__ == "pydicom.dataset" for kind in type(source).__mro__)


def _starts_with_element(head: bytes) -> bool:
    """Whether bytes begin with a group length, a file meta or an identifying element (groups 0002 and 0008)."""
    group, vr, length = head[:2], head[4:6], head[4:8]
    if len(head) < 8 or group not in (b"\x02\x00", b"\x08\x00", b"\x00\x08"):
        return False
    explicit = vr.isalpha() and vr.isupper()  # big endian always is
    return explicit or (group[1] == head[3] == 0 and int.from_bytes(length, "little") <= 64)


def read_dataset(source, stop_before_pixels: bool = False):
    """The `pydicom.Dataset` of a path or a file object; a dataset is returned as it is.

    pydicom decodes a value on first use, so damage may show later, as almost any exception.

    Raises:
        ImportError: without pydicom.
        BadImage: if the file is missing, not DICOM, damaged, nested too deeply, or unpacks to more than
            `MAX_UNPACKED_BYTES`.
    """
    try:
        import pydicom
    except ImportError as error:
        raise ImportError('Reading DICOM needs `pip install "medseglatdiff[dicom]"`.') from error
    if is_dataset(source):
        return source
    name = name_of(source)
    try:
        with open_regular(source) as file:
            head = file.read(132)
            bare = head[128:] != b"DICM"
            if bare and not _starts_with_element(head):
                raise unreadable(name, "it does not begin like a DICOM file")
            _refuse_bombs(file)
            dataset = pydicom.dcmread(file, stop_before_pixels=stop_before_pixels, force=bare)
            if "TransferSyntaxUID" not in dataset.file_meta:
                dataset.file_meta.TransferSyntaxUID = _guessed_syntax(dataset)
            return dataset
    except BadImage:
        raise
    except RecursionError as error:
        raise unreadable(name, "its sequences are nested too deeply") from error
    except Exception as error:  # damaged bytes make pydicom raise almost any exception
        raise unreadable(name, error) from error


def _guessed_syntax(dataset):
    """The syntax by which pydicom read a file without file meta; such files hold no compressed pixels."""
    from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

    implicit, little = dataset.original_encoding
    return ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian if little else ExplicitVRBigEndian


def _refuse_bombs(file):
    """Counts the unpacked bytes of a deflated file: pydicom unpacks it whole before a size can be checked."""
    from pydicom.filereader import read_dataset as read_elements
    from pydicom.filereader import read_preamble
    from pydicom.uid import DeflatedExplicitVRLittleEndian

    file.seek(0)
    read_preamble(file, force=True)
    meta = read_elements(file, False, True, stop_when=lambda tag, vr, length: tag >> 16 != 2)
    if meta.get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:
        unpacked_size(file, -zlib.MAX_WBITS)
    file.seek(0)


def refuse_other_objects(dataset, name: str):
    """Raises a `BadImage` for storage classes that are not images, and for files without pixels."""
    refuse_other_classes(dataset, name)
    if "PixelData" not in dataset:
        raise BadImage(f"`image` must be a DICOM file with pixel data, but {name} has none.")


def refuse_other_classes(dataset, name: str):
    """Raises a `BadImage` that names the class of what is no image: a dose, a segmentation, a report, ..."""
    meta = getattr(dataset, "file_meta", None) or {}
    uid = str(dataset.get("SOPClassUID") or meta.get("MediaStorageSOPClassUID") or "")
    if uid.startswith(tuple(f"{STORAGE}{kind}." for kind in NO_PICTURES)) or uid in {STORAGE + k for k in NO_PICTURES}:
        from pydicom.uid import UID

        raise BadImage(f"`image` must be a DICOM image, but {name} is of the class {UID(uid).name}.")
