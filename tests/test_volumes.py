"""Volumes of every kind: the same voxels in the same place, or a sentence that names the file and says what to do."""

import numpy as np
import pydicom
import pytest
import SimpleITK
from pydicom.uid import generate_uid
from series_fixtures import (
    AXIAL,
    OBLIQUE,
    UPSIDE_DOWN,
    Chest,
    draw_chest,
    positions,
    write_itk,
    write_multiframe,
    write_series,
)

from medseglatdiff.data.volumes import is_volume, read_volume

SMALL = draw_chest((5, 48, 40), (0.8, 1.2, 2.5), diameter=8, vessels=3)  # pixels that are not square
ONE = Chest(SMALL.values[2:3], SMALL.nodule[2:3], (*SMALL.centre[:2], 0), SMALL.spacing)


def written(kind: str, folder, chest=SMALL, orientation=AXIAL):
    if kind == "multiframe":
        return write_multiframe(folder / "enhanced.dcm", chest, orientation, list(range(len(chest.values)))[::-1])
    if kind in ("series", "reversed"):
        return write_series(folder / "series", chest, orientation, reverse=kind == "reversed")
    return write_itk(folder / f"scan{kind}", chest, orientation)


KINDS = ("series", "reversed", "multiframe", ".nii.gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd")


@pytest.mark.parametrize("orientation", (AXIAL, OBLIQUE, UPSIDE_DOWN), ids=("axial", "oblique", "upside down"))
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_gives_the_same_voxels_in_the_same_place(kind, orientation, tmp_path):
    path = written(kind, tmp_path, orientation=orientation)
    assert is_volume(path)
    volume = read_volume(path)
    assert volume.shape == SMALL.values.shape and volume.pixel_spacing == pytest.approx((1.2, 0.8))
    for z, values in enumerate(SMALL.values):
        found = volume.slice(z)
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, values.clip(-1024) if "." not in kind else values)
    # by hand: the first voxel's place, and steps along rows, columns and the normal
    row, column = np.array(orientation)
    corner = positions(5, 2.5, orientation)[0]
    expected = corner + 7 * 0.8 * row + 11 * 1.2 * column + 3 * 2.5 * np.cross(row, column)
    np.testing.assert_allclose(volume.point_of((7, 11, 3)), expected, atol=1e-3)
    np.testing.assert_allclose(volume.index_of(expected), (7, 11, 3), atol=1e-3)


@pytest.mark.parametrize("kind", ("series", "multiframe", ".nii.gz", ".mha"))
def test_a_single_slice_is_a_volume(kind, tmp_path):
    volume = read_volume(written(kind, tmp_path, ONE))
    assert volume.shape == (1, 48, 40) and volume.spacing[2] == 2.5
    np.testing.assert_array_equal(volume.slice(0), ONE.values[0].clip(-1024) if "." not in kind else ONE.values[0])


def test_series_agrees_with_simpleitk(tmp_path):
    """An independent reader of the same files sorts them alike and puts a voxel in the same place."""
    folder = write_series(tmp_path / "series", SMALL, OBLIQUE, reverse=True)
    names = SimpleITK.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder))
    image = SimpleITK.ReadImage(names)
    volume = read_volume(folder)
    np.testing.assert_allclose(image.TransformIndexToPhysicalPoint((7, 11, 3)), volume.point_of((7, 11, 3)), atol=1e-3)
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(image)[3], volume.slice(3))


def test_only_the_slice_that_is_asked_for_is_decoded(tmp_path):
    folder = write_series(tmp_path / "series", SMALL)
    volume = read_volume(folder)
    for file in sorted(folder.iterdir())[1:]:
        file.unlink()
    assert volume.slice(0).shape == (48, 40)


def test_values_are_shown_by_the_window_or_the_range(tmp_path):
    series, nifti = (read_volume(written(kind, tmp_path)) for kind in ("series", ".nii"))
    # centre -600, width 1500: 0 at -1349.5 and 1 at 149.5 (PS3.3 C.11.2.1.2.1)
    np.testing.assert_allclose(
        series.shown(np.array([-2000, -1349.5, -600, 149.5, 3000]), 0), [0, 0, 0.5, 1, 1], atol=1e-3
    )
    least, most = SMALL.values[2].min(), SMALL.values[2].max()
    np.testing.assert_allclose(nifti.shown(np.array([least, (least + most) / 2, most, 4000]), 2), [0, 0.5, 1, 1])


def test_padding_and_inverted_values(tmp_path):
    def edit(dataset, z):
        dataset.PixelPaddingValue, dataset.PhotometricInterpretation = 0, "MONOCHROME1"
        pixels = np.frombuffer(dataset.PixelData, "<u2").reshape(48, 40).copy()
        pixels[:2] = 0
        dataset.PixelData = pixels.tobytes()

    volume = read_volume(write_series(tmp_path / "series", SMALL, edit=edit))
    inside = SMALL.values[1, 2:].clip(-1024)
    padded = inside == -1024
    values = volume.slice(1)
    np.testing.assert_array_equal(values[2:][~padded], -inside[~padded])  # more is brighter
    assert (values[:2] == -inside[~padded].max()).all()
    shown = volume.shown(values, 1)
    assert shown[:2].max() == shown.min()  # padding is the darkest


def test_what_is_no_volume(tmp_path):
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "note.txt").write_text("none")
    single = write_series(tmp_path / "one", ONE)

    def radiograph(dataset, z):
        del dataset.ImagePositionPatient, dataset.ImageOrientationPatient
        dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.1.1"

    pictures = write_series(tmp_path / "radiographs", SMALL, edit=radiograph)
    for path in (tmp_path / "text", next(single.iterdir()), pictures, tmp_path / "text" / "note.txt", tmp_path / "no"):
        assert not is_volume(path), path


def test_enhanced_files_of_one_frame_are_a_series(tmp_path):
    (tmp_path / "series").mkdir()
    for z in range(5):
        write_multiframe(tmp_path / f"{z}.dcm", SMALL, OBLIQUE)
        dataset = pydicom.dcmread(tmp_path / f"{z}.dcm")
        dataset.NumberOfFrames, dataset.SeriesInstanceUID, dataset.SOPInstanceUID = 1, "1.2.3", generate_uid()
        dataset.PerFrameFunctionalGroupsSequence = dataset.PerFrameFunctionalGroupsSequence[z : z + 1]
        dataset.PixelData = dataset.PixelData[z * 48 * 40 * 2 : (z + 1) * 48 * 40 * 2]
        dataset.save_as(tmp_path / "series" / f"{4 - z}.dcm")
    volume = read_volume(tmp_path / "series")
    assert volume.shape == (5, 48, 40) and volume.uid == "1.2.3"
    np.testing.assert_array_equal(volume.slice(3), SMALL.values[3].clip(-1024))
    np.testing.assert_allclose(volume.origin, positions(5, 2.5, OBLIQUE)[0], atol=1e-3)


def test_uid_is_the_series_or_the_name(tmp_path):
    uid = generate_uid()
    assert read_volume(write_series(tmp_path / "series", SMALL, uid=uid)).uid == uid
    assert read_volume(write_itk(tmp_path / "1.3.6.1.mhd", SMALL)).uid == "1.3.6.1"
    assert read_volume(write_itk(tmp_path / "a.b.nii.gz", SMALL)).uid == "a.b"
