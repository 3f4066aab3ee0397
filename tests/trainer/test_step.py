"""The training engine: what it logs, when it restarts features, how a saved state goes on."""

from copy import deepcopy
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from lexiscope.sparse_code import SparseCode
from tests.trainer.test_architectures import built, each_config, sample, small
from trainer import kernels, sparse
from trainer.activations.passages import TrainingBatch
from trainer.architectures import Architecture, Config, Step, itda
from trainer.architectures.base import Gradients
from trainer.architectures.ensemble import BaggingConfig
from trainer.architectures.hierarchical import HierarchicalConfig
from trainer.architectures.matryoshka import MatryoshkaConfig
from trainer.architectures.mfr import MFRConfig
from trainer.architectures.topk import ENCODED, TopKConfig
from trainer.presets import recipe
from trainer.step import LogLine, Training

STEPS, EVERY = 14, 7


def started(config: Config) -> Training:
    architecture, start = built(replace(config, epochs=2, patience=1) if config.epochs else config)
    return Training(architecture, start.random, steps=0 if config.epochs else STEPS, every=EVERY)


def result(training: Training) -> dict[str, Tensor]:
    tensors = training.dictionary().tensors()
    return tensors | training.architecture.buffers | {"lift": training.fit().lift}  # type: ignore[dict-item]


def said(line: LogLine) -> tuple[Any, ...]:
    """What a line says but for its times."""
    return line.step, line.tokens, line.loss, line.live, line.terms, line.epoch, line.validation_loss


@each_config
def test_a_resumed_training_ends_with_the_same_weights_and_lines(config: Config) -> None:
    whole, lines, states = started(config), list[LogLine](), list[dict[str, Any]]()

    def keep(line: LogLine) -> None:
        lines.append(line)
        states.append(deepcopy(whole.state()))

    whole.report = keep
    whole.over(sample())
    again, rest = started(config), list[LogLine]()
    again.report = rest.append
    again.load_state(states[0])
    again.over(sample())
    assert 0 < states[0]["step"] < whole.step == again.step
    assert [said(line) for line in rest] == [said(line) for line in lines[1:]]
    expected, found = result(whole), result(again)
    assert all(torch.equal(tensor, found[name]) for name, tensor in expected.items())


@pytest.mark.parametrize("patience", [0, 100])
def test_only_features_that_have_not_fired_since_the_last_restart_are_restarted(patience: int) -> None:
    config = small(recipe("plain"), batch_of="passages", batch=2, epochs=7, patience=patience, aux_k=0)
    architecture, start = built(config, d_sae=200)
    training = Training(architecture, start.random)
    fired, restarted = torch.zeros(200, dtype=torch.bool), list[tuple[list[int], list[int]]]()
    gradients, restart = architecture.gradients, training._restart

    def watched(batch: TrainingBatch, step: Step) -> Gradients:
        made = gradients(batch, step)
        fired.logical_or_(sparse.fired(made.code, 200))
        return made

    def recorded(batch: TrainingBatch, squares: Tensor) -> None:
        silent = (~fired).nonzero().squeeze(1)
        fired.zero_()
        before = architecture.parameters["decoder"].clone()
        restart(batch, squares)
        moved = (architecture.parameters["decoder"] != before).any(-1).nonzero().squeeze(1)
        restarted.append((silent.tolist(), moved.tolist()))

    architecture.gradients = watched  # type: ignore[method-assign]
    training._restart = recorded  # type: ignore[method-assign]
    training.over(sample())
    assert len(restarted) == 4 and any(silent for silent, _ in restarted)
    assert all(silent == moved for silent, moved in restarted)


@pytest.mark.parametrize(
    "config",
    [
        TopKConfig(),
        MatryoshkaConfig(widths="5,20"),
        HierarchicalConfig(),
        BaggingConfig(),
        recipe("paper-soft"),
        recipe("itda"),
    ],
    ids=lambda config: config.name,
)
def test_the_logged_loss_is_the_error_of_the_reconstruction_whatever_is_minimised(config: Config) -> None:
    training, lines = started(small(config)), list[LogLine]()
    training.report, training.every = lines.append, 1
    errors, gradients = list[float](), training.architecture.gradients

    def watched(batch: TrainingBatch, step: Step) -> Gradients:
        made = gradients(batch, step)
        errors.append(made.squares.mean().item() / batch.target.shape[1])
        return made

    training.architecture.gradients = watched  # type: ignore[method-assign]
    training.over(sample())
    assert [line.loss for line in lines] == pytest.approx(errors[: len(lines)], rel=1e-3)
    assert all("mse" not in line.terms for line in lines)


def test_training_on_passages_encodes_as_many_tokens_at_a_time_as_on_single_positions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whatever the number of passages; the paper's recipes and ITDA bound what is in memory too."""
    parts = list[int]()
    top_k, encode = kernels.top_k, itda.Pursuit.encode

    def counted(pre: Tensor, k: int) -> SparseCode:
        parts.append(len(pre))
        return top_k(pre, k)

    def pursued(self: itda.Pursuit, pre: Tensor, feedback: Any) -> SparseCode:
        parts.append(len(pre))
        return encode(self, pre, feedback)

    monkeypatch.setattr(kernels, "top_k", counted)
    monkeypatch.setattr(itda.Pursuit, "encode", pursued)
    plain = small(recipe("plain"), batch_of="passages", batch=8)
    for config in (plain, small(recipe("paper-plain")), small(recipe("itda"))):
        architecture, _ = built(config)
        activations = sample()
        x = architecture.normalise(activations.x[:600], activations.tokens[:600])
        parts.clear()
        with torch.no_grad():
            architecture.forward(x)
        assert parts == [ENCODED, ENCODED, 600 - 2 * ENCODED], config.name


def test_peers_of_mfr_leave_the_dictionary_that_is_kept_as_it_would_be_alone() -> None:
    """With the weight of the penalty at 0: same start, same restarts, same weights as TopK's."""
    sizes: dict[str, Any] = {"k": 4, "batch": 64, "dense_rank": 2, "aux_k": 3, "lookup": "trained"}
    trained = []
    for config in (TopKConfig(name="plain", **sizes), MFRConfig(mutual=0, peers=2, **sizes)):
        architecture, start = built(config, d_sae=80)
        architecture.gradients = partial(  # type: ignore[method-assign]
            Architecture.gradients, architecture
        )  # TopK's own are by hand, and round otherwise
        Training(architecture, start.random, steps=40).over(sample())
        trained.append(architecture.parameters)
    alone, beside = trained
    assert all(torch.allclose(beside[name], tensor, atol=1e-6) for name, tensor in alone.items())
