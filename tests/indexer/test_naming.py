"""Anchors fitted from a text: the mean state of each token, whatever the batches; controls; what cannot be
fitted.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from indexer import IndexingError
from indexer.fit_anchors import fit_anchors
from lexiscope.anchor_sets import ANCHOR_SETS
from lexiscope.anchors import TokenSums, class_mean_anchors
from lexiscope.errors import ModelError
from lexiscope.language_model import LanguageModel
from lexiscope.text import passages


def stream(model: LanguageModel, text_file: Path) -> Iterator[np.ndarray]:
    return passages(model, [str(text_file)], length=32, tokens=1500)


@torch.inference_mode()
def test_anchors_are_the_mean_states_shrunk_to_the_transported_embedding(
    model: LanguageModel, text_file: Path
) -> None:
    """Computed again passage by passage, with every state in memory, from the same inliers."""
    found = fit_anchors(model, [0, 1], stream(model, text_file))
    for layer, fit in found.items():
        states, tokens = [], []
        for passage in stream(model, text_file):
            ids = torch.from_numpy(passage.astype(np.int64))
            states.append(model.read(ids[None], [layer])[layer][0, 1:])
            tokens.append(ids[1:])
        x, current = torch.cat(states), torch.cat(tokens)
        assert int(fit.counts.sum()) == len(x)  # this model has no outliers
        sums = TokenSums(model.vocab_size, model.d_model)
        sums.add(current, x - x.mean(0))
        assert torch.equal(fit.counts, sums.counts)
        assert torch.allclose(fit.mean, x.mean(0), atol=1e-4)
        assert torch.allclose(fit.anchors, class_mean_anchors(model.embedding, sums), atol=1e-3)
        assert fit.kind.startswith("mean state by current token") and f"{len(x):,} tokens" in fit.kind
        assert len(fit.assigned) == 0


def test_batches_of_another_size_give_the_same_anchors(model: LanguageModel, text_file: Path) -> None:
    whole = fit_anchors(model, [1], stream(model, text_file))[1]
    parts = fit_anchors(model, [1], stream(model, text_file), batch_tokens=300)[1]
    assert torch.equal(whole.counts, parts.counts)
    assert torch.allclose(whole.anchors, parts.anchors, atol=1e-3)


def test_an_outlying_position_is_left_out(
    model: LanguageModel, text_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clean = fit_anchors(model, [1], stream(model, text_file))[1]
    read = model.read

    def with_a_sink(tokens: torch.Tensor, layers: list[int], *, fast: bool) -> dict[int, torch.Tensor]:
        found = {layer: states.clone() for layer, states in read(tokens, layers).items()}
        for states in found.values():
            states[:, 1] *= 1000
        return found

    monkeypatch.setattr(model, "read", with_a_sink)
    sunk = fit_anchors(model, [1], stream(model, text_file))[1]
    assert sunk.counts.sum() < clean.counts.sum()
    assert sunk.anchors.norm(dim=-1).max() < 10 * clean.anchors.norm(dim=-1).max()


@pytest.mark.parametrize("anchors", ANCHOR_SETS)
def test_every_anchor_set_can_be_fitted(anchors: str, model: LanguageModel, text_file: Path) -> None:
    fit = fit_anchors(model, [1], stream(model, text_file), anchors=anchors)[1]
    assert fit.anchors.shape == (model.vocab_size, model.d_model) and torch.isfinite(fit.anchors).all()


def test_what_cannot_be_fitted_is_refused(
    model: LanguageModel, text_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(IndexingError, match="no anchor set 'best'"):
        fit_anchors(model, [1], stream(model, text_file), anchors="best")
    with pytest.raises(ModelError, match="no layer 9"):
        fit_anchors(model, [9], stream(model, text_file))
    monkeypatch.setattr(
        model,
        "read",
        lambda tokens, layers, fast: {1: torch.full((*tokens.shape, model.d_model), float("nan"))},
    )
    with pytest.raises(IndexingError, match="NaN"):
        fit_anchors(model, [1], stream(model, text_file))
