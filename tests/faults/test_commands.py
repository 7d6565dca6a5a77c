"""Signals to commands at work: they end without a traceback, and the same command run again leaves the same files."""

import signal

import numpy as np
import PIL.Image
import pytest
from conftest import tiny_pipeline

from .processes import interrupted, start, timed, tree

pytest.importorskip("datasets", reason="needs the extra `train`")
SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL]
MOMENTS = [0.4, 0.8]  # shares of the time that the command takes


@pytest.fixture(scope="module")
def commands(tmp_path_factory) -> dict[str, list]:
    """Commands that take a while, without the folder that they write."""
    folder = tmp_path_factory.mktemp("commands")
    tiny_pipeline().save_pretrained(folder / "model")
    (folder / "images").mkdir()
    for number in range(8):
        pixels = np.random.default_rng(number).integers(0, 256, (90, 80), np.uint8)
        PIL.Image.fromarray(pixels).save(folder / "images" / f"{number}.png")
    return {
        "segment": ["segment", folder / "images", "--model", folder / "model", "--out"],
        "dataset": ["dataset", "phantom", "--num-rows", "150", "--size", "64", "--out"],
    }


def judge(code: int, told: str, number: int):
    """Raises an `AssertionError` unless a command ended by this signal, without a traceback."""
    assert code in {signal.SIGINT: {130}}.get(number, {-number, 128 + number}), f"exit code {code}"
    assert "Traceback" not in told, "a traceback"


def same(found: dict[str, bytes], expected: dict[str, bytes]):
    """Raises an `AssertionError` unless two folders hold the same."""
    assert found.keys() == expected.keys(), f"lost or left: {sorted(found.keys() ^ expected.keys())[0]}"
    assert found == expected, f"wrong: {[name for name in found if found[name] != expected[name]][0]}"


@pytest.mark.parametrize("name", ["segment", "dataset"])
def test_signals(commands, tmp_path, ledger, name):
    what, out, log = f"`{name}` stopped by a signal, then run again", tmp_path / "out", tmp_path / "log"
    words = [*commands[name], out]
    seconds, expected = timed(words, log), tree(out)
    for number in SIGNALS:
        for share in MOMENTS:
            with ledger.case(what, f"{number.name} after {share:.0%}"):
                code, told = interrupted(lambda: start(words, log), out, seconds * share, number)
                judge(code, told, number)
                left = [
                    path.name for path in tmp_path.iterdir() if path not in (out, log, log.with_suffix(".changes"))
                ]
                assert not left or number == signal.SIGKILL, f"left: {left}"
                if name == "dataset":
                    assert not out.exists(), "half-written: a data set that was not finished"
                assert start(words, log).ended()[0] == 0
                same(tree(out), expected)
    ledger.check(what, len(SIGNALS) * len(MOMENTS))


def test_the_judge_sees_tracebacks_and_differences():
    judge(130, "medseglatdiff: interrupted", signal.SIGINT)
    with pytest.raises(AssertionError, match="a traceback"):
        judge(130, "Traceback (most recent call last):", signal.SIGINT)
    with pytest.raises(AssertionError, match="exit code 0"):
        judge(0, "", signal.SIGTERM)
    with pytest.raises(AssertionError, match="lost or left: b"):
        same({"a": b""}, {"a": b"", "b": b""})
    with pytest.raises(AssertionError, match="wrong: a"):
        same({"a": b"1"}, {"a": b"2"})
