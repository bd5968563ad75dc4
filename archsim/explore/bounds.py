"""What the points of a sweep can reach at best: the roofline of all of them in a few NumPy calls.

Points are grouped by every parameter that shapes the work (plan, fused kernels, what fits into memory). Within a group
chips differ only in rates, so the model is sharded and fused once, and the bound of all points is array arithmetic:
``rate = rate of one of them x product of (value / its value)`` over the parameters that the rate is proportional to.
Where several plans fit, each point takes the lowest bound of any. What is left out (launches, latencies, contention)
only makes a step longer, so no simulated point is ever better than its bound.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from archsim.errors import InputError
from archsim.explore.axis import number_of
from archsim.explore.evaluate import Evaluator, Metrics, split, workload_arguments
from archsim.explore.space import Point
from archsim.mapping import Rates, bound_kernels
from archsim.simulation import Job, candidates, options_of

__all__ = ["OF_TIME", "Bounds", "bound_points"]

Floats = NDArray[np.float64]

_MATRIX = ("cores", "clock", "core.matrix.rows", "core.matrix.cols", "core.matrix.count")
_VECTOR = ("cores", "clock")
_TYPES = ("core.matrix.dtypes.", "core.matrix.macs_per_cycle.")
_RATES = {*_MATRIX, "core.vector.lanes", "core.vector.special_lanes", "memory.bandwidth"}
#: what no term of the bound contains
_IRRELEVANT = (
    "noc.", "core.scratchpad.", "core.accumulator.", "core.port.", "launch.latency", "cache.", "memory.latency",
    "memory.stacks", "clock_under_load", "physical.",
)  # fmt: skip
#: points whose arrays are worked on together, so that they stay in the processor's cache
AT_ONCE = 4096
#: metrics of a step that follow from its time, and the power of the time
OF_TIME = {"tokens_per_s": -1, "tokens_per_s_per_chip": -1, "flop_per_s": -1, "step_time": 1, "tpot": 1, "ttft": 1}


@dataclass(frozen=True, eq=False)
class Bounds:
    """The best that each point can be. objectives: points x objectives, all to be made large; inf where unknown.

    broken: the constraint that not even the bound keeps, "" where there is none. score: which points to try first.
    """

    objectives: Floats
    broken: tuple[str, ...]
    score: Floats


def bound_points(evaluator: Evaluator, points: Sequence[Point]) -> Bounds:
    """Bounds of all `points`; one whose chip contradicts itself, or that fits nowhere, is left unbounded."""
    sweep = evaluator.sweep
    groups: dict[tuple[tuple[str, object], ...], list[int]] = {}
    for index, point in enumerate(points):
        shape = tuple((path, value) for path, value in point.items() if not _is_rate(path))
        groups.setdefault(shape, []).append(index)
    columns: dict[str, Floats] = {}
    for group in groups.values():
        for start in range(0, len(group), AT_ONCE):
            members = group[start : start + AT_ONCE]
            for key, values in _bound_group(evaluator, [points[i] for i in members]).items():
                columns.setdefault(key, np.full(len(points), np.nan))[members] = values
    for index, metrics in enumerate(_chip_metrics(evaluator, points)):
        for key, value in metrics.items():
            columns.setdefault(key, np.full(len(points), np.nan))[index] = value
    objectives = np.full((len(points), len(sweep.objectives)), np.inf)
    for column, objective in enumerate(sweep.objectives):
        if objective.key in columns and (objective.bounded or objective.metric.of == "chip"):
            values = objective.sign * columns[objective.key]
            objectives[:, column] = np.where(np.isnan(values), np.inf, values)
    return Bounds(objectives, _broken(evaluator, columns, len(points)), _score(objectives, columns))


def _chip_metrics(evaluator: Evaluator, points: Sequence[Point]) -> list[Metrics]:
    """The metrics that need no simulation, where an objective or a constraint asks for one; exact, so also a bound."""
    sweep = evaluator.sweep
    metrics = [*(limit.metric for limit in sweep.constraints), *(goal.metric for goal in sweep.objectives)]
    wanted = {metric.name for metric in metrics if metric.of == "chip"}
    if not wanted:
        return []
    found = []
    for point in points:
        try:
            found.append(evaluator.chip_metrics(evaluator.chip(point), wanted))
        except InputError:  # the point itself will say so
            found.append({})
    return found


def _is_rate(path: str) -> bool:
    return path in _RATES or path.startswith(_TYPES) or path.startswith(_IRRELEVANT)


def _bound_group(evaluator: Evaluator, points: Sequence[Point]) -> dict[str, Floats]:
    """Metric columns of points whose work is the same; empty where it cannot be prepared."""
    sweep, first = evaluator.sweep, points[0]
    columns: dict[str, Floats] = {}
    try:
        chip, system = evaluator.chip(first), evaluator.system(first)
        scales = _Scales(points)
        for label, workload in sweep.workloads:
            options = options_of(**workload_arguments(workload, split(first)[2]))
            jobs = candidates(chip, evaluator.traces[label], options, system)
            times = np.min([_step_time(job, scales.rates(job)) for job in jobs], axis=0)
            for name, power in OF_TIME.items():
                base = _base(name, jobs[0])
                if base is not None:
                    columns[f"{label}.{name}"] = base * times**power
    except InputError:
        return {}
    for name in OF_TIME:
        values = {label: columns[key] for label in sweep.labels if (key := f"{label}.{name}") in columns}
        if values:
            total = sum(sweep.weights[label] for label in values)
            logs = sum(sweep.weights[label] * np.log(column) for label, column in values.items())
            columns[name] = np.exp(logs / total)
    return columns


def _base(name: str, job: Job) -> float | None:
    """The metric of a step of one second; None where the phase has no such metric."""
    if name in ("tpot", "ttft"):
        return 1.0 if (name == "tpot") == (job.options.phase == "decode") else None
    if name == "flop_per_s":
        return float(sum(kernel.flops * block.repeat for block in job.blocks for kernel in block.kernels))
    return {"tokens_per_s": job.tokens, "tokens_per_s_per_chip": job.tokens / job.plan.chips}.get(name, 1.0)


def _step_time(job: Job, rates: Rates) -> Floats:
    """Seconds of the longer stream, a row per point: the time of the ``roofline`` fidelity."""
    compute, communication = np.zeros(1), np.zeros(1)
    for block in job.blocks:
        apart = np.array([block.communicates(kernel) for kernel in block.kernels])
        seconds = bound_kernels(block.kernels, job.target, rates).seconds
        compute = compute + seconds[:, ~apart].sum(axis=1) * block.repeat
        communication = communication + seconds[:, apart].sum(axis=1) * block.repeat
    return np.maximum(compute, communication)


class _Scales:
    """Rates of many chips, as multiples of those of one."""

    def __init__(self, points: Sequence[Point]) -> None:
        self.points = points
        self._columns: dict[str, Floats] = {}

    def rates(self, job: Job) -> Rates:
        """Arrays of shape (points, 1)."""
        one = Rates.of(job.target)
        matrix, vector = self.product(_MATRIX), self.product(_VECTOR)
        flops = {}
        for dtype, rate in one.flops.items():
            own = self.product(tuple(prefix + dtype for prefix in _TYPES))
            flops[dtype] = rate * matrix * own
        return Rates(
            flops,
            one.simple * vector * self.product(("core.vector.lanes",)),
            one.special * vector * self.product(("core.vector.special_lanes",)),
            one.memory * self.product(("memory.bandwidth",)),
            one.startup,
        )

    def product(self, paths: Sequence[str]) -> Floats:
        scale = np.ones((len(self.points), 1))
        for path in paths:
            if path in self.points[0]:
                if path not in self._columns:
                    values = np.array([number_of(point[path]) for point in self.points], dtype=np.float64)[:, None]
                    values[values <= 0] = np.nan  # no such chip: no bound, so that the point itself says so
                    self._columns[path] = values / values[0]
                scale = scale * self._columns[path]
        return scale


def _broken(evaluator: Evaluator, columns: Mapping[str, Floats], count: int) -> tuple[str, ...]:
    """The constraints that the bound of each point breaks, where the bound is on the safe side of them."""
    sweep = evaluator.sweep
    broken = [""] * count
    for limit in sweep.constraints:
        if limit.metric.of != "chip" and not limit.safe:
            continue
        values = [columns[key] for key in limit.keys(sweep.labels) if key in columns]
        fails = np.logical_or.reduce([~(limit.holds(each) | np.isnan(each)) for each in values]) if values else []
        for row in np.flatnonzero(fails):
            broken[row] = f"{broken[row]}; {limit.text}" if broken[row] else limit.text
    return tuple(broken)


def _score(objectives: Floats, columns: Mapping[str, Floats]) -> Floats:
    """The mean over objectives of each point's rank, so that the most promising come first.

    What has no bound, energy and money, goes by the tokens per second.
    """
    speed = np.nan_to_num(columns.get("tokens_per_s", np.zeros(len(objectives))))[:, None]
    known = np.where(np.isfinite(objectives), objectives, speed)
    ranks = np.argsort(np.argsort(known, axis=0, kind="stable"), axis=0, kind="stable")
    score: Floats = ranks.mean(axis=1)
    return score
