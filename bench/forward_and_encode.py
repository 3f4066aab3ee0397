"""What an index cannot do without: the forward pass and the encoding of some dictionaries of one model over a
text.

    python -m bench.forward_and_encode RUN... --model FOLDER --text FILE

Prints one line of JSON: seconds, CPU seconds and tokens of the loop alone (loading left out). `--firings
FILE` keeps how often each feature of the first dictionary fired, to compare with the counts of other
programs; those are counted in float32, in a second pass that is not timed.
"""

import argparse
import json
import time
from pathlib import Path

import torch

from lexiscope.checkpoint import load_checkpoint
from lexiscope.language_model import load_language_model
from lexiscope.text import batches, passages


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("dictionaries", nargs="+", type=Path, metavar="RUN")
    parser.add_argument("--model", required=True)
    parser.add_argument("--text", required=True)
    parser.add_argument("--length", type=int, default=128, help="tokens of a passage")
    parser.add_argument("--firings", type=Path)
    given = parser.parse_args()
    model = load_language_model(given.model)
    checkpoints = [load_checkpoint(path) for path in given.dictionaries]
    of_layer = [checkpoint.layer for checkpoint in checkpoints]
    layers, fast = sorted(set(of_layer)), [checkpoint.dictionary.fast() for checkpoint in checkpoints]
    firings = torch.zeros(checkpoints[0].dictionary.d_sae, dtype=torch.int64)
    tokens, seconds, cpu = 0, 0.0, 0.0
    for batch in batches(passages(model, [given.text], length=given.length)):
        began, began_cpu = time.monotonic(), time.process_time()
        residuals = model.read(batch.tokens, layers, fast=True)
        for layer, dictionary in zip(of_layer, fast, strict=True):
            dictionary.encode(residuals[layer][batch.mask], batch.tokens[batch.mask])
        seconds, cpu = seconds + time.monotonic() - began, cpu + time.process_time() - began_cpu
        tokens += int(batch.mask.sum())
        if given.firings:
            exact = model.read(batch.tokens, of_layer[:1])[of_layer[0]][batch.mask]
            code = checkpoints[0].dictionary.encode(exact, batch.tokens[batch.mask])
            firings += torch.bincount(code.indices[code.values > 0], minlength=len(firings))
    if given.firings:
        torch.save(firings, given.firings)
    print(json.dumps({"seconds": seconds, "cpu": cpu, "tokens": tokens}))


if __name__ == "__main__":
    main()
