"""The form of the steering page."""

import json
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from server.steer import most_tokens


@pytest.mark.parametrize(
    ("config", "most"),
    [
        ({"n_positions": 256}, 254),
        ({"max_position_embeddings": 4096}, 256),
        ({}, 256),
        ({"n_ctx": 2}, 1),
        ([], 256),
    ],
)
def test_no_more_new_tokens_are_offered_than_the_context_has(
    tmp_path: Path, config: object, most: int
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert most_tokens(str(tmp_path)) == most


def test_the_length_of_an_unknown_model_is_no_error(tmp_path: Path) -> None:
    assert most_tokens(str(tmp_path / "nothing")) == 256


def test_a_model_that_does_not_exist_is_said_and_the_form_kept(browser: TestClient) -> None:
    answer = browser.get("/steer?model=nope&prompt=Once+upon")
    assert answer.status_code == 404
    assert "the index has no model &#39;nope&#39;; its models are: other, tiny" in answer.text
    assert "Once upon</textarea>" in answer.text


def test_a_state_that_is_no_request_is_refused_with_the_reason(browser: TestClient) -> None:
    for state, says in (("{", "JSON"), ('{"model": "tiny"}', "prompt"), ('{"modell": "x"}', "model")):
        answer = browser.get("/steer", params={"state": state})
        assert answer.status_code == 422 and says in answer.text
    state = {"model": "other", "prompt": "</script>", "features": [{"token": " Paris", "layer": 0}]}
    answer = browser.get("/steer", params={"state": json.dumps(state)})
    assert answer.status_code == 200 and '</script>"' not in answer.text
