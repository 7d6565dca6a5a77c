"""The examples below the upload: our own drawings, and which model each is for."""

from collections.abc import Iterable
from pathlib import Path

import PIL.Image

from ..data.images import load_image
from ..overview import resize_image

FOLDER = Path(__file__).parent
EXAMPLES = sorted(FOLDER.glob("examples/*.*"))
FINISHED = FOLDER / "finished.png"  # an example with its outlines, for a page on which nothing has happened yet
TRAINED_ON = {"nodule": "lidc-idri", "polyp": "cvc-clinicdb", "skin": "isic2018"}  # by the first word of the file
CAPTIONS = {
    "nodule-at-chest-wall.png": "nodule at the chest wall",
    "nodule-faint.png": "faint nodule",
    "nodule-small.png": "small nodule",
    "nodule-solid.png": "solid nodule",
    "nodule.dcm": "nodule, DICOM",
    "polyp-long.png": "long polyp",
    "polyp-small.png": "small polyp",
    "skin-mole-large.png": "large mole",
    "skin-mole.png": "mole",
}


def suited_model(path: Path, names: Iterable[str]) -> str | None:
    """The first of these models that was trained on images like this example, if there is one."""
    dataset = TRAINED_ON[path.stem.split("-")[0]]
    return next((name for name in names if name.endswith(dataset)), None)


def thumbnail(path: Path) -> PIL.Image.Image:
    """An example as a small picture."""
    return PIL.Image.fromarray(resize_image(load_image(path, stretch=True), (160, 160)))
