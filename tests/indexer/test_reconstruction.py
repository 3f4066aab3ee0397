"""How well a dictionary reconstructs the passages that were read."""

import numpy as np
import pytest
import torch

from indexer.rows import reconstruction
from indexer.rows.reconstruction import StreamSample
from lexiscope.dictionary import Dictionary
from lexiscope.language_model import LanguageModel
from lexiscope.selection import TopK


@pytest.mark.parametrize("kept_bytes", [1 << 30, 0])
def test_fve_is_that_of_the_first_passages_read_one_at_a_time(
    model: LanguageModel, kept_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LEXISCOPE_PRECISION", "float32")
    monkeypatch.setattr(reconstruction, "SAMPLE_TOKENS", 30)
    monkeypatch.setattr(reconstruction, "KEPT_BYTES", kept_bytes)
    draw = torch.Generator().manual_seed(0)
    lengths = {7: 12, 2: 9, 3: 1, 5: 17, 11: 14, 4: 2}
    passages = {
        number: np.array([model.bos, *torch.randint(0, 40, (length - 1,), generator=draw).tolist()], np.int32)
        for number, length in lengths.items()
    }
    rows = torch.randn(24, model.d_model, generator=draw)
    bias = torch.randn(model.d_model, generator=draw)
    dictionary = Dictionary(rows.T.contiguous() * 0.1, torch.zeros(24), rows, bias, TopK(3))
    sample = StreamSample(model, [0, 1, 1], passages)
    for layer in (0, 1):
        xs = [
            model.read(torch.from_numpy(passages[number]).long()[None], [layer])[layer][0, 1:]
            for number in (2, 4, 5, 7)  # 8 + 1 + 16 tokens are fewer than 30; with passage 7 they are 36
        ]
        x = torch.cat(xs)
        error = (x - dictionary.reconstruct(x)).square().sum() / (x - x.mean(0)).square().sum()
        found = reconstruction.reconstruction(dictionary, layer, sample)
        assert found == pytest.approx(1 - float(error), rel=1e-4)
