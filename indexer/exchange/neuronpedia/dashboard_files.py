"""Reads SAEDashboard's `batch-N.json` files or Neuronpedia's JSONL.gz export into `Dashboards`.

One feature is decoded at a time: a batch file holds up to thousands of features of 60 to 90 kB each. Files
and features may come in any order.
"""

import gzip
import re
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ijson

from indexer.exchange.errors import ImportRefused
from indexer.exchange.neuronpedia.dashboards import DashboardRun, Dashboards, parse_origin
from indexer.exchange.neuronpedia.fields import (
    JsonObject,
    as_count,
    as_list,
    as_number,
    feature_index,
    required,
)
from lexiscope.foreign_json import parse_json

BATCH = re.compile(r"batch-(\d+)\.(json|jsonl|jsonl\.gz)")
HEADER = ("model_id", "layer", "sae_set", "sae_id_suffix")
READ_BYTES = 1 << 16

Advance = Callable[[int, int], None]
"""called with (files read, all files)"""


def read_dashboards(folder: Path, *, advance: Advance = lambda done, of: None) -> Dashboards:
    """Read a folder of `batch-N.json` files, or the folder of one source of an export.

    Raises ImportRefused: neither kind, several sources, files of different dictionaries, a feature twice, a
    feature that is in skipped_indexes.json too, fields missing, a file cut short, NaN.
    """
    if not folder.is_dir():
        raise ImportRefused(f"There is no folder {folder}.")
    batches = _batches(folder, ("json",))
    if batches:
        dashboards = _read_batches(folder, batches, advance)
    else:
        dashboards = _read_export(_source_folder(folder), advance)
    if not dashboards.features:
        raise ImportRefused(f"{folder} holds no feature.")
    return dashboards


def _batches(folder: Path, endings: tuple[str, ...]) -> list[Path]:
    """Batch files by number: batch-10 comes after batch-9."""
    matches = [(BATCH.fullmatch(path.name), path) for path in folder.iterdir()] if folder.is_dir() else []
    numbered = [(int(match[1]), path) for match, path in matches if match and match[2] in endings]
    return [path for _, path in sorted(numbered)]


# --- SAEDashboard: batch-N.json ---


def _read_batches(folder: Path, batches: list[Path], advance: Advance) -> Dashboards:
    dashboards = Dashboards("SAEDashboard batches", n_files=len(batches))
    for done, path in enumerate(batches):
        for row in _stream_features(path):
            _add_dashboard(dashboards, row, path)
        header = {name: _header_field(path, name) for name in HEADER}
        model, layer, set_name = (required(header, name, str(path)) for name in HEADER[:3])
        dashboards.set_origin(parse_origin(path, model, layer, set_name, header["sae_id_suffix"]), path)
        advance(done + 1, len(batches))
    skipped = folder / "skipped_indexes.json"
    if skipped.is_file():
        _read_skipped(dashboards, skipped)
    return dashboards


def _stream_features(path: Path) -> Iterator[Any]:
    """The items of a batch file's list `features`, decoded one after another. Raises ImportRefused where the
    file is not valid JSON up to its end.
    """
    n = 0
    try:
        with open(path, "rb") as file:
            for row in ijson.items(file, "features.item", use_float=True, buf_size=READ_BYTES):
                yield row
                n += 1
    except ijson.JSONError as error:
        reason = str(error).splitlines()[0]
        hint = " (NaN and Infinity are not JSON)" if "invalid char" in reason else ""
        raise ImportRefused(
            f"{path} is no whole JSON file: it breaks off after {n} whole features: {reason}{hint}"
        ) from error


def _header_field(path: Path, name: str) -> Any:
    """A field of a batch file beside `features`, None where it is missing. SAEDashboard writes these fields
    before the list, so the search usually stops early.
    """
    with open(path, "rb") as file:
        return next(ijson.items(file, name, use_float=True, buf_size=READ_BYTES), None)


def _read_skipped(dashboards: Dashboards, path: Path) -> None:
    try:
        skipped = parse_json(path.read_bytes())["skipped_indexes"]
        dashboards.skipped = {int(index) for index in skipped}
    except (KeyError, TypeError, ValueError) as error:
        raise ImportRefused(
            f"{path} is not readable: a JSON object with a list 'skipped_indexes' is expected."
        ) from error
    both = sorted(dashboards.skipped & set(dashboards.features))
    if both:
        raise ImportRefused(
            f"{path} says that feature {both[0]} was skipped, but {dashboards.features[both[0]].file} "
            "holds it."
        )


