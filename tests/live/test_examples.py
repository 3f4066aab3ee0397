"""Every example of the API reference is answered, by a server whose model and dictionaries have its names."""

from typing import Any

import pytest
from fastapi.testclient import TestClient

from lexiscope.settings import Settings
from server import create_app
from store import ApiKeys, IndexedDictionary, Store
from tests.live.jobs import WIDTH
from tests.store import synthetic

METHODS = ("put", "get", "post", "delete")
"""a list is kept before it is read, and a label written before it is removed"""


@pytest.fixture(scope="module")
def demo(tiny, tmp_path_factory):
    class Here(Store):
        def dictionaries(self) -> list[IndexedDictionary]:
            return [
                place._replace(checkpoint_path=tiny.checkpoints[place.layer], model_path=tiny.model_path)
                for place in super().dictionaries()
            ]

    root = tmp_path_factory.mktemp("examples")
    synthetic.publish(root, [synthetic.Dictionary("demo", layer, "vasae", WIDTH) for layer in (0, 1)])
    settings = Settings(index=root)
    keys = ApiKeys(settings)
    own = {"x-api-key": keys.add("ann")}
    keys.close()
    with TestClient(create_app(settings, store=Here(settings)), headers=own) as client:
        yield client
        client.app.state.worker.close()


def resolved(openapi: Any, schema: Any) -> Any:
    if "$ref" in schema:
        return openapi["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    return schema


def example_of(openapi: Any, schema: Any) -> Any:
    schema = resolved(openapi, schema)
    if schema.get("type") == "array":
        return [example_of(openapi, schema["items"])]
    return schema.get("examples", [None])[0]


def test_every_example_is_answered(demo) -> None:
    openapi = demo.get("/openapi.json").json()
    asked = []
    for method in METHODS:
        for path, operations in openapi["paths"].items():
            operation = operations.get(method)
            if operation is None:
                continue
            given = {
                one["name"]: example_of(openapi, one["schema"])
                for one in operation.get("parameters", [])
                if one["in"] == "path"
            }
            body = operation.get("requestBody", {}).get("content", {}).get("application/json")
            example = body and example_of(openapi, body["schema"])
            if None in given.values() or (body and example in (None, [None])) or not (given or body):
                continue
            answer = demo.request(method, path.format(**given), json=example)
            assert answer.is_success, f"{method} {path}: {answer.status_code} {answer.text[:500]}"
            asked.append(path)
    bodies = [path for path, operations in openapi["paths"].items() if {"post", "put"} & operations.keys()]
    assert set(bodies) <= set(asked) and len(asked) >= len(bodies) + 10
