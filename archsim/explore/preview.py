"""What a sweep would be: its size, what its constraints leave, how long it would take. Nothing is recorded."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass

import numpy as np

from archsim.errors import InputError
from archsim.explore.bounds import bound_points
from archsim.explore.evaluate import Evaluator
from archsim.explore.runner import evaluate_point
from archsim.explore.store import FAILED
from archsim.explore.sweep import Sweep

__all__ = ["Preview", "preview"]

#: points whose constraints are looked at before a run, evenly spread where there are more
LOOKED_AT = 20_000


@dataclass(frozen=True)
class Preview:
    """points: of the sample. broken: how many of the `looked_at` break each constraint before any simulation.

    seconds_a_point: measured on the `measured` points; `errors` are those of them that failed, and of values of an
    axis that make no chip.
    """

    space: int
    points: int
    looked_at: int
    broken: dict[str, int]
    measured: int
    seconds_a_point: float
    errors: tuple[str, ...]

    @property
    def feasible_share(self) -> float:
        """The share of points that no bound rules out."""
        return 1 - sum(self.broken.values()) / max(self.looked_at, 1)

    def seconds(self, workers: int) -> float:
        """Expected wall time without pruning by dominance, which is not known before."""
        return self.points * self.feasible_share * self.seconds_a_point / workers


def _bad_values(evaluator: Evaluator) -> list[str]:
    """Why values of an axis make no chip or system, the other axes at their first value."""
    errors, space = [], evaluator.sweep.space
    for index, axis in enumerate(space.axes):
        for choice in range(len(axis)):
            point = space.at([choice if at == index else 0 for at in range(len(space.axes))])
            try:
                evaluator.chip(point)
                evaluator.system(point)
            except InputError as error:
                errors.append(str(error))
    return errors


def preview(sweep: Sweep, *, measured: int = 3) -> Preview:
    """Look at the constraints of all points, and simulate a few evenly spread ones."""
    evaluator, numbers = Evaluator(sweep), sweep.numbers()
    looked = numbers[:: -(-len(numbers) // LOOKED_AT)]
    bounds = bound_points(evaluator, [sweep.space.point(number) for number in looked])
    broken = Counter(text for text in bounds.broken if text)
    feasible = [number for number, text in zip(looked, bounds.broken, strict=True) if not text]
    spread = np.linspace(0, len(feasible) - 1, min(measured, len(feasible))).round().astype(int)
    chosen = [feasible[i] for i in dict.fromkeys(spread.tolist())]
    errors, begin = _bad_values(evaluator), time.perf_counter()
    for number in chosen:
        record = evaluate_point(evaluator, number)
        if record.status == FAILED:
            errors.append(record.why)
    took = time.perf_counter() - begin
    return Preview(
        sweep.space.size, len(numbers), len(looked), dict(broken), len(chosen), took / max(len(chosen), 1),
        tuple(dict.fromkeys(errors)),
    )  # fmt: skip
