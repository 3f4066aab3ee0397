"""Requests to steer by a row of a token look-up: found by id, compared with similar rows, and added only."""

from operator import itemgetter

import pytest
from starlette.exceptions import HTTPException

from lexiscope.records.requests import SteerRequest
from lexiscope.settings import Settings
from server.requests_to_jobs import steer_job
from store import NotFound, Store
from tests.store import synthetic

ROW, FEATURE = "tiny/1-vasae/token-3", "tiny/1-vasae/6"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    settings = Settings(index=tmp_path_factory.mktemp("index"))
    synthetic.publish(settings)
    return Store(settings)


def request(**feature: object) -> SteerRequest:
    return SteerRequest.model_validate(
        {"model": "tiny", "prompt": "Once", "features": [feature], "controls": True}
    )


def test_a_row_is_an_intervention_with_similar_rows_as_controls(store: Store) -> None:
    found = steer_job(store, request(id=ROW))
    [one] = found.job.interventions
    ref = one.feature
    assert ref.row and (ref.id, ref.index, ref.layer, ref.name.shown) == (ROW, 3, 1, "␣Parisian")
    [controls] = zip(*found.job.controls.random, strict=True)
    assert len(controls) == 3 and ref.id not in {other.id for other in controls}
    assert all(other.row and other.source == "1-vasae" for other in controls)
    assert [store.feature_refs([other.id])[0] for other in controls] == list(controls)


@pytest.mark.parametrize("mode", ["clamp", "scale", "ablate", "swap"])
def test_a_row_can_only_be_added(store: Store, mode: str) -> None:
    to = {"to": {"id": FEATURE}} if mode == "swap" else {}
    with pytest.raises(HTTPException) as refused:
        steer_job(store, request(id=ROW, mode=mode, **to))
    assert refused.value.status_code == 422 and "it can be added" in str(refused.value.detail)


@pytest.mark.parametrize("field", [{"when": {"id": ROW}}, {"mode": "swap", "to": {"id": ROW}}])
def test_a_row_is_no_condition_and_no_target_of_a_swap(store: Store, field: dict[str, object]) -> None:
    with pytest.raises(HTTPException) as refused:
        steer_job(store, request(id=FEATURE, **field))
    assert "give a feature here" in str(refused.value.detail)


@pytest.mark.parametrize("row", ["tiny/1-vasae/token-4", "tiny/1-plain/token-3", "tiny/1-vasae/token-99999"])
def test_a_row_that_is_not_there_is_named(store: Store, row: str) -> None:
    with pytest.raises(NotFound, match="has no row for token"):
        steer_job(store, request(id=row))


def test_a_tokens_row_stands_among_what_can_be_added(store: Store) -> None:
    [found] = steer_job(store, request(token=3, layer=1)).features
    assert ROW in {ref.id for ref in (found.feature, *found.others)}
    [changed] = steer_job(store, request(token=3, layer=1, mode="clamp")).features
    assert ROW not in {ref.id for ref in (changed.feature, *changed.others)}
    assert not any(ref.row for ref in steer_job(store, request(token=4, layer=1)).features[0].others)
    by_feature = steer_job(store, request(token=6, layer=1, mode="ablate")).job.interventions[0].feature
    assert not by_feature.row


def rows_of(store: Store, table: str, source: str) -> list[dict[str, object]]:
    with store.snapshot() as snapshot:
        part = snapshot.part(model="tiny", source=source)
        [entry] = part.dictionaries
        return [row for piece in part.of_dictionary(table, entry) for row in piece.to_pylist()]


def test_a_token_means_the_feature_that_raised_it_most_and_says_what_raises_it_more(store: Store) -> None:
    measured = [row for row in rows_of(store, "written", "1-plain") if row["kind"] == "feature"]
    token = measured[0]["token_id"]
    best = max((row for row in measured if row["token_id"] == token), key=lambda row: row["rise"])
    job = steer_job(store, request(token=token, layer=1, mode="clamp"))
    [one], [found] = job.job.interventions, job.features
    every = [row for source in ("1-plain", "1-vasae") for row in rows_of(store, "written", source)]
    own = [row for row in every if row["token_id"] == token]
    most = max(row["rise"] for row in own if row["kind"] == "feature")
    assert found.by == "intervention" and found.measured is not None and "above every control" in found.sure
    assert found.measured.rise == most >= best["rise"] and found.measured.feature == one.feature
    assert one.watched.id == token
    assert [other.rise for other in found.stronger] == sorted(
        (row["rise"] for row in own if row["rise"] > most), reverse=True
    )


