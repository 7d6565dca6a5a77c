"""Tables of a model card, and a measured value in one of their cells."""

from collections.abc import Sequence


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; a column without any text is left out."""
    kept = [index for index in range(len(head)) if any(row[index] for row in rows)]
    lines = [[row[index] for index in kept] for row in [head, *rows]]
    lines.insert(1, ["---"] * len(kept))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def interval(entry: dict | None) -> str:
    """An entry of the results as "value [low, high]", finer below 0.1; nothing where it has no value."""
    if entry is None or entry["value"] is None:
        return ""
    digits = 4 if 0 < abs(entry["value"]) < 0.1 else 3
    return "{value:.{d}f} [{low:.{d}f}, {high:.{d}f}]".format(d=digits, **entry)
