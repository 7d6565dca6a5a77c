"""LIDC-IDRI as the archive of 128 x 128 PNG slices: PATIENT/nodule-N/{images,mask-0..3}/slice-K.png."""

import re

from .archives import Source
from .build import Row, split_of
from .picture_files import read_mask, read_picture

IMAGE = re.compile(r"(.*/)?(?P<patient>LIDC-IDRI-\d{4})/nodule-(?P<nodule>\d+)/images/slice-(?P<slice>\d+)\.png")
NUM_MASKS = 4


def slice_jobs(source: Source) -> list[str]:
    """The names of all images of slices, sorted by patient, nodule and slice."""
    matches = [match for name in source.names if (match := IMAGE.fullmatch(name))]
    return [match[0] for match in sorted(matches, key=lambda m: (m["patient"], int(m["nodule"]), int(m["slice"])))]


def slice_rows(source: Source, name: str) -> list[Row]:
    """The row of a slice, with unchanged files; dropped if all four masks are empty."""
    image = read_picture(source, name, modes=("L",))
    size = image.pixels.shape[:2]
    masks = [read_mask(source, name.replace("/images/", f"/mask-{i}/"), size) for i in range(NUM_MASKS)]
    *_, patient, nodule, _, file = name.split("/")
    dropped = "" if any(mask.pixels.any() for mask in masks) else "all four masks are empty"
    return [Row(image, masks, f"{patient}/{nodule}/{file.removesuffix('.png')}", patient, split_of(patient), dropped)]


def slice_strays(source: Source) -> list[str]:
    """PNG files that are neither a slice's image nor one of its masks."""
    images = slice_jobs(source)
    masks = {name.replace("/images/", f"/mask-{i}/") for name in images for i in range(NUM_MASKS)}
    known = masks.union(images)
    return [name for name in source.names if name.endswith(".png") and name not in known]
