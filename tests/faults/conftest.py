"""The campaign's ledger and its end: one table on the terminal, and `results.json` where a date is given."""

import json

import pytest

from .ledger import RESULTS, Ledger, merged, table


def pytest_addoption(parser):
    parser.addoption("--campaign-date", metavar="DATE", help="writes tests/faults/results.json, with this date")


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
        RESULTS.write_text(json.dumps(merged(rows), indent=2) + "\n", "utf-8")


LEDGER = pytest.StashKey[Ledger]()


@pytest.fixture(scope="session")
def ledger(pytestconfig) -> Ledger:
    return pytestconfig.stash[LEDGER]
