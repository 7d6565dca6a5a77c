"""Arrays and tensors of any kind -> plain arrays `(H, W, C)` -> float32 in [0, 1]."""

import warnings

import numpy as np
import torch

from .limits import check_size

FEW_BITS = 14  # a 16-bit image that uses at most these appears at less than a quarter of full brightness


def as_plain_array(array: np.ndarray) -> np.ndarray:
    """An array `(H, W)` or `(H, W, C)` of numbers as a plain `np.ndarray` `(H, W, C)` with C of 1 or 3.

    Matrices, memory maps, Fortran order, negative strides and either byte order are fine, and so are masked arrays
    without masked pixels.

    Raises:
        TypeError: for objects, records, text, dates and complex numbers.
        ValueError: for other shapes, masked pixels, an empty array and more than `MAX_PIXELS` pixels.
    """
    if np.ma.is_masked(array):
        raise ValueError("`image` must have no masked pixels: fill them first, for instance by `array.filled(0)`.")
    array = np.asarray(array)  # np.matrix, for one, stays 2-D however it is indexed
    if array.dtype.kind not in "buif":
        raise TypeError(f"`image` must be of type uint8, uint16, float or bool, but was {array.dtype}.")
    if array.ndim == 2:
        array = array[:, :, None]  # [H, W, 1]
    if array.ndim != 3 or array.shape[2] not in (1, 3):
        raise ValueError(f"`image` must have shape (H, W), (H, W, 1) or (H, W, 3), but was {array.shape}.")
    if array.size == 0:
        raise ValueError(f"`image` must have at least one pixel, but was of shape {array.shape}.")
    check_size(*array.shape[:2])
    return array


def from_tensor(tensor: torch.Tensor) -> np.ndarray:
    """A dense tensor `(C, H, W)` as an array `(H, W, C)`; half precision becomes float32.

    Raises:
        TypeError: for sparse, quantized and meta tensors.
        ValueError: for other shapes.
    """
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta:
        raise TypeError("`image` must be a dense tensor of values, but was sparse, quantized or on the meta device.")
    if tensor.ndim != 3 or tensor.shape[0] not in (1, 3):
        raise ValueError(f"`image` must have shape (1, H, W) or (3, H, W) as a tensor, but was {tuple(tensor.shape)}.")
    tensor = tensor.detach().cpu().movedim(0, -1)  # [H, W, C]
    small = tensor.is_floating_point() and tensor.element_size() < 4
    return (tensor.float() if small else tensor.resolve_conj().resolve_neg()).numpy()


def to_unit_range(array: np.ndarray, stretch: bool) -> np.ndarray:
    """A plain array `(H, W, C)` as float32 in [0, 1]; see `load_image`.

    Raises:
        TypeError: for signed integers and those of more than 16 bits, unless they are stretched.
        ValueError: for NaN, infinity, and floats beyond [0, 1].
    """
    kind, bits = array.dtype.kind, 8 * array.dtype.itemsize
    if kind not in "bf" and not (kind == "u" and bits <= 16) and not stretch:
        raise TypeError(f"`image` must be of type uint8, uint16, float or bool, but was {array.dtype}.")
    if kind == "f" and not np.isfinite(array).all():
        raise ValueError("`image` must hold finite values, but holds NaN or infinity.")
    if stretch:
        return _stretched(array)  # [H, W, C]
    if kind == "u":
        most = np.iinfo(array.dtype).max
        if bits == 16 and 0 < array.max() < 2**FEW_BITS:
            warn_of_few_bits(array, most)
        return (array / np.float32(most)).astype(np.float32)  # [H, W, C]
    if array.min() < 0 or array.max() > 1:
        raise ValueError(f"`image` must hold floats in [0, 1], but they range from {array.min()} to {array.max()}.")
    return array.astype(np.float32)


def _stretched(array: np.ndarray) -> np.ndarray:
    """Stretched from minimum to maximum, row by row: a large image in float64 would take gigabytes."""
    # differences of 64-bit integers are exact as unsigned ones, modulo 2**64
    exact = np.uint64 if array.dtype.kind in "ui" and array.dtype.itemsize == 8 else np.float64
    with np.errstate(over="ignore"):
        least = array.min().astype(exact)
        most = float(array.max().astype(exact) - least) or 1
    if not np.isfinite(most):
        raise ValueError("`image` must have a range that a float can hold, but its values lie too far apart.")
    stretched = np.empty(array.shape, np.float32)  # [H, W, C]
    for row, values in zip(stretched, array, strict=True):
        row[:] = (values.astype(exact) - least) / most
    return stretched


def warn_of_few_bits(array: np.ndarray, most: int):
    """Warns that a 16-bit image will be nearly black because it uses 14 bits or fewer."""
    least, largest = int(array.min()), int(array.max())
    warnings.warn(
        f"`image` holds 16-bit values from {least} to {largest}, out of a possible {most}, so it is read as a "
        f"dark image. If white is another value, such as {2 ** largest.bit_length() - 1}, divide the array by it "
        "(floats in [0, 1]), or save the file with its full range.",
        UserWarning,
        stacklevel=2,
    )
