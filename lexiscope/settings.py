"""Every setting of every room, read from `LEXISCOPE_*` environment variables (docs/settings.md is this
table).
"""

from pathlib import Path
from typing import Literal

from pydantic import ByteSize, Field
from pydantic_settings import BaseSettings, SettingsConfigDict

ROOT = Path(__file__).parent.parent
DATA = ROOT / "data"
"""What is shipped: data/demo."""
WORK = DATA if (ROOT / "pyproject.toml").is_file() else Path.cwd() / "data"
"""Where what is generated goes: beside it in a clone, under the working folder for an installed wheel."""


class Settings(BaseSettings):
    model_config = SettingsConfigDict(env_prefix="LEXISCOPE_")

    index: Path = Field(WORK / "index", description="folder that holds the index builds and CURRENT")
    runs: Path = Field(WORK / "runs", description="folder that holds checkpoints")
    lenses: Path = Field(WORK / "lenses", description="folder that keeps fitted Jacobian lenses")
    studies: Path = Field(WORK / "studies", description="folder that keeps the records of studies")
    database_url: str = Field(
        "",
        description="PostgreSQL URL (postgresql+psycopg://user:password@host/database); empty: the DuckDB "
        "file that CURRENT names",
    )
    host: str = Field("127.0.0.1", description="address the server binds")
    port: int = Field(8000, ge=0, le=65535, description="port the server binds; 0 takes a free one")
    worker_url: str = Field("", description="URL of the model worker; empty: `lexiscope serve` starts one")
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
        "", description="where the model worker computes, for example cuda:1; empty: a GPU where there is one"
    )
    worker_dtype: Literal["float32", "bfloat16"] = Field(
        "float32", description="precision of the language model's weights"
    )
    reader_threads: int = Field(2, ge=1, description="DuckDB threads a reader may use")
    reader_connections: int = Field(
        8,
        ge=1,
        description="PostgreSQL connections a reader may open, and one more that watches for new builds",
    )
    reader_timeout: int = Field(
        30, ge=1, description="seconds after which PostgreSQL gives up a reader's query"
    )
    reader_memory: str = Field("1GB", description="DuckDB memory a reader may use")
