"""A few named features found by gradient, with the strengths that make a wanted continuation likely.

A vector Σ c_j d_j of at most m features is added to the stream of prompts, its norm held to a budget, and c
is found by projected gradient ascent on the log probability of the continuation: a step, the m coefficients
of largest magnitude kept, the norm brought back (iterative hard thresholding). It is judged on prompts that
it was not found on, beside the best single feature, a dense vector found alike, and features at random.
The source optimises features of attention queries towards class prototypes; here they are those of the
residual stream, towards words.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lexiscope.language_model import LanguageModel
from lexiscope.records import ChartPoint, ChartSeries, StudyChart, StudyTable
from lexiscope.records.study import Cell
from studies.inputs import encode, firings, load_inputs, own_passages, read_stream
from studies.intervals import Interval, figure, mean_over
from studies.interventions import added, adding, losses
from studies.names import FeatureNames, names_on
from studies.study import Arguments, Findings, Study, StudyError, argument

SPARSE, SINGLE, DENSE, RANDOM = "few features", "best single feature", "any vector", "random features"
TRIED = 12
"""features that are tried as the best single one, those of largest gradient"""
RATE = 0.3
"""of a step, in budgets"""


@dataclass(frozen=True, kw_only=True)
class OptimiseArguments(Arguments):
    wanted: str = argument("the continuation that is wanted after every prompt")
    features: int = argument("features of the vector, at most", 8, least=1)
    strength: float = argument("norm of the vector, in median norms of the stream", 0.3, least=0)
    prompts: int = argument("openings of passages; half of them find the vector", 24, least=4)
    opening: int = argument("tokens of an opening, BOS included", 12, least=2)
    steps: int = argument("gradient steps", 15, least=1)


class Asked(NamedTuple):
    """Openings of one length followed by the wanted continuation."""

    tokens: Tensor
    """[n, opening + wanted]"""
    wanted: int
    """tokens of the continuation"""


def likelihood(model: LanguageModel, layer: int, asked: Asked, vector: Tensor) -> Tensor:
    """[n] mean log probability a token of the continuation with vector [d] added at every position but 0,
    as part of an autograd graph.
    """

    def patch(x: Tensor) -> Tensor:
        return torch.cat([x[:, :1], x[:, 1:] + vector], 1)

    logits = model.differentiable_logits(asked.tokens.to(model.device), {layer: patch})
    own = logits[:, -asked.wanted - 1 : -1].float().log_softmax(-1)
    return own.gather(-1, asked.tokens[:, -asked.wanted :, None])[..., 0].mean(-1)


def projected(coefficients: Tensor, rows: Tensor | None, m: int, budget: float) -> Tensor:
    """Coefficients [n] with all but the m of largest magnitude set to 0, scaled so that the vector (their sum
    of rows [n, d], or they themselves) has norm `budget`.
    """
    kept = torch.zeros_like(coefficients)
    top = coefficients.abs().argsort(descending=True)[:m]
    kept[top] = coefficients[top]
    norm = (kept if rows is None else kept @ rows).norm()
    return kept * (budget / norm.clamp_min(1e-12))


def ascend(
    objective: Callable[[Tensor], Tensor],
    rows: Tensor | None,
    *,
    size: int,
    m: int,
    budget: float,
    steps: int,
) -> Tensor:
    """[size] coefficients of rows (of the vector itself where None) that raise `objective` (vector [d] → a
    number), at most m of them other than 0, with a vector of norm `budget`: the best of all steps, which
    shorten.
    """
    coefficients, best, most = torch.zeros(size), torch.zeros(size), -torch.inf
    for number in range(steps + 1):
        vector = (coefficients if rows is None else coefficients @ rows).clone().requires_grad_()
        value = objective(vector)
        if value.item() > most and number:
            best, most = coefficients, value.item()
        [gradient] = torch.autograd.grad(value, [vector])
        with torch.no_grad():  # what the norm forbids is no use: only the part across the vector
            along = F.normalize(vector, dim=0)
            across = gradient - (gradient @ along) * along
            slope = across if rows is None else rows @ across
            rate = RATE / (1 + number / 5) if number else 1.0
            coefficients = projected(coefficients + projected(slope, rows, m, rate * budget), rows, m, budget)
    return best


def find(arguments: OptimiseArguments) -> Findings:
    inputs = load_inputs(arguments)
    if len(inputs.checkpoints) > 1:
        raise StudyError("This study looks at one dictionary; run it once for each.")
    model, checkpoint = inputs.model, inputs.checkpoints[0]
    layer, dictionary = checkpoint.layer, checkpoint.dictionary
    found = own_passages(model, arguments)
    opened = with_openings(found, arguments)
    asked = continued(model, opened, arguments)
    stream = read_stream(model, found, [layer])
    code = encode(dictionary, stream.x[layer], stream.tokens)
    live = (firings(code, dictionary.d_sae) > 1).nonzero().squeeze(1)
    if len(live) < 2 * arguments.features:
        raise StudyError(f"Only {len(live)} features fire on this text: give more text, or fewer --features.")
    rows = dictionary.directions[live].float()
    budget = arguments.strength * float(stream.x[layer].norm(dim=-1).median())
    half = len(asked.tokens) // 2
    finds, judges = (
        Asked(part, asked.wanted) for part in asked.tokens.split([half, len(asked.tokens) - half])
    )

    def objective(vector: Tensor) -> Tensor:
        return likelihood(model, layer, finds, vector).mean()

    def best_of(rows: Tensor | None, size: int, m: int) -> Tensor:
        return ascend(objective, rows, size=size, m=m, budget=budget, steps=arguments.steps)

    draw = torch.Generator().manual_seed(arguments.seed)
    drawn = rows[torch.randperm(len(rows), generator=draw)[: arguments.features]]
    coefficients = best_of(rows, len(rows), arguments.features)
    single, tried = _single(objective, rows, budget)
    vectors = {
        SPARSE: coefficients @ rows,
        SINGLE: single,
        DENSE: best_of(None, model.d_model, model.d_model),
        RANDOM: best_of(drawn, len(drawn), len(drawn)) @ drawn,
    }
    with torch.no_grad():
        before = likelihood(model, layer, judges, torch.zeros(model.d_model))
        rises = {
            name: mean_over(likelihood(model, layer, judges, vector) - before)
            for name, vector in vectors.items()
        }
    judged = opened[half : 2 * half]
    changes = {name: added(vector) for name, vector in vectors.items()}
    after = losses(model, layer, judged, changes | {"": added(torch.zeros(model.d_model))})
    costs = {name: mean_over(after[name] - after[""]) for name in vectors}
    figures = [
        figure(
            f"rise of the log probability, {name}",
            "nats",
            rises[name],
            f"Of {arguments.wanted!r}, a token, after openings that the vector was not found on.",
            control=rises[RANDOM],
        )
        for name in (SPARSE, SINGLE, DENSE)
    ]
    figures += [
        figure(
            f"cost on the text, {name}",
            "nats",
            costs[name],
            "Rise of the cross-entropy of the passages that the openings are from, with the vector added.",
            control=costs[RANDOM],
        )
        for name in (SPARSE, SINGLE, DENSE)
    ]
    used = coefficients.nonzero().squeeze(1)
    own = rises[SPARSE]
    answer = (
        f"{len(used)} features found by gradient make {arguments.wanted!r} {own.value:.2f} nats a token "
        f"likelier after other openings ({own.low:.2f} to {own.high:.2f}); the best single feature of the "
        f"{tried} with the largest gradient {rises[SINGLE].value:.2f}, a dense vector of the same norm "
        f"{rises[DENSE].value:.2f}, random features optimised alike {rises[RANDOM].value:.2f}."
    )
    names = names_on(code, stream.tokens, d_sae=dictionary.d_sae, vocab_size=model.vocab_size)
    order = used[coefficients[used].abs().argsort(descending=True)]
    cells = FeatureNames(model, checkpoint, names)(live[order].tolist())
    table: list[list[Cell]] = [
        [cell, float(coefficients[place]) / budget] for place, cell in zip(order.tolist(), cells, strict=True)
    ]
    tables = [
        StudyTable(
            title="The vector's features, with their strength by its norm",
            columns=["feature", "strength"],
            rows=table,
        ),
        _samples(model, layer, vectors[SPARSE], judges, arguments),
    ]
    return Findings(model.id, answer, figures, tables, _chart(rises, costs))


def with_openings(found: Sequence[np.ndarray], arguments: OptimiseArguments) -> list[np.ndarray]:
    """The first passages with different openings. Raises StudyError for too few of them."""
    n = arguments.opening
    opened = list({each[:n].tobytes(): each for each in reversed(found) if len(each) >= n}.values())[::-1]
    if len(opened) < 4:
        raise StudyError(f"This study needs 4 openings of {n} tokens; the text gave {len(opened)}.")
    return opened[: arguments.prompts]


def continued(model: LanguageModel, opened: Sequence[np.ndarray], arguments: OptimiseArguments) -> Asked:
    """The passages' openings, with the continuation. Raises StudyError for an empty one."""
    wanted = model.tokenise(arguments.wanted)
    if not wanted:
        raise StudyError("--wanted is empty.")
    tokens = [[*each[: arguments.opening].tolist(), *wanted] for each in opened]
    return Asked(torch.tensor(tokens), len(wanted))


