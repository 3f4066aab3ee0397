"""In which precision matrix products are made: the one place that decides."""

import os
import platform
from functools import cache
from pathlib import Path

import torch

from lexiscope.settings import PREFIX, Settings

CPU_INFO = Path("/proc/cpuinfo")
VARIABLE = f"{PREFIX}PRECISION"


def fast_dtype(device: torch.device) -> torch.dtype:
    """What the setting `precision` says; `auto` is bf16 on GPUs, on CPUs with AMX, and on AMD's with AVX-512
    BF16, where it takes half of float32's time.

    Elsewhere float32: bf16 takes 1.5 times as long on Intel's with AVX-512 BF16 alone (AMX may be hidden by a
    virtual machine), and seven times as long without either.
    """
    asked = _asked(os.environ.get(VARIABLE))
    if asked != "auto":
        return torch.float32 if asked == "float32" else torch.bfloat16
    capabilities = torch.cpu.get_capabilities()
    fast = device.type == "cuda" or capabilities.get("amx_bf16")
    fast = fast or (capabilities.get("avx512_bf16") and _made_by_amd())
    return torch.bfloat16 if fast else torch.float32


def precision(device: torch.device) -> str:
    """The same in words, "bfloat16" or "float32"."""
    return str(fast_dtype(device)).removeprefix("torch.")


@cache
def _asked(variable: str | None) -> str:
    """The setting, read again only when the variable has another value: reading all settings takes 10 ms."""
    return Settings().precision


@cache
def _made_by_amd() -> bool:
    known = CPU_INFO.read_text(encoding="utf-8") if CPU_INFO.is_file() else platform.processor()
    return "AuthenticAMD" in known
