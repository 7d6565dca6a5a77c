"""Findings in the geometry of their source: NIfTI and SEG read back by SimpleITK and highdicom, and their picture."""

import sys
import time
from unittest.mock import Mock

import highdicom
import numpy as np
import pydicom
import pytest
import SimpleITK
from series_fixtures import (
    AXIAL,
    OBLIQUE,
    UPSIDE_DOWN,
    Chest,
    draw_chest,
    finding_in,
    write_itk,
    write_multiframe,
    write_series,
)

from medseglatdiff.data.volumes import read_volume
from medseglatdiff.pipeline import geometry_outputs
from medseglatdiff.pipeline.dicom_seg import write_finding
from medseglatdiff.pipeline.geometry_outputs import draw_finding, write_nifti
from medseglatdiff.pipeline.measurements import measure_finding
from medseglatdiff.pipeline.volume import nearest_part

SMALL = draw_chest((6, 40, 32), (0.8, 1.2, 2.5), diameter=8, vessels=3)  # pixels that are not square
ONE = Chest(SMALL.values[3:4], SMALL.nodule[3:4], (*SMALL.centre[:2], 0), SMALL.spacing)


def places(volume, values: np.ndarray) -> dict[tuple[float, ...], float]:
    """LPS mm of the voxels that are not 0, with their values."""
    found = np.argwhere(values)
    return {tuple(np.round(volume.point_of(at[::-1]), 2) + 0.0): round(float(values[tuple(at)]), 2) for at in found}


def itk_places(path) -> dict[tuple[float, ...], float]:
    image = SimpleITK.ReadImage(path)
    values = SimpleITK.GetArrayFromImage(image)
    return {
        tuple(np.round(image.TransformIndexToPhysicalPoint(at[::-1].tolist()), 2) + 0.0): round(
            float(values[tuple(at)]), 2
        )
        for at in np.argwhere(values)
    }


def seg_places(path, segment: int) -> dict[tuple[float, ...], float]:
    """By highdicom's own geometry of the volume that the frames of a segment span."""
    written = highdicom.seg.segread(path)
    volume = written.get_volume(segment_numbers=[segment], combine_segments=False, allow_missing_positions=True)
    values = volume.array[..., 0]  # [D, H, W]
    points = np.argwhere(values)
    return {
        tuple(np.round(volume.affine @ [*at, 1], 2)[:3] + 0.0): round(float(values[tuple(at)]), 2) for at in points
    }


def close(found: dict, expected: dict) -> bool:
    """The same places to 0.02 mm, with the same values to the steps in which SEG stores them."""
    if len(found) != len(expected):
        return False
    first, second = (
        np.array([[*place, value] for place, value in sorted(each.items())]) for each in (found, expected)
    )
    distances = np.abs(first[:, None] - second[None]).max(axis=2).min(axis=1)
    return bool((distances < 0.02).all())


SOURCES = {
    "axial": lambda folder: write_series(folder / "a", SMALL),
    "oblique": lambda folder: write_series(folder / "a", SMALL, OBLIQUE),
    "upside down": lambda folder: write_series(folder / "a", SMALL, UPSIDE_DOWN),
    "reversed": lambda folder: write_series(folder / "a", SMALL, AXIAL, reverse=True),
    "oblique and reversed": lambda folder: write_series(folder / "a", SMALL, OBLIQUE, reverse=True),
    "single slice": lambda folder: write_series(folder / "a", ONE, OBLIQUE),
    "frames in disorder": lambda folder: write_multiframe(folder / "a.dcm", SMALL, OBLIQUE, [3, 0, 5, 1, 4, 2]),
}


@pytest.mark.parametrize("source", SOURCES)
def test_seg_and_nifti_land_on_the_same_voxels(source, tmp_path):
    volume = read_volume(SOURCES[source](tmp_path))
    result, out = finding_in(volume), tmp_path / "out"
    out.mkdir()
    write_nifti(out, result, volume)
    write_finding(out, result, volume, model="tiny", finding="nodule", hypotheses=True)
    names = ["confidence.nii.gz", "consensus.nii.gz", "mask-01.nii.gz", "mask-02.nii.gz", "mask-03.nii.gz"]
    assert sorted(path.name for path in out.iterdir()) == [*names, "seg-confidence.dcm", "seg.dcm"]
    maps = {"consensus": result.consensus, "confidence": result.confidence}
    maps |= {f"mask-0{number + 1}": mask for number, mask in enumerate(result.masks)}
    segments = {"consensus": 1, "mask-01": 2, "mask-02": 3, "mask-03": 4}
    for name, values in maps.items():
        expected = places(volume, result.in_volume(values, volume.shape))
        assert close(itk_places(out / f"{name}.nii.gz"), expected), name
        file = out / ("seg-confidence.dcm" if name == "confidence" else "seg.dcm")
        assert close(seg_places(file, segments.get(name, 1)), expected), name


