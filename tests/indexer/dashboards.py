"""SAEDashboard's batch files for the tiny model, made as its converter makes them: whole prompts without BOS,
every value written out, equal-width intervals that hold zeros, texts that repeat.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from indexer.exchange.neuronpedia.token_spellings import SAEDASHBOARD
from lexiscope.language_model import LanguageModel
from lexiscope.tokens import PieceFormat, plain
from tests import tiny

TARGETS = (" Paris", " cat", " dog", " rain")
"""feature i fires on the i-th of these, at 1 + the square of the place in its prompt / 100: skewed, so that
equal widths hold unequal shares
"""
SILENT = len(TARGETS)
"""a feature that never fires"""


def pieces(model: LanguageModel, ids: Sequence[int]) -> list[str]:
    return list(model.tokenizer.convert_ids_to_tokens(list(ids)))


def as_dashboard(piece: str) -> str:
    for sequence, char in SAEDASHBOARD.items():
        piece = piece.replace(sequence, char)
    return piece


SPELLINGS: dict[str, Callable[[str], str]] = {
    "saedashboard": as_dashboard,
    "pieces": lambda piece: piece,
    "spaces": lambda piece: piece.replace("Ġ", " "),
    "plain": lambda piece: plain(PieceFormat(byte_level=True).raw(piece), piece),
}


def prompts(model: LanguageModel, n: int = 30, length: int = 24) -> list[list[int]]:
    text = tiny.text(n * length * 2, seed=3).replace(tiny.END, "é ")
    ids = model.tokenise(text)
    return [ids[start : start + length] for start in range(0, n * length, length)]


def target(model: LanguageModel, feature: int) -> int:
    [token] = model.tokenise(TARGETS[feature])
    return token


def values(model: LanguageModel, prompt: Sequence[int], feature: int) -> list[float]:
    if feature == SILENT:
        return [0.0] * len(prompt)
    return [
        round(1 + place**2 / 100, 3) if token == target(model, feature) else 0.0
        for place, token in enumerate(prompt)
    ]


def feature(
    model: LanguageModel, index: int, *, spell: Callable[[str], str] = as_dashboard
) -> dict[str, Any]:
    """A feature as SAEDashboard writes it: top activations, then intervals from high to low, the lowest from
    0.
    """
    texts = prompts(model)
    found = [
        (value, number, place)
        for number, text in enumerate(texts)
        for place, value in enumerate(values(model, text, index))
    ]
    firing = sorted((item for item in found if item[0] > 0), reverse=True)
    highest = firing[0][0] if firing else 0.0

    def context(number: int, place: int, low: float, high: float, share: float) -> dict[str, Any]:
        spelled = [spell(piece) for piece in pieces(model, texts[number])]
        return {
            "bin_min": low,
            "bin_max": high,
            "bin_contains": share,
            "tokens": spelled,
            "values": values(model, texts[number], index),
            "qualifying_token_index": place,
        }

    activations = [context(number, place, -1, highest, -1) for _, number, place in (firing or found)[:6]]
    for low, high in ((highest / 2, highest), (0.0, highest / 2)):
        inside = [item for item in found if low <= item[0] <= high]
        activations += [
            context(number, place, low, high, len(inside) / len(found))
            for _, number, place in [*inside[:2], *(item for item in inside[2:] if item[0] > 0)][:10]
        ]
    counts, edges = (
        np.histogram([value for value, _, _ in firing], 40) if firing else (np.zeros(0, int), np.zeros(1))
    )
    words = pieces(model, range(40, 60))
    return {
        "feature_index": index,
        "neuron_alignment_indices": [1],
        "neg_str": [spell(piece) for piece in words[10:]],
        "neg_values": [round(-1 + place / 20, 3) for place in range(10)],
        "pos_str": [spell(piece) for piece in words[:10]],
        "pos_values": [round(1 - place / 20, 3) for place in range(10)],
        "frac_nonzero": round(len(firing) / len(found), 5),
        "freq_hist_data_bar_values": ((edges[1:] + edges[:-1]) / 2).round(3).tolist(),
        "freq_hist_data_bar_heights": counts.tolist(),
        "logits_hist_data_bar_heights": [1],
        "logits_hist_data_bar_values": [0.0],
        "n_prompts_total": len(texts),
        "n_tokens_in_prompt": len(texts[0]) + 1,
        "dataset": "tiny text",
        "decoder_weights_dist": [],
        "activations": activations,
        "vector": [],
    }


def batch(model: LanguageModel, features: Sequence[dict[str, Any]], **header: Any) -> dict[str, Any]:
    return {
        "model_id": model.id,
        "layer": 1,
        "sae_set": "res-jb",
        "sae_id_suffix": None,
        "features": list(features),
    } | header


def write(
    folder: Path, model: LanguageModel, features: Sequence[dict[str, Any]] | None = None, *, a_file: int = 2
) -> Path:
    """`batch-N.json` files of `a_file` features each."""
    folder.mkdir(exist_ok=True)
    features = [feature(model, index) for index in range(SILENT + 1)] if features is None else features
    for number, start in enumerate(range(0, len(features), a_file)):
        (folder / f"batch-{number}.json").write_text(
            json.dumps(batch(model, features[start : start + a_file]))
        )
    return folder
