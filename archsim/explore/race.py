"""Which points are still worth simulating, and which of them comes next.

There is one rule: a point is given up when a simulated one dominates the best that it can be. What it can be at best is
its roofline, a proof. With a margin it is also what simulated points show that are nowhere poorer (`envelope.py`). Then
points that settle most others come first: rich ones bound what is poorer, and then a cheap one that may be as good ends
what costs more. What is given up is recorded at the end, since losses that show later may bring it back.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from archsim.explore.bounds import OF_TIME
from archsim.explore.envelope import Envelope
from archsim.explore.pareto import dominated, dominator
from archsim.explore.space import Point
from archsim.explore.store import DONE, INFEASIBLE, PRUNED, Record
from archsim.explore.sweep import Sweep

__all__ = ["Race", "Rivals", "Task", "why_give_up"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

#: points that are compared as the next, and points that they are compared by
CANDIDATES, AUDIENCE = 256, 1024
#: what a point counts that may be ended, and one that is bounded once more, beside one that is bounded for the first
#: time; chosen by the simulations that stand-ins of `npu-ten-thousand` took, and of no consequence but for those
ENDED, AGAIN = 0.3, 0.1

#: numbers of points, and their objective values, to be made large
Rivals = tuple[list[int], list[list[float]]]


class Task(NamedTuple):
    """A point that has no record."""

    key: str
    number: int
    point: Point


class Race:
    """Points still to be tried, the most promising last, and the `most` that each of them can be.

    waiting, away: those that are not tried yet, those that are under way. lost: those that need not be tried, as far as
    is known. best, names: objective values that no other point beat, and the numbers of their points.
    """

    def __init__(
        self, sweep: Sweep, tasks: Sequence[Task], most: Floats, margin: float, known: Iterable[Record]
    ) -> None:
        self.sweep, self.most = sweep, most
        self.margin = margin * np.array([objective.waits_for(sweep.labels) for objective in sweep.objectives])
        self.best: Floats = np.empty((0, len(sweep.objectives)))
        self.names: Ints = np.empty(0, dtype=np.int64)
        self.envelope = _envelope(sweep, [task.point for task in tasks], most) if margin else None
        self.row_of = {task.number: row for row, task in enumerate(tasks)}
        self.waiting: Bools = np.ones(len(tasks), dtype=np.bool_)
        self.away: Bools = np.zeros(len(tasks), dtype=np.bool_)
        self.lost: Bools = np.zeros(len(tasks), dtype=np.bool_)
        self._draw = np.random.default_rng(0)
        for record in known:
            self.add(record)

    def add(self, record: Record) -> None:
        """Learn what a point really reached."""
        if record.number in self.row_of:
            self.away[self.row_of[record.number]] = False
        keys = [objective.key for objective in self.sweep.objectives]
        if any(key not in record.metrics for key in keys):
            return
        values = np.array([o.sign * record.metrics[o.key] for o in self.sweep.objectives])
        moved = np.zeros(len(self.most), dtype=np.bool_)
        if self.envelope is not None:
            before = self.envelope.most.copy()
            self.envelope.add(record.number, record.params, values)
            self.most = self.envelope.most
            moved = (self.most != before).any(axis=1)
        if record.status == DONE and not dominated(values[None], self.best)[0]:  # what may not be built beats nothing
            keep = ~dominated(self.best, values[None])
            self.best, self.names = np.vstack([self.best[keep], values]), np.append(self.names[keep], record.number)
            if self.envelope is not None:
                self.lost |= dominated(self.most, values[None], self.margin)
        self.lost[moved] = dominated(self.most[moved], self.best, self.margin)

    def rivals(self) -> Rivals:
        """The best so far, which a worker holds what it learns of a point against."""
        return [int(name) for name in self.names], [list(map(float, row)) for row in self.best]

    def pick(self, idle: bool) -> int | None:
        """The row to try next; None where there is none, or where what is under way may decide about the rest.

        idle: nothing is under way, so that a row that is lost may be taken and recorded.
        """
        waiting = np.flatnonzero(self.waiting)
        if self.envelope is not None:
            left = waiting[~self.lost[waiting]]
            if len(left):
                some = self._some(left, CANDIDATES)
                settles = self._settles(some, self._some(left, AUDIENCE), self.envelope)
                waiting = some[: len(some) - int(np.argmax(settles[::-1]))]  # of equals the most promising
            elif not idle:
                return None
        if not len(waiting):
            return None
        row = int(waiting[-1])
        self.waiting[row], self.away[row] = False, True
        return row

    @property
    def given_up(self) -> int:
        """How many need not be tried, as far as is known."""
        return int((self.waiting & self.lost).sum())

    def _some(self, rows: Ints, count: int) -> Ints:
        """So many of `rows`, in their order."""
        return rows if len(rows) <= count else np.sort(self._draw.choice(rows, count, replace=False))

    def _settles(self, some: Ints, others: Ints, envelope: Envelope) -> Floats:
        """How much each of `some` is expected to settle of `others`."""
        heard = envelope.poorer(others, np.flatnonzero(self.away)).any(axis=1)  # what is under way will bound them
        weight = envelope.unknown()[others] * np.where(envelope.bounded(others), AGAIN, 1.0) * ~heard
        shrunk = self.most[others] - self.margin * np.abs(self.most[others])
        ends = envelope.bounded(some) & (self.most[some] >= shrunk[:, None]).all(axis=2)
        settles: Floats = weight @ envelope.poorer(others, some) + ENDED * ends.sum(axis=0)
        return settles

    def tells(self, row: int) -> bool:
        """Whether points that may still be tried are poorer than this one, so that all of it is worth knowing."""
        if self.envelope is None:
            return False
        others = np.flatnonzero(self.waiting & ~self.lost)
        return bool(self.envelope.poorer(others, np.array([row])).any())

    def why_not(self, row: int) -> str | None:
        """The reason for which a point need not be tried, None where it must."""
        place = dominator(self.most[row], self.best, self.margin)
        if place is None:
            return None
        sources = [] if self.envelope is None else self.envelope.sources(row)
        if not sources:
            return f"even its bound is dominated by #{self.names[place]}"
        richer = ", ".join(f"#{name}" for name in sources)
        return f"#{self.names[place]} is as good within the margin: {richer} reached no more, with no less of anything"

    @property
    def losses(self) -> Mapping[str, Mapping[str, float]]:
        """By resource and objective, the share that more of the one cost of the other."""
        return {} if self.envelope is None else self.envelope.losses([o.key for o in self.sweep.objectives])


def _envelope(sweep: Sweep, points: Sequence[Point], most: Floats) -> Envelope | None:
    """What simulated points can show of others; None where that decides nothing."""
    follows = np.array([objective.bounded and objective.metric.name in OF_TIME for objective in sweep.objectives])
    if sweep.spec.fidelity == "roofline" or not follows.any() or not np.isfinite(most).any(axis=0).all():
        return None
    envelope = Envelope(points, most, follows)
    return envelope if envelope.resources else None


def why_give_up(
    sweep: Sweep, metrics: Mapping[str, float], pending: Sequence[str], rivals: Rivals, margin: float
) -> tuple[str, str] | None:
    """The status and the reason of a point that needs no more of its workloads simulated; None where it does.

    metrics: the best possible ones where the workload is `pending`.
    """
    broken = [limit.text for limit in sweep.constraints if limit.lost(metrics, sweep.labels, pending)]
    if broken:
        return INFEASIBLE, "; ".join(broken)
    names, best = rivals
    values = np.array([objective.reach(metrics, pending) for objective in sweep.objectives])
    open_yet = np.array([objective.waits_for(pending) for objective in sweep.objectives])
    place = dominator(values, np.array(best).reshape(-1, len(sweep.objectives)), margin * open_yet)
    if place is None:
        return None
    if len(pending) == len(sweep.labels):
        return PRUNED, f"even its bound is dominated by #{names[place]}"
    return PRUNED, f"dominated by #{names[place]} whatever {', '.join(pending)} yields"
