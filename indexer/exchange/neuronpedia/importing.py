"""Publishes SAEDashboard's and Neuronpedia's files as a read-only dictionary of the index.

Tokens there are strings: they are read back through the model's own tokenizer, and files of another tokenizer
are refused. A feature is named by the anchor nearest to its decoder row, where the files or a checkpoint
bring one, and otherwise by the token it peaks on. Its evidence is counted over the imported contexts, by the
same definitions and rule as for any other index.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from indexer.exchange.errors import ImportRefused
from indexer.exchange.merge_into_index import PublishedImport, keep_others
from indexer.exchange.neuronpedia import imported_rows
from indexer.exchange.neuronpedia.choose_contexts import choose_contexts, imported_texts
from indexer.exchange.neuronpedia.dashboard_files import read_dashboards
from indexer.exchange.neuronpedia.dashboards import Dashboards
from indexer.exchange.neuronpedia.imported_dictionary import ImportedDictionary
from indexer.exchange.neuronpedia.imported_evidence import ImportedEvidence, count_imported, name_evidence
from indexer.exchange.neuronpedia.imported_rows import ImportedNames
from indexer.exchange.neuronpedia.name_by_direction import name_by_direction
from indexer.exchange.neuronpedia.token_spellings import OUT_OF_RANGE, TokenizerSpellings
from indexer.rows.model_rows import token_table
from lexiscope.checkpoint import Checkpoint
from lexiscope.errors import ModelError
from lexiscope.language_model import LanguageModel, model_slug
from lexiscope.settings import Settings
from store import BuildWriter

MAX_UNKNOWN = 0.01
"""Share of the texts' tokens that may be unknown to the tokenizer. A few are harmless and shown as unknown;
more means another tokenizer.
"""
BY_ANCHOR = "imported: {}"
BY_PEAK = "imported: peak token"
BY_LOGIT = "imported: top logit (it never fires here)"
NOTE = (
    "Read-only: imported contexts, picked by activation by another tool. Density, activations and "
    "histogram are of its run; firings and evidence are of these contexts alone."
)
HELD_OUT = (
    " A name is the token that every other of the top contexts peaks on; those places are left out of its "
    "firings and evidence."
)


@dataclass(frozen=True)
class NeuronpediaImportRequest:
    folder: Path
    """`batch-N.json` files, or one source of a Neuronpedia export"""
    load_model: Callable[[], LanguageModel]
    """called once the files are read"""
    same_model: bool = False
    """it is the files' model although they call it otherwise"""
    set_name: str | None = None
    """instead of the files' own"""
    layer: int | None = None
    """instead of the files' own"""
    checkpoint: Checkpoint | None = None
    """the dictionary itself, whose decoder rows name the features"""
    replace: bool = False
    """replace a dictionary of the same identity in the index"""


class NeuronpediaImport(NamedTuple):
    published: PublishedImport
    n_features: int
    n_contexts: int
    n_repeated: int
    """contexts left out because they repeat another"""
    n_silent: int
    """contexts left out because their feature does not fire in them"""
    unknown: dict[str, int]
    """strings that are no token of the model, and how often they stand in the texts"""
    n_without_page: int
    """features of which the files tell nothing (skipped, or without contexts and logits)"""


def import_neuronpedia(
    request: NeuronpediaImportRequest,
    *,
    settings: Settings,
    advance: Callable[[int, int], None] = lambda done, of: None,
    say: Callable[[str], None] = lambda message: None,
) -> NeuronpediaImport:
    """Publish a folder of dashboards beside what the index holds. `advance` is called with (files read, all
    files), `say` with the name of each step.

    Raises ImportRefused, StoreError: nothing was published, and the old index is still served.
    """
    dashboards = read_dashboards(request.folder, advance=advance)
    say("loading the language model")
    model = request.load_model()
    layer, source = _identity(dashboards, model, request)
    spelled = _read_tokens(dashboards, model, request.folder)
    say("choosing contexts")
    texts = imported_texts(dashboards.contexts, spelled.ids)
    contexts = choose_contexts(dashboards, texts)
    if not len(contexts.feature):
        raise ImportRefused(
            f"No feature in {request.folder} fires in any of its contexts: there is nothing to import."
        )
    d_sae = _d_sae(dashboards, model, request.checkpoint)
    imported = ImportedDictionary(model, layer, source, d_sae, dashboards, spelled.ids, texts, contexts)
    directions = _directions(imported, request.checkpoint)
    counted = count_imported(imported, name_by_peaks=directions is None)
    say("naming features")
    names = _names(imported, directions, request.checkpoint, counted.peaks)
    say("computing evidence")
    tested = name_evidence(imported, counted, names.tokens)
    say("writing the index")
    training = _training(request.folder, imported, names, spelled)
    published = _publish(imported, names, tested, training, counted.occurrences, settings, request.replace)
    return NeuronpediaImport(
        published,
        n_features=len(imported.index),
        n_contexts=len(contexts.feature),
        n_repeated=contexts.n_repeated,
        n_silent=dashboards.contexts.silent,
        unknown=spelled.unknown,
        n_without_page=imported.n_without_page,
    )