def _single(objective: Callable[[Tensor], Tensor], rows: Tensor, budget: float) -> tuple[Tensor, int]:
    """([d] the best of single features at norm `budget`, how many were tried): those with the largest
    gradient, with its sign.
    """
    vector = torch.zeros(rows.shape[1], requires_grad=True)
    [gradient] = torch.autograd.grad(objective(vector), [vector])
    slope = rows @ gradient
    top = slope.abs().argsort(descending=True)[:TRIED]
    with torch.no_grad():
        tried = [budget * slope[each].sign() * rows[each] for each in top]
        return max(tried, key=lambda each: float(objective(each))), len(tried)


def _samples(
    model: LanguageModel, layer: int, vector: Tensor, asked: Asked, arguments: OptimiseArguments
) -> StudyTable:
    """The likeliest continuation of some openings, as it is and with the vector."""
    prompts = asked.tokens[:4, : -asked.wanted].to(model.device)
    written = []
    for by in (torch.zeros_like(vector), vector):
        drawn = [
            step.tokens
            for step in model.stream(
                prompts, max_tokens=12, temperature=0, seed=arguments.seed, patches={layer: adding(by)}
            )
        ]
        written.append(torch.stack(drawn, 1).tolist())
    rows: list[list[Cell]] = [
        [model.text(prompt[1:]).strip(), *(model.text(each).strip() for each in both)]
        for prompt, *both in zip(prompts.tolist(), *written, strict=True)
    ]
    return StudyTable(
        title="The likeliest continuation of openings that the vector was not found on",
        columns=["opening", "as it is", "with the vector"],
        rows=rows,
    )


def _chart(rises: Mapping[str, Interval], costs: Mapping[str, Interval]) -> StudyChart:
    names = list(rises)

    def points(found: Mapping[str, Interval]) -> list[ChartPoint]:
        return [found[name].at(place) for place, name in enumerate(names)]

    return StudyChart(
        kind="bars",
        title="Log probability of the wanted continuation, and what the vector costs the text",
        x_label="nats a token",
        categories=names,
        series=[
            ChartSeries(name="rise of the log probability", points=points(rises)),
            ChartSeries(name="cost on the text", points=points(costs)),
        ],
    )


STUDY = Study(
    "optimise",
    "Which few features, and how strong, make the model continue as wanted?",
    "Bhattacharyya and Rooshenas 2026, Steered generation via gradient-based optimization on sparse query "
    "features (arXiv 2605.23040), of which the abstract was read",
    "as many features drawn at random, optimised alike at the same norm.",
    "over openings that the vector was not found on (percentile bootstrap).",
    OptimiseArguments,
    find,
)
