"""Sums of floats that are the same in any order, so that they do not depend on how the text is split.

Each addend is a block's own float64 sum, which is always taken in one order. It is cut into four integers,
and integers add associatively. What is below 2^-48 of an addend is dropped.
"""

import numpy as np

EXPONENTS = (48, 16, -16, -48)
"""powers of two that each integer counts"""


class ExactSum:
    """A sum of arrays of one shape, for totals below 2^110."""

    def __init__(self, *shape: int) -> None:
        self.limbs = np.zeros((len(EXPONENTS), *shape), np.int64)

    def add(self, addend: np.ndarray) -> None:
        rest = np.asarray(addend, np.float64)
        for limb, exponent in enumerate(EXPONENTS):
            whole = np.trunc(np.ldexp(rest, -exponent))
            self.limbs[limb] += whole.astype(np.int64)
            rest = rest - np.ldexp(whole, exponent)

    def value(self) -> np.ndarray:
        total = np.zeros(self.limbs.shape[1:])
        for limb, exponent in zip(self.limbs, EXPONENTS, strict=True):
            total += np.ldexp(limb.astype(np.float64), exponent)
        return total
