"""What a dictionary leaves out: how much of its error e = x − x̂ is a linear function of x, what that part
costs the model, on which tokens it is large, and which tokens' anchors name it.

Ridge regression of e (and of ‖e‖²) on x is fitted on every second passage and judged on the others. The
linear part ê then goes back into the stream: the ΔCE that remains is the price of what is not linear in x.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lexiscope.anchors import OUTLIER, TokenSums, class_mean_anchors, nearest_tokens
from lexiscope.checkpoint import Checkpoint
from lexiscope.dictionary import Dictionary
from lexiscope.language_model import LanguageModel
from lexiscope.metrics import cross_entropy
from lexiscope.records import ChartSeries, StudyChart, StudyTable
from lexiscope.records.study import Cell
from studies.inputs import ENCODED, Stream, load_inputs, own_passages, read_stream, source_of
from studies.intervals import Interval, figure, mean_over, percent, ratio_over
from studies.regression import explained, ridge
from studies.study import Arguments, Findings, Study, StudyError, argument

PER_DIMENSION = 8
"""positions a dimension of x that a regression needs"""
OFTEN = 10
"""occurrences of a token whose mean error is given"""


@dataclass(frozen=True, kw_only=True)
class DarkMatterArguments(Arguments):
    ce_tokens: int = argument("tokens that cross-entropies are measured on, at most", 4_000, least=1)
    shown: int = argument("tokens in the table and the chart", 12, least=1)
    directions: int = argument("principal directions of the error that are named", 8, least=1)


def error_of(dictionary: Dictionary, x: Tensor, tokens: Tensor) -> Tensor:
    """[n, d] x − x̂."""
    parts = []
    for some, on in zip(x.split(ENCODED), tokens.split(ENCODED), strict=True):
        parts.append(some - dictionary.decode(dictionary.encode(some, on), some, on))
    return torch.cat(parts)


class Costs(NamedTuple):
    """ΔCE of replaced streams, in nats a token."""

    whole: Interval
    """x̂"""
    removed: Interval
    """how much less it is with a prediction of the error put back"""
    control: Interval
    """the same with the prediction that belongs to another position"""


def costs(
    model: LanguageModel,
    layer: int,
    dictionary: Dictionary,
    predict: Callable[[Tensor, Tensor], Tensor],
    found: Sequence[np.ndarray],
    *,
    tokens: int,
    seed: int,
    limit: float = float("inf"),
) -> Costs:
    """On passages of token ids, until they hold `tokens` tokens; `predict` takes x [n, d] and the tokens [n]
    that it stands on to the error [n, d]. Position 0 is left as it is; positions whose norm is above `limit`
    (attention sinks, where nothing was fitted) get nothing put back.
    """
    rises: list[list[Tensor]] = [[], [], []]
    passage, read, draw = [], 0, torch.Generator().manual_seed(seed)
    for number, each in enumerate(found):
        ids = torch.from_numpy(each.astype(np.int64))[None].to(model.device)
        reading = model.read_with_logits(ids, [layer])
        x, following = reading.residuals[layer][0], ids[0, 2:]
        base = cross_entropy(reading.logits[0, 1:-1], following)
        error = error_of(dictionary, x[1:], ids[0, 1:])
        guess = predict(x[1:], ids[0, 1:]) * (x[1:].norm(dim=-1, keepdim=True) <= limit)
        other = guess[torch.randperm(len(guess), generator=draw)]
        for place, back in enumerate((torch.zeros_like(guess), guess, other)):
            changed = torch.cat([x[:1], x[1:] - error + back])[None]
            logits = model.logits_from(ids, layer, changed)[0, 1:-1]
            rises[place].append(cross_entropy(logits, following) - base)
        passage.append(torch.full((len(following),), number))
        read += len(following)
        if read >= tokens:
            break
    group = torch.cat(passage)
    whole, rest, other = (torch.cat(rise) for rise in rises)
    return Costs(*(mean_over(each, group, seed=seed) for each in (whole, whole - rest, whole - other)))


@torch.inference_mode()
def find(arguments: DarkMatterArguments) -> Findings:
    inputs = load_inputs(arguments)
    if len(inputs.checkpoints) > 1:
        raise StudyError("This study looks at one dictionary; run it once for each.")
    model, checkpoint = inputs.model, inputs.checkpoints[0]
    layer, dictionary = checkpoint.layer, checkpoint.dictionary
    found = own_passages(model, arguments)
    stream = read_stream(model, found, [layer])
    fitted, judged = stream.where(stream.passage % 2 == 0), stream.where(stream.passage % 2 == 1)
    if len(fitted.tokens) < PER_DIMENSION * model.d_model or not len(judged.tokens):
        raise StudyError(
            f"A regression on {model.d_model} dimensions needs {2 * PER_DIMENSION * model.d_model:,} tokens; "
            f"the text gave {len(stream.tokens):,}. Give more with --tokens or another text."
        )
    x_fit, x = fitted.x[layer], judged.x[layer]
    e_fit, e = error_of(dictionary, x_fit, fitted.tokens), error_of(dictionary, x, judged.tokens)
    group, seed = judged.passage, arguments.seed
    linear = ridge(x_fit, e_fit)
    guess = linear(x)
    share = explained(e, guess, linear.bias, group, seed=seed)
    shuffled = torch.randperm(len(x_fit), generator=torch.Generator().manual_seed(seed))
    broken = ridge(x_fit[shuffled], e_fit)
    none = explained(e, broken(x), linear.bias, group, seed=seed)
    sizes, guessed = e.square().sum(-1, keepdim=True), ridge(x_fit, e_fit.square().sum(-1, keepdim=True))
    size = explained(sizes, guessed(x), guessed.bias, group, seed=seed)
    unrelated = ridge(x_fit[shuffled], e_fit.square().sum(-1, keepdim=True))
    no_size = explained(sizes, unrelated(x), guessed.bias, group, seed=seed)
    left = ratio_over(sizes[:, 0], (x - x_fit.mean(0)).square().sum(-1), group, seed=seed)
    odd = [each for number, each in enumerate(found) if number % 2]
    limit = OUTLIER * float(x_fit.norm(dim=-1).median())
    price = costs(
        model,
        layer,
        dictionary,
        lambda x, tokens: linear(x),
        odd,
        tokens=arguments.ce_tokens,
        seed=seed,
        limit=limit,
    )
    named = _named(_anchors(checkpoint, model, fitted), e - linear.bias, judged, seed=seed)
    figures = [
        figure(
            "error", "share", left, "‖x − x̂‖² of ‖x − μ‖², sums over the judged positions: the dark matter."
        ),
        figure(
            "error that is linear in x",
            "share",
            share,
            "Of the variance of the error, what a ridge regression on x explains on passages it was not "
            "fitted on.",
            control=none,
        ),
        figure(
            "squared norm that is linear in x",
            "share",
            size,
            "The same for ‖e‖² of each position.",
            control=no_size,
        ),
        figure("ΔCE", "nats", price.whole, "Rise of the cross-entropy a token when the stream is x̂."),
        figure(
            "ΔCE that the linear part removes",
            "nats",
            price.removed,
            "How much lower it is with the linear part of the error put back, position by position.",
            control=price.control,
        ),
        *(
            figure(
                f"error named by the {which} token",
                "share",
                own,
                f"Positions where the anchor nearest to the error is that of the {which} token.",
                control=by_chance,
            )
            for which, (own, by_chance) in named.items()
        ),
    ]
    answer = (
        f"{percent(left.value)} of the variance of x is left out. {percent(share.value)} of that error is "
        f"linear in x (shuffled pairs: {percent(none.value)}), and so is {percent(size.value)} of the "
        f"variance of its squared norm. Putting the linear part back lowers a ΔCE of {price.whole.value:.4f} "
        f"by {price.removed.value:.4f} ({price.removed.low:.4f} to {price.removed.high:.4f}; that of another "
        f"position: {price.control.value:.4f})."
    )
    rows = _by_token(model, judged, sizes[:, 0], arguments.shown)
    tables = [
        StudyTable(
            title=f"Tokens with the largest mean error, of those that occur {OFTEN} times or more",
            columns=["token", "occurrences", "share of the error", "mean ‖e‖² by the text's mean"],
            rows=[[token, n, total, mean.value] for token, n, total, mean in rows],
        ),
        _directions(_anchors(checkpoint, model, fitted), e - guess, model, arguments.directions),
    ]
    points = [mean.at(place) for place, (*_, mean) in enumerate(rows)]
    chart = StudyChart(
        kind="bars",
        title="Squared norm of the error on the tokens where it is largest (1: the text's mean)",
        x_label="mean ‖e‖² by the text's mean",
        categories=[token for token, *_ in rows],
        series=[ChartSeries(name=source_of(checkpoint), points=points)],
    )
    return Findings(model.id, answer, figures, tables, chart)


def _anchors(checkpoint: Checkpoint, model: LanguageModel, fitted: Stream) -> Tensor:
    """[vocab, d] the dictionary's own anchors, or mean states by current token fitted on half of the text."""
    if checkpoint.fit is not None:
        return checkpoint.fit.anchors
    sums = TokenSums(model.vocab_size, model.d_model)
    x = fitted.x[checkpoint.layer]
    sums.add(fitted.tokens, x - x.mean(0))
    return class_mean_anchors(model.embedding.cpu(), sums)


