"""What is left of a dictionary when the current token is known: a token look-up given to any dictionary
afterwards, as an analysis. Nothing is trained, and the dictionary stays as it is.

On every second passage, a row a token is fitted (mean state, and mean error of the dictionary, both shrunk to
the transported embedding, as the look-up of recipe `vasae` is). The other passages say how much of x such
rows explain alone, how much of the dictionary's error they mend, and how much of what differs between
occurrences of one token the dictionary reconstructs.
"""

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from lexiscope.anchors import OUTLIER, TokenSums, class_mean_anchors, exchanged_rows
from lexiscope.checkpoint import Checkpoint
from lexiscope.language_model import LanguageModel
from lexiscope.records import ChartPoint, ChartSeries, StudyChart, StudyTable
from lexiscope.sparse_code import SparseCode
from studies.dark_matter import costs, error_of
from studies.inputs import Stream, encode, firings, load_inputs, own_passages, read_stream, source_of
from studies.intervals import figure, mean_over, percent
from studies.names import FeatureNames, names_on
from studies.regression import explained_but
from studies.study import Arguments, Findings, Study, StudyError, argument

STEPS = 10
"""bars of the chart"""


@dataclass(frozen=True, kw_only=True)
class KnownTokenArguments(Arguments):
    ce_tokens: int = argument("tokens that cross-entropies are measured on, at most", 4_000, least=1)
    firings: int = argument("firings in either half of the text that a feature needs", 20, least=2)
    shown: int = argument("features at either end of the table", 10, least=1)


def token_rows(model: LanguageModel, stream: Stream, states: Tensor) -> Tensor:
    """[vocab, d] mean of states [n, d] by the token that each stands on, shrunk to the transported
    embedding.
    """
    mean = states.mean(0)
    sums = TokenSums(model.vocab_size, states.shape[1])
    sums.add(stream.tokens, states - mean)
    return class_mean_anchors(model.embedding.float().cpu(), sums) + mean


def _same_token(tokens: Tensor) -> Tensor:
    """[n] for each position of tokens [n], another with the same token; any other where there is none."""
    order = tokens.argsort(stable=True)
    other = torch.empty_like(order)
    other[order] = order.roll(1)
    return other


