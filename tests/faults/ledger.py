"""What the campaign counts: cases by kind, each of which held or failed, as one table and as JSON."""

import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

RESULTS = Path(__file__).with_name("results.json")
SECURITY = Path(__file__).parents[2] / "SECURITY.md"
START, END = "<!-- campaign: written by `make campaign` -->", "<!-- end of campaign -->"
SECONDS = 300  # for one case: more is a hang


@dataclass
class Kind:
    """Cases of one kind: how many held, and in words how the others failed."""

    held: int = 0
    failures: list[str] = field(default_factory=list)

    @property
    def count(self) -> int:
        """How many there were."""
        return self.held + len(self.failures)


@dataclass
class Ledger:
    """The kinds of a campaign by name, and why others were left out."""

    kinds: dict[str, Kind] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)

    @contextmanager
    def case(self, what: str, name: str) -> Iterator[None]:
        """Counts one case: it failed where the block raises anything, or does not end; the others go on."""
        kind = self.kinds.setdefault(what, Kind())
        try:
            with within(SECONDS):
                yield
        except Exception as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            kind.failures.append(f"{name}: {reason.removeprefix('AssertionError: ')[:240]}")
        else:
            kind.held += 1

    def check(self, what: str, count: int):
        """Raises an `AssertionError` unless all cases of a kind were tried and held."""
        kind = self.kinds[what]
        assert kind.count == count, f"{what}: {kind.count} of {count} were tried"
        assert not kind.failures, f"{what}: {len(kind.failures)} of {count} failed: " + "; ".join(kind.failures)

    def rows(self, date: str | None) -> list[dict]:
        """A row per kind, for `results.json`."""
        return [
            {"what": what, "date": date, "count": kind.count, "held": kind.held, "failed": kind.failures}
            for what, kind in self.kinds.items()
            if kind.count
        ] + [{"what": what, "date": date, "skipped": reason} for what, reason in self.skipped.items()]


@contextmanager
def within(seconds: int) -> Iterator[None]:
    """No hang: an `AssertionError` after so many seconds."""

    def late(*_):
        raise AssertionError(f"a hang: no end within {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def merged(rows: list[dict]) -> list[dict]:
    """The rows of a run, and those of `results.json` whose kinds it did not try, by name."""
    kept = json.loads(RESULTS.read_text("utf-8")) if RESULTS.is_file() else []
    tried = {row["what"] for row in rows}
    return sorted(rows + [row for row in kept if row["what"] not in tried], key=lambda row: row["what"])


def quote(rows: list[dict]):
    """Puts the table into SECURITY.md."""
    before, rest = SECURITY.read_text("utf-8").split(START)
    SECURITY.write_text(f"{before}{START}\n{table(rows)}\n{END}{rest.split(END)[1]}", "utf-8")


def table(rows: list[dict]) -> str:
    """The rows as a Markdown table: what, how many, held, failed, when."""
    lines = ["| what | how many | held | failed | date |", "| --- | --- | --- | --- | --- |"]
    for row in rows:
        numbers = ("", "", row["skipped"]) if "skipped" in row else (row["count"], row["held"], len(row["failed"]))
        lines.append(f"| {row['what']} | {' | '.join(map(str, numbers))} | {row['date'] or 'now'} |")
    return "\n".join(lines)
