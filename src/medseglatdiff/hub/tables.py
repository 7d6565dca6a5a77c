"""Markdown tables of a model card, and how a measured value is written in them."""

from collections.abc import Sequence


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; a column without any text is left out."""
    kept = [index for index in range(len(head)) if any(row[index] for row in rows)]
    lines = [[row[index] for index in kept] for row in [head, *rows]]
    lines.insert(1, ["---"] * len(kept))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def has_interval(entry: dict, num_groups: int) -> bool:
    """Whether an entry of the results has an interval that covers 95 %.

    Entries name the method of their interval. Older ones do not: their percentile bootstrap over all `num_groups`
    covers too little below ten groups (tests/test_intervals.py).
    """
    return entry["low"] is not None and ("interval" in entry or num_groups >= 10)


def interval(entry: dict | None, num_groups: int) -> str:
    """An entry as "value [low, high]", with four digits below 0.1, else three; "" without a value."""
    if entry is None or entry["value"] is None:
        return ""
    digits = 4 if 0 < abs(entry["value"]) < 0.1 else 3
    value = f"{entry['value']:.{digits}f}"
    if not has_interval(entry, num_groups):
        return value
    return f"{value} [{entry['low']:.{digits}f}, {entry['high']:.{digits}f}]"


def interval_words(results: dict) -> str:
    """A sentence on the intervals of these results."""
    entries, num_groups = results["metrics"].values(), results["num_groups"]
    if not any(has_interval(entry, num_groups) for entry in entries):
        return f"No intervals: {num_groups:,} groups are too few for the method that was used."
    if any("interval" in entry for entry in entries):
        return f"In brackets: 95 % intervals, Student's t over {num_groups:,} groups by the jackknife."
    return f"In brackets: 95 % bootstrap intervals over {num_groups:,} groups."
