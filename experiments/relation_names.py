"""`python -m experiments.relation_names RUN... --text FILE...`: what names with a relation are worth, and how
often the verdict on them is wrong.

Beside a dictionary's own names stand names that know nothing of behaviour: its own permuted among the
features tested, and the tokens of the nearest permuted, Gaussian and rotated anchors with the relation *on*.
Any verdict but `none` is then a false positive. Adds its rows to results/relation-names.json, in place of
older rows of the same names, and writes the table of docs/evidence.md (`--page`: the table alone).
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from experiments.figures import keep_row, kept_rows
from experiments.page import DOCS, RESULTS, dictionary_name, fill, table
from lexiscope.anchor_sets import ANCHOR_SETS, CONTROLS, Material
from lexiscope.anchors import TokenSums, nearest_tokens
from lexiscope.checkpoint import Checkpoint, load_checkpoint
from lexiscope.evidence import (
    RELATIONS,
    VERDICTS,
    FiringSample,
    FlatText,
    PassageWords,
    RelationCounts,
    RelationNames,
    SampledText,
    flat_firings,
    halves_of,
    place_codes,
    verdicts,
)
from lexiscope.language_model import LanguageModel, load_language_model
from lexiscope.metrics import LIVE_RATE
from lexiscope.text import batches, passages
from lexiscope.vocabulary_tables import word_table

KEPT, PAGE = RESULTS / "relation-names.json", DOCS / "evidence.md"
JUDGED = VERDICTS[:4]


class Seen(NamedTuple):
    """What one pass over the text counts of one dictionary."""

    sample: FiringSample
    text: SampledText
    firings: np.ndarray
    live: np.ndarray
    material: Material


@torch.inference_mode()
def see(model: LanguageModel, run: Checkpoint, texts: list[np.ndarray], words: np.ndarray) -> Seen:
    assert run.fit is not None
    layer, dictionary = int(run.details["layer"]), run.dictionary
    sample, counts = FiringSample(dictionary.d_sae), RelationCounts(model.vocab_size)
    sums = TokenSums(model.vocab_size, model.d_model)
    firings, square, n = np.zeros(dictionary.d_sae, np.int64), torch.zeros(model.d_model, model.d_model), 0
    for batch in batches(texts, tokens=4096):
        x = model.read(batch.tokens, [layer], fast=True)[layer][batch.mask].float()
        text = FlatText(batch.rows, filters=False)
        halves, fired = halves_of(text), flat_firings([dictionary.encode(x, batch.tokens[batch.mask])])
        codes = place_codes(np.array(batch.passages)[text.row], text.position)
        sample.add(fired.feature, halves[text.row[fired.at]], codes[fired.at])
        counts.add(text, halves, words)
        firings += np.bincount(fired.feature, minlength=dictionary.d_sae)
        centred, n = x - run.fit.mean, n + len(x)
        sums.add(batch.tokens[batch.mask], centred)
        square += centred.T @ centred
    sums.counts.clamp_min_(1e-6)  # tokens that do not occur would keep their own anchors when permuted
    return Seen(
        sample,
        SampledText(PassageWords(dict(enumerate(texts)), words), counts),
        firings,
        firings >= max(1.0, LIVE_RATE * n),
        Material(model.embedding, sums, square / n),
    )


def on_tokens(tokens: Tensor, words: np.ndarray) -> RelationNames:
    """The names *on* the words of tokens [d_sae]."""
    names = RelationNames.empty(len(tokens))
    names.relation[:], names.words[:, 0] = 0, words[tokens.numpy()]
    return names


def namings(
    run: Checkpoint, seen: Seen, words: np.ndarray, *, anchors: bool
) -> Iterator[tuple[str, RelationNames]]:
    """With the words of anchors, or without."""
    own = seen.text.chosen(seen.sample)
    yield "own names", own
    tested = np.flatnonzero(seen.live & seen.text.judged(seen.sample, own).tested)
    dealt = np.arange(len(own.relation))
    dealt[tested] = np.random.default_rng(0).permutation(tested)
    yield "own names, permuted", own.take(dealt)
    if not anchors:
        return
    directions = run.dictionary.directions
    assert run.fit is not None
    yield (
        "on the nearest anchor",
        on_tokens(nearest_tokens(directions, run.fit.anchors, 1).tokens[:, 0], words),
    )
    for control in CONTROLS:
        tokens = nearest_tokens(directions, ANCHOR_SETS[control](seen.material), 1).tokens[:, 0]
        yield f"on the nearest {control} anchor", on_tokens(tokens, words)


def measure(
    model: LanguageModel, run: Checkpoint, texts: list[np.ndarray], *, anchors: bool = True
) -> Iterator[dict[str, Any]]:
    words = word_table(model)
    seen = see(model, run, texts, words)
    for title, names in namings(run, seen, words, anchors=anchors):
        judged = seen.text.judged(seen.sample, names)
        said, tested = verdicts(seen.live, judged), seen.live & judged.tested
        held = tested & np.isin(said, JUDGED[:2])
        weight = seen.firings * seen.live
        yield {
            "dictionary": f"{model.id}/{layer_set(run)}",
            "names": title,
            "tokens": sum(len(passage) - 1 for passage in texts),
            "live": int(seen.live.sum()),
            "tested": int(tested.sum()),
            "of_tested": {verdict: round(float((said[tested] == verdict).mean()), 4) for verdict in JUDGED},
            "of_live": {
                verdict: round(float((said[seen.live] == verdict).mean()), 4) for verdict in VERDICTS[:5]
            },
            "of_firings": {
                verdict: round(float(weight[said == verdict].sum() / weight.sum()), 4)
                for verdict in VERDICTS[:5]
            },
            "held_by_relation": {
                relation: round(float((names.relation[held] == number).mean()), 4) if held.any() else None
                for number, relation in enumerate(RELATIONS)
            },
        }


def layer_set(run: Checkpoint) -> str:
    return f"{run.details['layer']}-{run.details['set']}"


def write_page(page: Path = PAGE, kept: Path = KEPT) -> None:
    """The table of docs/evidence.md; verdicts in per cent of the features tested."""
    header = ["dictionary", "names", "tokens", "tested", *JUDGED, "holds, of live", "of firings"]
    rows = []
    for row in json.loads(kept.read_text(encoding="utf-8"))["rows"]:
        shares = [f"{100 * row['of_tested'][verdict]:.1f}" for verdict in JUDGED]
        holds = [100 * (row[key]["specific"] + row[key]["partial"]) for key in ("of_live", "of_firings")]
        counts = [
            dictionary_name(row["dictionary"]),
            row["names"],
            f"{row['tokens']:,}",
            f"{row['tested']:,}",
        ]
        rows.append([*counts, *shares, *(f"{share:.1f}" for share in holds)])
    fill(page, {"relation names": table(header, rows)})


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="*", type=Path, metavar="RUN")
    parser.add_argument("--text", nargs="+", default=[])
    parser.add_argument("--tokens", type=int, default=100_000)
    parser.add_argument("--own", action="store_true", help="without names by anchors")
    parser.add_argument("--page", action="store_true", help="write the table from results/ and stop")
    given = parser.parse_args()
    if given.page:
        return write_page()
    kept = kept_rows(KEPT, "experiments.relation_names")
    for path in given.runs:
        run = load_checkpoint(path)
        name = str(run.config["metadata"]["model_name"])
        model = load_language_model(name, model_id=run.details.get("model_id"))
        texts = list(passages(model, given.text, tokens=given.tokens))
        for row in measure(model, run, texts, anchors=not given.own):
            print(json.dumps(row), flush=True)
            keep_row(KEPT, kept, row)
    return write_page()


if __name__ == "__main__":
    main()
