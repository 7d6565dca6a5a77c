"""Lists of findings: both kinds of columns, and errors that say where in the file something is wrong."""

import numpy as np
import pytest
from series_fixtures import OBLIQUE, draw_chest, write_series

from medseglatdiff.data.findings import Finding, check_cases, read_findings
from medseglatdiff.data.volumes import read_volume

SMALL = draw_chest((5, 48, 40), (0.8, 1.2, 2.5), diameter=8, vessels=3)


def write(folder, text: str):
    path = folder / "findings.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_luna16_columns_are_millimetres(tmp_path):
    path = write(
        tmp_path, "seriesuid,coordX,coordY,coordZ,diameter_mm\n1.2.3,-128.69,-175.32,-298.4,5.6\n\n1.2.4,1,2,3,4\n"
    )
    first, second = read_findings(path)
    assert (first.case, first.point, first.unit) == ("1.2.3", (-128.69, -175.32, -298.4), "mm")
    assert second.place == f"{path}, line 4"


@pytest.mark.parametrize(
    ("text", "point"),
    (
        ("case,x,y,z\nscan,10,20.5,3\n", (10.0, 20.5, 3.0)),
        ("\ufeffz, y ,x,case\r\n3,20.5,10,scan\r\n", (10.0, 20.5, 3.0)),
        ('case,x,y\n"scan",10,20.5\n', (10.0, 20.5)),
    ),
)
def test_our_columns_are_indices_in_any_order(text, point, tmp_path):
    (finding,) = read_findings(write(tmp_path, text))
    assert (finding.case, finding.point, finding.unit) == ("scan", point, "voxels")


def test_both_kinds_lead_to_the_same_voxel(tmp_path):
    volume = read_volume(write_series(tmp_path / "series", SMALL, OBLIQUE, reverse=True))
    x, y, z = (float(value) for value in volume.point_of((7, 11, 3)))
    text = f"seriesuid,coordX,coordY,coordZ\n{volume.uid},{x},{y},{z}\n"
    (by_mm,) = read_findings(write(tmp_path, text))
    np.testing.assert_allclose(by_mm.index_in(volume), (7, 11, 3), atol=1e-6)
    (by_index,) = read_findings(write(tmp_path, f"case,x,y,z\n{volume.uid},7,11,3\n"))
    assert by_index.index_in(volume) == (7, 11, 3)
    check_cases([by_mm, by_index], [volume.uid])


WRONG = {
    "empty": ("", r"line 1: the column case is missing; .* but has none"),
    "no rows": ("case,x,y,z\n\n", "must list at least one finding"),
    "no column": ("seriesuid,coordX,coordZ\n1,2,3\n", "line 1: the column coordY is missing"),
    "other columns": ("patient,row,column\n1,2,3\n", "line 1: the column case is missing.*patient,row,column"),
    "semicolons": ("case;x;y;z\na;1;2;3\n", "line 1: the column case is missing"),
    "no number": ("case,x,y,z\na,1,2,3\nb,1,two,3\n", r"line 3, column y: must be a finite number, but is two"),
    "empty number": ("case,x,y,z\na,1,,3\n", "line 2, column y: must be a finite number, but is empty"),
    "NaN": ("case,x,y,z\na,nan,2,3\n", "line 2, column x: must be a finite number, but is nan"),
    "infinite": ("seriesuid,coordX,coordY,coordZ\na,1,2,-inf\n", "line 2, column coordZ: must be a finite number"),
    "no case": ("case,x,y,z\n ,1,2,3\n", "line 2, column case: must name a case, but is empty"),
    "short": ("case,x,y,z\na,1,2\n", "line 2: there must be 4 values, as in the header, but there are 3"),
    "decimal commas": ("case,x,y,z\na,1,5,2,5,3\n", "line 2: there must be 4 values"),
    "quote": ('case,x,y,z\n"a,1,2,3\n', "must be a CSV file that can be read"),
}


@pytest.mark.parametrize("case", WRONG)
def test_lists_that_cannot_be_used(case, tmp_path):
    text, message = WRONG[case]
    path = write(tmp_path, text)
    with pytest.raises(ValueError, match=message) as caught:
        read_findings(path)
    assert str(path) in str(caught.value)


def test_lists_that_cannot_be_read(tmp_path):
    (tmp_path / "bytes.csv").write_bytes(b"case,x,y\n\xff\xfe,1,2\n")
    for path in (tmp_path / "none.csv", tmp_path, tmp_path / "bytes.csv"):
        with pytest.raises(ValueError, match="must be a CSV file that can be read") as caught:
            read_findings(path)
        assert str(path) in str(caught.value)


def test_unknown_cases(tmp_path):
    findings = read_findings(write(tmp_path, "seriesuid,coordX,coordY,coordZ\n1.2.3,1,2,3\n9.9,1,2,3\n"))
    with pytest.raises(ValueError, match=r"findings\.csv, line 3, column seriesuid: 9\.9 is none of the 1 cases"):
        check_cases(findings, ["1.2.3"])


@pytest.mark.parametrize(
    ("point", "unit", "message"),
    (
        ((39.4, 47.4, 4.4), "voxels", None),
        ((39.6, 0, 0), "voxels", "column x: 39.6 lies outside"),
        ((0, 48, 0), "voxels", "column y: 48 lies outside"),
        ((0, 0, -1), "voxels", r"column z: -1 lies outside .* \(index -1.0, but there are 0 to 4\)"),
        ((-120, -100, 63), "mm", "column coordZ: 63 lies outside"),
        ((1, 2), "voxels", "the column z must be given"),
    ),
)
def test_points_outside(point, unit, message, tmp_path):
    volume = read_volume(write_series(tmp_path / "series", SMALL))
    finding = Finding("a", point, unit, "list.csv, line 7")
    if message is None:
        assert finding.index_in(volume) == point
        return
    with pytest.raises(ValueError, match=f"^list.csv, line 7.*{message}"):
        finding.index_in(volume)
