"""Imported dictionaries beside those the index holds: nothing is replaced unasked, and no two vocabularies
share a model's id.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from indexer.exchange.export_folder import UNCHANGED, ExchangeError
from lexiscope.errors import ModelError
from lexiscope.language_model import model_slug
from lexiscope.settings import Settings
from store import Builder, NoIndex, Store, WrongVersion

SOURCE = re.compile(r"[0-9]+-[A-Za-z0-9][A-Za-z0-9._-]*")


class Merged(NamedTuple):
    build: str
    identities: list[tuple[str, str]]
    """(model, source) of each dictionary published"""
    note: str
    """why nothing else could be kept, where that is so"""


def merging(
    builder: Builder,
    settings: Settings,
    identities: Sequence[tuple[str, str]],
    tokens: pa.Table,
    *,
    replace: bool,
) -> tuple[set[str], str]:
    """Copy what is not imported into the build; (models whose tokens it now holds, a note). `tokens` are
    those of the imported models.

    Raises ExchangeError: an identity that cannot be a URL, a dictionary that is there already, another
    vocabulary under one id.
    """
    for model, source in identities:
        _check_identity(model, source)
    if len(set(identities)) < len(identities):
        twice = next(identity for identity in identities if identities.count(identity) > 1)
        raise ExchangeError(f"Two dictionaries are called {'/'.join(twice)}.", kept=UNCHANGED)
    store = Store(settings)
    try:
        with store.snapshot() as served:
            there = {(entry.model, entry.source) for entry in served.dictionaries}
            again = sorted(there & set(identities))
            if again and not replace:
                listed = ", ".join("/".join(identity) for identity in again[:5])
                raise ExchangeError(
                    f"The index already holds {listed}; import with --replace to replace what is there.",
                    kept=UNCHANGED,
                )
            for model in {model for model, _ in there - set(identities)} & {model for model, _ in identities}:
                held = pa.concat_tables(served.part(model=model, source=None).rows("token"))
                _check_spellings(model, held, tokens.filter(pc.equal(tokens.column("model"), model)))
    except (NoIndex, WrongVersion):  # keep_others says what that means
        pass
    finally:
        store.close()
    kept = builder.keep_others(replacing=identities)
    return {model for model, _ in kept.sources}, kept.note


def _check_identity(model: str, source: str) -> None:
    try:
        usable = model_slug(model) == model
    except ModelError:
        usable = False
    if not usable:
        raise ExchangeError(
            f"'{model}' cannot be a model's id (letters, digits, '-', '_' and '.').", kept=UNCHANGED
        )
    if not SOURCE.fullmatch(source):
        raise ExchangeError(
            f"'{source}' cannot be a source: it is '<layer>-<set>', for example 6-res-jb.", kept=UNCHANGED
        )


def _check_spellings(model: str, held: pa.Table, given: pa.Table) -> None:
    columns = ["token_id", "shown", "raw"]
    one, other = (table.select(columns).sort_by("token_id").combine_chunks() for table in (held, given))
    if not one.equals(other):
        raise ExchangeError(
            f"The index holds dictionaries of {model} with another vocabulary ({len(held):,} tokens, here {len(given):,}): "
            "this is another model under the same id.",
            kept=UNCHANGED,
        )
