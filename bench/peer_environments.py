"""Virtual environments of the libraries that benches and conformance tests compare with, made on first use
under .venv/peers. TORCH_INDEX=URL takes another build of torch, as in the Makefile.
"""

import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from experiments.page import ROOT

VENVS = ROOT / ".venv" / "peers"
TORCH = "torch==2.13.0"


class Environment(NamedTuple):
    """What is installed."""

    packages: tuple[str, ...]
    alone: tuple[str, ...] = ()
    """packages installed without what they declare"""
    torch: bool = True
    """whether torch is installed first: a looser pin would bring CUDA packages"""


_DASHBOARD_NEEDS = (
    "sae-lens==6.54.12",
    "transformer-lens==2.17.0",
    "transformers==4.56.2",
    "dataclasses-json>=0.6.4,<0.7",
    "datasets>=3,<4",
    "eindex-callum>=0.1,<0.2",
    "hf-transfer>=0.1.9,<0.2",
    "jaxtyping>=0.2.28,<0.3",
    "matplotlib>=3.8.4,<4",
    "pandas<3",
    "pyarrow<21",
    "rich>=13.7.1,<14",
    "safetensors>=0.4.3,<0.5",
    "typer>=0.12.3,<0.13",
)
"""What SAEDashboard declares, less decode-clt, which it never imports and which brings CUDA builds; newer
pyarrow and pandas refuse its numpy.
"""
ENVIRONMENTS = {
    "saelens": Environment(("sae-lens==6.54.12",)),
    "sparsify": Environment(("eai-sparsify==1.3.3",)),
    "dictionary_learning": Environment(("dictionary-learning==0.1.0",)),
    "neuronpedia": Environment(("neuronpedia==1.2.1", "pydantic"), torch=False),  # it declares no pydantic
    "datasette": Environment(("datasette",), torch=False),
    "schemathesis": Environment(("schemathesis==4.32.5",), torch=False),
    "saedashboard": Environment(_DASHBOARD_NEEDS, alone=("sae-dashboard==0.8.0",)),
}


def interpreter(name: str, venvs: Path = VENVS) -> str:
    """The Python of an environment, which is made first where it is missing."""
    folder = venvs.absolute() / name
    python, ready = folder / "bin" / "python", folder / "installed"
    if ready.exists():
        return str(python)
    print(f"making {folder}", file=sys.stderr, flush=True)
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    install = [str(python), "-m", "pip", "install", "-q"]
    index = ["--index-url", os.environ["TORCH_INDEX"]] if os.environ.get("TORCH_INDEX") else []
    environment = ENVIRONMENTS[name]
    torch = [TORCH] if environment.torch else []
    if torch:
        subprocess.run([*install, *torch, *index], check=True)
    subprocess.run([*install, *torch, *environment.packages], check=True)
    if environment.alone:
        subprocess.run([*install, "--no-deps", *environment.alone], check=True)
    ready.touch()
    return str(python)
