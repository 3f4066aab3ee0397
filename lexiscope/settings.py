"""Every setting of every room, read from `LEXISCOPE_*` environment variables (docs/settings.md is this table)."""

from pathlib import Path

from pydantic import Field
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
    database_url: str = Field("", description="PostgreSQL URL; empty: the DuckDB file that CURRENT names")
    host: str = Field("127.0.0.1", description="address the server binds")
    port: int = Field(8000, ge=0, le=65535, description="port the server binds; 0 takes a free one")
    worker_url: str = Field("", description="URL of the model worker; empty: `lexiscope serve` starts one")
    worker_queue: int = Field(8, ge=1, description="requests that may wait for the model worker before 429")
    reader_threads: int = Field(2, ge=1, description="DuckDB threads a reader may use")
    reader_memory: str = Field("1GB", description="DuckDB memory a reader may use")
