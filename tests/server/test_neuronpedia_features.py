"""A feature over Neuronpedia's API says what its exports say."""

import gzip
import json
from pathlib import Path

from fastapi.testclient import TestClient

from indexer.exchange import NeuronpediaExportRequest, export_neuronpedia
from lexiscope.settings import Settings

OWN = {"id", "createdAt", "creatorId", "authorId"}
"""what a file has to have, and an answer has in its own way"""


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
