"""The script that makes the bundled model: its loss in chunks is the cross-entropy, with its gradients."""

import importlib.util
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

SCRIPT = Path(__file__).parents[2] / "data" / "demo" / "make_model.py"


@pytest.mark.parametrize("n", [5, 512, 700])
def test_the_loss_in_chunks_is_the_cross_entropy(n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = importlib.util.spec_from_file_location("make_model", SCRIPT)
    assert spec is not None and spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    monkeypatch.setattr(script, "fast_bf16", lambda device: False)
    draw = torch.Generator().manual_seed(n)
    states = torch.randn(n, 8, generator=draw).requires_grad_()
    rows = torch.randn(30, 8, generator=draw).requires_grad_()
    tokens = torch.randint(0, 30, (n,), generator=draw)
    expected = F.cross_entropy(states @ rows.T, tokens)
    found = script.ChunkedLoss.apply(states, rows, tokens)
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    own = torch.autograd.grad(2 * found, [states, rows])
    for gradient, wanted in zip(own, torch.autograd.grad(2 * expected, [states, rows]), strict=True):
        assert torch.allclose(gradient, wanted, atol=1e-6)
