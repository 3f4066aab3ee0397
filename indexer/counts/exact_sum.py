"""Sums of floats that are the same in any order, so that they do not depend on how the text is split.

Each addend is a block's own float64 sum, which is always taken in one order. It is cut into four integers,
and integers add associatively.
"""

import numpy as np

EXPONENTS = (52, 10, -32, -74)
"""powers of two that each integer counts"""
DROPPED = 2.0 ** EXPONENTS[-1]
"""less than this is dropped of an addend"""


class ExactSum:
    """A sum of arrays of one shape: of up to 2^21 addends, for totals below 2^115."""

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
