"""Dictionaries of one model that were indexed over different texts: what the index says of the kept one does
not follow from the other's text.
"""

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from lexiscope.records import Filters
from lexiscope.settings import Settings
from store import BuildWriter, Store
from tests.store import synthetic

SPACED, PLAIN = 0, 1
""" " Paris" and "Paris", one word"""
LATER = 20
"""the feature that fires on it in the dictionary that was indexed later"""


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """0-vasae, indexed over a text in which " Paris" is commoner, and 1-vasae, over one where "Paris" is."""
    root: Path = tmp_path_factory.mktemp("index")
    synthetic.publish(root, [synthetic.Dictionary("tiny", 0)])
    tokens = synthetic.token_table("tiny")
    counts = pc.multiply(tokens["count"], 1000).to_pylist()
    counts[SPACED], counts[PLAIN] = counts[PLAIN], counts[SPACED]
    place = tokens.column_names.index("count")
    tokens = tokens.set_column(place, "count", pa.array(counts, pa.int64()))
    with pytest.MonkeyPatch.context() as patch, BuildWriter(root) as builder:
        builder.keep_others(replacing=[])
        patch.setattr(synthetic, "word_of", lambda index, **_: PLAIN if index == LATER else 100)
        synthetic.add(builder, [synthetic.Dictionary("tiny", 1)], tokens={"tiny": tokens})
        builder.publish()
    store = Store(Settings(index=root))
    yield store
    store.close()


def test_features_of_one_name_are_found_by_the_word_whichever_token_shows_it(kept: Store) -> None:
    compared = kept.compare("tiny", "0-vasae", "1-vasae", Filters(sort="index"))
    own, named = compared.features[0], compared.named[0]
    assert (own.relation, [word.id for word in own.words]) == ("on", [SPACED])
    assert [(ref.index, [word.id for word in ref.words]) for ref in named] == [(LATER, [PLAIN])]
    assert kept.named_alike(own, named[0]) and not kept.named_alike(own, compared.features[3])
    back = kept.compare("tiny", "1-vasae", "0-vasae", Filters(sort="index"))
    assert own.id in [ref.id for ref in back.named[LATER]]


def test_the_best_feature_of_a_word_is_that_of_the_largest_effect_in_any_dictionary(kept: Store) -> None:
    for token in (SPACED, PLAIN):
        [hit] = kept.search(f"#{token}", Filters()).tokens
        assert [ref.id for ref in hit.best if ref.relation == "on"] == ["tiny/0-vasae/0"]


def test_the_density_of_a_tokens_direction_is_its_share_of_one_text(kept: Store) -> None:
    with kept.held() as held:
        ids = [f"tiny/0-vasae/embedding-{token}" for token in range(synthetic.VOCABULARY)]
        rows = [ref for first in range(0, len(ids), 60) for ref in held.feature_refs(ids[first : first + 60])]
    densities = [row.density for row in rows]
    assert sum(densities) == pytest.approx(1) and max(densities) == densities[PLAIN]