def test_nifti_has_the_volumes_grid_and_types(tmp_path):
    volume = read_volume(write_itk(tmp_path / "scan.nrrd", SMALL, OBLIQUE))
    write_nifti(tmp_path, finding_in(volume), volume)
    source = SimpleITK.ReadImage(tmp_path / "scan.nrrd")
    for name, kind in (("consensus", SimpleITK.sitkUInt8), ("confidence", SimpleITK.sitkFloat32)):
        image = SimpleITK.ReadImage(tmp_path / f"{name}.nii.gz")
        assert image.GetPixelID() == kind and image.GetSize() == source.GetSize()
        for part in ("GetSpacing", "GetOrigin", "GetDirection"):
            np.testing.assert_allclose(getattr(image, part)(), getattr(source, part)(), atol=1e-5)


def test_the_same_finding_gives_the_same_bytes(tmp_path):
    """In a later run, at another time; no two objects share a UID."""
    volume = read_volume(write_series(tmp_path / "a", SMALL))
    contents = []
    for run in ("first", "second"):
        (tmp_path / run).mkdir()
        write_nifti(tmp_path / run, finding_in(volume), volume)
        write_finding(tmp_path / run, finding_in(volume), volume, model="lung", hypotheses=True)
        contents.append({path.name: path.read_bytes() for path in (tmp_path / run).iterdir()})
        time.sleep(0.01)  # times are written to the microsecond
    assert contents[0] == contents[1]
    objects = [pydicom.dcmread(tmp_path / "first" / name) for name in ("seg.dcm", "seg-confidence.dcm")]
    assert len({uid for item in objects for uid in (item.SOPInstanceUID, item.SeriesInstanceUID)}) == 4
    assert objects[0].ContentDate == "20240101" and objects[0].file_meta.MediaStorageSOPInstanceUID
    other = finding_in(volume)
    other.consensus[0, 0, 0] ^= True
    write_finding(tmp_path, other, volume, model="lung", hypotheses=True)
    assert pydicom.dcmread(tmp_path / "seg.dcm").SOPInstanceUID != objects[0].SOPInstanceUID


@pytest.mark.parametrize("package", ("highdicom", "SimpleITK", "skimage.measure"))
def test_a_missing_package_names_the_extra(package, tmp_path, monkeypatch):
    write_itk(tmp_path / "scan.mha", SMALL)
    volume = read_volume(write_series(tmp_path / "a", SMALL))
    result = finding_in(volume)
    monkeypatch.setitem(sys.modules, package, None)
    uses = {
        "highdicom": [lambda: write_finding(tmp_path, result, volume, model="lung")],
        "SimpleITK": [lambda: read_volume(tmp_path / "scan.mha"), lambda: write_nifti(tmp_path, result, volume)],
        "skimage.measure": [lambda: measure_finding(result), lambda: nearest_part(result.consensus[0], (1, 1))],
    }
    for use in uses[package]:
        with pytest.raises(ImportError, match=r"medseglatdiff\[volumes\]"):
            use()


def test_the_picture_shows_the_main_slice(tmp_path, monkeypatch):
    volume = read_volume(write_series(tmp_path / "a", SMALL))
    result = finding_in(volume)
    result.consensus[1] = True
    at = result.main_slice
    assert at == result.offset[0] + 1
    draw = Mock(wraps=geometry_outputs.draw_overview)
    monkeypatch.setattr(geometry_outputs, "draw_overview", draw)
    picture = draw_finding(result, volume, "scan", "finding 1")
    assert picture.mode == "RGB" and picture.width > 1000
    image, *maps = draw.call_args.args
    np.testing.assert_array_equal(image[:, :, 0], volume.shown(volume.slice(at), at))
    values = (*result.masks, result.confidence, result.uncertainty, result.consensus)
    for shown, own in zip([*maps[0], *maps[1:]], values, strict=True):
        np.testing.assert_array_equal(shown, result.in_volume(own, volume.shape)[at])
