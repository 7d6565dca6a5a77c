"""One-to-many medical image segmentation: one image in; several plausible masks, a confidence map and a consensus out."""

__version__ = "0.1.0"
