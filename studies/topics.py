"""Steering by a topic: features scored by how similar their names are to the words of a topic.

A feature's score is the cosine of its name's token embedding with the mean embedding of the topic's words
(embeddings centred and of norm 1), shifted and scaled to 0 … 1. The source scores features by embeddings of
sentences that they fire on; a dictionary whose features have names needs no second model. Two ways to steer:
add the features of highest score, or the source's *swap*: the selection among pre-activations multiplied by
the scores, with the activations that those features have.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from lexiscope.adaptive_selection import NormMatch
from lexiscope.dictionary import Dictionary
from lexiscope.language_model import LanguageModel
from lexiscope.records import ChartSeries, StudyChart, StudyTable
from lexiscope.records.study import Cell
from lexiscope.sparse_code import SparseCode, gather_sum
from studies.inputs import encode, firings, load_inputs, own_passages
from studies.intervals import Interval, figure, mean_over
from studies.interventions import Change, Positions, added, adding, direction, losses, unchanged
from studies.names import FeatureNames, names_on
from studies.study import Findings, Study, StudyError, argument
from studies.two_texts import TwoTextArguments, read_two

STRENGTHS = (0.25, 0.5, 1.0, 2.0)
"""of an added vector, beside the one that the figures are about"""
NAMES, RANDOM, TEXTS, SWAP = "features by name", "scores permuted", "the texts' difference", "swap"


@dataclass(frozen=True, kw_only=True)
class TopicArguments(TwoTextArguments):
    topic: str = argument("the topic in words; --text is a text about it, --against one that is not")
    features: int = argument("features that are added", 32, least=1)
    strength: float = argument("added norm, in median norms of the stream", 0.2, least=0)
    judged: int = argument("passages of each text that are judged, at most", 30, least=2)


def name_scores(embedding: Tensor, names: Tensor, topic: Tensor) -> Tensor:
    """[m] cosine of the embedding of each name [m] with the mean of those of a topic's tokens; embedding
    [vocab, d]. Names below 0 (silent features) score the least.
    """
    rows = F.normalize(embedding - embedding.mean(0), dim=-1)
    cosines = rows[names.clamp_min(0)] @ F.normalize(rows[topic].mean(0), dim=0)
    return torch.where(names >= 0, cosines, cosines.min())


def unit_scores(scores: Tensor) -> Tensor:
    """Scores [m] from 0 to 1."""
    return (scores - scores.min()) / (scores.max() - scores.min()).clamp_min(1e-12)


def can_swap(dictionary: Dictionary) -> bool:
    """Whether pre-activations times scores select as the pre-activations do: not where features have a sign,
    or the input decides beside them.
    """
    selection = dictionary.selection
    return not (
        selection.iterative
        or selection.signed
        or isinstance(selection, NormMatch)
        or dictionary.normalise != "none"
    )


def swapped(dictionary: Dictionary, scores: Tensor) -> Change:
    """The features that the dictionary selects from pre-activations times scores [d_sae], with the
    activations that they have; what it does not explain stays.
    """

    def change(x: Tensor, at: Positions) -> Tensor:
        pre = dictionary.pre_activations(x, at.tokens)
        own = dictionary.selection.encode(pre, dictionary.feedback)
        chosen = dictionary.selection.encode(pre * scores, dictionary.feedback)
        values = pre.gather(1, chosen.indices).relu() * (chosen.values != 0)
        new = SparseCode(values, chosen.indices)
        return x + gather_sum(new, dictionary.W_dec) - gather_sum(own, dictionary.W_dec)

    return change


def find(arguments: TopicArguments) -> Findings:
    inputs = load_inputs(arguments)
    if len(inputs.checkpoints) > 1:
        raise StudyError("This study looks at one dictionary; run it once for each.")
    model, checkpoint = inputs.model, inputs.checkpoints[0]
    layer, dictionary = checkpoint.layer, checkpoint.dictionary
    words = topic_tokens(model, arguments.topic)
    texts = read_two(model, arguments, [layer])
    stream = texts.stream
    x, code = stream.x[layer], encode(dictionary, stream.x[layer], stream.tokens)
    names = names_on(code, stream.tokens, d_sae=dictionary.d_sae, vocab_size=model.vocab_size)
    live = (firings(code, dictionary.d_sae) > 1).nonzero().squeeze(1)
    if len(live) < arguments.features:
        raise StudyError(
            f"Only {len(live)} features fire on these texts: give more text, or fewer --features."
        )
    cosines = name_scores(model.embedding.cpu(), names[live], words)
    draw = torch.Generator().manual_seed(arguments.seed)
    mixed = cosines[torch.randperm(len(live), generator=draw)]
    top = {
        name: each.argsort(descending=True)[: arguments.features]
        for name, each in ((NAMES, cosines), (RANDOM, mixed))
    }
    vectors = {
        name: direction(dictionary, live[top[name]], unit_scores(each)[top[name]])
        for name, each in ((NAMES, cosines), (RANDOM, mixed))
    }
    side, trains = texts.label[stream.passage] > 0.5, texts.trains[stream.passage]
    vectors[TEXTS] = F.normalize(x[trains & side].mean(0) - x[trains & ~side].mean(0), dim=0)
    size = arguments.strength * float(x.norm(dim=-1).median())
    changes: dict[str, Change] = {"": unchanged}
    for name, vector in vectors.items():
        for strength in STRENGTHS:
            changes[_key(name, strength)] = added(strength * size * vector)
    swaps = can_swap(dictionary)
    if swaps:
        for name, each in ((SWAP, cosines), (RANDOM, mixed)):
            scores = torch.zeros(dictionary.d_sae)
            scores[live] = unit_scores(each)
            changes[f"{SWAP} {name}"] = swapped(dictionary, scores)
    judged = [
        own_passages(model, arguments, text)[1::2][: arguments.judged]
        for text in (arguments.text, arguments.against)
    ]
    after = [losses(model, layer, found, changes) for found in judged]
    gain = {name: _gain(after, name) for name in changes if name}
    cost = {name: mean_over(after[1][name] - after[1][""]) for name in changes if name}
    figures = [
        figure(
            f"preference for the topic, {name}",
            "nats",
            gain[_key(name)],
            f"How much more the cross-entropy of the other text rises than that of the text about the topic, "
            f"with {arguments.strength:g} median norms added.",
            control=gain[_key(RANDOM)],
        )
        for name in (NAMES, TEXTS)
    ]
    figures.append(
        figure(
            "cost on the other text",
            "nats",
            cost[_key(NAMES)],
            "Rise of its cross-entropy with the features by name added.",
            control=cost[_key(RANDOM)],
        )
    )
    if swaps:
        figures.append(
            figure(
                "preference for the topic, swap",
                "nats",
                gain[f"{SWAP} {SWAP}"],
                "The same where features are selected by pre-activation times score.",
                control=gain[f"{SWAP} {RANDOM}"],
            )
        )
    own, control = gain[_key(NAMES)], gain[_key(RANDOM)]
    answer = (
        f"The {arguments.features} features whose names are nearest to the topic's words, added at "
        f"{arguments.strength:g} median norms, make the text about the topic {own.value:.3f} nats a token "
        f"likelier against the other ({own.low:.3f} to {own.high:.3f}; scores permuted: {control.value:.3f}; "
        f"the difference of the two texts' mean states: {gain[_key(TEXTS)].value:.3f})."
    )
    cells = FeatureNames(model, checkpoint, names)(live[top[NAMES]].tolist())
    rows: list[list[Cell]] = [
        [cell, value] for cell, value in zip(cells, cosines[top[NAMES]].tolist(), strict=True)
    ]
    tables = [
        StudyTable(
            title="Features by the similarity of their names to the topic",
            columns=["feature", "cosine"],
            rows=rows,
        ),
        _samples(model, layer, vectors[NAMES] * size, judged[1][:4], seed=arguments.seed),
    ]
    return Findings(model.id, answer, figures, tables, _chart(gain, arguments.strength))


def _key(name: str, strength: float = 1.0) -> str:
    """What a vector at a multiple of the strength is called among the changes."""
    return f"{name} × {strength}"


def topic_tokens(model: LanguageModel, topic: str) -> Tensor:
    """[n] the tokens of a topic's words, each with a space before it. Raises StudyError where it has none."""
    tokens = [token for word in topic.split() for token in model.tokenise(f" {word}")]
    if not tokens:
        raise StudyError("--topic has no words.")
    return torch.tensor(sorted(set(tokens)))


