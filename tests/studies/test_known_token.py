"""What a token tells of a dictionary, against sums made position by position."""

from pathlib import Path

import pytest
import torch

from lexiscope.anchors import exchanged_rows
from lexiscope.checkpoint import load_checkpoint
from lexiscope.language_model import LanguageModel
from lexiscope.sparse_code import SparseCode
from studies import STUDIES, StudyError
from studies.dark_matter import costs, error_of
from studies.inputs import own_passages, read_stream
from studies.known_token import KnownTokenArguments, known_share, token_rows

D_SAE, VOCAB = 6, 9


def code_of(dense: torch.Tensor) -> SparseCode:
    values, indices = dense.topk(3)
    return SparseCode(values, indices)


def test_share_of_an_activation_that_the_token_tells_is_that_of_the_dense_computation() -> None:
    tokens = torch.randint(VOCAB, (2, 300))
    noise, by_token = torch.rand(2, 300, D_SAE), torch.rand(VOCAB, D_SAE)
    dense = [(by_token[on] + rest * (torch.arange(D_SAE) / D_SAE)).where(rest > 0.3, 0.0)
             for on, rest in zip(tokens, noise, strict=True)]  # fmt: skip
    codes = [code_of(each) for each in dense]
    shares = known_share(*codes, (tokens[0], tokens[1]), d_sae=D_SAE, vocab_size=VOCAB)
    full = [torch.zeros(300, D_SAE).scatter(1, code.indices, code.values).double() for code in codes]
    for feature in range(D_SAE):
        means = torch.stack(
            [full[0][tokens[0] == token, feature].mean() for token in range(VOCAB)]
        ).nan_to_num()
        a = full[1][:, feature]
        slow = 1 - (a - means[tokens[1]]).square().sum() / (a - a.mean()).square().sum()
        assert shares[feature] == pytest.approx(float(slow), abs=1e-9)


def test_an_activation_that_is_a_function_of_the_token_is_wholly_told() -> None:
    tokens = torch.randint(VOCAB, (400,))
    dense = torch.zeros(400, D_SAE)
    dense[:, 0], dense[:, 1] = tokens.float(), torch.rand(400)
    code = code_of(dense)
    shares = known_share(code, code, (tokens, tokens), d_sae=D_SAE, vocab_size=VOCAB)
    assert shares[0] == pytest.approx(1) and shares[1] < 0.1 and shares[5].isnan()


def test_mean_errors_of_every_token_mend_an_error_that_is_the_tokens(
    model: LanguageModel, runs: list[Path], text_file: Path
) -> None:
    arguments = KnownTokenArguments(
        dictionaries=(runs[2],), text=(str(text_file),), tokens=1500, length=48, firings=2
    )
    stream = read_stream(model, own_passages(model, arguments), [1])
    effect = torch.randn(model.vocab_size, model.d_model)
    rows = token_rows(model, stream, effect[stream.tokens])
    counts = torch.bincount(stream.tokens, minlength=model.vocab_size)
    often = counts >= 30
    assert (rows - effect)[often].norm() < 0.3 * effect[often].norm()
    wrong = exchanged_rows(rows, stream.tokens.unique(), seed=0)
    assert torch.equal(wrong.sort(0).values, rows.sort(0).values) and not torch.equal(wrong, rows)

    dictionary = load_checkpoint(runs[2]).dictionary
    price = costs(
        model, 1, dictionary, lambda x, on: error_of(dictionary, x, on), own_passages(model, arguments),
        tokens=200, seed=0,
    )  # fmt: skip
    assert price.removed.value == pytest.approx(price.whole.value, abs=1e-5)


def test_the_study_says_what_is_left_when_the_token_is_known(runs: list[Path], text_file: Path) -> None:
    record = STUDIES["known-token"].run(
        KnownTokenArguments(
            dictionaries=(runs[2],), text=(str(text_file),), tokens=1500, length=48, firings=2, ce_tokens=200
        )
    )
    figures = {each.label: each for each in record.figures}
    assert figures["x that the token tells"].value > figures["x that the token tells"].control
    assert figures["FVE within a token"].value <= 1
    assert sum(point.y for point in record.chart.series[0].points) == pytest.approx(1)
    assert record.chart.series[1].control


def test_a_dictionary_with_a_look_up_and_a_single_passage_are_refused(
    runs: list[Path], text_file: Path
) -> None:
    with pytest.raises(StudyError, match="has a token look-up already"):
        STUDIES["known-token"].run(
            KnownTokenArguments(dictionaries=(runs[1],), text=(str(text_file),), tokens=300, length=48)
        )
    with pytest.raises(StudyError, match="one dictionary"):
        STUDIES["known-token"].run(KnownTokenArguments(dictionaries=tuple(runs[1:3]), text=(str(text_file),)))
