"""Requests to steer by a row of a token look-up: found by id, compared with similar rows, and added only."""

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


def test_a_token_is_added_by_its_row_where_there_is_one(store: Store) -> None:
    found = steer_job(store, request(token=3, layer=1))
    assert found.job.interventions[0].feature.id == ROW
    assert not any(ref.row for ref in steer_job(store, request(token=4, layer=1)).features[0].others)
    by_feature = steer_job(store, request(token=6, layer=1, mode="ablate")).job.interventions[0].feature
    assert not by_feature.row and by_feature.name.id == 6
