"""constraints.txt pins whatever is installed."""

import tomllib
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
OF_ONE_BUILD = ("nvidia-", "cuda-")
"""what a CUDA build of torch brings"""


def needed(requirement: Requirement, found: set[tuple[str, str]]) -> None:
    """Add (package, extra) of a requirement and of all that it leads to."""
    for extra in ("", *requirement.extras):
        name = canonicalize_name(requirement.name)
        if (name, extra) in found or name.startswith(OF_ONE_BUILD):
            continue
        found.add((name, extra))
        try:
            following = [Requirement(line) for line in requires(name) or ()]
        except PackageNotFoundError:
            continue
        for each in following:
            if each.marker is None or each.marker.evaluate({"extra": extra}):
                needed(each, found)


def test_every_requirement_is_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    extras = project["project"]["optional-dependencies"]
    found: set[tuple[str, str]] = set()
    for line in (*project["project"]["dependencies"], *extras["test"], *extras["ray"]):
        requirement = Requirement(line)
        if requirement.name != "lexiscope" and (requirement.marker is None or requirement.marker.evaluate()):
            needed(requirement, found)
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = {canonicalize_name(line.partition("==")[0]) for line in lines if not line.startswith("#")}
    assert {name for name, _ in found} <= pinned
