"""`make bench-demo`: what the demo costs on this machine, from nothing trained. Prints figures; asserts none.

Targets (two cores): train, index and serve within 5 minutes and 4 GB; second start to first page within 5 s;
a feature page within 25 ms at the server, median of 1,000 random ones.
"""

import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from tests.smoke import served


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="bench-demo-") as place:
        environment = os.environ | {"LEXISCOPE_RUNS": f"{place}/runs", "LEXISCOPE_INDEX": f"{place}/index"}
        begun = time.monotonic()
        command = [str(Path(sys.executable).with_name("lexiscope")), "demo", "--build-only"]
        subprocess.run(command, env=environment, check=True)
        built = time.monotonic() - begun
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e6
        size = sum(file.stat().st_size for file in Path(place, "index").iterdir()) / 1e6
        with served(environment=environment) as (client, started):
            pages = [client.get("/random").headers["location"] for _ in range(200)] * 5
            times = []
            for page in pages:
                begun = time.monotonic()
                client.get(page).raise_for_status()
                times.append(1000 * (time.monotonic() - begun))
        capable = torch.cpu.get_capabilities()
        print(
            f"machine: {os.cpu_count()} cores, {platform.processor() or platform.machine()}, AMX bf16 {capable.get('amx_bf16', False)}"
        )
        print(f"train and index: {built:.0f} s, peak {peak:.2f} GB, index {size:.1f} MB")
        print(f"second start to first page: {started:.1f} s")
        print(
            f"feature page over HTTP: median {statistics.median(times):.1f} ms, p99 {statistics.quantiles(times, n=100)[98]:.1f} ms"
        )


if __name__ == "__main__":
    main()
