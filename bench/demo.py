"""`make bench-demo`: what the demo costs on this machine, from nothing trained.

Targets on two cores: the first dictionary's pages within a minute, all nine within 3 minutes with AMX and 6
with AVX2, 4 GB; second start to first page within 5 s; a feature page within 25 ms, median of 200 random
ones, each asked for once.
"""

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

from bench.processes import peak_of_children
from bench.report import Report, write_option
from tests.smoke import served, wait_until_built


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    write_option(parser)
    given = parser.parse_args()
    report = Report("demo")
    with tempfile.TemporaryDirectory(prefix="bench-demo-") as place:
        environment = os.environ | {"LEXISCOPE_RUNS": f"{place}/runs", "LEXISCOPE_INDEX": f"{place}/index"}
        with peak_of_children() as peak, served(environment=environment) as (client, first_page):
            built = wait_until_built(client)
        size = sum(file.stat().st_size for file in Path(place, "index").iterdir()) / 1e6
        with served(environment=environment) as (client, started):
            pages = {client.get("/random").headers["location"] for _ in range(200)}
            times = []
            for page in pages:
                begun = time.monotonic()
                client.get(page).raise_for_status()
                times.append(1000 * (time.monotonic() - begun))
    median, p99 = statistics.median(times), statistics.quantiles(times, n=100)[98]
    report.table("", ["", "figure", "target"]).rows += [
        ["first page, from nothing", f"{first_page:.0f} s", "≤ 60 s"],
        ["all nine dictionaries", f"{built:.0f} s", "≤ 180 s with AMX, ≤ 360 s with AVX2"],
        ["peak memory", f"{peak[0] / 1000:.2f} GB", "≤ 4 GB"],
        ["index", f"{size:.1f} MB", ""],
        ["second start to first page", f"{started:.1f} s", "≤ 5 s"],
        ["feature page over HTTP", f"{median:.1f} ms (p99 {p99:.1f})", "≤ 25 ms"],
    ]
    report.finish(write=given.write)


if __name__ == "__main__":
    main()
