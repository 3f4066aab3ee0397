"""`python bench/permuted_names.py RUN TEXT [TOKENS]`: what the support test says of names known to be wrong.

Supported shares of a dictionary's live features with its own names, with names permuted among live features, and with tokens
of like frequency. The last two are false positives: the false discovery rate allows 5 %.
"""

import sys
from pathlib import Path

import torch

from lexiscope.anchors import nearest_tokens
from lexiscope.checkpoint import load_checkpoint
from lexiscope.evidence import FDR, EvidenceCounts, families, matched_controls, places
from lexiscope.language_model import load_language_model
from lexiscope.metrics import FiringSums, weighted_share
from lexiscope.text import batches, passages
from lexiscope.tokens import Vocabulary


@torch.inference_mode()
def main(run: str, text: str, tokens: int = 30_000) -> None:
    checkpoint = load_checkpoint(Path(run))
    assert checkpoint.fit is not None
    model = load_language_model(checkpoint.config["metadata"]["model_name"], model_id=checkpoint.details["model_id"])
    layer, dictionary = checkpoint.details["layer"], checkpoint.dictionary
    names = nearest_tokens(dictionary.directions, checkpoint.fit.anchors, 1).tokens[:, 0]
    kin = families(model.embedding, Vocabulary(model.tokenizer, model.vocab_size).folded())
    controls = matched_controls(checkpoint.fit.counts)
    firing, seen = FiringSums(dictionary.d_sae), []
    for batch in batches(passages(model, [text], tokens=tokens)):
        code = dictionary.encode(model.read(batch.tokens, [layer])[layer][batch.mask])
        firing.add(code)
        seen.append((code, places(batch.tokens, batch.next_tokens, batch.mask)))
    live = firing.live.nonzero().squeeze(1)
    permuted = names.clone()
    permuted[live] = names[live[torch.randperm(len(live), generator=torch.Generator().manual_seed(0))]]
    for label, trial in (("own names", names), ("permuted names", permuted), ("tokens of like frequency", controls[names, 1])):
        counts = EvidenceCounts(trial, kin, controls)
        for code, place in seen:
            counts.add(code, place)
        found = counts.result(firing.live)
        reads, predicts = (weighted_share(q <= FDR, firing.live) for q in (found.q_reads, found.q_predicts))
        print(f"{label}: supported {weighted_share(found.supported, firing.live):.3f}, reads {reads:.3f}, predicts {predicts:.3f}")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:4]))
