"""Splitting and absorption are found where they were put, and a letter that is not there is refused."""

from collections import Counter
from pathlib import Path

import pytest
import torch

from lexiscope.checkpoint import load_checkpoint
from lexiscope.language_model import LanguageModel
from lexiscope.records import FeatureCell
from studies import STUDIES, StudyError, absorption
from studies.absorption import (
    LETTERS,
    PER_WORD,
    AbsorptionArguments,
    Words,
    _letter,
    absorbing,
    f1,
    letter_probe,
    main_features,
    words_of,
)
from studies.inputs import Stream, encode, own_passages, read_stream
from studies.match import dense


@pytest.fixture
def arguments(runs: list[Path], text_file: Path) -> AbsorptionArguments:
    return AbsorptionArguments(dictionaries=(runs[2],), text=(str(text_file),), tokens=1500, length=48)


def test_a_letter_that_two_features_share_is_split_and_noise_is_not_added() -> None:
    positive = torch.arange(200) < 80
    active = torch.rand(200, 6) < 0.05
    active[:, 2], active[:, 4] = torch.arange(200) < 50, (torch.arange(200) >= 50) & positive
    chosen, score = main_features(active, positive, list(range(6)))
    assert chosen == [2, 4] and score == pytest.approx(1)
    both = sum(1 for a, b in zip(active[:, 2].tolist(), positive.tolist(), strict=True) if a and b)
    assert f1(active[:, 2], positive) == pytest.approx(2 * both / (50 + 80))


def test_a_feature_that_writes_the_direction_absorbs_and_others_do_not() -> None:
    direction = torch.tensor([1.0, 0, 0])
    rows = torch.tensor([[1.0, 1.0, 0], [0, 1.0, 0]])
    x = torch.tensor([[2.0, 0, 0], [2.0, 0, 0], [2.0, 0, 0], [-1.0, 0, 0]])
    z = torch.tensor([[1.0, 0], [0.5, 0], [0, 9.0], [1.0, 0]])
    assert absorbing(z, rows, x @ direction, direction).tolist() == [True, False, False, False]


def test_the_control_is_as_much_of_the_own_letters_read_along_another_letters_direction() -> None:
    positive, trains = torch.arange(40) % 2 == 1, torch.arange(40) < 20
    raw = torch.zeros(40, 26)
    raw[:, 0], raw[:, 13] = 4.0 * positive, 0.02 * positive  # much of a, hardly any n
    words = Words(torch.arange(40), torch.where(positive, 0, 1), trains)
    rows, right = torch.eye(26)[[1, 13]], torch.ones(40, dtype=torch.bool)
    for writes, absorbs in ((0.7, False), (0.9, True)):  # of n; the probe reads 2 of a
        z = torch.stack([(positive & trains).float(), torch.full((40,), writes)], 1)
        found = _letter(0, positive, words, right, z, rows, raw, torch.eye(26))
        assert found.missed.all() and not found.absorbed.any()
        assert (found.by_chance == absorbs).all()


def test_the_probe_reads_a_letter_that_is_linear() -> None:
    letter = torch.randint(0, 26, (600,))
    x = torch.randn(26, 40)[letter] + 0.3 * torch.randn(600, 40)
    weight, bias = letter_probe(x[:400], letter[:400])
    right = (x[400:] @ weight + bias).argmax(-1) == letter[400:]
    assert float(right.float().mean()) > 0.9


def test_a_model_without_linear_letters_is_refused(arguments: AbsorptionArguments) -> None:
    with pytest.raises(StudyError, match=r"letter is not linear|No letter is read"):
        STUDIES["absorption"].run(arguments)


def test_words_are_the_first_occurrences_of_tokens_of_letters_and_are_split_by_word(
    model: LanguageModel, arguments: AbsorptionArguments
) -> None:
    stream = read_stream(model, own_passages(model, arguments), [1])
    words, seen, expected = words_of(model, stream, seed=0), Counter[int](), []
    for place, token in enumerate(stream.tokens.tolist()):
        text = model.text([token])
        if text[:1] == " " and len(text) > 2 and text[1:].isalpha():
            seen[token] += 1
            if seen[token] <= PER_WORD:
                expected.append((place, LETTERS.index(text[1].lower())))
    assert list(zip(words.at.tolist(), words.letter.tolist())) == expected
    halves = set(zip(stream.tokens[words.at].tolist(), words.trains.tolist()))
    assert len(halves) == len(seen) and {half for _, half in halves} == {True, False}


def in_both_halves(model: LanguageModel, stream: Stream, *, seed: int) -> Words:
    """Words of which some occurrences train and others are judged: a random model's letters are not linear
    over other words.
    """
    found = words_of(model, stream, seed=seed)
    draw = torch.Generator().manual_seed(seed)
    return found._replace(trains=torch.rand(len(found.at), generator=draw) < 0.5)


def slow_f1(active: list[bool], positive: list[bool]) -> float:
    both = sum(a and p for a, p in zip(active, positive))
    return 2 * both / (sum(active) + sum(positive)) if both else 0.0


