"""Every call of the `neuronpedia` package that reads, steers or computes, against the server at
localhost:3000: run by its own Python, with USE_LOCALHOST=true. Arguments: model, source. Prints a line for
each call.
"""

import contextlib
import io
import sys
from collections.abc import Callable
from typing import Any

import neuronpedia
from neuronpedia.np_feature import Feature, SteerFeature
from neuronpedia.np_vector import NPVector
from neuronpedia.requests.source_activation_request import SourceActivationRequest
from neuronpedia.requests.topk_by_token_request import TopKByTokenRequest

MODEL, SOURCE = sys.argv[1:]
TEXT, BOS = "Once upon a time", "<|endoftext|>"

neuronpedia.set_api_key("lexiscope asks for none")


def call(name: str, ask: Callable[[], Any]) -> Any:
    with contextlib.redirect_stdout(io.StringIO()):  # the package prints each address
        found = ask()
    print(name)
    return found


feature = call("Feature.get", lambda: Feature.get(MODEL, SOURCE, 3))
assert (feature.modelId, feature.source, feature.index) == (MODEL, SOURCE, "3")
assert 0 <= feature.density <= 1 and feature.activations and feature.explanations
assert all(len(one.tokens) == len(one.values) for one in feature.activations)
raw = call("SAEFeatureRequest.get", lambda: neuronpedia.SAEFeatureRequest().get(MODEL, SOURCE, "3"))
assert "pos_str" in raw.jsonData

one = neuronpedia.ActivationRequest()
own = call("compute_activation_for_text", lambda: one.compute_activation_for_text(MODEL, SOURCE, "3", TEXT))
bos = call("… with a BOS", lambda: one.compute_activation_for_text(MODEL, SOURCE, "3", BOS + TEXT))
assert own == bos and own.tokens[0] == BOS and own.values[0] == 0 and "".join(own.tokens[1:]) == TEXT
both = call(
    "compute_activation_for_texts",
    lambda: one.compute_activation_for_texts(MODEL, SOURCE, "3", [TEXT, "Bees"]),
)
assert both[0] == own and len(both) == 2
[every] = call(
    "compute_all_source_activations_for_text",
    lambda: one.compute_all_source_activations_for_text(MODEL, SOURCE, TEXT),
)
assert every["tokens"] == own.tokens
assert [tuple(place) for place in every["activeFeatures"].get("3", [])] == [
    (position, value) for position, value in enumerate(own.values) if value
]

search = SourceActivationRequest()
top = call("compute_top_features_for_text", lambda: search.compute_top_features_for_text(MODEL, SOURCE, TEXT))
assert len(top) == 20 and top[0].tokens == own.tokens and max(top[0].values) >= max(top[1].values)
tops = call(
    "compute_top_features_for_texts",
    lambda: search.compute_top_features_for_texts(MODEL, [SOURCE], [TEXT, "Bees"]),
)
assert tops[0] == top and len(tops) == 2

by_token = TopKByTokenRequest()
tokens = call(
    "compute_top_features_by_token_for_text",
    lambda: by_token.compute_top_features_by_token_for_text(MODEL, SOURCE, TEXT),
)
assert [one.position for one in tokens] == list(range(1, len(own.tokens))) and len(tokens[0].topFeatures) == 5
several = call(
    "compute_top_features_by_token_for_texts",
    lambda: by_token.compute_top_features_by_token_for_texts(MODEL, SOURCE, [TEXT, "Bees"], num_results=5),
)
assert several[0] == tokens

steer = neuronpedia.SteerCompletionRequest()
steered = call(
    "SteerCompletionRequest.steer_features",
    lambda: steer.steer_features(MODEL, [SteerFeature(MODEL, SOURCE, 3, strength=5)], TEXT, n_tokens=4),
)
assert steered["STEERED"].startswith(TEXT) and steered["STEERED"] != steered["DEFAULT"]
vector = NPVector("a feature", MODEL, SOURCE, "3", [], "", 5.0)
same = call("NPVector.steer_completion", lambda: steer.steer(MODEL, [vector], TEXT, n_tokens=4))
assert same == steered
