"""`make smoke` (`python -m tests.smoke`): the demo on a free port, every page and one steer over HTTP.

Prints one line of figures.
"""

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

BUILD_SECONDS = 3600


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def served(*, environment: dict[str, str] | None = None) -> Iterator[tuple[httpx.Client, float]]:
    """`lexiscope demo` in a process of its own: (a client of it, seconds until its first page)."""
    port, begun = free_port(), time.monotonic()
    command = [str(Path(sys.executable).with_name("lexiscope")), "demo", "--port", str(port)]
    process = subprocess.Popen(command, env=environment)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=120) as client:
            while time.monotonic() - begun < BUILD_SECONDS:
                if process.poll() is not None:
                    sys.exit(f"lexiscope demo ended with {process.returncode}")
                try:
                    if client.get("/").status_code == 200:  # before that it leads to the progress page
                        break
                except httpx.TransportError:
                    pass
                time.sleep(0.1)
            yield client, time.monotonic() - begun
    finally:
        process.terminate()
        process.wait(timeout=30)


def wait_until_built(client: httpx.Client) -> float:
    """Wait until the demo has built everything; the seconds that its build took."""
    while True:
        found = client.get("/progress.json").raise_for_status().json()
        if found["state"] in ("finished", "none"):
            return float(found["seconds"])
        if found["state"] != "running":
            sys.exit(f"the build {found['state']}: {found['message']}")
        time.sleep(1)


def main() -> None:
    with served() as (client, started):
        built = wait_until_built(client)
        home = client.get("/index.json").raise_for_status().json()
        (model,) = home["models"]
        token = home["example_tokens"][0]
        middle = model["layers"][len(model["layers"]) // 2]["layer"]
        query = {"q": token["shown"].replace("␣", " "), "live": True, "layer": middle}
        found = client.get("/search.json", params=query).raise_for_status().json()
        feature = found["features"][0]
        source = f"/{feature['model']}/{feature['source']}"
        pages = [
            "/",
            "/search?q=the",
            f"/tokens/{feature['model']}/{feature['name']['id']}",
            source,
            f"{source}/{feature['index']}",
        ]
        pages += ["/steer", "/docs", "/openapi.json", "/random"]
        for page in pages:
            client.get(page, follow_redirects=True).raise_for_status()
        for page in pages[1:5]:
            path, _, parameters = page.partition("?")
            client.get(f"{path}.json?{parameters}").raise_for_status()
        body = {
            "model": model["model"],
            "prompt": "The old man",
            "features": [{"id": feature["id"], "mode": "add", "strength": 0.8}],
            "max_tokens": 16,
        }
        steer = client.post("/api/v1/steer", params={"stream": False}, json=body).raise_for_status().json()
        effect = steer["effect"]["effects"][0]
        refused = client.post("/api/v1/steer", json=body | {"features": [{"id": feature["id"] + "999999"}]})
        assert refused.status_code == 404, refused.text
        moved = f"{effect['probability_default']:.2g} to {effect['probability_steered']:.2g}"
        where = f"{feature['name']['shown']} at layer {feature['layer']}"
        print(
            f"smoke: first page {started:.1f} s, all built {built:.0f} s; {len(pages)} pages, "
            f"{model['n_features']:,} features, {model['n_live']:,} live; "
            f"steering {where} moved its probability {moved}, KL {steer['effect']['kl_first']:.2f} nats"
        )


if __name__ == "__main__":
    main()
