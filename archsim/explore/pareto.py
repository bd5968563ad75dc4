"""Which points no other point beats: Pareto fronts in NumPy. All objectives are to be made large here."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["dominated", "dominator", "front"]

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


def front(values: Floats) -> Bools:
    """Mark the rows of `values` (points x objectives) that no other row dominates.

    Row a dominates row b if it is nowhere smaller and somewhere larger; equal rows do not dominate each other.
    O(points x front) time and O(points) memory: the rows are swept in falling order of their sum, so that the first
    of those left can only be dominated by one that is gone; it takes with it all that it dominates.

    >>> front(np.array([[1.0, 3.0], [2.0, 2.0], [1.0, 2.0], [3.0, 1.0]])).tolist()
    [True, True, False, True]
    """
    left = np.argsort(-_scaled(values).sum(axis=1), kind="stable")
    marks = np.zeros(len(values), dtype=np.bool_)
    while len(left):
        marks[left[0]] = True
        left = left[1:][~dominated(values[left[1:]], values[left[:1]])]
    return marks


def dominated(values: Floats, best: Floats, margin: float | Floats = 0.0) -> Bools:
    """Mark the rows of `values` that some row of `best` dominates.

    margin: relative, of all objectives or of each; a row is first made smaller by it.

    >>> dominated(np.array([[1.0, 2.0], [9.0, 0.0]]), np.array([[2.0, 2.0]])).tolist()
    [True, False]
    """
    if len(values) < len(best):
        return np.array([dominator(row, best, margin) is not None for row in values], dtype=np.bool_)
    shrunk = _shrunk(values, margin)
    marks = np.zeros(len(values), dtype=np.bool_)
    for row in best:
        marks |= (row >= shrunk).all(axis=1) & (row > shrunk).any(axis=1)
    return marks


def dominator(row: Floats, best: Floats, margin: float | Floats = 0.0) -> int | None:
    """The first row of `best` that dominates one row, by the same rule; None where there is none.

    >>> dominator(np.array([1.0, 2.0]), np.array([[3.0, 1.0], [2.0, 2.0]]))
    1
    """
    shrunk = _shrunk(row, margin)
    found = np.flatnonzero((best >= shrunk).all(axis=1) & (best > shrunk).any(axis=1))
    return int(found[0]) if len(found) else None


def _shrunk(values: Floats, margin: float | Floats) -> Floats:
    return np.where(np.isfinite(values), values - margin * np.abs(np.nan_to_num(values)), values)


def _scaled(values: Floats) -> Floats:
    """Each objective brought to [0, 1], so that none rules the order of the sweep."""
    low, high = values.min(axis=0), values.max(axis=0)
    scaled: Floats = (values - low) / np.where(high > low, high - low, 1.0)
    return scaled
