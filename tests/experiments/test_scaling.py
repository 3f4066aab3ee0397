"""The scaling law is recovered from errors that follow it, and what a width asks for is counted."""

import numpy as np
import pytest

from experiments.scaling import fit, law, on_paper, power, runs


def test_the_law_that_made_the_errors_is_found() -> None:
    true = np.array([0.8, -0.4, -0.25, -0.01, -1.5, -0.3])
    n, k = (axis.reshape(-1) for axis in np.meshgrid(2.0 ** np.arange(9, 17), [8.0, 16.0, 32.0, 64.0]))
    error = law(true, n, k)
    found = fit(n, k, error)
    assert np.abs(np.log(law(found, n, k)) - np.log(error)).max() < 0.01
    beyond = np.array([2.0**18]), np.array([32.0])
    assert law(found, *beyond)[0] == pytest.approx(law(true, *beyond)[0], rel=0.05)


def test_a_power_of_the_tokens_is_found() -> None:
    seen = np.array([1e4, 1e5, 1e6])
    assert power(seen, 3 * seen**-0.2) == pytest.approx((3, -0.2), rel=1e-6)


def test_sixteen_million_features_are_counted() -> None:
    asked = on_paper(256)
    assert asked["weights"] == 2 * 16 * 2**20 * 256
    assert asked["gigabytes"] == pytest.approx(137.4, rel=1e-3)


def test_every_width_is_run_at_one_k_and_every_k_at_some_widths() -> None:
    made = runs(256_000, 65_536)
    assert {run.width for run in made if run.k == 32 and run.seen == 256_000} == {2**e for e in range(9, 17)}
    assert {run.k for run in made} == {8, 16, 32, 64} and len(set(made)) == len(made)
    assert max(run.width for run in runs(256_000, 8192)) == 8192
