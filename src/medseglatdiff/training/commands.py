"""What the commands `calibrate` and `evaluate` share: options, progress, tables, published commands."""

import argparse
import shlex
from collections.abc import Callable, Sequence

from tqdm import tqdm

from .provenance import public


class _Help(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Help that keeps the description's line breaks and shows defaults."""


class Parser(argparse.ArgumentParser):
    """A parser whose errors are `ValueError`s: `cli.main` prints them as one sentence and returns 2."""

    def __init__(self, command: str, description: str):
        super().__init__(prog=f"medseglatdiff {command}", description=description, formatter_class=_Help)

    def error(self, message: str):
        raise ValueError(message)


def whole_number(least: int) -> Callable[[str], int]:
    """The type of an option that must be a whole number of at least `least`."""

    def convert(text: str) -> int:
        if not text.lstrip("-").isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"must be a whole number of at least {least}, but was {text!r}")
        return int(text)

    return convert


def public_command(command: str, words: Sequence[str]) -> str:
    """The command as published beside its results: only the last parts of paths."""
    shown = []
    for word in map(str, words):
        option, sign, value = word.partition("=") if word.startswith("--") else ("", "", word)
        shown.append(option + sign + public(value) if value else word)
    return f"accelerate launch -m medseglatdiff {command} {shlex.join(shown)}"


def progress_bar(num_images: int, done: int, shown: bool) -> tqdm:
    """A bar that says "image 3 of 200"; `done` of them are already finished."""
    form = "image {n_fmt} of {total_fmt} |{bar}| {elapsed} so far, {remaining} to go"
    return tqdm(total=num_images, initial=done, disable=not shown, bar_format=form)


def text_table(rows: Sequence[Sequence[str]]) -> str:
    """Rows of texts in columns for the terminal, the first aligned left and the others right.

    >>> print(text_table([["", "Dice"], ["majority", "0.5"]]))
              Dice
    majority   0.5
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for first, *others in rows:
        cells = [text.rjust(width) for text, width in zip(others, widths[1:], strict=True)]
        lines.append("  ".join([first.ljust(widths[0]), *cells]).rstrip())
    return "\n".join(lines)