def known_share(
    fitted: SparseCode, judged: SparseCode, on: tuple[Tensor, Tensor], *, d_sae: int, vocab_size: int
) -> Tensor:
    """[d_sae] share of the variance of a feature's activation over positions that its mean on the current
    token explains: means by token of the code of one half of the text, judged on the other. `on` are the
    tokens [n] of either half. Below 0 where the means do not carry over; NaN for a silent feature.
    """

    def by_pair(code: SparseCode, tokens: Tensor) -> tuple[Tensor, Tensor]:
        active = code.values != 0
        pairs = (code.indices * vocab_size + tokens[:, None])[active]
        return pairs, code.values[active].double()

    def totals(pairs: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """The pairs that occur, ascending, and their sums."""
        found, place = pairs.unique(return_inverse=True)
        return found, torch.zeros(len(found), dtype=torch.float64).index_add_(0, place, values)

    counts = [torch.bincount(tokens, minlength=vocab_size).double() for tokens in on]
    pairs, sums = totals(*by_pair(fitted, on[0]))
    means = sums / counts[0][pairs % vocab_size]
    judged_pairs, values = by_pair(judged, on[1])
    own, own_sums = totals(judged_pairs, values)
    squares = torch.zeros(d_sae, dtype=torch.float64).index_add_(0, judged_pairs // vocab_size, values**2)
    whole = torch.zeros(d_sae, dtype=torch.float64).index_add_(0, own // vocab_size, own_sums)
    # Σ (a − m)² over positions = Σ a² − 2 Σ a m + Σ m², with m the mean of the pair (feature, token)
    along = torch.searchsorted(pairs, own).clamp_max(len(pairs) - 1)
    known = torch.where(pairs[along] == own, means[along], 0.0)
    cross = torch.zeros(d_sae, dtype=torch.float64).index_add_(0, own // vocab_size, own_sums * known)
    weight = counts[1][pairs % vocab_size] * means**2
    fit = torch.zeros(d_sae, dtype=torch.float64).index_add_(0, pairs // vocab_size, weight)
    variance = squares - whole**2 / len(on[1])
    return 1 - (squares - 2 * cross + fit) / variance.where(variance > 0, torch.nan)


@torch.inference_mode()
def find(arguments: KnownTokenArguments) -> Findings:
    inputs = load_inputs(arguments)
    if len(inputs.checkpoints) > 1:
        raise StudyError("This study looks at one dictionary; run it once for each.")
    model, checkpoint, seed = inputs.model, inputs.checkpoints[0], arguments.seed
    layer, dictionary = checkpoint.layer, checkpoint.dictionary
    if dictionary.lookup is not None:
        raise StudyError(
            f"{source_of(checkpoint)} has a token look-up already: its metrics say what it holds "
            "(lookup_share). Give a dictionary without one."
        )
    found = own_passages(model, arguments)
    stream = read_stream(model, found, [layer])
    fitted, judged = stream.where(stream.passage % 2 == 0), stream.where(stream.passage % 2 == 1)
    if not len(judged.tokens):
        raise StudyError("The text gives one passage; half of the passages judge. Give more text.")
    x_fit, x, group = fitted.x[layer], judged.x[layer], judged.passage
    e_fit, e = error_of(dictionary, x_fit, fitted.tokens), error_of(dictionary, x, judged.tokens)
    states, errors = token_rows(model, fitted, x_fit), token_rows(model, fitted, e_fit)
    seen = fitted.tokens.unique()
    wrong, wrong_errors = (exchanged_rows(rows, seen, seed=seed) for rows in (states, errors))
    mean, at = x_fit.mean(0), judged.tokens
    other = _same_token(at)
    paired = at[other] == at
    pairs = x - (x - e)[other] - errors[at], x - states[at], group

    explained = partial(explained_but, seed=seed)
    alone, alone_control = (explained(x - rows[at], x - mean, group) for rows in (states, wrong))
    own = explained(e, x - mean, group)
    mended, mended_control = (explained(e - rows[at], x - mean, group) for rows in (errors, wrong_errors))
    within = explained(e - errors[at], x - states[at], group)
    within_control = explained(*(each[paired] for each in pairs)) if bool(paired.any()) else None
    limit = OUTLIER * float(x_fit.norm(dim=-1).median())
    odd = [each for number, each in enumerate(found) if number % 2]
    price = costs(
        model,
        layer,
        dictionary,
        lambda x, tokens: errors[tokens.cpu()].to(x.device),
        odd,
        tokens=arguments.ce_tokens,
        seed=seed,
        limit=limit,
    )
    codes = encode(dictionary, x_fit, fitted.tokens), encode(dictionary, x, judged.tokens)
    counts = [firings(code, dictionary.d_sae) for code in codes]
    usable = ((counts[0] >= arguments.firings) & (counts[1] >= arguments.firings)).nonzero()[:, 0]
    if not len(usable):
        raise StudyError(
            f"No feature fires {arguments.firings} times in either half of the text. Give more with --tokens."
        )
    known = partial(known_share, *codes, d_sae=dictionary.d_sae, vocab_size=model.vocab_size)
    shares = known((fitted.tokens, judged.tokens))[usable]
    drawn = torch.randperm(len(fitted.tokens), generator=torch.Generator().manual_seed(seed))
    chance = known((fitted.tokens[drawn], judged.tokens))[usable]
    typical, by_chance = mean_over(shares.clamp_min(0)), mean_over(chance.clamp_min(0))
    mostly, mostly_chance = (mean_over((each >= 0.5).double()) for each in (shares, chance))
    figures = [
        figure("x that the token tells", "share", alone,
               "Of the variance of x, what one row a token explains, on passages that did not fit the rows.",
               control=alone_control),
        figure("FVE of the dictionary", "share", own, "As it is."),
        figure("FVE with a look-up of its errors", "share", mended,
               "The dictionary's mean error on each token is added to what it reconstructs.",
               control=mended_control),
        figure("FVE within a token", "share", within,
               "Of what differs between occurrences of one token, the part that the dictionary reconstructs: "
               "what is left when the token is known.", control=within_control),
        figure("ΔCE", "nats", price.whole, "Rise of the cross-entropy a token when the stream is x̂."),
        figure("ΔCE that the look-up removes", "nats", price.removed,
               "How much lower it is with the mean errors added.", control=price.control),
        figure("activation that the token tells", "share", typical,
               f"Mean over {len(usable):,} features with {arguments.firings} firings in either half: the "
               "share of the variance of the activation that its mean on the current token explains.",
               control=by_chance),
        figure("features that the token mostly tells", "share", mostly,
               "Features of which that share is a half or more.", control=mostly_chance),
    ]  # fmt: skip
    answer = (
        f"One row a token explains {percent(alone.value)} of x, and the dictionary {percent(own.value)}. "
        f"Where the token is known, it reconstructs {percent(within.value)} of what is left. A look-up of "
        f"its mean errors takes the FVE to {percent(mended.value)} and lowers a ΔCE of "
        f"{price.whole.value:.4f} by {price.removed.value:.4f} ({price.removed.low:.4f} to "
        f"{price.removed.high:.4f}). The token mostly tells the activation of {percent(mostly.value)} of the "
        f"features (other tokens: {percent(mostly_chance.value)})."
    )
    tables = [_ends(model, checkpoint, codes[1], judged, usable, shares, arguments.shown)]
    chart = _chart({source_of(checkpoint): shares, "tokens of other positions": chance})
    return Findings(model.id, answer, figures, tables, chart)


def _ends(
    model: LanguageModel,
    checkpoint: Checkpoint,
    code: SparseCode,
    judged: Stream,
    usable: Tensor,
    shares: Tensor,
    n: int,
) -> StudyTable:
    """The features of which the token tells most, and least."""
    d_sae = checkpoint.dictionary.d_sae
    names = FeatureNames(
        model, checkpoint, names_on(code, judged.tokens, d_sae=d_sae, vocab_size=model.vocab_size)
    )
    order = shares.argsort(descending=True)
    chosen = order if len(order) <= 2 * n else torch.cat([order[:n], order[-n:]])
    counts = firings(code, d_sae)[usable[chosen]].tolist()
    cells = names(usable[chosen].tolist())
    rows = [list(row) for row in zip(cells, counts, shares[chosen].tolist(), strict=True)]
    return StudyTable(
        title="Features of which the current token tells most, and least",
        columns=["feature", "firings", "share that the token tells"],
        rows=rows,
    )


def _chart(shares: dict[str, Tensor]) -> StudyChart:
    """Share of the features by what the token tells of them; below 0 counts as 0."""
    series = []
    for number, (name, each) in enumerate(shares.items()):
        bins = torch.bincount((each.clamp(0, 1) * STEPS).long().clamp_max(STEPS - 1), minlength=STEPS)
        points = [ChartPoint(x=x, y=n / len(each)) for x, n in enumerate(bins.tolist())]
        series.append(ChartSeries(name=name, points=points, control=number > 0))
    return StudyChart(
        kind="bars",
        title="Features by the share of their activation's variance that the current token tells",
        x_label="share of the features",
        categories=[f"{i / STEPS:.1f}–{(i + 1) / STEPS:.1f}" for i in range(STEPS)],
        series=series,
    )


STUDY = Study(
    "known-token",
    "What is left of a dictionary when the current token is known?",
    "a token look-up (docs/method.md), fitted afterwards and added to the dictionary as it is",
    "rows of other tokens; x̂ of another position with the same token; the mean error of another position's "
    "token; activations by the tokens of other positions.",
    "over passages that did not fit the rows, and over features (percentile bootstrap).",
    KnownTokenArguments,
    find,
)
