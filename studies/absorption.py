"""Feature splitting and absorption on a task whose truth is known: the first letter of a word.

A linear probe reads the letter off x, trained on half of the words that occur and judged on the others. The
main features of a letter are found greedily: the one with the best F1 as its detector, then more as long as
each adds SPLIT (the splits). A position is absorbed where the probe is right, no main feature is active, and
another active feature writes at least SHARE of what the probe reads there (Chanin et al. 2024).
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from lexiscope.language_model import LanguageModel
from lexiscope.records import ChartSeries, FeatureCell, StudyChart, StudyTable
from lexiscope.records.study import Cell
from studies.inputs import Stream, encode, load_inputs, own_passages, read_stream
from studies.intervals import figure, mean_over, percent
from studies.match import dense
from studies.names import FeatureNames, names_on
from studies.study import Arguments, Findings, Study, StudyError

LETTERS = "abcdefghijklmnopqrstuvwxyz"
PER_WORD = 3
"""occurrences of a word, so that frequent ones do not decide"""
FEWEST = 10
"""judged positions at which the probe is right, of a letter that is reported"""
SPLIT, COSINE, SHARE = 0.03, 0.1, 0.4
CANDIDATES = 20
"""features of the largest mean difference that may be main ones"""
READABLE = 2.0
"""how many times better than the commonest letter the probe must be"""


@dataclass(frozen=True, kw_only=True)
class AbsorptionArguments(Arguments):
    pass


class Words(NamedTuple):
    """Positions that stand on the first token of a word."""

    at: Tensor
    """[n] places in the stream"""
    letter: Tensor
    """[n] 0 to 25"""
    trains: Tensor
    """[n] bool; by word, so that judged words are new"""


def words_of(model: LanguageModel, stream: Stream, *, seed: int) -> Words:
    """The first PER_WORD occurrences of each token that is a space and two letters or more."""
    raw = model.vocabulary.raw
    letters = [
        LETTERS.find(chr(each[1]).lower())
        if len(each) > 2 and each[:1] == b" " and each[1:].isalpha()
        else -1
        for each in raw
    ]
    half = torch.rand(len(raw), generator=torch.Generator().manual_seed(seed)) < 0.5
    seen: dict[int, int] = {}
    at = []
    for place, token in enumerate(stream.tokens.tolist()):
        if letters[token] >= 0 and seen.get(token, 0) < PER_WORD:
            seen[token] = seen.get(token, 0) + 1
            at.append(place)
    places = torch.tensor(at, dtype=torch.long)
    tokens = stream.tokens[places]
    return Words(places, torch.tensor(letters)[tokens], half[tokens])


def letter_probe(x: Tensor, letter: Tensor, *, penalty: float = 1e-3) -> tuple[Tensor, Tensor]:
    """(W [d, 26], b [26]) of a softmax regression of letter [n] on x [n, d] of unit mean square."""
    x, letter = x.clone(), letter.clone()
    weight = torch.zeros(x.shape[1], 26, requires_grad=True)
    bias = torch.zeros(26, requires_grad=True)
    optimiser = torch.optim.LBFGS([weight, bias], max_iter=60, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimiser.zero_grad()
        value = F.cross_entropy(x @ weight + bias, letter) + penalty * weight.square().sum() / 2
        value.backward()
        return value

    optimiser.step(loss)
    return weight.detach(), bias.detach()


def f1(active: Tensor, positive: Tensor) -> float:
    """Of `active` [n] bool as a detector of `positive` [n] bool."""
    both = float((active & positive).sum())
    return 2 * both / max(1.0, float(active.sum() + positive.sum()))


def main_features(active: Tensor, positive: Tensor, candidates: list[int]) -> tuple[list[int], float]:
    """The features that together detect `positive` [n] best, and their F1: active [n, m] bool; the best one,
    then more as long as each adds SPLIT.
    """
    chosen: list[int] = []
    covered, best = torch.zeros_like(positive), 0.0
    while True:
        trials = [
            (f1(covered | active[:, each], positive), each) for each in candidates if each not in chosen
        ]
        score, feature = max(trials, default=(0.0, -1))
        if feature < 0 or score < best + SPLIT:
            return chosen, best
        chosen.append(feature)
        covered, best = covered | active[:, feature], score


def find(arguments: AbsorptionArguments) -> Findings:  # noqa: PLR0915
    inputs = load_inputs(arguments)
    if len(inputs.checkpoints) > 1:
        raise StudyError("This study looks at one dictionary; run it once for each.")
    model, checkpoint = inputs.model, inputs.checkpoints[0]
    dictionary, layer = checkpoint.dictionary, checkpoint.layer
    stream = read_stream(model, own_passages(model, arguments), [layer])
    words = words_of(model, stream, seed=arguments.seed)
    trains, judged = words.trains, ~words.trains
    if not int(trains.sum()) or not int(judged.sum()):
        raise StudyError("The text has no words of a space and letters that are one token: give more text.")
    raw = stream.x[layer][words.at]
    x = raw - raw[trains].mean(0)
    x = x / x[trains].square().mean().sqrt()
    weight, bias = letter_probe(x[trains], words.letter[trains])
    right = (x @ weight + bias).argmax(-1) == words.letter
    draw = torch.Generator().manual_seed(arguments.seed)
    mixed = words.letter[trains][torch.randperm(int(trains.sum()), generator=draw)]
    broken, broken_bias = letter_probe(x[trains], mixed)
    chance = float(((x @ broken + broken_bias).argmax(-1) == words.letter)[judged].float().mean())
    group = stream.tokens[words.at]
    reads = mean_over(right[judged].float(), group[judged])
    commonest = float(torch.bincount(words.letter[judged]).max()) / int(judged.sum())
    if reads.value < READABLE * commonest:
        raise StudyError(
            f"A linear probe on layer {layer} of {model.id} tells the first letter of new words in "
            f"{percent(reads.value)} (always the commonest: {percent(commonest)}): the letter is not linear "
            "there, so nothing can be absorbed. Try another layer, or more text."
        )
    code = encode(dictionary, stream.x[layer], stream.tokens)
    own = code._replace(values=code.values[words.at], indices=code.indices[words.at])
    used = own.indices[own.values != 0].unique()
    z = dense(own, used, dictionary.d_sae)
    rows = dictionary.W_dec[used].float()
    lift = names_on(code, stream.tokens, d_sae=dictionary.d_sae, vocab_size=model.vocab_size)
    cells = FeatureNames(model, checkpoint, lift)
    directions = weight - weight.mean(1, keepdim=True)
    found = []
    for letter in range(26):
        positive = words.letter == letter
        if int((positive & judged & right).sum()) < FEWEST or not int((positive & trains).sum()):
            continue
        found.append(_letter(letter, positive, words, right, z, rows, raw, directions))
    if not found:
        raise StudyError(f"No letter is read right at {FEWEST} judged positions: give more text.")
    missed = mean_over(torch.cat([each.missed for each in found]).float())
    absorbed = mean_over(torch.cat([each.absorbed for each in found]).float())
    control = float(torch.cat([each.by_chance for each in found]).float().mean())
    detects = mean_over(torch.tensor([each.f1 for each in found]))
    splits = mean_over(torch.tensor([float(len(each.main)) for each in found]))
    figures = [
        figure(
            "letters that a probe reads",
            "share",
            reads,
            "First letters of words it was not trained on that a linear probe tells from x.",
            control=chance,
        ),
        figure("F1 of the main features", "number", detects, "On judged words; mean over letters."),
        figure("main features a letter", "number", splits, "More than one: the letter is split."),
        figure(
            "missed", "share", missed, "Positions where the probe is right and no main feature is active."
        ),
        figure(
            "absorbed",
            "share",
            absorbed,
            f"Those where another active feature writes at least {SHARE:.0%} of what the probe reads.",
            control=control,
        ),
    ]
    answer = (
        f"A probe reads the first letter of {percent(reads.value)} of new words (shuffled letters: "
        f"{percent(chance)}). A letter has {splits.value:.1f} main features with an F1 of "
        f"{detects.value:.2f}; they miss {percent(missed.value)} of the positions that the probe gets right, "
        f"and {percent(absorbed.value)} are absorbed by another feature (the direction of another letter: "
        f"{percent(control)})."
    )
    table = [_row(each, used, cells) for each in found]
    points = []
    for place, each in enumerate(found):
        share = mean_over(each.absorbed.float())
        points.append(share.at(place))
    chart = StudyChart(
        kind="bars",
        title="Positions whose letter another feature has absorbed, of those that the probe gets right",
        x_label="share",
        categories=[LETTERS[each.letter] for each in found],
        series=[ChartSeries(name="absorbed", points=points)],
    )
    columns = ["letter", "main features", "first of them", "F1", "missed", "absorbed"]
    return Findings(
        model.id, answer, figures, [StudyTable(title="By letter", columns=columns, rows=table)], chart
    )


class Letter(NamedTuple):
    """What became of one letter; tensors are over judged positions that the probe gets right."""

    letter: int
    main: list[int]
    f1: float
    missed: Tensor
    absorbed: Tensor
    by_chance: Tensor


def absorbing(z: Tensor, rows: Tensor, reads: Tensor, unit: Tensor) -> Tensor:
    """[n] bool: one feature of z [n, m] with decoder rows [m, d] has a cosine of COSINE or more with a
    direction [d] of norm 1, and writes SHARE or more of `reads` [n] along it, what the probe reads.
    """
    along = F.normalize(rows, dim=-1) @ unit >= COSINE
    written = z * (rows @ unit) * along
    return (reads > 0) & (written.max(-1).values >= SHARE * reads)


def _letter(
    letter: int,
    positive: Tensor,
    words: Words,
    right: Tensor,
    z: Tensor,
    rows: Tensor,
    raw: Tensor,
    directions: Tensor,
) -> Letter:
    trains, judged, active = words.trains, ~words.trains, z != 0
    difference = z[trains & positive].mean(0) - z[trains & ~positive].mean(0)
    candidates = difference.argsort(descending=True)[:CANDIDATES].tolist()
    main, _ = main_features(active[trains], positive[trains], candidates)
    fires = active[:, main].any(-1) if main else torch.zeros_like(positive)
    own = judged & positive & right
    missed = ~fires[own]
    units = F.normalize(directions, dim=0)
    reads = (raw[own] - raw[trains].mean(0)) @ units[:, letter]
    other = (letter + 13) % 26
    absorbed = missed & absorbing(z[own], rows, reads, units[:, letter])
    by_chance = missed & absorbing(z[own], rows, reads, units[:, other])
    return Letter(letter, main, f1(fires[judged], positive[judged]), missed, absorbed, by_chance)


def _row(each: Letter, used: Tensor, cells: FeatureNames) -> list[Cell]:
    named: list[FeatureCell] = cells(used[each.main[:1]].tolist())
    shares = [float(part.float().mean()) if len(part) else 0.0 for part in (each.missed, each.absorbed)]
    return [LETTERS[each.letter], len(each.main), named[0] if named else None, each.f1, *shares]


STUDY = Study(
    "absorption",
    "Do features for a word's first letter fail where another feature has absorbed it?",
    "Chanin et al. 2024, A is for absorption (arXiv 2409.14507)",
    "a probe trained on shuffled letters, and the probe direction of another letter in the absorbing test.",
    "over judged positions or words, and over letters where letters are averaged (percentile bootstrap).",
    AbsorptionArguments,
    find,
)
