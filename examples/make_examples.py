"""Makes the example images: simulated nodules in the chest CT patch that pydicom ships, drawn polyps and moles.

    python examples/make_examples.py [FOLDER]

No patient's lesion is shown: all are computed by `medseglatdiff.phantom`, and so is most of the anatomy, by reflection
of the patch CT_small.dcm (pydicom, MIT licence). Every run writes the same bytes.
"""

import sys
from pathlib import Path

import numpy as np
import PIL.Image
import pydicom
from pydicom.data import get_testdata_file

from medseglatdiff.data.phantom import chest_phantom_rows, photo_phantom_rows

NODULES = {"nodule-small": 3, "nodule-at-chest-wall": 9, "nodule-solid": 23, "nodule-faint": 30}  # rows of seed 0
NODULE_IN_DICOM = 22
PHOTOS = {"polyp": {"long": 3, "small": 4}, "skin": {"mole": 1, "mole-large": 4}}  # rows of seed 3


def main(folder: Path):
    """Writes the examples into `folder`."""
    rows = list(chest_phantom_rows(1 + max(NODULE_IN_DICOM, *NODULES.values())))
    for name, index in NODULES.items():
        rows[index]["image"].save(folder / f"{name}.png", optimize=True)
    for kind, names in PHOTOS.items():
        rows_of_kind = list(photo_phantom_rows(1 + max(names.values()), kind, seed=3))
        for name, index in names.items():
            rows_of_kind[index]["image"].save(folder / f"{kind}-{name}.png", optimize=True)
    write_dicom(folder / "nodule.dcm", rows[NODULE_IN_DICOM]["image"])


def write_dicom(path: Path, image: PIL.Image.Image):
    """The image as -900 to 1100 Hounsfield units under CT_small.dcm's own header, which tells the pixel spacing."""
    dataset = pydicom.dcmread(get_testdata_file("CT_small.dcm", download=False))
    hounsfield = np.asarray(image) / 255 * 2000 - 900  # [H, W]
    dataset.PixelData = (hounsfield - dataset.RescaleIntercept).round().astype("<i2").tobytes()
    dataset.PatientName = "Simulated^Nodule"
    dataset.ImageComments = "Simulated nodule in a patch of pydicom's CT_small.dcm, for software tests only"
    dataset.save_as(path)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
