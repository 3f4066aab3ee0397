"""The machine a figure was taken on, in words."""

import os
import platform
from pathlib import Path


def machine() -> str:
    """Cores and processor, with what of AMX, AVX-512 and AVX2 it has, and the load of the last minute."""
    info = Path("/proc/cpuinfo").read_text(encoding="utf-8") if Path("/proc/cpuinfo").is_file() else ""
    names = [line.split(":", 1)[1].strip() for line in info.splitlines() if line.startswith("model name")]
    flags = next((set(line.split()) for line in info.splitlines() if line.startswith("flags")), set())
    has = next(
        (
            word
            for flag, word in (("amx_bf16", "AMX"), ("avx512f", "AVX-512"), ("avx2", "AVX2"))
            if flag in flags
        ),
        "no AVX2",
    )
    return f"{os.cpu_count()} cores, {names[0] if names else platform.machine()} ({has}), load {os.getloadavg()[0]:.1f}"
