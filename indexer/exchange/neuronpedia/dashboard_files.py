"""Reads SAEDashboard's `batch-N.json` files or Neuronpedia's JSONL.gz export into `Dashboards`.

One feature is decoded at a time: a batch file holds thousands of features of 60 to 90 kB each. Files and
features may come in any order.
"""

import gzip
import json
import re
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ijson

from indexer.exchange.export_folder import UNCHANGED, ExchangeError
from indexer.exchange.neuronpedia.contents import (
    Dashboards,
    Run,
    add_context,
    add_feature,
    feature_index,
    listed,
    needed,
    number,
    parsed_origin,
    whole,
)

BATCH = re.compile(r"batch-(\d+)\.(json|jsonl|jsonl\.gz)")
HEADER = ("model_id", "layer", "sae_set", "sae_id_suffix")
READ_BYTES = 1 << 16


def read_dashboards(
    folder: Path, *, advance: Callable[[int, int], None] = lambda done, of: None
) -> Dashboards:
    """Read a folder of `batch-N.json`, or the folder of one source of an export. `advance` is told of files
    read, of all.

    Raises ExchangeError: neither kind, several sources, files of different dictionaries, a feature twice, a
    feature that is in skipped_indexes.json too, fields missing, text cut short, NaN.
    """
    if not folder.is_dir():
        raise ExchangeError(f"There is no folder {folder}.", kept=UNCHANGED)
    batches = _batches(folder, "json")
    found = (
        _read_batches(folder, batches, advance) if batches else _read_export(_source_folder(folder), advance)
    )
    if not found.features:
        raise ExchangeError(f"{folder} holds no feature.", kept=UNCHANGED)
    return found


def _batches(folder: Path, suffix: str) -> list[Path]:
    """Batch files by number: batch-10 comes after batch-9."""
    matched = [(BATCH.fullmatch(path.name), path) for path in folder.iterdir()] if folder.is_dir() else []
    return [
        path
        for _, path in sorted(
            (int(match[1]), path) for match, path in matched if match and match[2].startswith(suffix)
        )
    ]


# --- SAEDashboard: batch-N.json ---


def _read_batches(folder: Path, batches: list[Path], advance: Callable[[int, int], None]) -> Dashboards:
    found = Dashboards("SAEDashboard batches", n_files=len(batches))
    for done, path in enumerate(batches):
        for row in _stream_features(path):
            _add_dashboard(found, row, path)
        header = {name: _header_field(path, name) for name in HEADER}
        model, layer, set_name = (needed(header, name, str(path)) for name in HEADER[:3])
        found.is_of(parsed_origin(path, model, layer, set_name, header["sae_id_suffix"]), path)
        advance(done + 1, len(batches))
    skipped = folder / "skipped_indexes.json"
    if skipped.is_file():
        _read_skipped(found, skipped)
    return found


