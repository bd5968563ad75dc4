"""Which core works on which item: blocks of threads go, in the order of the grid, to whatever has room first."""

from __future__ import annotations

from heapq import heapreplace

import numpy as np
from numpy.typing import NDArray

__all__ = ["deal"]

Ints = NDArray[np.int64]


def deal(seconds: NDArray[np.float64], lanes: int) -> tuple[Ints, Ints]:
    """Lane of each item, and how many that lane had before: every item goes to the lane that is free first.

    >>> [each.tolist() for each in deal(np.array([5.0, 3.0, 1.0, 1.0, 1.0]), 2)]
    [[0, 1, 1, 1, 0], [0, 0, 1, 2, 1]]
    """
    ready = [(0.0, lane) for lane in range(lanes)]  # a heap
    lane = np.empty(len(seconds), dtype=np.int64)
    turn = np.empty_like(lane)
    taken = [0] * lanes
    for item, work in enumerate(seconds.tolist()):
        busy, first = ready[0]
        heapreplace(ready, (busy + work, first))
        lane[item], turn[item] = first, taken[first]
        taken[first] += 1
    return lane, turn
