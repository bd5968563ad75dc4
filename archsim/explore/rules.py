"""Constraints (``tpot <= 50 ms``) and objectives (``maximize tokens_per_s``) of a sweep, read from their text."""

from __future__ import annotations

import operator
import re
from collections.abc import Iterable, Mapping
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
        return [f"{label}.{self.metric.name}" for label in ([self.label] if self.label else labels)]

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
