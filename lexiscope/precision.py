"""In which precision matrix products are fast on a device."""

import torch


def fast_dtype(device: torch.device) -> torch.dtype:
    """bf16 on GPUs and where the CPU multiplies it in hardware (AMX, AVX-512 BF16); elsewhere it is seven
    times slower than float32.
    """
    capabilities = torch.cpu.get_capabilities()
    fast = device.type == "cuda" or capabilities.get("amx_bf16") or capabilities.get("avx512_bf16")
    return torch.bfloat16 if fast else torch.float32
