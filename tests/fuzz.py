"""`make fuzz` (`python -m tests.fuzz`): schemathesis, in an environment of its own, over the whole API of the
demo server with all its checks. Its summary at the end has the counts.
"""

import argparse
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

from bench.peer_environments import interpreter
from tests.smoke import served


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--url", help="a server that is running, instead of the demo")
    parser.add_argument("--examples", type=int, default=50, help="cases an operation, at most")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=int, help="of the whole run, at most")
    given = parser.parse_args()
    with ExitStack() as stack:
        url = given.url
        if url is None:
            client, _ = stack.enter_context(served())
            url = str(client.base_url)
        command = [str(Path(interpreter("schemathesis")).with_name("schemathesis"))]
        command += ["--config-file", str(Path(__file__).with_name("schemathesis.toml")), "run"]
        command += [
            f"{url.rstrip('/')}/openapi.json",
            "--checks",
            "all",
            "--max-examples",
            str(given.examples),
        ]
        command += ["--seed", str(given.seed), "--continue-on-failure", "--request-timeout", "200"]
        command += ["--max-response-time", "200"]
        if given.seconds:
            command += ["--max-time", str(given.seconds)]
        return subprocess.run(command, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
