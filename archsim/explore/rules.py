"""Constraints (``tpot <= 50 ms``) and objectives (``maximize tokens_per_s``) of a sweep, read from their text."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Collection, Container, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from archsim.errors import InputError
from archsim.explore.metrics import Metric, find_metric
from archsim.units import UnitError, parse

__all__ = ["Constraint", "Objective", "parse_constraint", "parse_objective"]

_CONSTRAINT = re.compile(r"\s*([\w.\-]+)\s*(<=|>=|<|>)\s*(\S.*?)\s*")
_COMPARE = {"<=": operator.le, ">=": operator.ge, "<": operator.lt, ">": operator.gt}
_OBJECTIVE = re.compile(r"\s*(maximi[sz]e|minimi[sz]e)\s+([\w.\-]+)\s*")


@dataclass(frozen=True)
class Constraint:
    """A limit that a point must keep; without a label each workload must keep it."""

    text: str
    label: str
    metric: Metric
    comparison: str
    limit: float

    def broken_by(self, metrics: Mapping[str, float], labels: Iterable[str]) -> bool:
        """True where a value that is known breaks the limit; a metric that a point lacks breaks nothing."""
        return any(not self.holds(metrics[key]) for key in self.keys(labels) if key in metrics)

    def keys(self, labels: Iterable[str]) -> list[str]:
        """The metrics that the limit is on."""
        if self.metric.of == "chip":
            return [self.metric.name]
        return [f"{label}.{self.metric.name}" for label in labels if self.label in ("", label)]

    @property
    def safe(self) -> bool:
        """Whether a value in the least possible time that breaks the limit shows that every value does."""
        return self.metric.bounded and self.comparison in (("<=", "<") if self.metric.better == "low" else (">=", ">"))

    def lost(self, metrics: Mapping[str, float], labels: Iterable[str], pending: Container[str]) -> bool:
        """Whether the limit is broken for good where the metrics of the workloads `pending` are the best possible."""
        return self.broken_by(metrics, [label for label in labels if self.safe or label not in pending])

    def holds(self, value: Any) -> Any:
        """Whether a value keeps the limit; an array for an array."""
        return _COMPARE[self.comparison](value, self.limit)


@dataclass(frozen=True)
class Objective:
    """What to make large or small; `sign` is +1 or -1, so that ``sign * value`` is always to be made large."""

    text: str
    label: str
    metric: Metric
    sign: int

    @property
    def key(self) -> str:
        """The key of its value among a point's metrics."""
        return f"{self.label}.{self.metric.name}" if self.label else self.metric.name

    @property
    def bounded(self) -> bool:
        """Whether the least time of a step gives the best value that it can have."""
        return self.metric.bounded and (self.sign > 0) == (self.metric.better == "high")

    def waits_for(self, pending: Collection[str]) -> bool:
        """Whether its value is not known before the workloads `pending` are simulated."""
        return self.metric.of == "step" and (self.label in pending if self.label else len(pending) > 0)

    def reach(self, metrics: Mapping[str, float], pending: Collection[str]) -> float:
        """The best value that it can have, to be made large, where the metrics of `pending` are the best possible."""
        if self.key not in metrics or (self.waits_for(pending) and not self.bounded):
            return math.inf
        return self.sign * metrics[self.key]


def parse_constraint(text: str, labels: Iterable[str], where: str) -> Constraint:
    """Read ``METRIC <= VALUE`` with the unit of the metric.

    >>> parse_constraint("tpot <= 50 ms", [], "").limit
    0.05
    """
    match = _CONSTRAINT.fullmatch(str(text))
    if match is None:
        raise InputError(f"{where}: '{text!s:.60}' is no constraint such as 'tpot <= 50 ms'")
    name, comparison, value = match.groups()
    label, metric = find_metric(name, labels, where)
    try:
        limit = parse(value, metric.dimension) if metric.dimension else float(value)
    except UnitError as error:
        raise InputError(f"{where}: {error}") from None
    except ValueError:
        raise InputError(f"{where}: '{value}' is no number, as the metric {metric.name} needs") from None
    return Constraint(str(text), label, metric, comparison, limit)


def parse_objective(text: str, labels: Iterable[str], where: str) -> Objective:
    """Read ``maximize METRIC``, ``minimize METRIC`` or just ``METRIC``, which goes the way that is better.

    >>> parse_objective("tokens_per_s", [], "").sign, parse_objective("minimize tpot", [], "").sign
    (1, -1)
    """
    match = _OBJECTIVE.fullmatch(str(text))
    label, metric = find_metric(match[2] if match else str(text).strip(), labels, where)
    high = match[1].startswith("max") if match else metric.better == "high"
    return Objective(str(text), label, metric, 1 if high else -1)
