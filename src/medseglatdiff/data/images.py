"""Any input (PIL image, path, DICOM, array, tensor) -> model tensor; probabilities -> the input's size."""

import os
from collections.abc import Sequence

import numpy as np
import PIL.Image
import torch
import torch.nn.functional as F

from .arrays import as_plain_array, from_tensor, to_unit_range
from .dicom import is_dicom, read_dicom
from .dicom_files import is_dataset
from .limits import is_file_object
from .pictures import from_pil, read_picture

LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R 601-2, as in Pillow's convert("L")
WAYS_OUT = {  # type -> advice
    "bytes": "wrap them in io.BytesIO",
    "bytearray": "wrap it in io.BytesIO",
    "dict": "open its bytes by io.BytesIO, or decode the column by datasets.Image()",
    "generator": "pass list(images)",
    "Series": "pass list(images)",
    "Dataset": "pass one of its columns",
}


def load_image(image, stretch: bool = False, frame: int | None = None) -> np.ndarray:
    """Reads one image as float32 `(H, W, C)` with C of 1 or 3 and values in [0, 1].

    uint8 is divided by 255, uint16 by 65535, bool becomes 0 and 1, floats must lie in [0, 1]. A uint16 image that uses
    at most 14 bits causes a warning. Palettes, inks and other colour spaces become RGB, ICC profiles are ignored
    (`pictures.MODES`). An alpha channel is dropped where it is opaque everywhere and refused elsewhere. EXIF
    orientation is not applied: the masks belong to the pixels as they are stored. DICOM: see `read_dicom`.

    Args:
        image: a PIL image, a path or an open binary file such as `io.BytesIO` (whatever Pillow reads, or DICOM), a
            `pydicom.Dataset`, an array `(H, W)` or `(H, W, C)`, or a tensor `(C, H, W)`. At most `MAX_PIXELS` pixels.
        stretch (`bool`, *optional*, defaults to `False`): stretch the image from its minimum to its maximum (all
            channels together, a constant image becomes 0), whatever its type and range. DICOM windows are then
            ignored. For checkpoints trained on such images, like the crops of LIDC-IDRI.
        frame (`int`, *optional*): index of the frame or page in a file with several, from 0.

    Raises:
        TypeError, ValueError: for any other input, URLs included, files that cannot be read, NaN, infinite values,
            empty images, and too many pixels.
    """
    if is_dataset(image) or isinstance(image, (str, os.PathLike)) or is_file_object(image):
        array = read_dicom(image, stretch, frame) if is_dicom(image) else read_picture(image, frame)
    elif isinstance(image, PIL.Image.Image):
        array = from_pil(image, frame)
    elif isinstance(image, (torch.Tensor, np.ndarray)):
        if frame is not None:
            raise ValueError(f"`frame` must be None for arrays and tensors, but was {frame}: pass the frame itself.")
        array = from_tensor(image) if isinstance(image, torch.Tensor) else image
    else:
        kind = type(image).__name__
        advice = f": {WAYS_OUT[kind]}" if kind in WAYS_OUT else ""
        kinds = "a PIL image, a path, a binary file, a pydicom dataset, an array or a tensor"
        raise TypeError(f"`image` must be {kinds}, but was {kind}{advice}.")
    return to_unit_range(as_plain_array(array), stretch)


def to_channels(array: np.ndarray, num_channels: int) -> np.ndarray:
    """Grey as RGB, or RGB as luma (0.299 R + 0.587 G + 0.114 B, ITU-R 601-2): `(H, W, C)` -> `(H, W, num_channels)`.

    Raises:
        ValueError: unless `num_channels` is 1 or 3.
    """
    if num_channels not in (1, 3):
        raise ValueError(f"`num_channels` must be 1 or 3, but was {num_channels}.")
    if array.shape[2] == num_channels:
        return array
    return array.repeat(3, axis=2) if num_channels == 3 else array @ LUMA[:, None]


def as_image_list(images) -> list:
    """One image, a list of images or a tensor `(B, C, H, W)` as a list of images.

    Tuples and other sequences count as lists, columns of a `datasets.Dataset` included.

    Raises:
        ValueError: if there are none.
    """
    sequence = isinstance(images, Sequence) and not isinstance(images, (str, bytes, bytearray))
    batch = isinstance(images, torch.Tensor) and images.ndim == 4
    images = list(images) if sequence or batch else [images]
    if not images:
        raise ValueError("`images` must hold at least one image, but was empty.")
    return images


def preprocess(
    images, num_channels: int, sample_size: int, stretch: bool = False
) -> tuple[torch.Tensor, list[tuple[int, int]]]:
    """Images of any sizes as one batch for the model: bilinear with antialiasing, the aspect ratio is not kept.

    Args:
        images: as `as_image_list` and `load_image` take them.
        num_channels (`int`): 1 or 3.
        sample_size (`int`): side of the square to which each image is resized.
        stretch (`bool`, *optional*, defaults to `False`): see `load_image`.

    Returns:
        float32 `(B, num_channels, sample_size, sample_size)` in [-1, 1], and each image's original `(H, W)`.

    Raises:
        TypeError, ValueError: as `load_image` does, with the image's index.
    """
    batch, sizes = [], []
    for index, image in enumerate(as_image_list(images)):
        try:
            array = to_channels(load_image(image, stretch), num_channels)  # [H, W, C]
        except (TypeError, ValueError) as error:
            kind = TypeError if isinstance(error, TypeError) else ValueError
            raise kind(f"`images` must be usable images, but index {index} is not: {error}") from error
        pixels = torch.from_numpy(array).movedim(-1, 0)[None]  # [1, C, H, W]
        batch.append(resize_bilinear(pixels, (sample_size, sample_size)))  # [1, C, S, S]
        sizes.append(array.shape[:2])
    return torch.cat(batch).mul(2).sub(1).clamp(-1, 1), sizes


def resize_bilinear(tensor: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Bilinear with antialiasing: `(B, K, h, w)` -> `(B, K, H, W)`; probabilities that sum to 1 over K still do."""
    return F.interpolate(tensor, size=size, mode="bilinear", antialias=True)
