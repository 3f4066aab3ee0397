"""A feature over Neuronpedia's API says what its exports say."""

import gzip
import json
from collections.abc import Iterator
from pathlib import Path

from fastapi.testclient import TestClient

from indexer.exchange import NeuronpediaExportRequest, export_neuronpedia
from lexiscope.settings import Settings
from server.live.messages import RawReadLayer
from server.neuronpedia.readings import ReadTexts, search_all
from server.neuronpedia.requests import SearchAllRequest

OWN = {"id", "createdAt", "creatorId", "authorId"}
"""what a file has to have, and an answer has in its own way"""


class Counted(list[int]):
    """A list that counts how often it is read."""

    times = 0

    def __iter__(self) -> Iterator[int]:
        self.times += 1
        return super().__iter__()


def test_a_search_reads_the_wanted_positions_once_however_much_fires(browser: TestClient) -> None:
    times = []
    for n in (1, 40):
        layer = RawReadLayer(
            text=0, source="1-vasae", indices=[[6]] * n, values=[[1.0]] * n, error=[0.0] * n, dense=[0.0] * n
        )
        read = ReadTexts("tiny", [["a"] * (n + 1)], [[layer]], [])
        wanted = Counted([1, n])
        body = SearchAllRequest(
            modelId="tiny", sourceSet="vasae", text="a", sortIndexes=[1], numResults=5
        ).model_copy(update={"sortIndexes": wanted})
        [found] = search_all(browser.app.state.store, read, 0, body).result  # type: ignore[attr-defined]
        assert found.index == "6" and found.values == [0.0, *[1.0] * n]
        times.append(wanted.times)
    assert times[0] == times[1]


def test_a_feature_is_that_of_the_export(browser: TestClient, index: Path, tmp_path: Path) -> None:
    request = NeuronpediaExportRequest(tmp_path / "out", "tiny", "1-vasae")
    folder = export_neuronpedia(request, settings=Settings(index=index)).folder

    def lines(name: str, feature: str) -> list[dict[str, object]]:
        with gzip.open(folder / name / "batch-0.jsonl.gz", "rt") as file:
            found = [json.loads(line) for line in file]
        return [{key: line[key] for key in line.keys() - OWN} for line in found if line["index"] == feature]

    for number in ("6", "7", "9"):
        answer = browser.get(f"/api/feature/tiny/1-vasae/{number}").json()
        [feature] = lines("features", number)
        assert {key: answer[key] for key in feature} == feature
        [explanation] = lines("explanations", number)
        assert {key: answer["explanations"][0][key] for key in explanation} == explanation
        exported = lines("activations", number)
        assert len(exported) == len(answer["activations"])
        place = lambda one: (one["dataIndex"], one["qualifyingTokenIndex"], one["binMin"])
        for one, line in zip(sorted(answer["activations"], key=place), sorted(exported, key=place)):
            line["binContains"] = None if line["binContains"] == -1 else line["binContains"]
            assert {key: one[key] for key in line} == line
    again = {"if-none-match": browser.get("/api/feature/tiny/1-vasae/6").headers["etag"]}
    assert browser.get("/api/feature/tiny/1-vasae/6", headers=again).status_code == 304