def _publish(
    imported: ImportedDictionary,
    names: ImportedNames,
    tested: ImportedEvidence,
    training: dict[str, Any],
    occurrences: np.ndarray,
    settings: Settings,
    replace: bool,
) -> PublishedImport:
    model, identity = imported.model, (imported.model.id, imported.source)
    tokens = token_table(model, model.vocabulary, occurrences)
    with BuildWriter(settings) as writer:
        models = {model.id: model.identity}
        kept = keep_others(writer, settings, [identity], tokens, models=models, replace=replace)
        key, first_passage = writer.next_dictionary_id, writer.next_passage_id
        if model.id not in kept.models:
            writer.add("token", tokens)
        features = imported_rows.feature_rows(key, imported, names, tested)
        random_cosine = 0.0 if names.geometry is None else names.geometry.random_cosine
        summary = imported_rows.summary_row(
            key, imported, features, tested, occurrences=occurrences, random_cosine=random_cosine
        )
        writer.add("dictionary", imported_rows.dictionary_row(key, imported, names, training))
        writer.add("layer_summary", summary)
        writer.add("passage", imported_rows.passage_rows(first_passage, imported))
        writer.add("feature", features)
        writer.add("context", imported_rows.context_rows(key, first_passage, imported))
        return PublishedImport(writer.publish(), [identity], kept.note)


def _identity(
    dashboards: Dashboards, model: LanguageModel, request: NeuronpediaImportRequest
) -> tuple[int, str]:
    """(layer, source) that the dictionary is indexed under."""
    origin = dashboards.origin
    assert origin is not None
    try:
        files_model = model_slug(origin.model)
    except ModelError:
        files_model = origin.model
    if files_model != model.id and not request.same_model:
        raise ImportRefused(
            f"The files are of the model '{origin.model}', but --model is {model.id}. If it is the same "
            f"model, give --model-id with the id that it has, or is to have, in the index."
        )
    layer = origin.layer if request.layer is None else request.layer
    try:
        model.check_layers([layer])
    except ModelError as error:
        raise ImportRefused(
            f"The files are of layer {layer}: {error} Give the right one with --layer."
        ) from error
    name = request.set_name or re.sub(rf"^{origin.layer}-", "", origin.set_name)
    return layer, f"{layer}-{re.sub(r'[^A-Za-z0-9._]+', '-', name).strip('-.') or 'imported'}"


class _SpelledTokens(NamedTuple):
    ids: np.ndarray
    """[strings] token ids, −1 for a string that is no token"""
    spelling: str
    """the way in which the files spell tokens"""
    unknown: dict[str, int]
    """strings that are no token, and how often they stand in the texts"""


def _read_tokens(dashboards: Dashboards, model: LanguageModel, folder: Path) -> _SpelledTokens:
    """Raises ImportRefused where too many strings are no tokens."""
    spellings = TokenizerSpellings(model.tokenizer, model.vocab_size)
    uses = {string: dashboards.uses.get(number, 0) for string, number in dashboards.strings.items()}
    spelling = spellings.choose({string: n + 1 for string, n in uses.items()})
    strings = list(uses)
    ids = np.array(spellings.ids(strings), np.int64).reshape(-1)
    unknown = {strings[number]: uses[strings[number]] for number in np.flatnonzero(ids < 0)}
    total = sum(uses.values())
    n_unknown = sum(times for string, times in unknown.items() if string != OUT_OF_RANGE)
    if n_unknown > MAX_UNKNOWN * max(total, 1):
        some = sorted(unknown, key=lambda string: -unknown[string])[:5]
        raise ImportRefused(
            f"{n_unknown:,} of {total:,} tokens in {folder} are no tokens of the model, among them "
            f"{', '.join(repr(string) for string in some)}: the files are of another tokenizer."
        )
    return _SpelledTokens(ids, spelling, unknown)


