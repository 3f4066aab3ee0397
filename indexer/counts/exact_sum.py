"""Sums of floats that come out the same in any order, so that a split of the text changes nothing.

Each addend is a block's own float64 sum, which is always taken in one order; it is cut into four integers of
32 bits and more, and integers add associatively. What is below 2^-48 of an addend is cut off.
"""

import numpy as np

LIMBS = (48, 16, -16, -48)
"""exponents of two"""


class ExactSum:
    """A sum of arrays of one shape. Holds for totals below 2^110."""

    def __init__(self, *shape: int) -> None:
        self.limbs = np.zeros((len(LIMBS), *shape), np.int64)

    def add(self, addend: np.ndarray) -> None:
        rest = np.asarray(addend, np.float64)
        for limb, exponent in enumerate(LIMBS):
            whole = np.trunc(np.ldexp(rest, -exponent))
            self.limbs[limb] += whole.astype(np.int64)
            rest = rest - np.ldexp(whole, exponent)

    def value(self) -> np.ndarray:
        total = np.zeros(self.limbs.shape[1:])
        for limb, exponent in zip(self.limbs, LIMBS, strict=True):
            total += np.ldexp(limb.astype(np.float64), exponent)
        return total
