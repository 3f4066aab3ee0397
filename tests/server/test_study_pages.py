"""A study's page is its record: figures, tables and a chart of it, and the same as JSON."""

from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from lexiscope.client import Lexiscope, NotFound
from lexiscope.records import (
    ChartLink,
    ChartNode,
    ChartPoint,
    ChartSeries,
    FeatureCell,
    Recurrence,
    StudyChart,
    StudyFigure,
    StudyList,
    StudyRecord,
    StudyTable,
)
from lexiscope.settings import Settings
from lexiscope.study_files import write_record
from server import create_app
from server.study_charts import draw
from store import Store
from tests.in_process import InProcess


def record(name: str, chart: StudyChart | None = None) -> StudyRecord:
    return StudyRecord(
        name=name,
        study="example",
        model="tiny",
        question="Is <it> so?",
        source="a paper",
        answer="It is.",
        control="chance.",
        uncertainty="over passages.",
        figures=[
            StudyFigure(
                label="part", unit="share", value=0.25, low=0.2, high=0.3, control=0.01, meaning="A part."
            ),
            StudyFigure(label="rise", unit="nats", value=-0.5, meaning="A rise."),
        ],
        tables=[
            StudyTable(
                title="Rows",
                columns=["feature", "n", "word"],
                rows=[
                    [FeatureCell(id="tiny/1-vasae/6", text="on ␣cat"), 3, "<b>"],
                    [FeatureCell(id="", text="?"), None, 0.5],
                ],
            )
        ],
        chart=chart,
        arguments={"tokens": 100},
        command="lexiscope study example run --text words.txt",
    )


FLOW = StudyChart(
    kind="flow",
    title="a flow",
    categories=["first", "second"],
    nodes=[
        ChartNode(id="a", label="<a>", column=0, feature="tiny/1-vasae/6"),
        ChartNode(id="b", label="b", column=1),
    ],
    links=[ChartLink(source="a", target="b", weight=-2)],
)


@pytest.fixture(scope="module")
def client(index: Path, tmp_path_factory: pytest.TempPathFactory) -> TestClient:
    folder = tmp_path_factory.mktemp("studies")
    for each in (record("one-tiny", FLOW), record("two-tiny")):
        write_record(folder, each)
    (folder / "broken.json").write_text("{}")
    return TestClient(create_app(Settings(index=index, studies=folder)), headers={"accept": "text/html"})


def test_the_list_links_every_record_and_leaves_broken_files_out(client: TestClient) -> None:
    html = client.get("/studies").text
    assert 'href="/studies/one-tiny"' in html and "broken" not in html and "Is &lt;it&gt; so?" in html
    listed = StudyList.model_validate_json(client.get("/api/v1/studies").content)
    assert [each.name for each in listed.studies] == ["one-tiny", "two-tiny"]


def test_a_page_shows_what_its_twin_says(client: TestClient) -> None:
    html = client.get("/studies/one-tiny").text
    found = StudyRecord.model_validate_json(client.get("/studies/one-tiny.json").content)
    assert found == record("one-tiny", FLOW)
    assert client.get("/api/v1/studies/one-tiny").json() == client.get("/studies/one-tiny.json").json()
    for shown in ("25.0 %", "20.0 %", "1.0 %", "−0.500", "&lt;b&gt;", 'href="/tiny/1-vasae/6"', "<svg"):
        assert shown in html, shown
    assert '<span class="chip">?</span>' in html and 'href="/"><' not in html
    assert "<svg" not in client.get("/studies/two-tiny").text.partition("<main")[2]


def test_a_missing_or_broken_record_is_an_error_in_words(client: TestClient) -> None:
    missing = client.get("/studies/three")
    assert missing.status_code == 404 and "one-tiny, two-tiny" in missing.text
    assert client.get("/studies/broken").status_code == 503
    assert client.get("/studies/..%2Fbroken").status_code == 404


def test_a_feature_page_says_in_how_many_seeds_it_recurs(index: Path, tmp_path: Path) -> None:
    """Of these weights alone, where the feature was live, and at once when the study is run again."""
    client = TestClient(create_app(Settings(index=index, studies=tmp_path)), headers={"accept": "text/html"})
    page = client.get("/tiny/1-vasae/6")
    assert "Stability" not in page.text
    identity = Store(Settings(index=index)).identities()["tiny", "1-vasae"]

    def keep(recur_in: list[list[int]], of: str = identity) -> None:
        seeds = Recurrence(dictionary="tiny/1-vasae", identity=of, recur_in=recur_in)
        write_record(tmp_path, record("seeds-tiny").model_copy(update={"recurrence": seeds}))

    keep([[4], [6, 9], []])
    again = client.get("/tiny/1-vasae/6", headers={"if-none-match": page.headers["etag"]})
    assert again.status_code == 200 and "recurs in 1 of 2 other seeds" in again.text
    assert 'href="/studies/seeds-tiny"' in again.text
    keep([[4], [9], [6]])
    assert "recurs in 2 of 2 other seeds" in client.get("/tiny/1-vasae/6").text
    assert "Stability" not in client.get("/tiny/1-vasae/8").text
    keep([[6], []], of="other weights")
    assert "Stability" not in client.get("/tiny/1-vasae/6").text


def test_the_reading_page_links_what_the_dictionaries_leave_out(index: Path, tmp_path: Path) -> None:
    client = TestClient(create_app(Settings(index=index, studies=tmp_path)), headers={"accept": "text/html"})
    assert "/studies/dark" not in client.get("/read?model=tiny").text
    write_record(tmp_path, record("dark-tiny").model_copy(update={"study": "dark-matter"}))
    write_record(tmp_path, record("dark-other").model_copy(update={"study": "dark-matter", "model": "other"}))
    html = client.get("/read?model=tiny").text
    assert 'href="/studies/dark-tiny"' in html and "dark-other" not in html


def test_the_client_has_the_records(client: TestClient) -> None:
    with Lexiscope("http://test", transport=InProcess(client.app)) as server:  # type: ignore[arg-type]
        assert [each.name for each in server.studies()] == ["one-tiny", "two-tiny"]
        assert server.study("one-tiny") == record("one-tiny", FLOW)
        with pytest.raises(NotFound, match="three"):
            server.study("three")


def test_an_empty_folder_says_how_to_run_one(index: Path, tmp_path: Path) -> None:
    client = TestClient(create_app(Settings(index=index, studies=tmp_path / "none")))
    assert "No study has been run yet" in client.get("/studies", headers={"accept": "text/html"}).text


def test_charts_hold_every_number_and_escape_text() -> None:
    points = [ChartPoint(x=0, y=0.5, low=0.25, high=0.75), ChartPoint(x=1, y=-1.0)]
    series = [ChartSeries(name="<s>", points=points), ChartSeries(name="c", points=points, control=True)]
    for kind in ("lines", "bars"):
        svg = draw(StudyChart(kind=kind, title="<t>", categories=["x", "y"], series=series))
        assert svg.count("<title>") == 4 and "0.5" in svg and "−1" in svg
        assert "<s>" not in svg and "&lt;t&gt;" in svg and 'class="mark control"' in svg
    flow = draw(FLOW)
    assert 'class="link less"' in flow and '<a href="/tiny/1-vasae/6"' in flow and "<a>" not in flow
