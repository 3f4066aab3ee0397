"""`lexiscope` commands as the tests run them: in this process, or in one of their own."""

import os
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path

import pytest

import cli.main


def places(work: Path) -> dict[str, str]:
    """The environment of a command that keeps its runs and its index under `work`."""
    return {"LEXISCOPE_RUNS": str(work / "runs"), "LEXISCOPE_INDEX": str(work / "index")}


def lexiscope(*arguments: str, work: Path) -> subprocess.CompletedProcess[str]:
    """Run a command in this process, which has imported torch already."""
    out, err = StringIO(), StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        for name, value in places(work).items():
            patch.setenv(name, value)
        code = cli.main.main(arguments)
    return subprocess.CompletedProcess(arguments, code, out.getvalue(), err.getvalue())


def lexiscope_process(*arguments: str, work: Path) -> subprocess.CompletedProcess[str]:
    """Run a command as the console script does."""
    return subprocess.run(
        [sys.executable, "-c", "import cli; cli.run()", *arguments],
        capture_output=True,
        text=True,
        env=os.environ | places(work),
        cwd=Path(__file__).parents[2],
        check=False,
        timeout=280,
    )
