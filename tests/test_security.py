"""SECURITY.md says what the code does: its limits, and the campaign's table."""

import json
import re

import pytest
from faults.ledger import RESULTS, SECURITY, START, Ledger, merged, table

from medseglatdiff.builders.archives import MAX_MEMBER_BYTES, MAX_RATIO, SMALL_BYTES
from medseglatdiff.data.jpeg_scan import MAX_SCANS
from medseglatdiff.data.limits import MAX_CANDIDATES, MAX_MASKS, MAX_PIXELS, MAX_STEPS, MAX_UNPACKED_BYTES
from medseglatdiff.data.volumes import MAX_VOXELS

TEXT = SECURITY.read_text("utf-8")
LIMITS = {
    "pixels of an image, from a file or an array": f"{MAX_PIXELS:,}",
    "bytes that a deflated file or strip unpacks to": f"{MAX_UNPACKED_BYTES // 2**20} MB",
    "masks of an image; candidates; denoising steps": f"{MAX_MASKS:,}; {MAX_CANDIDATES:,}; {MAX_STEPS:,}",
    "scans of a progressive JPEG": str(MAX_SCANS),
    "voxels of a volume": f"{MAX_VOXELS:,}",
    "bytes of an archive's member": f"{MAX_MEMBER_BYTES // 2**30} GB",
    f"unpacked bytes per packed byte of an archive, above {SMALL_BYTES // 2**20} MB": str(MAX_RATIO),
}


def cell(name: str) -> str:
    """What the table of limits says of something."""
    return re.search(rf"^\| {re.escape(name)} \| (.*) \|$", TEXT, re.MULTILINE).group(1)


@pytest.mark.parametrize("name", LIMITS)
def test_limits_are_those_of_the_code(name):
    assert cell(name) == LIMITS[name]


def test_limits_of_the_demo_are_those_of_the_code():
    pytest.importorskip("gradio", reason="needs the extra `demo`")
    from medseglatdiff.demo import limits

    told = f"{limits.MAX_FILE_MB} MB; {limits.MAX_PIXELS:,}; {limits.MAX_MASKS}; {limits.MAX_STEPS}"
    assert cell("demo: size of an upload; pixels; masks; steps") == told


def test_the_campaigns_table_is_that_of_its_results():
    rows = json.loads(RESULTS.read_text("utf-8"))
    assert f"{START}\n{table(rows)}\n" in TEXT
    assert all(row["count"] == row["held"] + len(row["failed"]) for row in rows if "skipped" not in row)


def test_the_ledger_counts_what_fails_and_goes_on():
    ledger = Ledger()
    for name, error in (("a", None), ("b", AssertionError("lost")), ("c", ZeroDivisionError("x"))):
        with ledger.case("kind", name):
            if error:
                raise error
    (row,) = ledger.rows("2026-01-01")
    assert row == {
        "what": "kind",
        "date": "2026-01-01",
        "count": 3,
        "held": 1,
        "failed": ["b: lost", "c: ZeroDivisionError: x"],
    }
    assert table([row]).splitlines()[-1] == "| kind | 3 | 1 | 2 | 2026-01-01 |" and row in merged([row])
    with pytest.raises(AssertionError, match="kind: 2 of 3 failed: b: lost; c: "):
        ledger.check("kind", 3)
    with pytest.raises(AssertionError, match="kind: 3 of 4 were tried"):
        ledger.check("kind", 4)