def _stream_features(path: Path) -> Iterator[Any]:
    """The items of a batch file's list `features`, decoded one after another. Raises ExchangeError where the
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
        raise ExchangeError(
            f"{path} is no whole JSON file: it breaks off after {n} whole features: {reason}{hint}",
            kept=UNCHANGED,
        ) from error


def _header_field(path: Path, name: str) -> Any:
    """A field of a batch file beside `features`, None where it is missing. SAEDashboard writes these fields
    before the list, so the search stops early.
    """
    with open(path, "rb") as file:
        return next(ijson.items(file, name, use_float=True, buf_size=READ_BYTES), None)


def _read_skipped(found: Dashboards, path: Path) -> None:
    try:
        skipped = json.loads(path.read_text(encoding="utf-8"))["skipped_indexes"]
        found.skipped = {int(index) for index in skipped}
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, ValueError) as error:
        raise ExchangeError(
            f"{path} is not readable: a JSON object with a list 'skipped_indexes' is expected.",
            kept=UNCHANGED,
        ) from error
    both = sorted(found.skipped & set(found.features))
    if both:
        raise ExchangeError(
            f"{path} says that feature {both[0]} was skipped, but {found.features[both[0]].file} holds it.",
            kept=UNCHANGED,
        )


def _add_dashboard(found: Dashboards, row: Any, path: Path) -> None:
    index = feature_index(row, "feature_index", path)
    where = f"{path}, feature {index}"
    add_feature(found, index, row, path, where, maximum=None)
    if not found.run.n_prompts:
        numbers = (whole(row.get(name, 0), name, where) for name in ("n_prompts_total", "n_tokens_in_prompt"))
        found.run = Run(*numbers, str(row.get("dataset") or ""))
    for context in listed(row, "activations", where):
        if not isinstance(context, dict):
            raise ExchangeError(f"{where}: an activation is no JSON object.", kept=UNCHANGED)
        add_context(found, index, context, where, low="bin_min", at="qualifying_token_index")


# --- Neuronpedia: features/ and activations/ of one source ---


def _source_folder(folder: Path) -> Path:
    sources = sorted(
        {
            path.parent
            for pattern in ("features", "*/features", "*/*/features")
            for path in folder.glob(pattern)
            if path.is_dir()
        }
    )
    if len(sources) == 1:
        return sources[0]
    if sources:
        some = ", ".join(str(path) for path in sources[:4])
        raise ExchangeError(
            f"{folder} holds {len(sources)} sources ({some}): name one of their folders.", kept=UNCHANGED
        )
    raise ExchangeError(
        f"{folder} holds neither SAEDashboard's batch-0.json nor Neuronpedia's features/batch-0.jsonl.gz.",
        kept=UNCHANGED,
    )


def _read_export(folder: Path, advance: Callable[[int, int], None]) -> Dashboards:
    features, activations = _batches(folder / "features", "jsonl"), _batches(folder / "activations", "jsonl")
    if not features:
        raise ExchangeError(f"{folder / 'features'} holds no batch-0.jsonl.gz.", kept=UNCHANGED)
    if not activations:
        raise ExchangeError(
            f"{folder} holds no activations/batch-0.jsonl.gz: there is nothing to show of its features.",
            kept=UNCHANGED,
        )
    n_files = len(features) + len(activations)
    found = Dashboards("Neuronpedia export", run=_run(folder / "source.jsonl"), n_files=n_files)
    for done, path in enumerate(features):
        for row in _json_lines(path):
            index = feature_index(row, "index", path)
            where = f"{path}, feature {index}"
            layer, _, set_name = str(needed(row, "layer", where)).partition("-")
            found.is_of(parsed_origin(path, needed(row, "modelId", where), layer, set_name), path)
            maximum = row.get("maxActApprox")
            add_feature(
                found,
                index,
                row,
                path,
                where,
                maximum=None if maximum is None else number(maximum, "maxActApprox", where),
            )
        advance(done + 1, n_files)
    for done, path in enumerate(activations):
        for row in _json_lines(path):
            index = feature_index(row, "index", path)
            if index not in found.features:
                raise ExchangeError(
                    f"{path}: an activation is of feature {index}, which {folder / 'features'} does not hold.",
                    kept=UNCHANGED,
                )
            add_context(
                found, index, row, f"{path}, feature {index}", low="binMin", at="qualifyingTokenIndex"
            )
        advance(len(features) + done + 1, n_files)
    return found


def _run(path: Path) -> Run:
    if not path.is_file():
        return Run()
    for row in _json_lines(path):
        numbers = (
            whole(row.get(name) or 0, name, str(path)) for name in ("num_prompts", "num_tokens_in_prompt")
        )
        return Run(*numbers, str(row.get("dataset") or ""))
    return Run()


def _json_lines(path: Path) -> Iterator[dict[str, Any]]:
    opener: Any = gzip.open if path.suffix == ".gz" else open
    number = 0
    try:
        with opener(path, "rt", encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    row = json.loads(line)
                    if not isinstance(row, dict):
                        raise ExchangeError(f"{path}, line {number}: not a JSON object.", kept=UNCHANGED)
                    yield row
    except json.JSONDecodeError as error:
        raise ExchangeError(
            f"{path}, line {number}: no whole JSON object ({error.msg}).", kept=UNCHANGED
        ) from error
    except (EOFError, gzip.BadGzipFile, zlib.error, UnicodeDecodeError) as error:
        raise ExchangeError(
            f"{path} is cut short or damaged after line {number}: {error}.", kept=UNCHANGED
        ) from error
