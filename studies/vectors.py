"""A steering vector written as a few named features with signs, and whether adding those does what adding the
vector does.

The vector is the difference of the mean states of two texts, or one that is given. Three ways to write it:
signed pursuit (orthogonal matching pursuit over unit decoder rows), non-negative pursuit, and the encoder as
it is, which the source finds misleading: a vector is shorter than a state, and it has negative parts.
Vectors are added at equal norm at every position but 0, to passages that did not make them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from scipy.optimize import nnls
from torch import Tensor

from lexiscope.dictionary import Dictionary
from lexiscope.formats.stored import read_tensors
from lexiscope.language_model import LanguageModel
from lexiscope.metrics import cross_entropy
from lexiscope.records import ChartPoint, ChartSeries, StudyChart, StudyTable
from studies.inputs import Stream, encode, firings, load_inputs, own_passages
from studies.intervals import Interval, figure, mean_over, percent
from studies.names import FeatureNames, names_on
from studies.study import Findings, Study, StudyError, argument
from studies.two_texts import TwoTextArguments, read_two

FULL, SIGNED, POSITIVE, ENCODER, RANDOM = (
    "the vector itself",
    "signed pursuit",
    "non-negative pursuit",
    "the encoder",
    "random features",
)


@dataclass(frozen=True, kw_only=True)
class VectorArguments(TwoTextArguments):
    vector: Path | None = argument("a safetensors file with one tensor [d_model] to write instead", None)  # noqa: RUF009
    features: int = argument("features that the vector is written with", 16, least=1)
    strength: float = argument("how many times the vector is added", 2.0, least=0)
    prompts: int = argument("passages of each text that are steered", 12, least=2)


class Sparse(NamedTuple):
    """A vector as a sum of features."""

    features: Tensor
    """[m] places among the rows, in order of choice"""
    coefficients: Tensor
    """[m] of the unit rows"""
    vector: Tensor
    """[d] the sum"""


def pursuit(vector: Tensor, rows: Tensor, m: int, *, signed: bool = True) -> Sparse:
    """Orthogonal matching pursuit of vector [d] over unit rows [n, d]: the row that agrees most with what is
    left, then all coefficients again by least squares (with `signed=False` none below 0).
    """
    chosen: list[int] = []
    fit, coefficients = torch.zeros_like(vector), torch.zeros(0)
    for _ in range(min(m, len(rows))):
        agreement = rows @ (vector - fit)
        agreement = agreement.abs() if signed else agreement
        agreement[chosen] = -torch.inf
        best = int(agreement.argmax())
        if agreement[best] <= 0:
            break
        chosen.append(best)
        atoms = rows[chosen]
        if signed:
            coefficients = torch.linalg.lstsq(atoms.T, vector[:, None]).solution[:, 0]
        else:
            solved, _ = nnls(atoms.T.double().numpy(), vector.double().numpy())
            coefficients = torch.from_numpy(solved).float()
        fit = coefficients @ atoms
    return Sparse(torch.tensor(chosen, dtype=torch.long), coefficients, fit)


def encoded(dictionary: Dictionary, vector: Tensor) -> Tensor:
    """[d] what the encoder and the decoder make of a vector, without bias, dense path and look-up."""
    alone = replace(dictionary, lookup=None)
    return alone.decode_sparse(alone.encode(vector[None]), vector[None])[0]


def random_fit(vector: Tensor, rows: Tensor, m: int, *, seed: int) -> Tensor:
    """[d] the least-squares fit on m of the rows [n, d], drawn at random."""
    drawn = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))[:m]]
    return torch.linalg.lstsq(drawn.T, vector[:, None]).solution[:, 0] @ drawn


class Effects(NamedTuple):
    """What adding each vector did."""

    alike: dict[str, Interval]
    """mean cosine of the change of the log probabilities with that of the full vector"""
    preference: dict[str, Interval]
    """nats a token by which the cross-entropy rises more on the other text than on the text"""


@torch.inference_mode()
def effects(
    model: LanguageModel, layer: int, vectors: Mapping[str, Tensor], prompts: list[Tensor], label: Tensor
) -> Effects:
    """Of `vectors` {name: [d]} added at their own length to prompts of token ids [n]; label [prompts] is 1.0
    for the text, 0.0 for the other.
    """
    alike: dict[str, list[float]] = {name: [] for name in vectors}
    rises: dict[str, list[float]] = {name: [] for name in vectors}
    for ids in prompts:
        tokens = ids[None].to(model.device)
        reading = model.read_with_logits(tokens, [layer])
        x, default = reading.residuals[layer], reading.logits[0, 1:].float().log_softmax(-1)
        base = cross_entropy(default[:-1], tokens[0, 2:]).mean()
        changes = {}
        for name, vector in vectors.items():
            moved = x.clone()
            moved[:, 1:] += vector
            after = model.logits_from(tokens, layer, moved)[0, 1:].float().log_softmax(-1)
            changes[name] = after - default
            changes[name] = changes[name] - changes[name].mean(-1, keepdim=True)
            rises[name].append(float(cross_entropy(after[:-1], tokens[0, 2:]).mean() - base))
        for name, change in changes.items():
            alike[name].append(float(F.cosine_similarity(change, changes[FULL], dim=-1).mean()))
    side = torch.where(label > 0.5, -1 / (label > 0.5).float().mean(), 1 / (label <= 0.5).float().mean())
    return Effects(
        {name: mean_over(torch.tensor(values)) for name, values in alike.items()},
        {name: mean_over(torch.tensor(values) * side) for name, values in rises.items()},
    )


def find(arguments: VectorArguments) -> Findings:
    inputs = load_inputs(arguments)
    if len(inputs.checkpoints) > 1:
        raise StudyError("This study looks at one dictionary; run it once for each.")
    model, checkpoint = inputs.model, inputs.checkpoints[0]
    layer, dictionary = checkpoint.layer, checkpoint.dictionary
    texts = read_two(model, arguments, [layer])
    stream = texts.stream
    vector = _vector(arguments, stream, texts.label, texts.trains, layer, model.d_model)
    code = encode(dictionary, stream.x[layer], stream.tokens)
    live = (firings(code, dictionary.d_sae) > 1).nonzero().squeeze(1)
    rows = dictionary.directions[live].float()
    signed = pursuit(vector, rows, arguments.features)
    positive = pursuit(vector, rows, arguments.features, signed=False)
    written = {
        FULL: vector,
        SIGNED: signed.vector,
        POSITIVE: positive.vector,
        ENCODER: encoded(dictionary, vector),
        RANDOM: random_fit(vector, rows, arguments.features, seed=arguments.seed),
    }
    cosines = {name: float(F.cosine_similarity(each, vector, dim=0)) for name, each in written.items()}
    length = float(vector.norm()) * arguments.strength
    equal = {name: F.normalize(each, dim=0) * length for name, each in written.items()}
    drawn = torch.randn(model.d_model, generator=torch.Generator().manual_seed(arguments.seed))
    equal["a random direction"] = F.normalize(drawn, dim=0) * length
    found = own_passages(model, arguments)[1 : 2 * arguments.prompts : 2]
    other = own_passages(model, arguments, arguments.against)[1 : 2 * arguments.prompts : 2]
    label = torch.cat([torch.ones(len(found)), torch.zeros(len(other))])
    prompts = [torch.from_numpy(each).long() for each in (*found, *other)]
    measured = effects(model, layer, equal, prompts, label)
    figures = [
        figure(
            f"cosine of {name} with the vector",
            "cosine",
            cosines[name],
            f"{arguments.features} features at most; the control is a least-squares fit on random ones.",
            control=cosines[RANDOM],
        )
        for name in (SIGNED, POSITIVE, ENCODER)
    ]
    figures += [
        figure(
            f"effect of {name}",
            "cosine",
            measured.alike[name],
            "Mean cosine of the change of the next token's log probabilities with that of the full vector.",
            control=measured.alike[RANDOM],
        )
        for name in (SIGNED, POSITIVE, ENCODER)
    ]
    figures += [
        figure(
            f"preference given by {name}",
            "nats",
            measured.preference[name],
            "How much more the cross-entropy a token rises on the other text than on the text.",
            control=measured.preference["a random direction"],
        )
        for name in (FULL, SIGNED)
    ]
    below = int((signed.coefficients < 0).sum())
    answer = (
        f"{len(signed.features)} features with signs write the vector at a cosine of {cosines[SIGNED]:.2f} "
        f"(without signs {cosines[POSITIVE]:.2f}, by the encoder {cosines[ENCODER]:.2f}, random features "
        f"{cosines[RANDOM]:.2f}); {percent(below / len(signed.features))} of them are negative. Added at "
        f"equal length they change the predictions as the vector does to "
        f"{measured.alike[SIGNED].value:.2f} (random features {measured.alike[RANDOM].value:.2f})."
    )
    names = names_on(code, stream.tokens, d_sae=dictionary.d_sae, vocab_size=model.vocab_size)
    cells = FeatureNames(model, checkpoint, names)(live[signed.features].tolist())
    share = (signed.coefficients / vector.norm()).tolist()
    order = sorted(range(len(share)), key=lambda place: -abs(share[place]))
    table = StudyTable(
        title="The vector as features, with signs",
        columns=["feature", "coefficient by the vector's norm", "firings on both texts"],
        rows=[
            [cells[at], share[at], int(firings(code, dictionary.d_sae)[live[signed.features[at]]])]
            for at in order
        ],
    )
    chart = StudyChart(
        kind="bars",
        title="The vector as features: coefficients of unit directions by the vector's norm",
        x_label="coefficient",
        categories=[cells[at].text for at in order],
        series=[
            ChartSeries(
                name="coefficient",
                points=[ChartPoint(x=place, y=share[at]) for place, at in enumerate(order)],
            )
        ],
    )
    return Findings(model.id, answer, figures, [table], chart)


def _vector(
    arguments: VectorArguments, stream: Stream, label: Tensor, trains: Tensor, layer: int, width: int
) -> Tensor:
    """[d] the one given, or the difference of the two texts' mean states on the training passages."""
    if arguments.vector is not None:
        tensors = read_tensors(arguments.vector)
        if len(tensors) != 1 or next(iter(tensors.values())).shape != (width,):
            shapes = {name: list(tensor.shape) for name, tensor in tensors.items()}
            raise StudyError(f"{arguments.vector} holds {shapes}, and not one tensor of [{width}].")
        return next(iter(tensors.values())).float()
    x, of_text = stream.x[layer], label[stream.passage] > 0.5
    used = trains[stream.passage]
    return x[used & of_text].mean(0) - x[used & ~of_text].mean(0)


STUDY = Study(
    "vectors",
    "Can a steering vector be written as a few named features, and do those steer as it does?",
    "Mayne, Yang and Mahdi 2024, Can sparse autoencoders be used to decompose and interpret steering "
    "vectors? (arXiv 2411.08790)",
    "a least-squares fit on as many random features, and a random direction, at equal length.",
    "over steered passages (percentile bootstrap).",
    VectorArguments,
    find,
)