def slow_main(z: list[list[float]], positive: list[bool], candidates: list[int]) -> list[int]:
    """The best detector, then each that makes the union of all better by 0.03."""
    chosen: list[int] = []
    best = 0.0
    while True:
        trials = {
            each: slow_f1([any(row[f] != 0 for f in (*chosen, each)) for row in z], positive)
            for each in candidates
            if each not in chosen
        }
        feature = max(trials, key=lambda each: (trials[each], each))
        if trials[feature] < best + 0.03:
            return chosen
        chosen.append(feature)
        best = trials[feature]


def test_the_study_counts_what_a_loop_over_positions_counts(
    model: LanguageModel, arguments: AbsorptionArguments, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(absorption, "PER_WORD", 100)
    monkeypatch.setattr(absorption, "words_of", in_both_halves)
    record = STUDIES["absorption"].run(arguments)
    dictionary = load_checkpoint(arguments.dictionaries[0]).dictionary
    stream = read_stream(model, own_passages(model, arguments), [1])
    words = in_both_halves(model, stream, seed=0)
    trains, letters, raw = words.trains.tolist(), words.letter.tolist(), stream.x[1][words.at]
    centre = raw[words.trains].mean(0)
    x = (raw - centre) / (raw - centre)[words.trains].square().mean().sqrt()
    weight, bias = letter_probe(x[words.trains], words.letter[words.trains])
    read = (x @ weight + bias).argmax(-1).tolist()
    code = encode(dictionary, stream.x[1], stream.tokens)
    some = code._replace(values=code.values[words.at], indices=code.indices[words.at])
    z = dense(some, torch.arange(dictionary.d_sae), dictionary.d_sae)
    units = torch.nn.functional.normalize(weight - weight.mean(1, keepdim=True), dim=0)
    reads, active = ((raw - centre) @ units).tolist(), z.tolist()
    writes = (dictionary.W_dec @ units).tolist()
    cosines = (torch.nn.functional.normalize(dictionary.W_dec, dim=-1) @ units).tolist()
    n, every = range(len(letters)), {"missed": [], "absorbed": [], "control": []}

    def absorbed(place: int, letter: int, along: int) -> bool:
        """A feature writes along one letter's direction 40 % of what the probe reads of the own letter."""
        written = [
            value * writes[feature][along]
            for feature, value in enumerate(active[place])
            if value != 0 and cosines[feature][along] >= 0.1
        ]
        return 0 < 0.4 * reads[place][letter] <= max(written, default=0.0)

    by_letter = {row[0]: row for row in record.tables[0].rows}
    for letter in range(26):
        own = [place for place in n if letters[place] == letter]
        right = [place for place in own if not trains[place] and read[place] == letter]
        assert (LETTERS[letter] in by_letter) == (len(right) >= 10)
        if len(right) < 10:
            continue
        positive = [letters[place] == letter for place in n if trains[place]]
        difference = z[[place for place in own if trains[place]]].mean(0)
        difference -= z[[place for place in n if trains[place] and letters[place] != letter]].mean(0)
        candidates = difference.argsort(descending=True)[:20].tolist()
        main = slow_main(z[words.trains].tolist(), positive, candidates)
        fires = [any(active[place][feature] != 0 for feature in main) for place in n]
        missed = [not fires[place] for place in right]
        each = [gone and absorbed(place, letter, letter) for gone, place in zip(missed, right)]
        other = (letter + 13) % 26
        every["missed"] += missed
        every["absorbed"] += each
        every["control"] += [gone and absorbed(place, letter, other) for gone, place in zip(missed, right)]
        judged = [place for place in n if not trains[place]]
        score = slow_f1([fires[place] for place in judged], [letters[place] == letter for place in judged])
        _, n_main, first, found, *shares = by_letter[LETTERS[letter]]
        assert n_main == len(main) and isinstance(first, FeatureCell)
        assert found == pytest.approx(score)
        assert shares == pytest.approx([sum(missed) / len(right), sum(each) / len(right)])
    figures = {figure.label: figure for figure in record.figures}
    shares = {name: sum(values) / len(values) for name, values in every.items()}
    assert figures["missed"].value == pytest.approx(shares["missed"])
    assert figures["absorbed"].value == pytest.approx(shares["absorbed"])
    assert figures["absorbed"].control == pytest.approx(shares["control"])
    judged = [read[place] == letters[place] for place in n if not trains[place]]
    assert figures["letters that a probe reads"].value == pytest.approx(sum(judged) / len(judged))
    assert record.chart is not None and record.chart.categories == list(by_letter)
    absorbed_of_each = [row[5] for row in by_letter.values()]
    assert [point.y for point in record.chart.series[0].points] == pytest.approx(absorbed_of_each)
    assert shares["missed"] > shares["absorbed"] > 0 < shares["control"]
    assert f"{100 * shares['missed']:.1f} %" in record.answer
