"""`python bench/kernels.py [SHAPE...]`: each kernel of trainer.kernels against plain PyTorch on one GPU, at
`gpt2` and `llama` shapes.

Prints milliseconds of both, their ratio, and the kernel's share of the H200's peak: of 989 TFLOP/s in
bfloat16 for the encoder, of
4.8 TB/s for the rest, counting every gathered row (rows found in cache can carry a share above 1). Then the
  encoder's tiles.
"""

import statistics
import sys
from collections.abc import Callable
from unittest.mock import patch

import torch
import torch.nn.functional as F

from lexiscope.sparse_code import SparseCode
from trainer import kernels

FLOPS, BYTES = 989e12, 4.8e12
SHAPES = {"gpt2": (8192, 50257, 768, 32), "llama": (8192, 128256, 4096, 32)}
TILES = [
    kernels.ENCODE,
    kernels.Tile(128, 128, 64, 8, 3),
    kernels.Tile(128, 128, 64, 8, 4),
    kernels.Tile(128, 256, 64, 8, 3),
    kernels.Tile(256, 128, 64, 8, 3),
]
REPEATS = 20


def milliseconds(work: Callable[[], object]) -> float:
    """Median of REPEATS, after three to warm up."""
    for _ in range(3):
        work()
    taken = []
    for _ in range(REPEATS):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        work()
        end.record()
        torch.cuda.synchronize()
        taken.append(start.elapsed_time(end))
    return statistics.median(taken)


def compare(name: str, work: Callable[[], object], at_peak: float) -> None:
    """`at_peak`: seconds the work would take at the machine's peak."""
    fused = milliseconds(work)
    with patch.object(kernels, "has_kernels", lambda x: False):
        plain = milliseconds(work)
    print(
        f"{name:15} {fused:9.3f} ms  plain {plain:9.3f} ms  {plain / fused:6.2f} x  {at_peak / fused * 1e3:6.1%} of peak",
        flush=True,
    )


def measure(n: int, d_sae: int, d: int, k: int) -> None:
    torch.manual_seed(0)
    y = torch.randn(n, d, device="cuda")
    rows = F.normalize(torch.randn(d_sae, d, device="cuda"), dim=-1)
    bias, low, encoder = torch.zeros(d_sae, device="cuda"), y.bfloat16(), rows.bfloat16()
    product = 2 * n * d_sae * d / FLOPS
    compare("encode_top_k", lambda: kernels.encode_top_k(low, encoder, bias, k), product)

    # Zipfian: a few features fire on most tokens, as in trained dictionaries.
    rates = torch.arange(1, d_sae + 1, device="cuda").float().reciprocal()
    indices = torch.cat([torch.multinomial(rates.expand(len(part), -1), k) for part in y.split(512)])
    code = SparseCode(torch.rand(n, k, device="cuda") + 0.1, indices)
    gathered = n * k * d * 4 / BYTES
    compare("decode", lambda: kernels.decode(code, rows), gathered)
    compare("code_gradient", lambda: kernels.code_gradient(code, rows, y), gathered)
    compare("firings", lambda: kernels.firings(code, d_sae), n * k * 8 / BYTES)
    with patch.object(kernels, "has_kernels", lambda x: False):
        plain_order = kernels.firings(code, d_sae)
    order, out, total = kernels.firings(code, d_sae), torch.empty_like(rows), torch.empty_like(bias)
    assert torch.equal(order.bounds, plain_order.bounds)
    compare(
        "row_gradients",
        lambda: kernels.row_gradients(order, code.values, y, out, total=total),
        gathered + d_sae * d * 4 / BYTES,
    )
    compare(
        "  and tangent",
        lambda: kernels.row_gradients(order, code.values, y, out, total=total, tangent_to=rows),
        gathered + 4 * d_sae * d * 4 / BYTES,
    )
    assigned = torch.randint(0, d_sae, (d_sae,), device="cuda")
    anchors = rows.clone()
    compare("hold_rows", lambda: kernels.hold_rows(out, anchors, assigned, 0.8), 3 * d_sae * d * 4 / BYTES)

    for tile in TILES:
        try:
            taken = milliseconds(lambda tile=tile: kernels._encode_top_k(low, encoder, bias, k, tile))
        except Exception as error:  # a tile may not fit in shared memory: the others still print
            print(f"  {tile}: {type(error).__name__}: {error}")
            continue
        print(f"  {tile}: {taken:.3f} ms, {product / taken * 1e3:.1%} of peak", flush=True)
    print(f"  most memory held: {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB")


def main(shapes: list[str]) -> None:
    if unknown := set(shapes) - set(SHAPES):
        sys.exit(f"Unknown shape {', '.join(sorted(unknown))}: there are {', '.join(SHAPES)}.")
    if not torch.cuda.is_available():
        sys.exit(
            "There is no GPU here: PyTorch sees no CUDA device, and kernels are only worth timing on one."
        )
    if kernels.triton is None:
        sys.exit("Triton is not installed: 'pip install triton==3.7.1' goes with torch 2.13.0.")
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, triton {kernels.triton.__version__}")
    for name in shapes or SHAPES:
        n, d_sae, d, k = SHAPES[name]
        print(f"\n{name}: {n:,} tokens, {d_sae:,} features, d {d:,}, k {k}")
        measure(n, d_sae, d, k)


if __name__ == "__main__":
    main(sys.argv[1:])
