"""What features do to a difference of two logits: integrated gradients over their activations, edges between
the features of two layers, and runs in which all but some features take the values of another prompt.

The stream after a layer is z W_dec + rest; features are z, and rest (the dictionary's error, bias, dense path
and look-up) stays what it is in the run.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from lexiscope.dictionary import Dictionary
from lexiscope.language_model import LanguageModel, Patch
from studies.tasks import Pair

STEPS = 8
"""of an integral"""


def dense_code(dictionary: Dictionary, x: Tensor, tokens: Tensor) -> Tensor:
    """[n, d_sae] the code of x [n, d_in], with nothing at position 0."""
    code = dictionary.encode(x, tokens)
    z = torch.zeros(len(x), dictionary.d_sae).scatter_add_(1, code.indices, code.values)
    z[0] = 0
    return z


@dataclass(frozen=True)
class PairState:
    """One pair's codes at every layer."""

    pair: Pair
    clean: dict[int, Tensor]
    """{layer: z [n, d_sae]} of the clean prompt"""
    corrupt: dict[int, Tensor]
    rest: dict[int, Tensor]
    """{layer: [n, d_model]} of the clean prompt"""
    difference: float
    """logit of the answer less that of the wrong one, after the clean prompt"""
    corrupt_difference: float


def metric(logits: Tensor, pair: Pair) -> Tensor:
    """[batch] logit of the answer less that of the wrong one at the last position of [batch, n, vocab]."""
    return logits[:, -1, pair.answer] - logits[:, -1, pair.wrong]


@torch.no_grad()
def state_of(model: LanguageModel, dictionaries: Mapping[int, Dictionary], pair: Pair) -> PairState:
    both = torch.stack([pair.clean, pair.corrupt]).to(model.device)
    reading = model.read_with_logits(both, sorted(dictionaries))
    clean, corrupt, rest = {}, {}, {}
    for layer, dictionary in dictionaries.items():
        x = reading.residuals[layer].float()
        clean[layer] = dense_code(dictionary, x[0], pair.clean)
        corrupt[layer] = dense_code(dictionary, x[1], pair.corrupt)
        rest[layer] = x[0] - clean[layer] @ dictionary.W_dec
    difference = metric(reading.logits, pair).tolist()
    clean, corrupt, rest = (
        {layer: each.clone() for layer, each in part.items()} for part in (clean, corrupt, rest)
    )
    return PairState(pair, clean, corrupt, rest, *difference)


def integrated_gradients(
    model: LanguageModel, layer: int, dictionary: Dictionary, state: PairState
) -> Tensor:
    """[n, d_sae] the mean gradient of the logit difference over the line from the corrupt code to the clean
    one at one layer (Sundararajan et al. 2017); times their difference it is each feature's attribution.
    """
    clean, corrupt = (part[layer].clone() for part in (state.clean, state.corrupt))
    share = ((torch.arange(STEPS) + 0.5) / STEPS)[:, None, None]
    z = (corrupt + share * (clean - corrupt)).requires_grad_()
    rest = state.rest[layer].clone()
    tokens = state.pair.clean.expand(STEPS, -1).to(model.device)
    logits = model.differentiable_logits(tokens, {layer: lambda _: z @ dictionary.W_dec + rest})
    [gradient] = torch.autograd.grad(metric(logits, state.pair).sum(), [z])
    return gradient.mean(0)


def edges(
    model: LanguageModel,
    layers: tuple[int, int],
    dictionaries: Mapping[int, Dictionary],
    state: PairState,
    gradient: Tensor,
    later: Tensor,
) -> Tensor:
    """[m, d_sae] what each feature of the first layer does to the logit difference through each of the
    `later` [m] features of the second: gradient [n, d_sae] of those, times their slope on the first layer's
    code, times the difference of its clean and corrupt values.
    """
    first, second = layers
    early, late = dictionaries[first], dictionaries[second]
    z = state.clean[first].clone().requires_grad_()
    rest = state.rest[first].clone()
    seen: list[Tensor] = []

    def capture(x: Tensor) -> Tensor:
        seen.append(x)
        return x

    tokens = state.pair.clean[None].to(model.device)
    model.differentiable_logits(tokens, {first: lambda _: (z @ early.W_dec + rest)[None], second: capture})
    pre = (seen[0][0] @ late.W_enc[:, later])[1:]  # the look-up and the bias have no slope
    active = ((state.clean[second] != 0) | (state.corrupt[second] != 0))[1:, later]
    weights = gradient[1:, later].clone() * active.clone()
    change = (state.clean[first] - state.corrupt[first]).clone()
    rows = []
    for place in range(len(later)):
        [slope] = torch.autograd.grad(
            (pre[:, place] * weights[:, place]).sum(), [z], retain_graph=place + 1 < len(later)
        )
        rows.append((slope * change).sum(0))
    return torch.stack(rows)


@torch.inference_mode()
def with_features(
    model: LanguageModel,
    dictionaries: Mapping[int, Dictionary],
    state: PairState,
    kept: Mapping[int, Tensor],
) -> float:
    """The logit difference after the clean prompt where at every layer all features but `kept` {layer:
    [d_sae] bool} take their corrupt values. Kept features have the values that the changed run gives them.
    """

    def patch(layer: int) -> Patch:
        dictionary = dictionaries[layer]

        def change(x: Tensor) -> Tensor:
            z = dense_code(dictionary, x[0].float(), state.pair.clean)
            new = torch.where(kept[layer], z, state.corrupt[layer])
            return (x[0] + (new - z) @ dictionary.W_dec)[None]

        return change

    tokens = state.pair.clean[None].to(model.device)
    logits = model.logits(tokens, {layer: patch(layer) for layer in dictionaries})
    return float(metric(logits, state.pair)[0])
