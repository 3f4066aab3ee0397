"""The metrics of SAEBench that act on probes, from their definitions: sparse probing, targeted probe
perturbation (TPP), spurious correlation removal (SCR).

Passages are represented by means over their positions, of the stream or of feature activations; probes are
logistic regressions.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from lexiscope.dictionary import Dictionary
from lexiscope.sparse_code import SparseCode
from studies.two_texts import Probe, correct, fit_probe, mean_state


class Texts(NamedTuple):
    """Passages of all classes under one dictionary."""

    x: Tensor
    """[positions, d]"""
    code: SparseCode
    passage: Tensor
    """[positions]"""
    n: int
    """passages"""

    @property
    def states(self) -> Tensor:
        """[n, d]"""
        return mean_state(self.x, self.passage, self.n)

    def pooled(self, d_sae: int) -> Tensor:
        """[n, d_sae] the mean activation of each feature over each passage."""
        flat = (self.passage[:, None] * d_sae + self.code.indices).reshape(-1)
        sums = torch.zeros(self.n * d_sae).index_add_(0, flat, self.code.values.reshape(-1))
        counts = torch.bincount(self.passage, minlength=self.n).clamp_min(1)
        return sums.view(self.n, d_sae) / counts[:, None]

    def without(self, dictionary: Dictionary, pooled: Tensor, features: Tensor) -> Tensor:
        """[n, d] the mean states with features [m] ablated at every position; pooled [n, d_sae]."""
        return self.states - pooled[:, features] @ dictionary.W_dec[features].float()


def attribution(probe: Probe, pooled: Tensor, label: Tensor, dictionary: Dictionary, *, both: bool) -> Tensor:
    """[d_sae] how much each feature moves a probe on mean states: the difference of its mean activation
    between the labels [n], times its decoder row along the probe's weights. In TPP only what is more active
    in the class counts; in SCR (`both`) the magnitude does.
    """
    difference = pooled[label > 0.5].mean(0) - pooled[label <= 0.5].mean(0)
    along = dictionary.W_dec.float() @ (probe.weight / probe.deviation)
    return (difference * along).abs() if both else difference.clamp_min(0) * along


def strongest(effects: Tensor, m: int) -> Tensor:
    """[≤ m] features of largest effect, of those that have one."""
    order = effects.argsort(descending=True)[:m]
    return order[effects[order] != 0]


def even(label: Tensor, among: Tensor) -> Tensor:
    """[n] bool: of `among` [n], as many of both labels [n], the more frequent thinned evenly."""
    places = [(among & side).nonzero().squeeze(1) for side in (label > 0.5, label <= 0.5)]
    m = min(map(len, places))
    kept = torch.zeros_like(among)
    for each in places:
        kept[each[torch.arange(m) * len(each) // max(m, 1)]] = True
    return kept


def sparse_probing(pooled: Tensor, label: Tensor, trains: Tensor, k: int) -> Tensor:
    """[judged] 1.0 where a probe on the k features of largest mean difference tells the class."""
    fits = even(label, trains)
    difference = pooled[fits & (label > 0.5)].mean(0) - pooled[fits & (label <= 0.5)].mean(0)
    top = difference.abs().argsort(descending=True)[:k]
    probe = fit_probe(pooled[fits][:, top], label[fits], penalty=1e-3)
    return balanced(probe, pooled[~trains][:, top], label[~trains])


def balanced(probe: Probe, inputs: Tensor, label: Tensor) -> Tensor:
    """[n] correct or not, weighted so that its mean is the mean accuracy of both labels."""
    right, ones = correct(probe, inputs, label), label > 0.5
    return right * torch.where(ones, 0.5 / ones.float().mean(), 0.5 / (~ones).float().mean())


def tpp(texts: Texts, dictionary: Dictionary, source: Tensor, trains: Tensor, m: int) -> Tensor:
    """[classes] by how much more the accuracy of a class's probe falls than the others' when its m features
    are ablated.
    """
    states, pooled = texts.states, texts.pooled(dictionary.d_sae)
    labels = [(source == each).float() for each in range(int(source.max()) + 1)]
    fits = [even(label, trains) for label in labels]
    probes = [fit_probe(states[rows], label[rows]) for rows, label in zip(fits, labels, strict=True)]
    clean = [
        balanced(p, states[~trains], label[~trains]).mean() for p, label in zip(probes, labels, strict=True)
    ]
    found = []
    for own, label in enumerate(labels):
        effects = attribution(probes[own], pooled[fits[own]], label[fits[own]], dictionary, both=False)
        changed = texts.without(dictionary, pooled, strongest(effects, m))[~trains]
        falls = torch.stack(
            [
                clean[at] - balanced(probes[at], changed, labels[at][~trains]).mean()
                for at in range(len(labels))
            ]
        )
        others = torch.cat([falls[:own], falls[own + 1 :]])
        found.append(falls[own] - others.mean())
    return torch.stack(found)


def scr(
    texts: Texts, dictionary: Dictionary, first: Tensor, second: Tensor, trains: Tensor, m: int
) -> float | None:
    """The share of the lost accuracy on one of two attributes [n] that comes back when m features of the
    other are ablated: of the direction in which more was lost, as in SAEBench. None where nothing was lost.
    """
    states, pooled = texts.states, texts.pooled(dictionary.d_sae)
    together = trains & (first == second)
    spurious = fit_probe(states[together], first[together])
    lost, score = 1e-3, None
    for wanted, other in ((first, second), (second, first)):
        clean = correct(fit_probe(states[trains], wanted[trains]), states[~trains], wanted[~trains]).mean()
        before = correct(spurious, states[~trains], wanted[~trains]).mean()
        if float(clean - before) < lost:
            continue
        lost = float(clean - before)
        probe = fit_probe(states[trains], other[trains])
        effects = attribution(probe, pooled[trains], other[trains], dictionary, both=True)
        changed = texts.without(dictionary, pooled, strongest(effects, m))[~trains]
        score = float(correct(spurious, changed, wanted[~trains]).mean() - before) / lost
    return score
