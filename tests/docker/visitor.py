"""What a visitor does, with Python's standard library alone, so that a container can run it too:
`python3 - http://127.0.0.1:8000 < visitor.py` prints the build that is served.
"""

import json
import ssl
import sys
import urllib.request
from typing import Any

ANY_CERTIFICATE = ssl._create_unverified_context()
PAGES = ("/", "/search?q=king", "/steer", "/docs", "/studies", "/static/lexiscope.css", "/readyz")


def get(address: str, *, data: Any = None) -> Any:
    """A parsed JSON response, or the text of another."""
    body = None if data is None else json.dumps(data).encode()
    request = urllib.request.Request(address, body, {"content-type": "application/json"})
    context = ANY_CERTIFICATE if address.startswith("https") else None
    with urllib.request.urlopen(request, timeout=180, context=context) as answer:
        text = answer.read().decode()
    return json.loads(text) if answer.headers["content-type"].startswith("application/json") else text


def use(root: str) -> str:
    """Load pages, read a text and steer. Returns the build that is served."""
    for page in PAGES:
        get(root + page)
    home = get(f"{root}/index.json")
    layer = home["models"][0]["layers"][0]
    feature = f"{layer['model']}/{layer['source']}/1"
    get(f"{root}/{feature}")
    read = get(f"{root}/api/v1/read", data={"model": layer["model"], "text": "The king and the queen"})
    assert read["texts"][0]["layers"], read
    steered = get(f"{root}/api/v1/steer?stream=false", data=steer(feature, 8))
    assert steered["done"]["steered_text"] != "", steered
    return str(home["build"])


def steer(feature: str, tokens: int) -> dict[str, Any]:
    return {"prompt": "Once upon a time", "features": [{"id": feature, "mode": "add", "strength": 1}],
            "max_tokens": tokens, "model": feature.partition("/")[0]}  # fmt: skip


if __name__ == "__main__":
    print(use(sys.argv[1]))
