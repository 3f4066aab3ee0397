"""SAEDashboard's and Neuronpedia's files as a read-only dictionary of the index.

Tokens there are strings: they are read back through the model's own tokenizer, and files of another tokenizer
are refused. A feature is named by the anchor nearest to its decoder row, where the files or a checkpoint
bring one, and otherwise by the token it peaks on. Its evidence is counted over the imported contexts, by the
same definitions and the same rule as anywhere else.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from indexer.exchange.export_folder import UNCHANGED, ExchangeError
from indexer.exchange.merge_into_index import Merged, merging
from indexer.exchange.neuronpedia.choose_contexts import Chosen, choose, texts_of
from indexer.exchange.neuronpedia.contents import Dashboards
from indexer.exchange.neuronpedia.dashboard_files import read_dashboards
from indexer.exchange.neuronpedia.imported_evidence import judge, observe
from indexer.exchange.neuronpedia.imported_rows import (
    Names,
    context_rows,
    dictionary_row,
    feature_rows,
    first_logit,
    live_of,
    maxima_of,
    passage_rows,
    summary_row,
    token_rows,
)
from indexer.exchange.neuronpedia.name_by_direction import Named, name_by_direction
from indexer.exchange.neuronpedia.token_spellings import OUT_OF_RANGE, Spellings
from lexiscope.checkpoint import Checkpoint
from lexiscope.errors import ModelError
from lexiscope.language_model import LanguageModel, model_slug
from lexiscope.settings import Settings
from store import Builder

STRANGE = 0.01
"""Share of the texts' tokens that may be unknown to the tokenizer. A few are harmless and shown as unknown;
more is another tokenizer.
"""
BY_ANCHOR, BY_PEAK, BY_LOGIT = (
    "imported: {}",
    "imported: peak token",
    "imported: top logit (it never fires here)",
)
NOTE = (
    "Read-only: imported contexts, picked by activation by another tool. Density, activations and histogram are of its run; firings and "
    "evidence are of these contexts alone."
)
HELD_OUT = " A name is the token that every other of the top contexts peaks on; those places are left out of its firings and evidence."


class Imported(NamedTuple):
    merged: Merged
    n_features: int
    n_contexts: int
    n_repeated: int
    """contexts left out because they repeat another"""
    n_silent: int
    """contexts left out because their feature does not fire in them"""
    unknown: dict[str, int]
    """strings that are no token of the model, and how often they stand in the texts"""
    n_nothing: int
    """features of which the files say nothing (skipped, or without contexts and logits): they get no page"""


def import_neuronpedia(
    folder: Path,
    load: Callable[[], LanguageModel],
    *,
    settings: Settings,
    same_model: bool = False,
    set_name: str | None = None,
    layer: int | None = None,
    checkpoint: Checkpoint | None = None,
    replace: bool = False,
    advance: Callable[[int, int], None] = lambda done, of: None,
    say: Callable[[str], None] = lambda words: None,
) -> Imported:
    """Publish a folder of dashboards beside what the index holds. `load` is called for the model once the
    files are read; `same_model` says that it is the files' model though they call it otherwise.

    Raises ExchangeError, StoreError: nothing was published, and what served still does.
    """
    found = read_dashboards(folder, advance=advance)
    say("loading the language model")
    model = load()
    where, source = _place(found, model, same_model=same_model, set_name=set_name, layer=layer)
    spellings = Spellings(model.tokenizer, model.vocab_size)
    ids, way, unknown = _read_strings(found, spellings, folder)
    texts = texts_of(found.contexts, ids)
    say("choosing contexts")
    chosen = choose(found, texts)
    fires = set(np.unique(chosen.feature).tolist())
    index = np.array(
        sorted(number for number, feature in found.features.items() if number in fires or feature.positive),
        np.int64,
    )
    if not len(chosen.feature):
        raise ExchangeError(
            f"No feature in {folder} fires in any of its contexts: there is nothing to import.",
            kept=UNCHANGED,
        )
    d_sae = max([*found.features, *found.skipped]) + 1
    directions = _directions(found, index, d_sae, model, checkpoint)
    d_sae = checkpoint.dictionary.d_sae if checkpoint else d_sae
    live = live_of(found, index)
    seen = observe(found, chosen, texts, index, model, name_by_peaks=directions is None)
    top_logit = first_logit(found, index, ids)
    say("naming")
    named = (
        None
        if directions is None
        else name_by_direction(
            model, where, directions, index, live, texts, checkpoint.fit if checkpoint else None
        )
    )
    names = _names(named, seen.peaks.numpy(), top_logit)
    say("evidence")
    judged = judge(
        seen, texts, torch.from_numpy(names.tokens.astype(np.int64)), torch.from_numpy(live), top_logit, model
    )
    kind = BY_PEAK if named is None else BY_ANCHOR.format(named.kind)
    training = _training(folder, found, chosen, way, unknown, kind, named)
    say("writing")
    corpus = f"{found.run.dataset or 'unknown text'} ({found.kind})"
    tokens = token_rows(model, seen.occurrences)
    with Builder(settings) as builder:
        kept_models, note = merging(builder, settings, [(model.id, source)], tokens, replace=replace)
        key, first = builder.next_dictionary_id, builder.next_passage_id
        if model.id not in kept_models:
            builder.add("token", tokens)
        rows = feature_rows(
            key, found, index, ids, names, judged, live, maxima_of(found, chosen, index), model
        )
        builder.add(
            "dictionary",
            dictionary_row(key, model, source, where, found, d_sae, corpus, kind, training),
        )
        n_tokens = found.run.n_prompts * found.run.n_tokens_in_prompt
        chance = 0.0 if named is None else named.random_cosine
        summary = summary_row(key, rows, d_sae, seen, judged, index_tokens=n_tokens, random_cosine=chance)
        builder.add("layer_summary", summary)
        builder.add("passage", passage_rows(first, texts, chosen, corpus))
        builder.add("feature", rows)
        builder.add("context", context_rows(key, first, found, chosen))
        merged = Merged(builder.publish(), [(model.id, source)], note)
    nothing = len(found.features) + len(found.skipped) - len(index)
    return Imported(
        merged, len(index), len(chosen.feature), chosen.repeated, found.contexts.silent, unknown, nothing
    )


def _place(
    found: Dashboards, model: LanguageModel, *, same_model: bool, set_name: str | None, layer: int | None
) -> tuple[int, str]:
    """(layer, source) the dictionary is shown under."""
    assert found.origin is not None
    try:
        theirs = model_slug(found.origin.model)
    except ModelError:
        theirs = found.origin.model
    if theirs != model.id and not same_model:
        raise ExchangeError(
            f"The files are of the model '{found.origin.model}', but --model is {model.id}. If it is the same model, say so with "
            f"--model-id and the id it has, or shall have, in the index.",
            kept=UNCHANGED,
        )
    where = found.origin.layer if layer is None else layer
    try:
        model.check_layers([where])
    except ModelError as error:
        raise ExchangeError(
            f"The files are of layer {where}: {error} Give the right one with --layer.", kept=UNCHANGED
        ) from error
    name = set_name or re.sub(rf"^{found.origin.layer}-", "", found.origin.set_name)
    return where, f"{where}-{re.sub(r'[^A-Za-z0-9._]+', '-', name).strip('-.') or 'imported'}"


def _read_strings(
    found: Dashboards, spellings: Spellings, folder: Path
) -> tuple[np.ndarray, str, dict[str, int]]:
    """([strings] token ids, the way they are spelled, the strings that are no token with how often they stand
    in the texts).
    """
    strings = list(found.strings)
    way = spellings.settle(
        {string: found.uses.get(number, 0) + 1 for string, number in found.strings.items()}
    )
    ids = np.array(spellings.ids(strings), np.int64).reshape(-1)
    unknown = {strings[number]: found.uses.get(int(number), 0) for number in np.flatnonzero(ids < 0)}
    total, strange = (
        sum(found.uses.values()),
        sum(times for string, times in unknown.items() if string != OUT_OF_RANGE),
    )
    if strange > STRANGE * max(total, 1):
        some = sorted(unknown, key=lambda string: -unknown[string])[:5]
        raise ExchangeError(
            f"{strange:,} of {total:,} tokens in {folder} are no tokens of the model, among them "
            f"{', '.join(repr(string) for string in some)}: the files are of another tokenizer.",
            kept=UNCHANGED,
        )
    return ids, way, unknown


def _directions(
    found: Dashboards, index: np.ndarray, d_sae: int, model: LanguageModel, checkpoint: Checkpoint | None
) -> torch.Tensor | None:
    """[rows, d_in] decoder rows, from the checkpoint or from the files; None where not every feature has one."""
    if checkpoint is not None:
        dictionary = checkpoint.dictionary
        if dictionary.d_sae < d_sae or dictionary.d_in != model.d_model:
            raise ExchangeError(
                f"{checkpoint.path} has {dictionary.d_sae:,} features of width {dictionary.d_in}; the files go up to feature {d_sae - 1:,} "
                f"and {model.id} has width {model.d_model}: it is another dictionary.",
                kept=UNCHANGED,
            )
        if checkpoint.fit is not None and len(checkpoint.fit.anchors) != model.vocab_size:
            raise ExchangeError(
                f"{checkpoint.path} has anchors for {len(checkpoint.fit.anchors):,} tokens, {model.id} has {model.vocab_size:,}.",
                kept=UNCHANGED,
            )
        return dictionary.W_dec[torch.from_numpy(index)].float()
    vectors = [found.features[int(number)].vector for number in index]
    if any(vector is None for vector in vectors):
        return None
    for number, vector in zip(index, vectors, strict=True):
        if vector is not None and len(vector) != model.d_model:
            raise ExchangeError(
                f"{found.features[int(number)].file}, feature {number}: its vector has {len(vector)} numbers, but {model.id} has width "
                f"{model.d_model}.",
                kept=UNCHANGED,
            )
    return torch.tensor(np.array(vectors, np.float32))


def _names(named: Named | None, peaks: np.ndarray, top_logit: np.ndarray) -> Names:
    if named is not None:
        return Names(named.tokens, [BY_ANCHOR.format(named.kind)] * len(peaks), named)
    tokens = np.where(peaks >= 0, peaks, np.maximum(top_logit, 0))
    return Names(tokens, [BY_PEAK if peak >= 0 else BY_LOGIT for peak in peaks], None)


def _training(
    folder: Path,
    found: Dashboards,
    chosen: Chosen,
    way: str,
    unknown: dict[str, int],
    kind: str,
    named: Named | None,
) -> dict[str, Any]:
    origin = found.origin
    assert origin is not None
    return {
        "recipe": "imported",
        "note": NOTE + ("" if named is not None else HELD_OUT),
        "imported_from": folder.resolve().name,
        "files": f"{found.n_files} {found.kind}",
        "their_model": origin.model,
        "their_layer": origin.layer,
        "their_set": origin.set_name,
        "their_dataset": found.run.dataset,
        "their_prompts": found.run.n_prompts,
        "their_tokens_a_prompt": found.run.n_tokens_in_prompt,
        "names": kind,
        "contexts": len(chosen.feature),
        "contexts_repeated": chosen.repeated,
        "contexts_silent": found.contexts.silent,
        "contexts_on_unknown_tokens": chosen.on_unknown,
        "features_skipped": len(found.skipped),
        "token_spelling": way,
        "unknown_tokens": dict(sorted(unknown.items(), key=lambda item: -item[1])[:20]),
    }