def _named(anchors: Tensor, e: Tensor, judged: Stream, *, seed: int) -> dict[str, tuple[Interval, Interval]]:
    """{current, next, previous: share of positions where the error's nearest anchor is that token's, and the
    same for the token of a position drawn at random}.
    """
    nearest = nearest_tokens(e, anchors, 1).tokens[:, 0]
    tokens, passage = judged.tokens, judged.passage
    drawn = torch.randperm(len(tokens), generator=torch.Generator().manual_seed(seed))
    found = {}
    for which, step in (("current", 0), ("next", 1), ("previous", -1)):
        on, same = tokens.roll(-step), passage.roll(-step) == passage
        hit = (nearest == on)[same].double()
        chance = (nearest == on[drawn])[same].double()
        found[which] = mean_over(hit, passage[same], seed=seed), mean_over(chance, passage[same], seed=seed)
    return found


def _by_token(
    model: LanguageModel, judged: Stream, sizes: Tensor, shown: int
) -> list[tuple[str, int, float, Interval]]:
    """(token, occurrences, share of the error, mean by the text's mean) of the tokens that occur OFTEN, the
    largest mean first.
    """
    counts = torch.bincount(judged.tokens, minlength=model.vocab_size)
    totals = torch.zeros(model.vocab_size, dtype=torch.float64).index_add_(0, judged.tokens, sizes.double())
    order = (totals / counts).where(counts >= OFTEN, -1).argsort(descending=True)[:shown]
    rows = []
    for token in order[counts[order] >= OFTEN].tolist():
        own = judged.tokens == token
        relative = mean_over(sizes[own] / sizes.mean(), judged.passage[own])
        rows.append(
            (
                model.vocabulary.shown[token],
                int(counts[token]),
                float(totals[token] / totals.sum()),
                relative,
            )
        )
    return rows


