"""The time of what a program leaves out because it equals what it contains."""

from __future__ import annotations

from dataclasses import dataclass
from math import fsum

import numpy as np
from numpy.typing import NDArray

__all__ = ["Carry"]


@dataclass(frozen=True, eq=False)
class Carry:
    """Time left out, as a weighted sum over the ends of groups of steps::

        time = sum over g of weights[g] * max of finish[steps[starts[g]:starts[g + 1]]]

    The weights add up to zero: what counts are differences, such as the length of a wave of tiles.

    >>> Carry(np.array([0, 1, 3]), np.array([0, 1, 2]), np.array([-3.0, 3.0])).time_ps(np.array([100, 140, 150]))
    150
    """

    starts: NDArray[np.int64]
    steps: NDArray[np.int64]
    weights: NDArray[np.float64]

    @classmethod
    def nothing(cls) -> Carry:
        """Of a program that leaves out nothing."""
        return cls(np.zeros(1, np.int64), np.empty(0, np.int64), np.empty(0))

    def time_ps(self, finish_ps: NDArray[np.int64]) -> int:
        """The time left out of a run with these finish times; rounded once, so that it is the same everywhere."""
        if not len(self.weights):
            return 0
        ends = np.maximum.reduceat(finish_ps[self.steps], self.starts[:-1])
        return max(round(fsum((self.weights * (ends - ends.min())).tolist())), 0)
