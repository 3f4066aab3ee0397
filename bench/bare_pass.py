"""What an index cannot do without: the forward pass and the encoding, of some dictionaries of one model over
a text, nothing kept.

Prints one line of JSON: seconds and tokens of the loop alone (loading left out), and the peak of the whole
process. With --firings, how often each feature of the first dictionary fired goes to a file, against which
other programs' counts can be held.
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
    parser.add_argument("dictionaries", nargs="+", type=Path)
    parser.add_argument("--model", required=True)
    parser.add_argument("--text", required=True)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--firings", type=Path)
    asked = parser.parse_args()
    model = load_language_model(asked.model)
    checkpoints = [load_checkpoint(path) for path in asked.dictionaries]
    layers = sorted({c.layer for c in checkpoints})
    firings = torch.zeros(checkpoints[0].dictionary.d_sae, dtype=torch.int64)
    tokens, seconds, cpu = 0, 0.0, 0.0
    for batch in batches(passages(model, [asked.text], length=asked.length)):
        began, began_cpu = time.monotonic(), time.process_time()
        residuals = model.read(batch.tokens, layers)
        codes = [c.dictionary.encode(residuals[c.layer][batch.mask]) for c in checkpoints]
        seconds, cpu = seconds + time.monotonic() - began, cpu + time.process_time() - began_cpu
        tokens += int(batch.mask.sum())
        firings += torch.bincount(codes[0].indices[codes[0].values > 0], minlength=len(firings))
    if asked.firings:
        torch.save(firings, asked.firings)
    print(json.dumps({"seconds": seconds, "cpu": cpu, "tokens": tokens}))


if __name__ == "__main__":
    main()
