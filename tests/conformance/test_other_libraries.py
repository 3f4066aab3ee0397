"""Dictionaries of other libraries against those libraries themselves, installed in environments of their own:
they write random dictionaries with the codes they encode, Lexiscope reads them, and SAELens reads what
Lexiscope exports.

`make check-foreign` runs this; it needs a package index, and minutes on first use. The committed cases stay
as they are.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from rich.console import Console
from safetensors.torch import save_file

import trainer
from bench.peer_environments import interpreter
from lexiscope.checkpoint import export_saelens, load_checkpoint
from lexiscope.errors import CheckpointError
from lexiscope.language_model import LanguageModel
from tests.trainer.test_transcoders import plan

pytestmark = [pytest.mark.conformance, pytest.mark.timeout(3600)]

READERS = Path(__file__).parents[1] / "lexiscope" / "test_foreign.py"
MAKE = READERS.parent / "foreign" / "make.py"


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of cases, written afresh by each library."""
    folder = tmp_path_factory.mktemp("foreign") / "cases"
    writers = {
        "saelens": interpreter("saelens"),
        "layouts": interpreter("saelens"),
        "dictionary_learning": interpreter("dictionary_learning"),
        "sparsify": interpreter("sparsify"),
        "vasae": sys.executable,
    }
    for kind, python in writers.items():
        command = [python, str(MAKE), kind, str(folder)]
        subprocess.run(command, check=True, env=os.environ | {"SPARSIFY_DISABLE_TRITON": "1"})
    return folder


def test_codes_and_reconstructions_are_those_of_the_libraries(cases: Path) -> None:
    command = [sys.executable, "-m", "pytest", "-q", str(READERS)]
    subprocess.run(command, check=True, env=os.environ | {"LEXISCOPE_FOREIGN_CASES": str(cases)})


def test_saelens_reads_every_export_as_it_was(cases: Path, tmp_path: Path) -> None:
    exported = 0
    for case in sorted(cases.iterdir()):
        try:
            export_saelens(load_checkpoint(case), tmp_path / case.name)
        except CheckpointError as error:
            assert "no architecture of SAELens describes that" in str(error), case.name
            continue
        shutil.copy(next(case.rglob("expected.safetensors")), tmp_path / case.name)
        exported += 1
    assert exported
    subprocess.run([interpreter("saelens"), str(MAKE), "exported", str(tmp_path)], check=True)


def test_saelens_computes_what_a_trained_transcoder_does(
    model: LanguageModel, text_file: Path, tmp_path: Path
) -> None:
    asked = plan(text_file, tmp_path / "runs", "batchtopk", "jumprelu", "gated")
    for path in trainer.train(model, asked, console=Console(quiet=True)):
        found = load_checkpoint(path)
        export_saelens(found, tmp_path / "exported" / path.name)
        x = 2 * torch.randn(50, found.dictionary.d_in)
        code = found.dictionary.encode(x)
        codes = torch.zeros(50, found.dictionary.d_sae).scatter_add(1, code.indices, code.values)
        expected = {"x": x, "codes": codes, "rebuilt": found.dictionary.decode(code, x)}
        save_file(expected, tmp_path / "exported" / path.name / "expected.safetensors")
    subprocess.run([interpreter("saelens"), str(MAKE), "exported", str(tmp_path / "exported")], check=True)
