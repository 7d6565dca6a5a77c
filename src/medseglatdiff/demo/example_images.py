"""The examples below the upload: our own drawings, and which model each is for."""

from collections.abc import Iterable
from pathlib import Path

import PIL.Image

from ..data.images import load_image
from ..overview import resize_image

EXAMPLES = sorted(Path(__file__).parent.glob("examples/*.*"))
TRAINED_ON = {"nodule": "lidc-idri", "polyp": "cvc-clinicdb", "skin": "isic2018"}  # by the first word of the file


def suited_model(path: Path, names: Iterable[str]) -> str | None:
    """The first of these models that was trained on images like this example, if there is one."""
    dataset = TRAINED_ON[path.stem.split("-")[0]]
    return next((name for name in names if name.endswith(dataset)), None)


def example_name(path: Path) -> str:
    """What the example shows."""
    return "nodule, DICOM" if path.suffix == ".dcm" else path.stem.replace("-", " ")


def thumbnail(path: Path) -> PIL.Image.Image:
    """An example as a small picture."""
    return PIL.Image.fromarray(resize_image(load_image(path, stretch=True), (160, 160)))
