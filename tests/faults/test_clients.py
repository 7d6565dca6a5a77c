"""Eight clients of the demo with 25 calls each, all at once: every mask is the one that its caller asked for."""

import runpy
from types import SimpleNamespace

import pytest
from conftest import tiny_pipeline

pytest.importorskip("gradio", reason="needs the extra `demo`")
from demo_fixtures import ROOT, phantom_png, serve

from medseglatdiff.demo.sampling import CHUNK

CLIENTS, CALLS = 8, 25
SETTINGS = dict(num_masks=CHUNK + 1, steps=2)


def judge(call: dict, answers: dict[int, str]):
    """Raises an `AssertionError` unless the masks are those of the call's seed."""
    assert call["masks"] == answers[call["seed"]], "wrong in silence: not the masks of this seed"


def test_clients_at_once(tmp_path, ledger):
    what = "call by one of eight clients at once"
    load = SimpleNamespace(**runpy.run_path(str(ROOT / "benchmarks" / "demo_load.py"), run_name="demo_load"))
    image = tmp_path / "image.png"
    image.write_bytes(phantom_png())
    answers = load.expected(tiny_pipeline(), image, **SETTINGS)
    with serve({"tiny": tiny_pipeline()}, tmp_path / "cache") as (_, url):
        calls = load.run_clients(url, image, "tiny", CLIENTS, CALLS, **SETTINGS)
    for number, call in enumerate(calls):
        with ledger.case(what, f"call {number}, seed {call['seed']}"):
            judge(call, answers)
    ledger.check(what, CLIENTS * CALLS)
    assert len(set(answers.values())) == load.SEEDS


def test_the_judge_sees_the_masks_of_another():
    with pytest.raises(AssertionError, match="not the masks of this seed"):
        judge({"seed": 0, "masks": "b"}, {0: "a", 1: "b"})
