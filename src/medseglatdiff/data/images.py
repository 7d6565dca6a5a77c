"""Any input (PIL image, path, DICOM, array, tensor) -> model tensor; probabilities -> the input's own size."""

import os
from pathlib import Path

import numpy as np
import PIL.Image
import torch
import torch.nn.functional as F

from .dicom import MAX_PIXELS, is_dicom, read_dicom

LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R 601-2, as in Pillow's convert("L")
PIL_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "I", "I;16", "I;16L", "I;16B", "F")


def load_image(image, stretch: bool = False) -> np.ndarray:
    """Reads one image as float32 `(H, W, C)` with C of 1 or 3 and values in [0, 1].

    uint8 is divided by 255, uint16 by 65535, bool becomes 0 and 1, floats must lie in [0, 1]. Palettes become RGB. An
    alpha channel is dropped where it is opaque everywhere and refused elsewhere. EXIF orientation is not applied: the
    masks belong to the pixels as they are stored. DICOM: see `read_dicom`.

    Args:
        image: a PIL image, a path (whatever Pillow reads, or DICOM), an array `(H, W)` or `(H, W, C)`, or a tensor
            `(C, H, W)`.
        stretch (`bool`, *optional*, defaults to `False`): stretch the image from its least to its greatest value (all
            channels together, a constant image becomes 0), whatever its type and range. DICOM windows are then
            ignored. For checkpoints trained on such images, as LIDC-IDRI's crops are.

    Raises:
        TypeError, ValueError: for anything else, files that cannot be read, NaN, infinite values and empty images.
    """
    if isinstance(image, (str, os.PathLike)):
        array = read_dicom(image, stretch) if is_dicom(image) else _read_file(Path(image))
    elif isinstance(image, PIL.Image.Image):
        array = _from_pil(image)
    elif isinstance(image, torch.Tensor):
        array = _from_tensor(image)
    elif isinstance(image, np.ndarray):
        array = image
    else:
        raise TypeError(f"`image` must be a PIL image, a path, an array or a tensor, but was {type(image).__name__}.")
    if array.ndim == 2:
        array = array[:, :, None]  # [H, W, 1]
    if array.ndim != 3 or array.shape[2] not in (1, 3):
        raise ValueError(f"`image` must have shape (H, W), (H, W, 1) or (H, W, 3), but was {array.shape}.")
    if array.size == 0:
        raise ValueError(f"`image` must have at least one pixel, but was of shape {array.shape}.")
    return _to_unit_range(array, stretch)


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

    Raises:
        ValueError: if there are none.
    """
    if isinstance(images, (list, tuple)) or (isinstance(images, torch.Tensor) and images.ndim == 4):
        images = list(images)
    else:
        images = [images]
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
        float32 `(B, num_channels, sample_size, sample_size)` in [-1, 1], and each image's own `(H, W)`.

    Raises:
        TypeError, ValueError: as `load_image` does, with the image's index.
    """
    batch, sizes = [], []
    for index, image in enumerate(as_image_list(images)):
        try:
            array = to_channels(load_image(image, stretch), num_channels)  # [H, W, C]
        except (TypeError, ValueError) as error:
            kind = TypeError if isinstance(error, TypeError) else ValueError
            raise kind(f"`images` must hold usable images, but index {index} is not: {error}") from error
        pixels = torch.from_numpy(array).movedim(-1, 0)[None]  # [1, C, H, W]
        batch.append(resize_bilinear(pixels, (sample_size, sample_size)))  # [1, C, S, S]
        sizes.append(array.shape[:2])
    return torch.cat(batch).mul(2).sub(1).clamp(-1, 1), sizes


def resize_bilinear(tensor: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Bilinear with antialiasing: `(B, K, h, w)` -> `(B, K, H, W)`; probabilities that sum to 1 over K still do."""
    return F.interpolate(tensor, size=size, mode="bilinear", antialias=True)


def _to_unit_range(array: np.ndarray, stretch: bool) -> np.ndarray:
    kind, bits = array.dtype.kind, 8 * array.dtype.itemsize
    if kind not in "bf" and not (kind == "u" and bits <= 16) and not (kind in "ui" and stretch):
        raise TypeError(f"`image` must be of type uint8, uint16, float or bool, but was {array.dtype}.")
    if not np.isfinite(array).all():
        raise ValueError("`image` must hold finite values, but holds NaN or infinity.")
    if stretch:
        array = array.astype(np.float64) - float(array.min())
        return (array / (array.max() or 1)).astype(np.float32)  # [H, W, C]
    if kind == "u":
        return (array / np.float32(np.iinfo(array.dtype).max)).astype(np.float32)  # [H, W, C]
    if array.min() < 0 or array.max() > 1:
        raise ValueError(f"`image` must hold floats in [0, 1], but they range from {array.min()} to {array.max()}.")
    return array.astype(np.float32)


def _from_tensor(tensor: torch.Tensor) -> np.ndarray:
    if tensor.ndim != 3 or tensor.shape[0] not in (1, 3):
        raise ValueError(f"`image` must have shape (1, H, W) or (3, H, W) as a tensor, but was {tuple(tensor.shape)}.")
    tensor = tensor.detach().cpu().movedim(0, -1)  # [H, W, C]
    return (tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor).numpy()


def _from_pil(image: PIL.Image.Image) -> np.ndarray:
    if image.mode not in PIL_MODES:
        raise ValueError(f"`image` must be grey or RGB, but was of mode {image.mode}.")
    if getattr(image, "n_frames", 1) != 1:
        raise ValueError(f"`image` must hold a single frame, but holds {image.n_frames}.")
    if image.width * image.height > MAX_PIXELS:
        raise ValueError(f"`image` must have at most {MAX_PIXELS} pixels, but was {image.width} x {image.height}.")
    if image.has_transparency_data:
        alpha = image.convert("RGBA").getchannel("A")
        if alpha.getextrema()[0] < 255:
            raise ValueError("`image` must be opaque, but has transparent pixels: flatten it onto a background first.")
        image = image.convert("L" if image.mode in ("1", "L", "LA") else "RGB")
    if image.mode == "P":
        image = image.convert("RGB")
    array = np.asarray(image)
    return array.astype(np.uint16) if image.mode.startswith("I;16") else array


def _read_file(path: Path) -> np.ndarray:
    try:
        image = PIL.Image.open(path)
        getattr(image, "n_frames", 1)  # reads the headers of all frames, which may be damaged too
        image.load()
    except (OSError, SyntaxError, TypeError, ValueError, PIL.Image.DecompressionBombError) as error:
        raise ValueError(f"`image` must be a file that can be read, but {path} cannot: {error}.") from error
    with image:
        return _from_pil(image)
