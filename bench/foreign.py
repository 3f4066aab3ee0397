"""`make check-foreign`: other libraries' dictionaries against those libraries themselves, installed in
environments of their own.

They write random dictionaries with their codes afresh (tests/lexiscope/foreign/make.py), our tests read them,
and SAELens reads what we export. The committed cases are left as they are.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from trainers import CONTENDERS, ROOT, SCRATCH, interpreter

from lexiscope.checkpoint import export_saelens, load_checkpoint
from lexiscope.errors import CheckpointError

MAKE = ROOT / "tests" / "lexiscope" / "foreign" / "make.py"


def main() -> None:
    pythons = {c.environment: interpreter(c, SCRATCH) for c in CONTENDERS if c.environment} | {
        "vasae": sys.executable
    }
    with tempfile.TemporaryDirectory() as where:
        cases, out = Path(where, "cases"), Path(where, "exported")
        for kind, python in pythons.items():
            subprocess.run(
                [python, str(MAKE), str(kind), str(cases)],
                check=True,
                env=os.environ | {"SPARSIFY_DISABLE_TRITON": "1"},
            )
        tests = [sys.executable, "-m", "pytest", "-q", str(MAKE.parents[1] / "test_foreign.py")]
        subprocess.run(tests, check=True, env=os.environ | {"LEXISCOPE_FOREIGN_CASES": str(cases)})
        out.mkdir()
        for case in sorted(cases.iterdir()):
            try:
                export_saelens(load_checkpoint(case), out / case.name)
            except CheckpointError as error:
                print(f"not exported: {error}")
                continue
            shutil.copy(next(case.rglob("expected.safetensors")), out / case.name)
        subprocess.run([pythons["saelens"], str(MAKE), "exported", str(out)], check=True)


if __name__ == "__main__":
    main()
