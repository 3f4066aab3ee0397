"""Every setting of every package, read from `LEXISCOPE_*` environment variables (docs/settings.md is this
table).
"""

import os
import re
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ByteSize, Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from lexiscope.errors import LexiscopeError

ROOT = Path(__file__).parent.parent
DATA = ROOT / "data"
"""What is shipped: data/demo."""
WORK = DATA if (ROOT / "pyproject.toml").is_file() else Path.cwd() / "data"
"""Where what is generated goes: beside it in a clone, under the working folder for an installed wheel."""


PREFIX = "LEXISCOPE_"
LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
DATABASE_URL = re.compile(r"(postgresql(\+psycopg)?|postgres)://[^/?#]*/[^/?#]+(\?.*)?")
MEMORY = re.compile(r"[0-9]+(\.[0-9]+)? ?([KMGT]i?)?B", re.IGNORECASE)


class SettingsError(LexiscopeError):
    """Settings that are wrong, all of them in one message, by the names of their variables."""


def _database_url(url: str) -> str:
    if url and not DATABASE_URL.fullmatch(url):  # the value may hold a password: it is not repeated
        raise ValueError("is no PostgreSQL URL: write postgresql+psycopg://user:password@host:5432/database")
    return url


def _memory(amount: str) -> str:
    if not MEMORY.fullmatch(amount):
        raise ValueError(f"{amount!r} is no amount of memory: write 1GB or 512MB")
    return amount


def _worker_url(url: str) -> str:
    if url and not url.startswith(("http://", "https://", "unix://")):
        raise ValueError(f"{url!r} is no URL of a worker: write http://host:port or unix:///path")
    return url


class Settings(BaseSettings):
    """Raises SettingsError, which names each variable that is wrong and what would be right."""

    model_config = SettingsConfigDict(env_prefix=PREFIX)

    def __init__(self, **given: Any) -> None:
        wrong = _unknown_variables()
        try:
            super().__init__(**given)
        except ValidationError as error:
            wrong += [
                f"{PREFIX}{'_'.join(map(str, found['loc'])).upper()}: "
                f"{found['msg'].removeprefix('Value error, ')}"
                for found in error.errors()
            ]
        if wrong:
            raise SettingsError("; ".join(wrong))

    index: Path = Field(WORK / "index", description="folder that holds the index builds and CURRENT")
    runs: Path = Field(WORK / "runs", description="folder that holds checkpoints")
    lenses: Path = Field(WORK / "lenses", description="folder that keeps fitted Jacobian lenses")
    tables: Path = Field(
        WORK / "tables",
        description="folder that keeps what is computed once a vocabulary: families of tokens",
    )
    studies: Path = Field(WORK / "studies", description="folder that keeps the records of studies")
    database_url: Annotated[str, AfterValidator(_database_url)] = Field(
        "",
        repr=False,
        description="PostgreSQL URL (postgresql+psycopg://user:password@host/database); empty: the DuckDB "
        "file that CURRENT names",
    )
    host: str = Field("127.0.0.1", description="address the server binds")
    port: int = Field(8000, ge=0, le=65535, description="port the server binds; 0 takes a free one")
    allowed_hosts: str = Field(
        "",
        description="names that the server is reached by, with commas, besides loopback names and "
        "LEXISCOPE_HOST; `*` allows all",
    )
    web_processes: int = Field(
        1, ge=1, le=64, description="processes that serve pages; they share one model worker"
    )
    request_seconds: float = Field(
        30,
        gt=0,
        description="seconds that a client has to send a request, and to begin the next one on an open "
        "connection",
    )
    response_seconds: float = Field(
        180,
        gt=0,
        description="seconds until a response must begin, waiting for the model included; then the answer is "
        "504",
    )
    shutdown_seconds: float = Field(
        10,
        ge=0,
        description="seconds that requests in progress get to finish after SIGTERM; then they end in an "
        "error",
    )
    log_format: Literal["text", "json"] = Field("text", description="format of log lines: `text` or `json`")
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "warning", description="least level that is logged; `info` writes one line a request"
    )
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto",
        description="precision of matrix products in training, harvest, evaluation and index; `auto`: "
        "bfloat16 where the machine multiplies it faster",
    )
    worker_url: Annotated[str, AfterValidator(_worker_url)] = Field(
        "", description="URL of the model worker; empty: `lexiscope serve` starts one"
    )
    worker_token: str = Field(
        "", repr=False, description="secret that a worker on TCP asks for, and the server sends"
    )
    worker_hub: bool = Field(
        False, description="whether the model worker may fetch models from the Hugging Face hub"
    )
    worker_queue: int = Field(
        32,
        ge=1,
        description="requests that may wait for the model worker before 429; one client may hold half",
    )
    worker_batch: int = Field(16, ge=1, description="steers that are written side by side")
    worker_seconds: float = Field(
        120, gt=0, description="time limit of one request to the model worker, from when it is begun"
    )
    worker_memory: ByteSize = Field(
        ByteSize(4 << 30), description="weights the model worker keeps; the least recently used leave first"
    )
    worker_device: str = Field(
        "",
        description="where the model worker computes, for example `cuda:1`; empty: a GPU where there is one",
    )
    worker_dtype: Literal["float32", "bfloat16"] = Field(
        "float32", description="precision of the language model's weights, or `bfloat16`"
    )
    reader_threads: int = Field(
        1,
        ge=1,
        description="DuckDB threads that a web process reads with; more cost a request more than they gain",
    )
    reader_connections: int = Field(
        8,
        ge=1,
        description="PostgreSQL connections a reader may open, and one more that watches for new builds",
    )
    reader_timeout: int = Field(
        30, ge=1, description="seconds after which PostgreSQL gives up a reader's query"
    )
    answers_memory: ByteSize = Field(
        ByteSize(128 << 20),
        description="memory of each web process for answers that it gave before, compressed; 0 keeps none",
    )
    reader_memory: Annotated[str, AfterValidator(_memory)] = Field(
        "1GB", description="DuckDB memory a reader may use"
    )

    @property
    def host_names(self) -> frozenset[str]:
        """Names in lower case, without ports, under which the server answers; holds `*` where any will do."""
        given = {name.strip().lower() for name in self.allowed_hosts.split(",")} - {""}
        bound = f"[{self.host}]" if ":" in self.host else self.host.lower()
        return frozenset({*LOOPBACK, bound, *given})


def _unknown_variables() -> list[str]:
    known = [f"{PREFIX}{name.upper()}" for name in Settings.model_fields]
    found = []
    for name in sorted(os.environ):
        if name.startswith(PREFIX) and name not in known:
            near = get_close_matches(name, known, n=1, cutoff=0.5)
            found.append(f"{name}: there is no such setting{f'; the nearest is {near[0]}' if near else ''}")
    return found
