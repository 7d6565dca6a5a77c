"""Volumes that cannot be used: each is refused by a sentence that names the file and says what to do."""

import numpy as np
import pydicom
import pytest
import SimpleITK
from series_fixtures import Chest, draw_chest, positions, write_itk, write_multiframe, write_series

from medseglatdiff.data.volumes import read_volume

SMALL = draw_chest((5, 48, 40), (0.8, 1.2, 2.5), diameter=8, vessels=3)  # pixels that are not square
ONE = Chest(SMALL.values[2:3], SMALL.nodule[2:3], (*SMALL.centre[:2], 0), SMALL.spacing)


def _set(**values):
    def edit(dataset, z):
        if z == 2:
            for keyword, value in values.items():
                setattr(dataset, keyword, value)

    return edit


def _without(keyword):
    def edit(dataset, z):
        delattr(dataset, keyword)

    return edit


def _tilted(dataset, z):
    x, y, place = dataset.ImagePositionPatient
    dataset.ImagePositionPatient = [x, float(y) + 0.5 * z, place]


def _shifted(dataset, z):
    dataset.ImagePositionPatient = positions(5, 2.5)[1 if z == 2 else z].tolist()


WRONG_SERIES = {
    "missing slice": (lambda d, z: setattr(d, "Rows", d.Rows), "5 mm: slices are missing"),
    "two series": (_set(SeriesInstanceUID="1.2.3"), r"one DICOM series, but holds .*1\.2\.3.*folder of its own"),
    "duplicate": (_shifted, "leave out duplicates"),
    "gantry tilt": (_tilted, "tilted gantry: resample"),
    "other orientation": (_set(ImageOrientationPatient=[1, 0, 0, 0, 0, 1]), "agree in orientation"),
    "other spacing": (_set(PixelSpacing=[1.2, 0.9]), "agree in spacing"),
    "no position": (_without("ImagePositionPatient"), "`ImagePositionPatient` of .* is missing"),
    "no orientation": (_without("ImageOrientationPatient"), "`ImageOrientationPatient` of .* is missing"),
    "no spacing": (_without("PixelSpacing"), "`PixelSpacing` of .* is missing"),
    "orientation of 5": (_set(ImageOrientationPatient=[1, 0, 0, 0, 1]), "must be 6 finite numbers"),
    "skewed axes": (
        lambda d, z: setattr(d, "ImageOrientationPatient", [1, 0, 0, 0.6, 0.8, 0]),
        "axes of .* must be at right angles",
    ),
    "spacing of 0": (lambda d, z: setattr(d, "PixelSpacing", [0, 0]), "spacing of .* must be positive"),
    "colour": (lambda d, z: setattr(d, "PhotometricInterpretation", "RGB"), "must be grey"),
}


@pytest.mark.parametrize("case", WRONG_SERIES)
def test_series_that_cannot_be_used(case, tmp_path):
    edit, message = WRONG_SERIES[case]
    folder = write_series(tmp_path / "series", SMALL, edit=edit)
    if case == "missing slice":
        (folder / "slice-003.dcm").unlink()
    with pytest.raises(ValueError, match=message) as caught:
        read_volume(folder)
    assert str(folder) in str(caught.value)


def test_slices_of_another_size(tmp_path):
    folder = write_series(tmp_path / "series", SMALL)
    uid = read_volume(folder).uid
    write_series(tmp_path / "other", Chest(SMALL.values[:, :24], None, None, SMALL.spacing), uid=uid)
    next((tmp_path / "other").glob("*005.dcm")).rename(folder / "slice-005.dcm")
    with pytest.raises(ValueError, match="agree in size"):
        read_volume(folder)


@pytest.mark.parametrize("damage", ("cut", "value"))
def test_damage_names_the_file(damage, tmp_path):
    folder = write_series(tmp_path / "series", SMALL)
    file = folder / "slice-003.dcm"
    data = file.read_bytes()
    if damage == "cut":
        file.write_bytes(data[:-500])
        volume = read_volume(folder)  # the header is whole
        with pytest.raises(ValueError, match="series"):
            volume.slice(2)
    else:
        file.write_bytes(data.replace(b"DS", b"FD"))
        with pytest.raises(ValueError, match="series"):
            read_volume(folder)


