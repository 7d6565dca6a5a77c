"""The campaign's ledger and its end: a table on the terminal; with a date, `results.json` and SECURITY.md too."""

import json

import pytest

from .ledger import RESULTS, Ledger, merged, quote, table


def pytest_addoption(parser):
    parser.addoption(
        "--campaign-date",
        metavar="DATE",
        help="writes tests/faults/results.json and the table in SECURITY.md, with this date",
    )


def pytest_configure(config):
    config.stash[LEDGER] = Ledger()


def pytest_collection_modifyitems(items):
    for item in items:
        if "tests/faults/" in item.path.as_posix():
            item.add_marker(pytest.mark.campaign)


def pytest_terminal_summary(terminalreporter, config):
    date, ledger = config.getoption("--campaign-date"), config.stash[LEDGER]
    if rows := ledger.rows(date):
        terminalreporter.write_line("\n" + table(rows))
        for row in rows:
            terminalreporter.write_line("\n".join(f"{row['what']}: {failure}" for failure in row.get("failed", [])))
    if rows and date:
        rows = merged(rows)
        RESULTS.write_text(json.dumps(rows, indent=2) + "\n", "utf-8")
        quote(rows)


LEDGER = pytest.StashKey[Ledger]()


@pytest.fixture(scope="session")
def ledger(pytestconfig) -> Ledger:
    return pytestconfig.stash[LEDGER]
