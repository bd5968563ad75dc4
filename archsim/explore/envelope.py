"""What the points that were simulated show of those that were not: more of a resource takes no longer.

Of two points that differ in nothing but resources (lanes, capacities, bandwidths ...), the richer one needs no more
time, apart from a small loss that each resource may bring (a larger scratchpad is filled before its first tile starts).
So an objective f that is to be made large and follows from time alone is held between two simulated neighbours,
``poor <= x <= rich`` in every resource::

    f(poor) - slack <= f(x) <= f(rich) + slack,    slack = |f| x sum of loss_r over the resources in which they differ

No loss is assumed: it is what simulated pairs show. A poorer point that is better than a richer one by more than the
losses of the resources between them has the rest added to these in equal parts.

Assumption: the pairs that are simulated show the losses of those that are not. So this bounds within a margin and
proves nothing, unlike the roofline.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from archsim.explore.axis import number_of
from archsim.explore.space import Point

__all__ = ["RESOURCES", "Envelope"]

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

#: parameters of which more can be left idle. The sides of an array are none: a larger one fills and drains longer
RESOURCES = (
    "clock", "core.matrix.count", "core.vector.lanes", "core.vector.special_lanes", "core.scratchpad.capacity",
    "core.accumulator.capacity", "core.port.read_bytes_per_cycle", "core.port.write_bytes_per_cycle",
    "noc.link_bytes_per_cycle", "cache.capacity", "cache.bandwidth", "memory.bandwidth",
)  # fmt: skip
#: share of an objective beyond which it is equally unknown
UNKNOWN = 0.1


class Envelope:
    """The best (`most`) and the worst (`least`) that each of `points` can be, in objectives that are to be made large.

    most: what is known before; follows: the objectives that follow from time. Others are left as they are.
    """

    def __init__(self, points: Sequence[Point], most: Floats, follows: Bools) -> None:
        self.resources = [
            path for path in RESOURCES
            if path in points[0] and len({value for p in points if (value := number_of(p[path])) is not None}) > 1
        ]  # fmt: skip
        self.kinds: dict[tuple[tuple[str, object], ...], int] = {}
        self.kind, self.levels = (np.array(column) for column in zip(*map(self._place, points), strict=True))
        self.before, self.follows = most, follows
        self.most, self.least = most.copy(), np.where(follows, -np.inf, most)
        self.loss = np.zeros((len(self.resources), most.shape[1]))
        self._kinds = np.empty(0, dtype=np.int64)
        self._levels = np.empty((0, len(self.resources)))
        self._values = np.empty((0, most.shape[1]))
        self._names: list[int] = []

    def _place(self, point: Point) -> tuple[int, list[float]]:
        """Which points it can be held against, and how rich it is in each resource."""
        others = tuple((path, value) for path, value in point.items() if path not in self.resources)
        numbers = [number_of(point[path]) for path in self.resources]
        return self.kinds.setdefault(others, len(self.kinds)), [np.nan if n is None else n for n in numbers]

    def add(self, name: int, point: Point, values: Floats) -> None:
        """Learn from a simulated point; `most` and `least` of the others follow."""
        kind, numbers = self._place(point)
        levels = np.array(numbers)
        grown = self._learn(kind, levels, values)
        self._kinds, self._levels = np.append(self._kinds, kind), np.vstack([self._levels, levels])
        self._values = np.vstack([self._values, values])
        self._names.append(name)
        if grown:
            self.most, self.least = self.before.copy(), np.where(self.follows, -np.inf, self.before)
        for place in range(len(self._names)) if grown else [len(self._names) - 1]:
            self._apply(self._kinds[place], self._levels[place], self._values[place])

    def _apply(self, kind: int, levels: Floats, values: Floats) -> None:
        same = np.flatnonzero(self.kind == kind)
        above = self.levels[same] - levels
        slack = np.abs(values) * ((above != 0) @ self.loss)
        poorer, richer = (above <= 0).all(axis=1), (above >= 0).all(axis=1)
        most, least = np.where(self.follows, values + slack, np.inf), np.where(self.follows, values - slack, -np.inf)
        self.most[same[poorer]] = np.minimum(self.most[same[poorer]], most[poorer])
        self.least[same[richer]] = np.maximum(self.least[same[richer]], least[richer])

    def _learn(self, kind: int, levels: Floats, values: Floats) -> bool:
        """Whether simulated pairs show larger losses than were known."""
        before = self.loss.copy()
        above = np.where((self._kinds == kind)[:, None], self._levels - levels, np.nan)
        for sign in (1, -1):  # the earlier one is the richer, the poorer
            for place in np.flatnonzero((sign * above >= 0).all(axis=1)):
                rich, poor = (self._values[place], values) if sign > 0 else (values, self._values[place])
                between = above[place] != 0
                lost = np.where(self.follows, (poor - rich) / np.abs(rich), 0.0) - self.loss[between].sum(axis=0)
                self.loss[between] += np.maximum(lost, 0.0) / max(between.sum(), 1)
        return bool((self.loss > before).any())

    def unknown(self) -> Floats:
        """How much of each point is unknown, from 0 to 1: the distance of its bounds in parts of its value."""
        most, least = self.most[:, self.follows], self.least[:, self.follows]
        width = np.ones(most.shape)
        known = np.isfinite(most) & np.isfinite(least)
        width[known] = ((most[known] - least[known]) / np.abs(most[known]) / UNKNOWN).clip(0, 1)
        mean: Floats = width.mean(axis=1)
        return mean

    def bounded(self, rows: NDArray[np.int64]) -> Bools:
        """Mark those whose bounds all come from simulated points."""
        marks: Bools = (self.most[rows] < self.before[rows])[:, self.follows].all(axis=1)
        return marks

    def poorer(self, rows: NDArray[np.int64], than: NDArray[np.int64]) -> Bools:
        """Mark (rows x than) where a point of `rows` has no more of any resource than one of `than`."""
        marks: Bools = self.kind[rows][:, None] == self.kind[than]
        for resource in range(len(self.resources)):
            marks &= self.levels[rows, resource][:, None] <= self.levels[than, resource]
        return marks

    def sources(self, row: int) -> list[int]:
        """The names of simulated points that `most` of a point comes from."""
        above = self._levels - self.levels[row]
        rich = np.flatnonzero((self._kinds == self.kind[row]) & (above >= 0).all(axis=1))
        bound = self._values[rich] + np.abs(self._values[rich]) * ((above[rich] != 0) @ self.loss)
        found = []
        for column in np.flatnonzero(self.follows & (self.most[row] < self.before[row])):
            found.append(self._names[rich[np.argmin(bound[:, column])]])
        return sorted(set(found))

    def losses(self, names: Sequence[str]) -> Mapping[str, Mapping[str, float]]:
        """By resource and objective (of `names`), what more of the one cost of the other; small ones are left out."""
        found = {
            path: {name: float(loss) for name, loss in zip(names, losses, strict=True) if loss > 1e-4}
            for path, losses in zip(self.resources, self.loss, strict=True)
        }
        return {path: losses for path, losses in found.items() if losses}
