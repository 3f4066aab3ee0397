"""Imported dictionaries beside those that the index holds: none is replaced unless that was requested, and no
two vocabularies share a model's id.
"""

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from indexer.exchange.errors import ImportRefused
from lexiscope.errors import ModelError
from lexiscope.language_model import model_slug
from lexiscope.settings import Settings
from store import BuildWriter, NoIndex, Store, WrongVersion

SOURCE = re.compile(r"[0-9]+-[A-Za-z0-9][A-Za-z0-9._-]*")


class PublishedImport(NamedTuple):
    build: str
    identities: list[tuple[str, str]]
    """(model, source) of each dictionary published"""
    note: str
    """why no other dictionary could be kept, where that is so"""


class KeptModels(NamedTuple):
    models: set[str]
    """whose tokens the build holds already"""
    note: str
    """as in PublishedImport"""


def keep_others(
    writer: BuildWriter,
    settings: Settings,
    identities: Sequence[tuple[str, str]],
    tokens: pa.Table,
    *,
    models: Mapping[str, str],
    replace: bool,
) -> KeptModels:
    """Copy every dictionary but those imported into the build. `tokens` are those of the imported models,
    `models` maps each one's id to its identity (empty where it is unknown).

    Raises ImportRefused: an identity that cannot be a URL, a dictionary that is in the index already, another
    vocabulary under one id.
    """
    for model, source in identities:
        _check_identity(model, source)
        if identities.count((model, source)) > 1:
            raise ImportRefused(f"Two dictionaries are called {model}/{source}.")
    store = Store(settings)
    try:
        with store.snapshot() as served:
            held = {(entry.model, entry.source) for entry in served.dictionaries}
            again = sorted(held & set(identities))
            if again and not replace:
                listed = ", ".join("/".join(identity) for identity in again[:5])
                raise ImportRefused(
                    f"The index already holds {listed}; import with --replace to replace what is there."
                )
            kept = {model for model, _ in held - set(identities)}
            for model in kept & {model for model, _ in identities}:
                own = pa.concat_tables(served.part(model=model, source=None).rows("token"))
                _check_spellings(model, own, tokens.filter(pc.equal(tokens.column("model"), model)))
            for entry in served.dictionaries:
                if (entry.model, entry.source) not in identities:
                    _check_weights(entry.id, entry.model_identity, models.get(entry.model, ""))
    except (NoIndex, WrongVersion):  # the writer's keep_others explains these
        pass
    finally:
        store.close()
    others = writer.keep_others(replacing=identities)
    return KeptModels({model for model, _ in others.sources}, others.note)


def _check_identity(model: str, source: str) -> None:
    try:
        usable = model_slug(model) == model
    except ModelError:
        usable = False
    if not usable:
        raise ImportRefused(f"'{model}' cannot be a model's id (letters, digits, '-', '_' and '.').")
    if not SOURCE.fullmatch(source):
        raise ImportRefused(f"'{source}' cannot be a source: it is '<layer>-<set>', for example 6-res-jb.")


def _check_weights(dictionary: str, held: str, given: str) -> None:
    if held and given and held != given:
        raise ImportRefused(
            f"The index holds {dictionary} of another model under the same id: its weights differ from "
            "those of the imported one. Give the imported model an id of its own (--model-id)."
        )


def _check_spellings(model: str, held: pa.Table, imported: pa.Table) -> None:
    columns = ["token_id", "shown", "raw"]
    one, other = (table.select(columns).sort_by("token_id").combine_chunks() for table in (held, imported))
    if not one.equals(other):
        raise ImportRefused(
            f"The index holds dictionaries of {model} with another vocabulary ({len(held):,} tokens, here "
            f"{len(imported):,}): this is another model under the same id."
        )
