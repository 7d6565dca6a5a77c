"""From files to tensors: images, DICOM, data sets by the column contract, augmentation, phantoms."""

from .splits import load_split, open_split

__all__ = ["load_split", "open_split"]