def _gain(after: Sequence[Mapping[str, Tensor]], name: str) -> Interval:
    """The rise on the other text less that on the text: passages of both, weighted to equal sums."""
    rises = [each[name] - each[""] for each in after]
    n = sum(map(len, rises))
    return mean_over(torch.cat([-rises[0] * n / len(rises[0]), rises[1] * n / len(rises[1])]))


def _samples(
    model: LanguageModel, layer: int, vector: Tensor, prompts: Sequence, *, seed: int, tokens: int = 20
) -> StudyTable:
    """What the model writes after openings of the other text, as it is and steered."""
    rows: list[list[Cell]] = []
    for prompt in prompts:
        opening = torch.from_numpy(prompt[:9]).long()[None].to(model.device)
        written = []
        for strength in (0.0, 1.0):
            drawn = model.stream(
                opening,
                max_tokens=tokens,
                temperature=0.7,
                seed=seed,
                patches={layer: adding(strength * vector)},
            )
            written.append(model.text([int(step.tokens[0]) for step in drawn]).strip())
        rows.append([model.text(prompt[1:9].tolist()).strip(), *written])
    return StudyTable(
        title="What the model writes after openings of the other text",
        columns=["opening", "as it is", "steered"],
        rows=rows,
    )


def _chart(gain: Mapping[str, Interval], of: float) -> StudyChart:
    series = []
    for name in (NAMES, TEXTS, RANDOM):
        found = [(strength * of, gain[_key(name, strength)]) for strength in STRENGTHS]
        points = [each.at(at) for at, each in found]
        series.append(ChartSeries(name=name, points=points, control=name == RANDOM))
    return StudyChart(
        kind="lines",
        title="How much likelier the text about the topic becomes against the other, by strength",
        x_label="added norm, in median norms of the stream",
        y_label="nats",
        series=series,
    )


STUDY = Study(
    "topics",
    "Do features whose names are like a topic's words steer the model to a text about it?",
    "Joshi, Cintas and Speakman 2025, Enabling precise topic alignment in large language models via sparse "
    "autoencoders (arXiv 2506.12576), and its code; scores from names are ours",
    "the same scores permuted over the features.",
    "over passages of both texts (percentile bootstrap).",
    TopicArguments,
    find,
)
