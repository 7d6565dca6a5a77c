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


def pytest_runtest_teardown(item):
    """Keeps what was found so far: the campaign takes long, and may be stopped."""
    date = item.config.getoption("--campaign-date", None)
    if rows := date and item.config.stash[LEDGER].rows(date):
        rows = merged(rows)
        RESULTS.write_text(json.dumps(rows, indent=2) + "\n", "utf-8")
        quote(rows)


def pytest_terminal_summary(terminalreporter, config):
    rows = config.stash[LEDGER].rows(config.getoption("--campaign-date", None))
    if rows:
        terminalreporter.write_line("\n" + table(rows))
    for row in rows:
        for failure in row.get("failed", []):
            terminalreporter.write_line(f"{row['what']}: {failure}")


LEDGER = pytest.StashKey[Ledger]()


@pytest.fixture(scope="session")
def ledger(pytestconfig) -> Ledger:
    return pytestconfig.stash[LEDGER]
