"""The Python client against the application: records, pages as iterators, errors, retries."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient

from lexiscope import client
from lexiscope.client import (
    AsyncLexiscope,
    Busy,
    InvalidRequest,
    KeyNeeded,
    Lexiscope,
    NotFound,
    Unreachable,
)
from lexiscope.client.notebook import Sweep
from lexiscope.records import ErrorRecord, FeatureRef, Token
from lexiscope.records.live import SteerResolved, SweepCurve, SweepEffect, SweepPoint
from lexiscope.settings import Settings
from server import create_app
from store import ApiKeys
from tests.in_process import InProcess
from tests.live.jobs import finish
from tests.store import synthetic

ID = "tiny/1-vasae/6"


@pytest.fixture
def lexiscope(browser: TestClient) -> Iterator[Lexiscope]:
    with Lexiscope("http://test", transport=InProcess(browser.app)) as server:  # type: ignore[arg-type]
        yield server


def test_results_are_the_servers_records(lexiscope: Lexiscope, browser: TestClient) -> None:
    def twin(address: str) -> Any:
        return browser.get(address).json()

    home = twin("/index.json")
    assert lexiscope.models().model_dump(mode="json") == home
    assert lexiscope.model("tiny").model_dump(mode="json") == home["models"][1]
    assert len(lexiscope.dictionaries()) == sum(len(model["layers"]) for model in home["models"])
    assert lexiscope.dictionary("tiny/1-vasae").model_dump(mode="json") == twin("/tiny/1-vasae.json")
    assert lexiscope.feature(ID).model_dump(mode="json") == twin(f"/{ID}.json")
    assert lexiscope.token("tiny", 0).model_dump(mode="json") == twin("/tokens/tiny/0.json")
    page = lexiscope.search_page("paris", model="tiny", limit=3)
    assert page.model_dump(mode="json") == twin("/search.json?q=paris&model=tiny&limit=3")
    assert [hit.token.shown for hit in lexiscope.tokens("tiny", " par", limit=2)] == ["␣Paris", "␣paris"]


def test_lists_are_iterators_over_all_pages(lexiscope: Lexiscope) -> None:
    features = lexiscope.features_of("tiny/1-vasae", live=True, limit=50)
    assert isinstance(next(features), FeatureRef) and len(list(features)) == 179
    found = [ref.id for ref in lexiscope.search("paris", limit=3)]
    assert found == [ref.id for ref in lexiscope.search("paris", limit=200)] and len(found) > 3
    ids = [f"tiny/1-vasae/{index}" for index in range(130)]
    assert [ref.id for ref in lexiscope.features(iter(ids))] == ids
    assert list(lexiscope.features([])) == []


def test_the_asynchronous_client_gives_the_same(lexiscope: Lexiscope, browser: TestClient) -> None:
    async def both() -> None:
        transport = httpx.ASGITransport(browser.app)  # type: ignore[arg-type]
        async with AsyncLexiscope("http://test", transport=transport) as server:
            assert await server.models() == lexiscope.models()
            assert await server.feature(ID) == lexiscope.feature(ID)
            assert await server.tokens("tiny", "par") == lexiscope.tokens("tiny", "par")
            refs = [ref async for ref in server.search("paris", limit=3)]
            assert refs == list(lexiscope.search("paris"))
            refs = [ref async for ref in server.features_of("tiny/1-vasae", limit=90)]
            assert len(refs) == 200 and [ref.id async for ref in server.features([ID])] == [refs[6].id]
            with pytest.raises(NotFound, match="200 features"):
                await server.feature("tiny/1-vasae/999")

    finish(both())


@pytest.mark.parametrize(
    ("ask", "error", "says"),
    [
        (lambda server: server.feature("tiny/1-vasae/999"), NotFound, "404: .*200 features"),
        (lambda server: server.feature("tiny/1 vasae?/#/1"), NotFound, "no page"),
        (lambda server: server.model("nobody"), NotFound, "other, tiny"),
        (lambda server: list(server.search("a", verdct="dead")), InvalidRequest, "the nearest is 'verdict'"),
        (lambda server: list(server.search("a", cursor="zzz")), InvalidRequest, "400: .*first page"),
        (lambda server: server.steer("a", [ID], strenght=1), InvalidRequest, "no field 'strenght'"),
        (lambda server: server.steer("a", [{"token": 3}]), InvalidRequest, "model: Field required"),
        (lambda server: server.sweep("a", []), InvalidRequest, "features"),
        (lambda server: server.read("", model="tiny"), InvalidRequest, "text"),
    ],
)
def test_an_error_has_its_type_and_the_servers_words(
    lexiscope: Lexiscope, ask: Callable[[Lexiscope], object], error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        ask(lexiscope)


def test_lists_become_data_frames(lexiscope: Lexiscope) -> None:
    pandas = pytest.importorskip("pandas")
    frame = lexiscope.search("paris", model="tiny", match="exact").to_pandas()
    refs = list(lexiscope.search("paris", model="tiny", match="exact"))
    assert isinstance(frame, pandas.DataFrame) and list(frame["id"]) == [ref.id for ref in refs]
    assert list(frame["name"]) == [ref.name.shown for ref in refs]
    assert list(frame["words"]) == [[word.shown for word in ref.words] for ref in refs]
    one = lexiscope.features(["tiny/1-vasae/6"]).to_pandas()
    assert one.loc[0, "name_id"] == lexiscope.feature(ID).feature.name.id


def test_a_dictionary_is_exported(lexiscope: Lexiscope, tmp_path: Path) -> None:
    export = lexiscope.export("tiny/1-vasae")
    frame = export.to_pandas()
    assert len(frame) == 200 and frame.loc[6, "id"] == ID
    assert export.save(tmp_path / "features.parquet").read_bytes() == export.content
    assert "bytes of Parquet" in repr(export)
    polars = pytest.importorskip("polars")
    assert isinstance(export.to_polars(), polars.DataFrame)
    assert lexiscope.all_features(model="tiny", relation="on").to_polars()["id"].n_unique() > 3


def test_labels_and_keys(index: Path, tmp_path: Path) -> None:
    settings = Settings(index=tmp_path)
    synthetic.publish(settings)
    keys = ApiKeys(settings)
    key = keys.add("ann")
    keys.close()
    transport = InProcess(create_app(settings))
    with pytest.raises(KeyNeeded, match="401: a key is needed"):
        Lexiscope("http://test", transport=transport).models()
    with Lexiscope("http://test", key=key, transport=transport) as server:
        first = server.label(ID, "capitals", note="of Europe")
        second = server.label(server.feature(ID), "cities")
        assert server.labels(ID) == [second, first] and first.author == "ann"
        assert list(server.search_labels("c", limit=1)) == [second, first]
        server.remove_label(first)
        assert server.labels(ID) == [second]
        kept = server.keep_list("mine", {ID: "a note"})
        assert server.kept_lists(owner="ann") == server.kept_lists() == [kept] and kept.owner == "ann"
        assert [(one.id, one.note) for one in server.kept_list(kept.id).entries] == [(ID, "a note")]
        with pytest.raises(client.RequestFailed, match="at version 1 on the server"):
            server.keep_list("mine", [])
        again = server.keep_list("mine", [server.feature(ID)], version=kept.version)
        assert (again.id, again.version) == (kept.id, 2)
        server.remove_list(kept.id)
        assert server.kept_lists() == []


def answering(*answers: httpx.Response | Exception) -> Lexiscope:
    """A client of a server that gives these answers, one after another."""
    waiting = iter(answers)

    def answer(_: httpx.Request) -> httpx.Response:
        given = next(waiting)
        if isinstance(given, Exception):
            raise given
        return given

    return Lexiscope("http://test", retries=2, transport=httpx.MockTransport(answer))


def busy(status: int = 429, **headers: str) -> httpx.Response:
    problem = ErrorRecord(status=status, detail="the model is busy", kept="Nothing was lost.")
    return httpx.Response(status, headers=headers, content=problem.model_dump_json())


HEALTH = {"running": 0, "waiting": 0, "queue": 1, "served": 0, "tokens_per_second": 0, "models": []}


def test_a_busy_server_is_asked_again_after_the_time_that_it_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr("time.sleep", waits.append)
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)
    server = answering(
        busy(**{"retry-after": "7"}), busy(503, **{"retry-after": date}), httpx.Response(200, json=HEALTH)
    )
    assert server.worker().queue == 1
    assert waits[0] == 7 and 20 < waits[1] <= 30
    waits.clear()
    with pytest.raises(Busy, match=r"429: the model is busy Nothing was lost\.") as raised:
        answering(busy(), busy(), busy()).worker()
    assert waits == [0.5, 1.0] and raised.value.problem.status == 429
    waits.clear()
    with pytest.raises(Busy):
        answering(busy(**{"retry-after": "3600"})).worker()
    assert waits == []


def test_what_is_no_answer_of_the_server_is_told_plainly() -> None:
    with pytest.raises(client.RequestFailed, match="502: http://test/api/v1/worker answered Bad Gateway"):
        answering(httpx.Response(502, html="<html>")).worker()
    with pytest.raises(Unreachable, match="http://test: refused"):
        answering(httpx.ConnectError("refused")).worker()


def test_a_feature_is_shown_in_a_notebook_and_escaped(lexiscope: Lexiscope) -> None:
    page = lexiscope.feature(ID)
    html = page._repr_html_()
    assert page.feature.verdict_words in html and ID in html
    fires = page.feature.fires
    assert fires is not None and f"<h4>fires {fires.relation} {fires.words[0].shown} <small>" in html
    assert html.count("pre-wrap") == 4 and "rgba(255,140,0,0" in html
    assert "<script>" not in lexiscope.feature("tiny/1-vasae/7")._repr_html_() + html
    dead = lexiscope.feature("tiny/1-vasae/9")
    assert "dead" in dead._repr_html_() and f"<h4>{dead.feature.name.shown} <small>" in dead._repr_html_()


def test_a_sweep_in_a_notebook_is_called_by_the_token_whose_probability_it_shows(
    lexiscope: Lexiscope,
) -> None:
    [ref] = [one for one in lexiscope.features_of("tiny/1-vasae", limit=20) if one.id == ID]
    watched = Token(id=3, shown="<b>watched")
    effect = SweepEffect(feature=ref, token=watched, probability_first=0.5, probability=0.25, rank_first=0)
    point = SweepPoint(
        strength=0, named=[effect], kl_first=0, kl=0, perplexity=2, distinct=1, text="", controls=[]
    )
    curve = SweepCurve(unit="norm", default=point, points=[point], rule="")
    shown = Sweep(resolved=SteerResolved(features=[ref], prompt_tokens=[]), swept=curve)._repr_html_()
    assert "<th>P(&lt;b&gt;watched)</th>" in shown and f"P({ref.name.shown})" not in shown