def test_a_single_slice_without_thickness(tmp_path):
    folder = write_series(tmp_path / "series", ONE, edit=_without("SliceThickness"))
    with pytest.raises(ValueError, match="`SliceThickness` of .*series must be given"):
        read_volume(folder)


def test_frames_of_a_film_are_no_volume(tmp_path):
    path = write_multiframe(tmp_path / "film.dcm", SMALL)
    dataset = pydicom.dcmread(path)
    del dataset.PerFrameFunctionalGroupsSequence
    dataset.save_as(path)
    with pytest.raises(ValueError, match=r"film\.dcm .* frames of a film are no volume"):
        read_volume(path)


def _itk(array: np.ndarray, path, vector: bool = False):
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(array, isVector=vector), path)
    return path


def _nifti_bytes(path, edits: dict[int, bytes], length: int | None = None):
    write_itk(path, SMALL)
    data = bytearray(path.read_bytes())
    for offset, value in edits.items():
        data[offset : offset + len(value)] = value
    path.write_bytes(bytes(data[:length]))
    return path


def _header_without(path, *words: str):
    """A text header without the lines that hold these words; the voxels stay."""
    write_itk(path, SMALL)
    head, separator, voxels = path.read_bytes().partition(b"\n\n" if path.suffix == ".nrrd" else b"ElementDataFile")
    lines = [line for line in head.split(b"\n") if not any(word.encode() in line for word in words)]
    path.write_bytes(b"\n".join(lines) + (b"" if path.suffix == ".nrrd" else b"\n") + separator + voxels)
    return path


def _text(path):
    path.write_text("no volume")
    return path


WRONG_FILES = {
    "4 dimensions": (lambda f: _itk(np.zeros((2, 3, 4, 5), np.int16), f / "a.nii"), "4th dimension, such as time"),
    "2 dimensions": (lambda f: _itk(np.zeros((4, 5), np.int16), f / "a.mha"), "single plane"),
    "colour": (lambda f: _itk(np.zeros((3, 4, 5, 3), np.uint8), f / "a.nrrd", True), "must be grey"),
    "NIfTI without forms": (lambda f: _nifti_bytes(f / "a.nii", {252: bytes(4)}), "neither qform nor sform"),
    "NIfTI without spacing": (lambda f: _nifti_bytes(f / "a.nii", {80: bytes(12)}), "must say its spacing in mm"),
    "NIfTI of infinite spacing": (lambda f: _nifti_bytes(f / "a.nii", {84: b"\0\0\x80\x7f"}), "must say its spacing"),
    "NIfTI that contradicts itself": (
        lambda f: _nifti_bytes(f / "a.nii", {84: b"\0\0\x80\x40"}),
        "0.8 x 4 x 2.5 mm and",
    ),
    "NIfTI cut short": (lambda f: _nifti_bytes(f / "a.nii", {}, 200), "can be read"),
    "NRRD without spacing": (
        lambda f: _header_without(f / "a.nrrd", "space directions", "space:", "space origin", "kinds"),
        "must say its spacing in mm",
    ),
    "MetaImage without spacing": (
        lambda f: _header_without(f / "a.mha", "ElementSpacing"),
        "must say its spacing in mm",
    ),
    "no volume": (lambda f: _text(f / "a.nrrd"), "can be read"),
    "missing": (lambda f: f / "a.nii.gz", "can be read"),
}


@pytest.mark.parametrize("case", WRONG_FILES)
def test_files_that_cannot_be_used(case, tmp_path):
    make, message = WRONG_FILES[case]
    path = make(tmp_path)
    with pytest.raises(ValueError, match=message) as caught:
        read_volume(path)
    assert str(path) in str(caught.value)


def test_voxels_that_are_not_finite(tmp_path):
    values = SMALL.values.astype(np.float32)
    values[2, 3, 4] = np.nan
    volume = read_volume(write_itk(tmp_path / "a.mha", SMALL._replace(values=values)))
    with pytest.raises(ValueError, match=r"Slice 2 of .*a\.mha must hold finite values"):
        volume.slice(2)