def _directions(anchors: Tensor, rest: Tensor, model: LanguageModel, n: int) -> StudyTable:
    """The principal directions of the non-linear error, with the anchors nearest to both of their ends."""
    values, vectors = torch.linalg.eigh(torch.cov(rest.T.double()))
    main = F.normalize(vectors.float().T.flip(0)[:n], dim=-1)
    variance = (values.flip(0)[:n] / values.sum()).tolist()
    ends = [nearest_tokens(end, anchors, 3) for end in (main, -main)]
    shown = model.vocabulary.shown
    rows: list[list[Cell]] = [
        [
            place + 1,
            variance[place],
            *(
                cell
                for end in ends
                for cell in (
                    " ".join(shown[token] for token in end.tokens[place].tolist()),
                    float(end.cosines[place, 0]),
                )
            ),
        ]
        for place in range(len(main))
    ]
    return StudyTable(
        title="Principal directions of the part that is not linear in x, and the anchors nearest to them",
        columns=["direction", "share of its variance", "one end", "cosine", "other end", "cosine"],
        rows=rows,
    )


STUDY = Study(
    "dark-matter",
    "What does the dictionary leave out, and how much of that is a linear function of what it reads?",
    "Engels, Riggs and Tegmark 2024, Decomposing the dark matter of sparse autoencoders (arXiv 2410.14670)",
    "regressions on x of another position, the linear part of another position put back, and the token of "
    "another position as the name.",
    "over passages that the regressions were not fitted on (percentile bootstrap).",
    DarkMatterArguments,
    find,
)