def test_an_unmeasured_token_means_the_feature_whose_write_list_holds_it_highest(store: Store) -> None:
    features = rows_of(store, "feature", "1-plain") + rows_of(store, "feature", "1-vasae")
    measured = {
        row["token_id"] for source in ("1-plain", "1-vasae") for row in rows_of(store, "written", source)
    }
    live = [row for row in features if row["live"]]
    token = next(row["write_tokens"][0] for row in live if row["write_tokens"][0] not in measured)
    [found] = steer_job(store, request(token=token, layer=1, mode="clamp")).features
    assert found.by == "write list" and found.measured is None and found.feature.writes[0].id == token
    [share] = {
        one.write_steering for one in store.dictionaries() if one.source == found.feature.id.split("/")[1]
    }
    assert f"{100 * share:.0f} % raise the first token" in found.sure


def test_a_condition_and_the_source_of_a_swap_fire_on_the_token(store: Store) -> None:
    feature = next(
        row for row in rows_of(store, "feature", "1-plain") if row["live"] and row["relation"] == "on"
    )
    token = feature["word_tokens"][0]
    [one] = steer_job(
        store, request(id="tiny/2-vasae/1", when={"token": token, "layer": 1})
    ).job.interventions
    assert one.when is not None and token in {word.id for word in one.when.feature.words}
    assert one.when.feature.relation == "on"
    swap = request(token=token, layer=1, mode="swap", to={"token": token, "layer": 1})
    [found] = steer_job(store, swap).features
    assert found.by == "what it fires on" and found.feature.relation == "on" and not found.stronger


@pytest.mark.parametrize("kind", ["embedding", "jacobian"])
def test_a_tokens_own_direction_is_added_and_compared_with_those_of_like_tokens(
    store: Store, kind: str
) -> None:
    found = steer_job(store, request(id=f"tiny/1-plain/{kind}-3")).job
    [one] = found.interventions
    assert (one.feature.direction, one.feature.index, one.watched.id) == (kind, 3, 3)
    assert one.lens_path == "/lenses/tiny"
    [controls] = zip(*found.controls.random, strict=True)
    assert len(controls) == 3 and all(other.direction == kind and other.index != 3 for other in controls)
    with pytest.raises(HTTPException, match="422"):
        steer_job(store, request(id=f"tiny/1-plain/{kind}-3", mode="clamp"))
    with pytest.raises(NotFound, match="no token 99999"):
        steer_job(store, request(id=f"tiny/1-plain/{kind}-99999"))


def test_the_lens_gives_no_direction_where_it_was_not_fitted(store: Store) -> None:
    [source] = {place.source for place in store.dictionaries() if place.model == synthetic.UNTESTED}
    with pytest.raises(NotFound, match="--lens-prompts"):
        store.feature_refs([f"{synthetic.UNTESTED}/{source}/jacobian-3"])


def test_an_id_is_judged_on_what_it_raised_or_writes_and_on_its_anchor_last(store: Store) -> None:
    above = [row for row in rows_of(store, "written", "1-plain") if row["kind"] == "feature" and row["above"]]
    raised = {
        row["index"]: max(
            (other for other in above if other["index"] == row["index"]), key=itemgetter("rise")
        )
        for row in above
    }
    seen = set()
    for row in rows_of(store, "feature", "1-plain"):
        job = steer_job(store, request(id=f"tiny/1-plain/{row['index']}"))
        [one], [found] = job.job.interventions, job.features
        if row["index"] in raised:
            kind, token = "above every control", raised[row["index"]]["token_id"]
        elif row["write_tokens"]:
            kind, token = "first token of its write list", row["write_tokens"][0]
        else:
            kind, token = "no write list", row["name_token"]
        assert found.by == "id" and found.token == one.watched and one.watched.id == token
        assert kind in found.sure, found.sure
        seen.add(kind)
    assert {"above every control", "first token of its write list"} <= seen