def _add_dashboard(dashboards: Dashboards, row: Any, path: Path) -> None:
    index = feature_index(row, "feature_index", path)
    where = f"{path}, feature {index}"
    dashboards.add_feature(index, row, path, maximum=None)
    if not dashboards.run.n_prompts:
        dashboards.run = _run(row, where, prompts="n_prompts_total", tokens="n_tokens_in_prompt")
    for context in as_list(row, "activations", where):
        if not isinstance(context, dict):
            raise ImportRefused(f"{where}: an activation is no JSON object.")
        dashboards.add_context(index, context, where, low="bin_min", at="qualifying_token_index")


def _run(row: JsonObject, where: str, *, prompts: str, tokens: str) -> DashboardRun:
    return DashboardRun(
        as_count(row.get(prompts) or 0, prompts, where),
        as_count(row.get(tokens) or 0, tokens, where),
        str(row.get("dataset") or ""),
    )


# --- Neuronpedia: features/ and activations/ of one source ---


def _source_folder(folder: Path) -> Path:
    patterns = ("features", "*/features", "*/*/features")
    sources = sorted({path.parent for p in patterns for path in folder.glob(p) if path.is_dir()})
    if len(sources) == 1:
        return sources[0]
    if sources:
        some = ", ".join(str(path) for path in sources[:4])
        raise ImportRefused(f"{folder} holds {len(sources)} sources ({some}): name one of their folders.")
    raise ImportRefused(
        f"{folder} holds neither SAEDashboard's batch-0.json nor Neuronpedia's features/batch-0.jsonl.gz."
    )


def _read_export(folder: Path, advance: Advance) -> Dashboards:
    endings = ("jsonl", "jsonl.gz")
    features, activations = (_batches(folder / name, endings) for name in ("features", "activations"))
    if not features:
        raise ImportRefused(f"{folder / 'features'} holds no batch-0.jsonl.gz.")
    if not activations:
        raise ImportRefused(
            f"{folder} holds no activations/batch-0.jsonl.gz: there is nothing to show of its features."
        )
    n_files = len(features) + len(activations)
    run = _export_run(folder / "source.jsonl")
    dashboards = Dashboards("Neuronpedia export", run=run, n_files=n_files)
    for done, path in enumerate(features):
        for row in _json_lines(path):
            _add_exported_feature(dashboards, row, path)
        advance(done + 1, n_files)
    for done, path in enumerate(activations):
        for row in _json_lines(path):
            index = feature_index(row, "index", path)
            if index not in dashboards.features:
                raise ImportRefused(
                    f"{path}: an activation is of feature {index}, which {folder / 'features'} does not hold."
                )
            where = f"{path}, feature {index}"
            dashboards.add_context(index, row, where, low="binMin", at="qualifyingTokenIndex")
        advance(len(features) + done + 1, n_files)
    return dashboards


def _add_exported_feature(dashboards: Dashboards, row: JsonObject, path: Path) -> None:
    index = feature_index(row, "index", path)
    where = f"{path}, feature {index}"
    layer, _, set_name = str(required(row, "layer", where)).partition("-")
    dashboards.set_origin(parse_origin(path, required(row, "modelId", where), layer, set_name), path)
    given = row.get("maxActApprox")
    maximum = None if given is None else as_number(given, "maxActApprox", where)
    dashboards.add_feature(index, row, path, maximum=maximum)


def _export_run(path: Path) -> DashboardRun:
    row = next(_json_lines(path), {}) if path.is_file() else {}
    return _run(row, str(path), prompts="num_prompts", tokens="num_tokens_in_prompt")


def _json_lines(path: Path) -> Iterator[JsonObject]:
    opener: Any = gzip.open if path.suffix == ".gz" else open
    number = 0
    try:
        with opener(path, "rt", encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    row = parse_json(line)
                    if not isinstance(row, dict):
                        raise ImportRefused(f"{path}, line {number}: not a JSON object.")
                    yield row
    except (EOFError, gzip.BadGzipFile, zlib.error, UnicodeDecodeError) as error:
        raise ImportRefused(f"{path} is cut short or damaged after line {number}: {error}.") from error
    except ValueError as error:
        reason = getattr(error, "msg", error)
        raise ImportRefused(f"{path}, line {number}: no whole JSON object ({reason}).") from error
