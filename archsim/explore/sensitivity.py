"""Which parameter matters: first-order indices from the points at hand, and the swing of each around one point.

The first-order index of a parameter is the share of a metric's variance that knowing this parameter alone explains::

    S_i = Var(E[m | x_i]) / Var(m)

estimated from the means of the points that share a value of x_i (Saltelli et al., *Global Sensitivity Analysis*, 2008,
section 1.2.3). It needs points that spread evenly (a full grid, a Latin hypercube); with few points a value each, it is
too high, since a mean of few varies by itself; that share of the variance, ``(groups - 1) / (points - 1)``, is taken
off.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from archsim.errors import InputError
from archsim.explore.axis import Value
from archsim.explore.space import saltelli
from archsim.explore.store import Record
from archsim.explore.sweep import Sweep

__all__ = ["Index", "Swing", "first_order", "sobol", "tornado"]


def first_order(records: Sequence[Record], metric: str, free: Sequence[str]) -> dict[str, float]:
    """The index of each `free` parameter, the largest first; empty where the metric never changes."""
    values = np.array([record.metrics[metric] for record in records])
    variance = float(values.var()) if len(values) > 1 else 0.0
    if variance == 0.0:
        return {}
    found = {}
    for path in free:
        groups: dict[Value, list[float]] = defaultdict(list)
        for record, value in zip(records, values.tolist(), strict=True):
            groups[record.params[path]].append(value)
        sizes = np.array([len(group) for group in groups.values()])
        means = np.array([np.mean(group) for group in groups.values()])
        explained = float(np.average((means - values.mean()) ** 2, weights=sizes)) / variance
        chance = (len(groups) - 1) / (len(values) - 1)
        found[path] = max((explained - chance) / (1 - chance), 0.0) if chance < 1 else 0.0
    return dict(sorted(found.items(), key=lambda item: -item[1]))


@dataclass(frozen=True)
class Index:
    """Sobol' indices of a parameter: the share of the variance that it explains alone, and with its interactions.

    The errors are half the width of a 95 % confidence interval.
    """

    first: float
    first_error: float
    total: float
    total_error: float


def sobol(sweep: Sweep, records: Sequence[Record], metric: str) -> dict[str, Index]:
    """Sobol' indices of each axis by SALib, largest total first, from a sweep whose sampler is ``saltelli``.

    Reference: A. Saltelli et al., Variance based sensitivity analysis of model output, Comput. Phys. Commun. 181, 2010.
    """
    from SALib.analyze import sobol as analysis

    sampler = sweep.spec.sampler
    if sampler.kind != "saltelli" or sampler.points is None:
        raise InputError("Sobol' indices need the points of the sampler 'saltelli'")
    values = {record.number: record.metrics[metric] for record in records if metric in record.metrics}
    numbers = saltelli(sweep.space, sampler.points, sampler.seed)
    missing = len({number for number in numbers if number not in values})
    if missing:
        raise InputError(
            f"Sobol' indices need every point of the sample, and {missing} of them have no {metric}: "
            "run the sweep to its end, with --no-prune and without constraints"
        )
    names = list(sweep.free)
    problem = {"num_vars": len(names), "names": names}
    outcome = analysis.analyze(
        problem, np.array([values[number] for number in numbers]), calc_second_order=False, seed=sampler.seed
    )
    rows = zip(*(outcome[key].tolist() for key in ("S1", "S1_conf", "ST", "ST_conf")), strict=True)
    found = {path: Index(*row) for path, row in zip(names, rows, strict=True)}
    return dict(sorted(found.items(), key=lambda item: -item[1].total))


@dataclass(frozen=True)
class Swing:
    """How far a metric goes when one parameter alone takes its lowest and its highest neighbour of a point."""

    path: str
    low: tuple[Value, float]
    high: tuple[Value, float]


def tornado(records: Sequence[Record], centre: Record, metric: str, free: Sequence[str]) -> list[Swing]:
    """The swing of each `free` parameter around `centre`, the widest first, from points that differ in it alone."""
    swings = []
    for path in free:
        others = {other: centre.params[other] for other in free if other != path}
        line = [r for r in records if all(r.params.get(p) == v for p, v in others.items())]
        if len(line) > 1:
            ends = sorted(((r.params[path], r.metrics[metric]) for r in line), key=lambda end: end[1])
            swings.append(Swing(path, ends[0], ends[-1]))
    return sorted(swings, key=lambda swing: swing.low[1] - swing.high[1])
