"""Board states that features stand for, in a language model of tic-tac-toe (`python -m
experiments.tic_tac_toe` makes one): supervised measures of a dictionary.

A board state is that a square is the next player's, or the other's. Coverage: the best F1 of any feature as a
detector of a state, active where it exceeds t times its largest activation, averaged over the states, at the
best t. Reconstruction: the board that features of precision 0.95 or more on half of the games put together on
the others, as F1 (Karvonen et al. 2024).
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from lexiscope.language_model import LanguageModel
from lexiscope.records import ChartPoint, ChartSeries, StudyChart, StudyTable
from lexiscope.records.study import Cell
from studies.controls import active_of, random_dictionary
from studies.inputs import Stream, encode, load_inputs, own_passages, read_stream
from studies.intervals import Interval, figure, mean_over, ratio_over
from studies.match import dense
from studies.names import FeatureNames, names_on
from studies.study import Arguments, Findings, Study, StudyError
from studies.tic_tac_toe import SQUARES, boards, seen_by_the_next
from studies.two_texts import fit_probe

THRESHOLDS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
PRECISE = 0.95
FEWEST = 10
"""positions of a state, and firings of a feature that is precise"""
STATES = [f"{letter} {whose}" for whose in ("the next player's", "the other's") for letter in SQUARES]


@dataclass(frozen=True, kw_only=True)
class BoardArguments(Arguments):
    pass


class Counts(NamedTuple):
    """Features as detectors of states, by threshold; all [thresholds, features, states] but `fired`."""

    both: Tensor
    """positions where the feature is active and the state holds"""
    fired: Tensor
    """[thresholds, features, 1]"""
    holds: Tensor
    """[states]"""

    @property
    def f1(self) -> Tensor:
        return 2 * self.both / (self.fired + self.holds).clamp_min(1)

    @property
    def precision(self) -> Tensor:
        return self.both / self.fired.clamp_min(1)


def detectors(activations: Tensor, states: Tensor, largest: Tensor) -> Counts:
    """Of activations [n, m] with the largest [m], and states [n, s] bool."""
    on = [(activations > t * largest) & (activations > 0) for t in THRESHOLDS]
    truth = states.float()
    both = torch.stack([each.float().T @ truth for each in on])
    fired = torch.stack([each.sum(0)[:, None] for each in on]).float()
    return Counts(both, fired, truth.sum(0))


def coverage(counts: Counts) -> tuple[Tensor, Tensor, int]:
    """([s] the best F1 of each state, [s] the feature that has it, the threshold's place) at the threshold of
    the highest mean.
    """
    best = counts.f1.max(1)
    at = int(best.values.mean(-1).argmax())
    return best.values[at], best.indices[at], at


def reconstructed(activations: Tensor, precise: Tensor, largest: Tensor, t: float) -> Tensor:
    """[n, s] bool: a feature that is precise for the state (precise [m, s]) is active."""
    on = (activations > t * largest) & (activations > 0)
    return (on.float() @ precise.float()) > 0


class Measured(NamedTuple):
    states: Tensor
    """[s] best F1 of each on the judged games, at the threshold and by the feature of the others"""
    features: Tensor
    board: Interval
    """F1 of the reconstructed board"""
    precise: int
    """features that stand for a state"""


def measure(activations: Tensor, states: Tensor, judged: Tensor, game: Tensor) -> Measured:
    """Of activations [n, m] on states [n, s]; judged [n] bool, game [n]."""
    largest = activations[~judged].max(0).values
    found = detectors(activations[~judged], states[~judged], largest)
    test = detectors(activations[judged], states[judged], largest)
    _, features, at = coverage(found)
    own = test.f1[at, features, torch.arange(states.shape[1])]
    best, board, n_precise = -1.0, Interval(0, 0, 0), 0
    for place, t in enumerate(THRESHOLDS):
        precise = (found.precision[place] >= PRECISE) & (found.fired[place] >= FEWEST)
        drawn = {
            part: reconstructed(activations[rows], precise, largest, t)
            for part, rows in (("fit", ~judged), ("test", judged))
        }
        score = board_f1(drawn["fit"], states[~judged], game[~judged]).value
        if score > best:
            best, board = score, board_f1(drawn["test"], states[judged], game[judged])
            n_precise = int(precise.any(1).sum())
    return Measured(own, features, board, n_precise)


def board_f1(drawn: Tensor, states: Tensor, game: Tensor) -> Interval:
    """F1 over all states and positions, drawn and states [n, s] bool, resampled by game [n]."""
    both = (drawn & states).sum(1)
    return ratio_over(2 * both, drawn.sum(1) + states.sum(1), game)


def states_of(model: LanguageModel, stream: Stream, found: list[np.ndarray]) -> tuple[Tensor, Tensor]:
    """(places [n] of the stream that stand on a move, states [n, 18] bool there). Raises StudyError for a
    text that is no tic-tac-toe.
    """
    places, rows = [], []
    count = torch.bincount(stream.passage, minlength=len(found)).tolist()
    start = 0
    for number, ids in enumerate(found):
        moves = model.text(ids[1:].tolist()).strip()
        try:
            after = boards(moves)
        except ValueError as error:
            raise StudyError(f"Passage {number} of the text is no game of tic-tac-toe: {error}.") from error
        if len(ids) - 1 != count[number] or len(moves) != len(ids) - 1:
            raise StudyError(f"Passage {number} of the text has tokens that are not one letter each.")
        for turn, board in enumerate(after):
            places.append(start + turn)
            rows.append(seen_by_the_next(board, turn + 1))
        start += count[number]
    return torch.tensor(places), torch.tensor(rows)


def find(arguments: BoardArguments) -> Findings:
    inputs = load_inputs(arguments)
    if len(inputs.checkpoints) > 1:
        raise StudyError("This study looks at one dictionary; run it once for each.")
    model, checkpoint = inputs.model, inputs.checkpoints[0]
    layer, dictionary = checkpoint.layer, checkpoint.dictionary
    found = own_passages(model, arguments)
    stream = read_stream(model, found, [layer], sinks=True)
    places, states = states_of(model, stream, found)
    x, tokens, game = stream.x[layer][places], stream.tokens[places], stream.passage[places]
    judged = game % 2 == 1
    often = min(int(part.sum(0).min()) for part in (states[judged], states[~judged]))
    if often < FEWEST:
        raise StudyError(f"A board state occurs {often} times in half of the games: give more with --tokens.")
    code = encode(dictionary, x, tokens)
    used = code.indices[code.values != 0].unique()
    own = measure(dense(code, used, dictionary.d_sae).abs(), states, judged, game)
    control = random_dictionary(dictionary, x, active=active_of(code), seed=arguments.seed)
    drawn = encode(control, x, tokens)
    some = drawn.indices[drawn.values != 0].unique()
    random = measure(dense(drawn, some, dictionary.d_sae).abs(), states, judged, game)
    mixed = states[torch.randperm(len(states), generator=torch.Generator().manual_seed(arguments.seed))]
    shuffled = measure(dense(code, used, dictionary.d_sae).abs(), mixed, judged, game)
    linear = torch.stack([_probe_f1(x, states[:, each], judged) for each in range(len(STATES))])
    covered, by_chance, probes = mean_over(own.states), mean_over(random.states), mean_over(linear)
    figures = [
        figure(
            "coverage",
            "number",
            covered,
            "Best F1 of a feature for each board state, chosen on other games; mean over 18 states.",
            control=by_chance,
        ),
        figure(
            "coverage, states shuffled",
            "number",
            mean_over(shuffled.states),
            "The same where every position has the board of another.",
        ),
        figure(
            "F1 of linear probes", "number", probes, "What x tells of the same states: the most to expect."
        ),
        figure(
            "board reconstruction",
            "number",
            own.board,
            f"F1 of the board that features of precision {PRECISE} put together.",
            control=random.board,
        ),
        figure(
            "features that stand for a state",
            "features",
            own.precise,
            f"Of {len(used)} that fire, those of precision {PRECISE} for one.",
            control=random.precise,
        ),
    ]
    answer = (
        f"The best feature for a board state has an F1 of {covered.value:.2f} on average ({covered.low:.2f} "
        f"to {covered.high:.2f}; random directions: {by_chance.value:.2f}; linear probes: "
        f"{probes.value:.2f}). {own.precise} precise features reconstruct the board with an F1 of "
        f"{own.board.value:.2f} (random directions: {random.board.value:.2f})."
    )
    names = names_on(code, tokens, d_sae=dictionary.d_sae, vocab_size=model.vocab_size)
    cells = FeatureNames(model, checkpoint, names)(used[own.features].tolist())
    rows: list[list[Cell]] = [
        [state, cell, float(own.states[place]), float(random.states[place]), float(linear[place])]
        for place, (state, cell) in enumerate(zip(STATES, cells, strict=True))
    ]
    table = StudyTable(
        title="Board states (squares a to i, row by row) and the feature that detects each best",
        columns=["state", "feature", "F1", "random directions", "linear probe"],
        rows=rows,
    )
    series = [
        ChartSeries(
            name=name,
            points=[ChartPoint(x=place, y=float(y)) for place, y in enumerate(values)],
            control=name != "best feature",
        )
        for name, values in (("best feature", own.states), ("random directions", random.states))
    ]
    chart = StudyChart(
        kind="bars",
        title="F1 of the best feature for each board state",
        x_label="F1",
        categories=STATES,
        series=series,
    )
    return Findings(model.id, answer, figures, [table], chart)


def _probe_f1(x: Tensor, state: Tensor, judged: Tensor) -> Tensor:
    """[] F1 of a logistic regression on the judged positions; x [n, d], state [n] bool."""
    probe = fit_probe(x[~judged], state[~judged].float(), penalty=1e-4)
    told, truth = probe(x[judged]) > 0, state[judged]
    return 2 * (told & truth).sum() / (told.sum() + truth.sum()).clamp_min(1)


STUDY = Study(
    "board",
    "Which states of a game's board do features stand for?",
    "Karvonen et al. 2024, Measuring progress in dictionary learning for language model interpretability "
    "with board game models (arXiv 2408.00113), and its code",
    "random directions with the same selection; boards of other positions.",
    "over games, or over board states where those are averaged (percentile bootstrap).",
    BoardArguments,
    find,
)
