"""A model's folder may bring code of its own: it is never run."""

import json
import shutil
from contextlib import suppress
from pathlib import Path

import pytest

from lexiscope.errors import ModelError
from lexiscope.language_model import load_language_model


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
def test_code_in_a_models_folder_is_not_run(
    file: str, model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, sign = tmp_path / "model", tmp_path / "was-run"
    shutil.copytree(model_folder, folder)
    (folder / "own.py").write_text(f"open({str(sign)!r}, 'w').write('')\n")
    known = json.loads((folder / file).read_text()) if (folder / file).is_file() else {}
    own = {"AutoConfig": "own.Own", "AutoModelForCausalLM": "own.Own", "AutoTokenizer": ["own.Own", None]}
    known |= {"auto_map": own, "model_type": "own", "tokenizer_class": "Own", "architectures": ["Own"]}
    (folder / file).write_text(json.dumps(known))
    monkeypatch.setattr("builtins.input", lambda *_: "yes")
    with suppress(ModelError):  # or it is loaded without that code
        load_language_model(str(folder))
    assert not sign.exists()
