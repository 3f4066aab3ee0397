"""Two texts to be told apart: their passages as examples, features pooled over each, and probes.

Every second passage of each text trains; the others judge.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lexiscope.language_model import LanguageModel
from lexiscope.sparse_code import SparseCode
from studies.inputs import Stream, own_passages, read_stream
from studies.study import Arguments, StudyError, argument

FEWEST = 20
"""passages of each text"""
STEPS = 60
"""of L-BFGS"""


@dataclass(frozen=True, kw_only=True)
class TwoTextArguments(Arguments):
    against: tuple[str, ...] = argument("the other text, in the same form; may be given several times")


class TwoTexts(NamedTuple):
    """Both texts, as many passages of each."""

    stream: Stream
    label: Tensor
    """[passages] 1.0: of `text`, 0.0: of `against`"""
    trains: Tensor
    """[passages] bool"""


def read_two(model: LanguageModel, arguments: TwoTextArguments, layers: list[int]) -> TwoTexts:
    """The texts' passages, as many of each, until either holds `tokens` tokens. Raises StudyError where
    they are too few, or the same.
    """
    both = [own_passages(model, arguments, text) for text in (arguments.text, arguments.against)]
    n = min(map(len, both))
    if n < FEWEST:
        raise StudyError(
            f"Telling two texts apart needs {FEWEST} passages of each; the shorter one gave {n} of "
            f"{arguments.length} tokens. Give more text, or a smaller --length."
        )
    check_different(both[0][:n], both[1][:n])
    found = both[0][:n] + both[1][:n]
    label = torch.cat([torch.ones(n), torch.zeros(n)])
    trains = torch.arange(2 * n) % n % 2 == 0
    return TwoTexts(read_stream(model, found, layers), label, trains)


def check_different(one: Sequence[np.ndarray], other: Sequence[np.ndarray]) -> None:
    """Raises StudyError where two lists of passages have one in common."""
    if {each.tobytes() for each in one} & {each.tobytes() for each in other}:
        raise StudyError("The two texts share passages: there is nothing that tells those apart.")


def pooled(code: SparseCode, passage: Tensor, n: int, d_sae: int) -> Tensor:
    """[n, d_sae] the largest activation of each feature in each of n passages; code and passage of positions
    (a signed code counts by its magnitude).
    """
    out = torch.zeros(n * d_sae)
    flat = passage[:, None] * d_sae + code.indices
    out.scatter_reduce_(0, flat.reshape(-1), code.values.abs().reshape(-1), "amax")
    return out.view(n, d_sae)


def mean_state(x: Tensor, passage: Tensor, n: int) -> Tensor:
    """[n, d] the mean of x [positions, d] over each of n passages."""
    counts = torch.bincount(passage, minlength=n).clamp_min(1)
    return torch.zeros(n, x.shape[1]).index_add_(0, passage, x) / counts[:, None]


def token_counts(tokens: Tensor, passage: Tensor, n: int, vocab_size: int) -> Tensor:
    """[n, vocab] log(1 + occurrences) of each token in each of n passages."""
    out = torch.zeros(n * vocab_size)
    out.index_add_(0, passage * vocab_size + tokens, torch.ones(len(tokens)))
    return out.view(n, vocab_size).log1p()


class Probe(NamedTuple):
    """A logistic regression on standardised inputs."""

    mean: Tensor
    deviation: Tensor
    weight: Tensor
    """[m] on the standardised inputs"""
    bias: Tensor

    def __call__(self, inputs: Tensor) -> Tensor:
        """[n] log odds of label 1 for inputs [n, m]."""
        return (inputs - self.mean) / self.deviation @ self.weight + self.bias


@torch.inference_mode(False)
def fit_probe(inputs: Tensor, label: Tensor, *, penalty: float = 0.1) -> Probe:
    """Least logistic loss of label [n] on inputs [n, m], with penalty · ‖w‖² / 2; inputs that do not vary
    are ignored.
    """
    inputs, label = inputs.clone(), label.clone()
    mean, deviation = inputs.mean(0), inputs.std(0)
    deviation = torch.where(deviation > 1e-6, deviation, torch.inf)
    standard = (inputs - mean) / deviation
    weight = torch.zeros(inputs.shape[1], requires_grad=True)
    bias = torch.zeros((), requires_grad=True)
    optimiser = torch.optim.LBFGS([weight, bias], max_iter=STEPS, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimiser.zero_grad()
        value = F.binary_cross_entropy_with_logits(standard @ weight + bias, label)
        value = value + penalty * weight.square().sum() / 2
        value.backward()
        return value

    optimiser.step(loss)
    return Probe(mean, deviation, weight.detach(), bias.detach())


def correct(probe: Probe, inputs: Tensor, label: Tensor) -> Tensor:
    """[n] 1.0 where the probe tells the label."""
    return ((probe(inputs) > 0) == (label > 0.5)).float()


def auc(scores: Tensor, label: Tensor) -> float:
    """The share of pairs of a 1 and a 0 in which the 1 has the higher score; ties count half."""
    ones, zeros = scores[label > 0.5], scores[label <= 0.5]
    more = ones[:, None] - zeros[None]
    return float(((more > 0).double() + 0.5 * (more == 0).double()).mean())


def shuffled(label: Tensor, trains: Tensor, times: int, *, seed: int) -> list[Tensor]:
    """label [n] with those of the training passages permuted, `times` different ways: one alone may happen to
    agree with the truth.
    """
    draw, own, found = torch.Generator().manual_seed(seed), label[trains], []
    for _ in range(times):
        out = label.clone()
        out[trains] = own[torch.randperm(len(own), generator=draw)]
        found.append(out)
    return found
