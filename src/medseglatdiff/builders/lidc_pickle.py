"""LIDC-IDRI as the pickle of 15,096 crops that most papers use, read without running any code in it."""

import io
import pickle

import numpy as np

from .archives import Source
from .build import Row, split_of
from .picture_files import BadFile, picture

ALLOWED = {
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    *((f"numpy.{core}.multiarray", name) for core in ("core", "_core") for name in ("_reconstruct", "scalar")),
    *((f"numpy.{core}.numeric", "_frombuffer") for core in ("core", "_core")),
    ("_codecs", "encode"),  # how protocol 2 writes bytes
    ("collections", "OrderedDict"),
}


class ArrayUnpickler(pickle.Unpickler):
    """Reads NumPy arrays and plain containers; refuses every other class or function."""

    def find_class(self, module: str, name: str):
        """The class or function of that name, if it is in `ALLOWED`."""
        if (module, name) not in ALLOWED:
            raise pickle.UnpicklingError(f"refused: it asks for {module}.{name}, but only arrays may be unpickled")
        return super().find_class(module, name)


def pickle_jobs(source: Source) -> list[tuple[str, dict]]:
    """`(name, entry)` of each crop in the one pickle of the source, by name.

    Raises:
        ValueError: for a pickle that holds more than arrays and plain containers, is damaged, or is not a dict.
    """
    name = next(name for name in source.names if name.endswith((".pickle", ".pkl")))
    try:
        entries = ArrayUnpickler(io.BytesIO(source.read(name)), encoding="latin1").load()
    except Exception as error:  # damaged or hostile bytes raise almost any exception
        raise ValueError(f"{name} cannot be read as data_lidc.pickle: {error}") from error
    if not isinstance(entries, dict):
        raise ValueError(f"{name} must hold a dict of crops, but holds a {type(entries).__name__}.")
    return sorted((str(key), entry) for key, entry in entries.items())


def pickle_rows(job: tuple[str, dict]) -> list[Row]:
    """The one row of a crop, its series as the group; the image's floats in [0, 1] become 8 bits."""
    name, entry = job
    if not isinstance(entry, dict) or not {"image", "masks", "series_uid"} <= set(entry):
        raise BadFile(name, "an entry must have `image`, `masks` and `series_uid`")
    image, masks = np.asarray(entry["image"]), [np.asarray(mask) for mask in entry["masks"]]  # [H, W]
    kinds = {array.dtype.kind for array in (image, *masks)}
    if image.ndim != 2 or not image.size or not kinds <= set("buif") or {m.shape for m in masks} != {image.shape}:
        raise BadFile(name, f"an image of shape {image.shape} with masks of {[mask.shape for mask in masks]}")
    if image.dtype != np.uint8:
        if not (image.min() >= 0 and image.max() <= 1):  # also refuses NaN
            raise BadFile(name, f"an image must be uint8 or in [0, 1], but is in [{image.min()}, {image.max()}]")
        image = (image * 255).round().astype(np.uint8)
    group = str(entry["series_uid"])
    return [Row(picture(image), [picture(mask > 0) for mask in masks], name, group, split_of(group))]
