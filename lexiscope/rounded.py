"""An encoder in bf16: all its pre-activations in one matrix product, the bias included."""

import torch
from torch import Tensor


class RoundedEncoder:
    """Rows [F, d] and their bias [F] in bf16. The bias is two more columns, its rounded value and what that
    leaves, so that it is added before the sum is rounded, and no pass over the products is needed for it.
    """

    def __init__(self, rows: Tensor, bias: Tensor) -> None:
        self._weights = torch.empty(len(rows), rows.shape[1] + 2, dtype=torch.bfloat16, device=rows.device)
        self.set(rows, bias)

    @property
    def shape(self) -> tuple[int, int]:
        """of the rows"""
        return len(self._weights), self._weights.shape[1] - 2

    def copied(self) -> "RoundedEncoder":
        """The same in memory of its own."""
        copy = RoundedEncoder.__new__(RoundedEncoder)
        copy._weights = self._weights.clone()
        return copy

    def set(self, rows: Tensor, bias: Tensor) -> None:
        """Other weights of the same shapes, in the same memory."""
        high = bias.bfloat16()
        self._weights[:, :-2].copy_(rows)
        self._weights[:, -2] = high
        self._weights[:, -1] = (bias - high.float()).bfloat16()

    def pre_activations(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        """[n, F] bf16 for x [n, d], which is rounded; into `out` where it is given (fresh pages cost a CPU a
        quarter of the product).
        """
        ones = torch.ones(len(x), 2, dtype=torch.bfloat16, device=x.device)
        read = torch.cat([x.bfloat16(), ones], 1)
        return torch.mm(read, self._weights.T, out=out)


class Scratch:
    """Memory for the pre-activations of `tokens` tokens at a time, kept from call to call."""

    def __init__(self, tokens: int) -> None:
        self.tokens = tokens
        self._held: Tensor | None = None
        self._rounded: RoundedEncoder | None = None

    def of(self, features: int, dtype: torch.dtype, device: torch.device) -> Tensor:
        """[tokens, features], not initialised. Rows begin at whole cache lines: at 50,257 columns the product
        into it takes a quarter less time.
        """
        line = 64 // dtype.itemsize
        width = -(-features // line) * line
        held = self._held
        if held is None or held.shape[1] != width or held.dtype is not dtype or held.device != device:
            self._held = held = torch.empty(self.tokens, width, dtype=dtype, device=device)
        return held[:, :features]

    def rounded(self, rows: Tensor, bias: Tensor) -> RoundedEncoder:
        """An encoder in bf16, in the memory of the last one where it has the same shape."""
        if self._rounded is None or self._rounded.shape != rows.shape:
            self._rounded = RoundedEncoder(rows, bias)
        else:
            self._rounded.set(rows, bias)
        return self._rounded