def _d_sae(dashboards: Dashboards, model: LanguageModel, checkpoint: Checkpoint | None) -> int:
    """Raises ImportRefused where the checkpoint is another dictionary than the files'."""
    d_sae = max([*dashboards.features, *dashboards.skipped]) + 1
    if checkpoint is None:
        return d_sae
    dictionary, fit = checkpoint.dictionary, checkpoint.fit
    if dictionary.d_sae < d_sae or dictionary.d_in != model.d_model:
        raise ImportRefused(
            f"{checkpoint.path} has {dictionary.d_sae:,} features of width {dictionary.d_in}; the files go "
            f"up to feature {d_sae - 1:,} and {model.id} has width {model.d_model}: it is another dictionary."
        )
    if fit is not None and len(fit.anchors) != model.vocab_size:
        raise ImportRefused(
            f"{checkpoint.path} has anchors for {len(fit.anchors):,} tokens, {model.id} has "
            f"{model.vocab_size:,}."
        )
    return dictionary.d_sae


def _directions(imported: ImportedDictionary, checkpoint: Checkpoint | None) -> Tensor | None:
    """[rows, d_in] unit decoder rows, from the checkpoint or from the files; None where a
    feature has none.
    """
    if checkpoint is not None:
        return checkpoint.dictionary.directions[torch.from_numpy(imported.index)].float()
    d_model, vectors = imported.model.d_model, [feature.vector for feature in imported.features]
    if any(vector is None for vector in vectors):
        return None
    for number, feature in zip(imported.index, imported.features, strict=True):
        if feature.vector is not None and len(feature.vector) != d_model:
            raise ImportRefused(
                f"{feature.file}, feature {number}: its vector has {len(feature.vector)} numbers, but "
                f"{imported.model.id} has width {d_model}."
            )
    return F.normalize(torch.tensor(np.array(vectors, np.float32)), dim=-1)


def _names(
    imported: ImportedDictionary, directions: Tensor | None, checkpoint: Checkpoint | None, peaks: Tensor
) -> ImportedNames:
    if directions is not None:
        named = name_by_direction(imported, directions, None if checkpoint is None else checkpoint.fit)
        kind = BY_ANCHOR.format(named.kind)
        return ImportedNames(named.tokens, [kind] * len(named.tokens), kind, named)
    fires = peaks.numpy() >= 0
    tokens = np.where(fires, peaks.numpy(), np.maximum(imported.top_logits, 0))
    return ImportedNames(tokens, [BY_PEAK if fired else BY_LOGIT for fired in fires], BY_PEAK, None)


def _training(
    folder: Path, imported: ImportedDictionary, names: ImportedNames, spelled: _SpelledTokens
) -> dict[str, Any]:
    """What the dictionary's page shows as its training."""
    dashboards, contexts = imported.dashboards, imported.contexts
    origin, run = dashboards.origin, dashboards.run
    assert origin is not None
    return {
        "recipe": "imported",
        "note": NOTE + ("" if names.geometry is not None else HELD_OUT),
        "imported_from": folder.resolve().name,
        "files": f"{dashboards.n_files} {dashboards.kind}",
        "their_model": origin.model,
        "their_layer": origin.layer,
        "their_set": origin.set_name,
        "their_dataset": run.dataset,
        "their_prompts": run.n_prompts,
        "their_tokens_a_prompt": run.n_tokens_in_prompt,
        "names": names.kind,
        "contexts": len(contexts.feature),
        "contexts_repeated": contexts.n_repeated,
        "contexts_silent": dashboards.contexts.silent,
        "contexts_on_unknown_tokens": contexts.n_unknown,
        "features_skipped": len(dashboards.skipped),
        "token_spelling": spelled.spelling,
        "unknown_tokens": dict(sorted(spelled.unknown.items(), key=lambda item: -item[1])[:20]),
    }
