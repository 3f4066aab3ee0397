"""A small graph of named features that does a task: attribution, edges between layers, and the five stages
that an attribution has to pass before it is called a cause.

Locate: integrated gradients of a logit difference over features at some layers, on half of the pairs (sparse
feature circuits, Marks et al. 2024). Verify: single features take their corrupt values, and the change is
compared with the attribution. Ablate: the circuit's features take their corrupt values. Patch: all others do
(faithfulness). Hold out: the last three on pairs that did not choose the features.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from lexiscope.checkpoint import Checkpoint
from lexiscope.language_model import LanguageModel
from lexiscope.records import ChartLink, ChartNode, StudyChart, StudyTable
from lexiscope.records.study import Cell
from studies.attribution import PairState, edges, integrated_gradients, state_of, with_features
from studies.inputs import encode, load_inputs, own_passages, read_stream, source_of
from studies.intervals import Interval, figure, percent, ratio_over
from studies.motifs import STRONG, motifs
from studies.names import FeatureNames, names_on
from studies.study import Arguments, Findings, Study, StudyError, argument
from studies.tasks import Task, pairs_of

DONE = 0.7
"""least share of pairs in which the model gives the answer"""
CARRIED = 0.05
"""least share of the effect that features must carry"""
VERIFIED = 8
"""features of each layer, the strongest, that are exchanged one at a time"""
PERMUTATIONS = 1000


@dataclass(frozen=True, kw_only=True)
class CircuitArguments(Arguments):
    task: Task = argument("indirect-object or agreement", "agreement")  # noqa: RUF009
    pairs: int = argument("pairs of prompts; half of them choose the features", 24, least=4)
    features: int = argument("features of the circuit in each layer", 20, least=1)
    drawn: int = argument("features of each layer in the chart", 6, least=1)


def kept_all(states: Sequence[PairState], layers: Sequence[int], value: bool) -> dict[int, Tensor]:
    return {layer: torch.full((states[0].clean[layer].shape[1],), value) for layer in layers}


def find(arguments: CircuitArguments) -> Findings:
    inputs = load_inputs(arguments)
    checkpoints = {checkpoint.layer: checkpoint for checkpoint in inputs.checkpoints}
    layers = sorted(checkpoints)
    model = inputs.model
    _check(inputs.checkpoints, layers)
    dictionaries = {layer: checkpoints[layer].dictionary for layer in layers}
    pairs = pairs_of(model, arguments.task, arguments.pairs, seed=arguments.seed)
    states = [state_of(model, dictionaries, pair) for pair in pairs]
    done = sum(state.difference > 0 for state in states) / len(states)
    if done < DONE:
        raise StudyError(
            f"{model.id} gives the answer of {arguments.task!r} in {percent(done)} of the pairs: it does not "
            "do the task, and there is no circuit to find. Try another --task."
        )
    finds, holds = states[::2], states[1::2]
    gradients = [
        {layer: integrated_gradients(model, layer, dictionaries[layer], state) for layer in layers}
        for state in finds
    ]
    scores = {
        layer: torch.stack(
            [
                (gradient[layer] * (state.clean[layer] - state.corrupt[layer])).sum(0)
                for gradient, state in zip(gradients, finds, strict=True)
            ]
        ).mean(0)
        for layer in layers
    }
    top = {layer: scores[layer].abs().argsort(descending=True)[: arguments.features] for layer in layers}
    empty, every = kept_all(states, layers, False), kept_all(states, layers, True)
    none = _run(model, dictionaries, holds, empty)
    whole = torch.tensor([state.difference for state in holds])
    corrupt = torch.tensor([state.corrupt_difference for state in holds])
    carried = float((whole - none).mean() / (whole - corrupt).mean())
    if carried < CARRIED:
        raise StudyError(
            f"Exchanging every feature of {_listed(layers)} moves {percent(carried)} of the effect: what the "
            "dictionaries leave out, or a token look-up, carries the task. Try other layers or dictionaries."
        )

    def recovered(kept: Mapping[int, Tensor]) -> Interval:
        found = _run(model, dictionaries, holds, kept)
        return ratio_over(found - none, whole - none, torch.arange(len(holds)))

    chosen = {layer: _mask(empty[layer], top[layer]) for layer in layers}
    drawn = {
        layer: _mask(empty[layer], _others(finds, layer, top[layer], arguments.features, arguments.seed))
        for layer in layers
    }
    patched, by_chance = recovered(chosen), recovered(drawn)
    ablated = recovered({layer: every[layer] & ~chosen[layer] for layer in layers})
    ablated_chance = recovered({layer: every[layer] & ~drawn[layer] for layer in layers})
    verified = {layer: features[:VERIFIED] for layer, features in top.items()}
    claimed, found = _verify(model, dictionaries, holds, scores, verified, every)
    agreement = correlation(claimed, found)
    chance = chance_level(claimed, found, seed=arguments.seed)
    figures = [
        figure(
            "answers", "share", done, "Pairs in which the answer has the higher logit: does the model do it?"
        ),
        figure(
            "effect that features carry",
            "share",
            carried,
            "Of the change of the logit difference from clean to corrupt prompt, what exchanging all "
            "features of these layers does.",
        ),
        figure(
            "verify: attribution against ablation",
            "correlation",
            agreement,
            f"Over the {VERIFIED} strongest features a layer, one at a time, on pairs that did not choose "
            "them. Control: what 95 % of permutations of the attributions stay below.",
            control=chance,
        ),
        figure(
            "patch: faithfulness",
            "share",
            patched,
            f"Of what all features carry, what {arguments.features} a layer keep when the rest is exchanged.",
            control=by_chance,
        ),
        figure(
            "ablate: what is left without the circuit",
            "share",
            ablated,
            "The same when only the circuit's features are exchanged.",
            control=ablated_chance,
        ),
    ]
    answer = (
        f"{model.id} does {arguments.task!r} in {percent(done)} of the pairs. {arguments.features} features "
        f"a layer keep {percent(patched.value)} of what all features of {_listed(layers)} carry (as many "
        f"others: {percent(by_chance.value)}), and without them {percent(ablated.value)} is left "
        f"({percent(ablated_chance.value)}). Attributions and single ablations correlate at {agreement:.2f}."
    )
    cells = _cells(arguments, model, checkpoints, layers)
    rows: list[list[Cell]] = [
        [source_of(checkpoints[layer]), cell, float(scores[layer][feature])]
        for layer in layers
        for feature, cell in zip(top[layer].tolist(), cells[layer](top[layer].tolist()), strict=True)
    ]
    table = StudyTable(
        title="The circuit's features and their attribution (logits, mean over pairs)",
        columns=["dictionary", "feature", "attribution"],
        rows=rows,
    )
    graph = {
        (a, b): torch.stack(
            [
                edges(model, (a, b), dictionaries, state, gradient[b], top[b])
                for state, gradient in zip(finds, gradients, strict=True)
            ]
        ).mean(0)[:, top[a]]
        for a, b in pairwise(layers)
    }
    tables = [table]
    if graph:
        tables.append(_motifs(list(graph.values()), arguments.seed))
    n = arguments.drawn
    shown = {layer: top[layer][:n] for layer in layers}
    between = {pair: weights[:n, :n] for pair, weights in graph.items()}
    chart = _chart(layers, shown, scores, between, cells, checkpoints)
    return Findings(model.id, answer, figures, tables, chart)


def _check(checkpoints: Sequence[Checkpoint], layers: Sequence[int]) -> None:
    if len(layers) < len(checkpoints):
        raise StudyError("This study needs one dictionary a layer.")
    if any(checkpoint.dictionary.normalise != "none" for checkpoint in checkpoints):
        raise StudyError("A dictionary that normalises its input has no fixed features to attribute to.")


def _run(
    model: LanguageModel, dictionaries: Mapping, states: Sequence[PairState], kept: Mapping[int, Tensor]
) -> Tensor:
    return torch.tensor([with_features(model, dictionaries, state, kept) for state in states])


def _mask(like: Tensor, features: Tensor) -> Tensor:
    mask = torch.zeros_like(like)
    mask[features] = True
    return mask


def _others(states: Sequence[PairState], layer: int, top: Tensor, n: int, seed: int) -> Tensor:
    """n features at random, of those that differ between clean and corrupt prompts and are not in the
    circuit.
    """
    differs = torch.stack([(state.clean[layer] != state.corrupt[layer]).any(0) for state in states]).any(0)
    differs[top] = False
    pool = differs.nonzero().squeeze(1)
    return pool[torch.randperm(len(pool), generator=torch.Generator().manual_seed(seed))[:n]]


def _verify(
    model: LanguageModel,
    dictionaries: Mapping,
    states: Sequence[PairState],
    scores: Mapping[int, Tensor],
    chosen: Mapping[int, Tensor],
    every: Mapping[int, Tensor],
) -> tuple[Tensor, Tensor]:
    """([m] the attributions of the chosen features of all layers, [m] what exchanging each alone does)."""
    whole = torch.tensor([state.difference for state in states])
    claimed, found = [], []
    for layer, features in chosen.items():
        for feature in features.tolist():
            kept = {each: mask.clone() for each, mask in every.items()}
            kept[layer][feature] = False
            found.append(float((whole - _run(model, dictionaries, states, kept)).mean()))
            claimed.append(float(scores[layer][feature]))
    return torch.tensor(claimed), torch.tensor(found)


def correlation(a: Tensor, b: Tensor) -> float:
    """Of a and b [n]."""
    return float(torch.corrcoef(torch.stack([a, b]))[0, 1])


def chance_level(a: Tensor, b: Tensor, *, seed: int) -> float:
    """The correlation of a and b [n] that 95 % of the permutations of a stay below."""
    draw = torch.Generator().manual_seed(seed)
    drawn = [correlation(a[torch.randperm(len(a), generator=draw)], b) for _ in range(PERMUTATIONS)]
    return float(torch.tensor(drawn).quantile(0.95))


def _motifs(weights: Sequence[Tensor], seed: int) -> StudyTable:
    """Patterns of the strongest edges between all features of the circuit."""
    rows: list[list[Cell]] = [
        [each.name, each.times, each.control, each.z] for each in motifs(weights, seed=seed)
    ]
    return StudyTable(
        title=f"Motifs of the strongest {STRONG:.0%} of edges; control: the same degrees (bi-fans), signs "
        "permuted (coherent), middle features permuted (relays)",
        columns=["motif", "count", "control", "z"],
        rows=rows,
    )


def _listed(layers: Sequence[int]) -> str:
    return f"layer{'s' if len(layers) > 1 else ''} {', '.join(map(str, layers))}"


def _cells(
    arguments: CircuitArguments,
    model: LanguageModel,
    checkpoints: Mapping[int, Checkpoint],
    layers: Sequence[int],
) -> dict[int, FeatureNames]:
    stream = read_stream(model, own_passages(model, arguments), layers)
    found = {}
    for layer in layers:
        dictionary = checkpoints[layer].dictionary
        code = encode(dictionary, stream.x[layer], stream.tokens)
        names = names_on(code, stream.tokens, d_sae=dictionary.d_sae, vocab_size=model.vocab_size)
        found[layer] = FeatureNames(model, checkpoints[layer], names)
    return found


def _chart(
    layers: Sequence[int],
    shown: Mapping[int, Tensor],
    scores: Mapping[int, Tensor],
    between: Mapping[tuple[int, int], Tensor],
    cells: Mapping[int, FeatureNames],
    checkpoints: Mapping[int, Checkpoint],
) -> StudyChart:
    """Features by layer, the edges between them, and what the last ones do to the logit difference."""
    end = "logit difference"
    nodes = [ChartNode(id=end, label=end, column=len(layers))]
    links = []
    for column, layer in enumerate(layers):
        features = shown[layer].tolist()
        for feature, cell in zip(features, cells[layer](features), strict=True):
            key = f"{layer}/{feature}"
            nodes.append(ChartNode(id=key, label=cell.text, column=column, feature=cell.id))
            if layer == layers[-1]:
                links.append(ChartLink(source=key, target=end, weight=float(scores[layer][feature])))
    for (a, b), weights in between.items():
        for row, later in enumerate(shown[b].tolist()):
            for column, early in enumerate(shown[a].tolist()):
                weight = float(weights[row, column])
                links.append(ChartLink(source=f"{a}/{early}", target=f"{b}/{later}", weight=weight))
    strongest = sorted(links, key=lambda link: -abs(link.weight))[: 4 * len(nodes)]
    return StudyChart(
        kind="flow",
        title="The features with the largest attribution, and what each does through the next layer's",
        categories=[*(source_of(checkpoints[layer]) for layer in layers), "output"],
        nodes=nodes,
        links=strongest,
    )


STUDY = Study(
    "circuits",
    "Which features do a task, through which others, and is that so by intervention?",
    "Marks et al. 2024, Sparse feature circuits (arXiv 2403.19647); the five stages of From correlation to "
    "cause",
    "as many other features that differ between the two prompts; for the correlation, what 95 % of "
    "permutations of the attributions stay below.",
    "over pairs of prompts that did not choose the features (percentile bootstrap).",
    CircuitArguments,
    find,
)
