"""Runs of equal keys in a sorted array."""

import numpy as np


def run_starts(sorted_keys: np.ndarray) -> np.ndarray:
    """Index of the first element of each run."""
    if not len(sorted_keys):
        return np.zeros(0, np.int64)
    return np.flatnonzero(np.concatenate([[True], sorted_keys[1:] != sorted_keys[:-1]]))


def run_lengths(starts: np.ndarray, n: int) -> np.ndarray:
    """Length of each run of n sorted keys, whose runs begin at `starts`."""
    return np.diff(np.concatenate([starts, [n]]))


def rank_in_run(sorted_keys: np.ndarray) -> np.ndarray:
    """[n] 0, 1, 2, … within each run."""
    starts = run_starts(sorted_keys)
    return np.arange(len(sorted_keys)) - np.repeat(starts, run_lengths(starts, len(sorted_keys)))
