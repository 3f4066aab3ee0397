"""`python -m bench.kernels [SHAPE...]`: each kernel of trainer.kernels against plain PyTorch on one GPU, at
the shapes of GPT-2 and Llama.

The share of peak is of an H200: 989 TFLOP/s in bfloat16 for the encoder, 4.8 TB/s for the rest, with every
gathered row counted (rows found in cache can bring it above 1). Then the encoder's tiles.
"""

import argparse
import statistics
import sys
from collections.abc import Callable
from functools import partial
from unittest.mock import patch

import torch
import torch.nn.functional as F

from bench.report import Report, Table, times, write_option
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


def compare(table: Table, name: str, work: Callable[[], object], at_peak: float) -> None:
    """One row; `at_peak`: seconds the work would take at the machine's peak."""
    fused = milliseconds(work)
    with patch.object(kernels, "has_kernels", lambda x: False):
        plain = milliseconds(work)
    table.rows.append(
        [name, f"{fused:.3f}", f"{plain:.3f}", times(plain, fused), f"{at_peak / fused * 1e3:.1%}"]
    )


def measure(report: Report, name: str, n: int, d_sae: int, d: int, k: int) -> None:
    title = f"{name}: {n:,} tokens, {d_sae:,} features, d {d:,}, k {k}"
    table = report.table(title, ["", "kernel ms", "PyTorch ms", "speed-up", "share of peak"])
    torch.manual_seed(0)
    y = torch.randn(n, d, device="cuda")
    rows = F.normalize(torch.randn(d_sae, d, device="cuda"), dim=-1)
    bias, low, encoder = torch.zeros(d_sae, device="cuda"), y.bfloat16(), rows.bfloat16()
    product = 2 * n * d_sae * d / FLOPS
    compare(table, "encode_top_k", lambda: kernels.encode_top_k(low, encoder, bias, k), product)

    # Zipfian: a few features fire on most tokens, as in trained dictionaries.
    rates = torch.arange(1, d_sae + 1, device="cuda").float().reciprocal()
    indices = torch.cat([torch.multinomial(rates.expand(len(part), -1), k) for part in y.split(512)])
    code = SparseCode(torch.rand(n, k, device="cuda") + 0.1, indices)
    gathered = n * k * d * 4 / BYTES
    compare(table, "decode", lambda: kernels.decode(code, rows), gathered)
    compare(table, "code_gradient", lambda: kernels.code_gradient(code, rows, y), gathered)
    compare(table, "firings", lambda: kernels.firings(code, d_sae), n * k * 8 / BYTES)
    with patch.object(kernels, "has_kernels", lambda x: False):
        plain_order = kernels.firings(code, d_sae)
    order, out, total = kernels.firings(code, d_sae), torch.empty_like(rows), torch.empty_like(bias)
    assert torch.equal(order.bounds, plain_order.bounds)
    compare(
        table,
        "row_gradients",
        lambda: kernels.row_gradients(order, code.values, y, out, total=total),
        gathered + d_sae * d * 4 / BYTES,
    )
    compare(
        table,
        "  and tangent",
        lambda: kernels.row_gradients(order, code.values, y, out, total=total, tangent_to=rows),
        gathered + 4 * d_sae * d * 4 / BYTES,
    )
    assigned = torch.randint(0, d_sae, (d_sae,), device="cuda")
    anchors = rows.clone()
    compare(
        table, "hold_rows", lambda: kernels.hold_rows(out, anchors, assigned, 0.8), 3 * d_sae * d * 4 / BYTES
    )

    tiles = report.table(f"{name}: tiles of the encoder", ["", "ms", "share of peak"])
    for tile in TILES:
        try:
            taken = milliseconds(partial(kernels._encode_top_k, low, encoder, bias, k, tile))
        except Exception as error:  # a tile may not fit in shared memory: the others still print
            tiles.rows.append([str(tile), type(error).__name__, ""])
            continue
        tiles.rows.append([str(tile), f"{taken:.3f}", f"{product / taken * 1e3:.1%}"])
    report.notes.append(f"{name}: most memory held {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB.")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("shapes", nargs="*", metavar="SHAPE", help=f"{', '.join(SHAPES)}; all unless given")
    write_option(parser)
    given = parser.parse_args()
    if unknown := set(given.shapes) - set(SHAPES):
        parser.error(f"unknown shape {', '.join(sorted(unknown))}: there are {', '.join(SHAPES)}")
    if not torch.cuda.is_available():
        sys.exit(
            "There is no GPU here: PyTorch sees no CUDA device, and kernels are only worth timing on one."
        )
    if kernels.triton is None:
        sys.exit("Triton is not installed: 'pip install triton==3.7.1' goes with torch 2.13.0.")
    versions = f"torch {torch.__version__}, triton {kernels.triton.__version__}"
    report = Report("kernels", machine=f"{torch.cuda.get_device_name()}, {versions}")
    for name in given.shapes or SHAPES:
        measure(report, name, *SHAPES[name])
    report.finish(write=given.write)


if __name__ == "__main__":
    main()
