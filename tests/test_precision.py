"""The precision that training takes by itself."""

import pytest
import torch

from medseglatdiff.training.config import Config
from medseglatdiff.training.precision import native_precision, resolve_precision


@pytest.mark.parametrize(("capability", "expected"), [("AVX512", "bf16"), ("AVX2", "no"), ("DEFAULT", "no")])
def test_a_cpu_trains_in_bf16_only_where_it_need_not_imitate_it(monkeypatch, capability, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    assert native_precision() == resolve_precision(Config().mixed_precision) == expected
    assert resolve_precision("bf16") == "bf16"  # who names it gets it


@pytest.mark.parametrize("native", [True, False])
def test_a_gpu_that_imitates_bf16_trains_without_it(monkeypatch, native):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation=True: native or including_emulation
    )
    assert native_precision() == ("bf16" if native else "no")
