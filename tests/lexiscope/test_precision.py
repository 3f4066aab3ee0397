import pytest
import torch

from lexiscope import precision


@pytest.mark.parametrize(
    ("capabilities", "vendor", "dtype"),
    [
        ({"amx_bf16": True, "avx512_bf16": True}, "GenuineIntel", torch.bfloat16),
        ({"avx512_bf16": True}, "AuthenticAMD", torch.bfloat16),
        ({"avx512_bf16": True}, "GenuineIntel", torch.float32),
        ({}, "AuthenticAMD", torch.float32),
    ],
)
def test_bf16_is_taken_where_the_cpu_multiplies_it_faster(capabilities, vendor, dtype, monkeypatch, tmp_path):
    info = tmp_path / "cpuinfo"
    info.write_text(f"processor : 0\nvendor_id : {vendor}\n")
    monkeypatch.setenv("LEXISCOPE_PRECISION", "auto")
    monkeypatch.setattr(precision, "CPU_INFO", info)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    precision._made_by_amd.cache_clear()
    try:
        assert precision.fast_dtype(torch.device("cpu")) is dtype
        assert precision.fast_dtype(torch.device("cuda")) is torch.bfloat16
    finally:
        precision._made_by_amd.cache_clear()


@pytest.mark.parametrize(("asked", "dtype"), [("float32", torch.float32), ("bfloat16", torch.bfloat16)])
def test_a_setting_forces_either_precision(asked, dtype, monkeypatch):
    monkeypatch.setenv("LEXISCOPE_PRECISION", asked)
    assert precision.fast_dtype(torch.device("cpu")) is dtype
    assert precision.fast_dtype(torch.device("cuda")) is dtype
