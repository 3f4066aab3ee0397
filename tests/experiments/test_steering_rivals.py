"""The rivals of the steering experiment."""

import numpy as np

from experiments.steering import moved


def test_a_feature_is_never_its_own_neighbour_in_density() -> None:
    place, step = (each.ravel() for each in np.meshgrid(np.arange(9), [-3, -2, -1, 1, 2, 3]))
    found = moved(place, step, 9)
    assert ((found >= 0) & (found < 9)).all() and (found != place).all()
    inside = (place + step >= 0) & (place + step < 9)
    assert (found[inside] == (place + step)[inside]).all()
    assert (found[~inside] == (place - step)[~inside]).all()
