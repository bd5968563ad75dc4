"""What a point is judged by: the metrics, their dimensions and which way is better.

A metric of a workload (``decode.tpot``) comes from its simulated step; without the label it is the weighted
geometric mean over the workloads that have it, which does not depend on their scales:
``m = exp(sum(w_i ln m_i) / sum(w_i))``. A metric of the chip (``area``) is one number a point.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from archsim.errors import InputError, did_you_mean

__all__ = ["METRICS", "Metric", "find_metric", "geometric_mean"]


@dataclass(frozen=True)
class Metric:
    """One figure of merit. dimension: of :mod:`archsim.units`, or "" for a plain number. better: "high" or "low".

    of: "step" where each workload has its own value, "chip" where the point has one. bounded: whether its value in the
    least possible time is the best possible one.
    """

    name: str
    title: str
    dimension: str
    unit: str
    better: str
    of: str
    bounded: bool = True


def _table(*rows: Metric) -> dict[str, Metric]:
    return {row.name: row for row in rows}


METRICS = _table(
    Metric("tokens_per_s", "tokens per second, whole system", "", "tokens/s", "high", "step"),
    Metric("tokens_per_s_per_chip", "tokens per second and chip", "", "tokens/s", "high", "step"),
    Metric("tpot", "time per output token (decode)", "time", "s", "low", "step"),
    Metric("ttft", "time to first token (prefill)", "time", "s", "low", "step"),
    Metric("step_time", "time of a step", "time", "s", "low", "step"),
    Metric("flop_per_s", "FLOP/s reached by a chip", "compute rate", "FLOP/s", "high", "step"),
    Metric("intensity", "FLOPs per byte that a chip's memory moved", "", "FLOP/B", "high", "step"),
    Metric("memory_used", "bytes held by a chip", "size", "B", "low", "step"),
    Metric("tokens_per_s_per_mm2", "tokens per second and mm2 of silicon", "", "tokens/s/mm2", "high", "step"),
    Metric("usd_per_mtoken", "cost of a million tokens: chips over their life, and power", "", "USD", "low", "step"),
    Metric("power", "mean power of a chip over the step", "power", "W", "low", "step", bounded=False),
    Metric("joules_per_token", "energy of a token: all chips over all tokens", "", "J", "low", "step"),
    Metric("area", "silicon of a chip, all its dies, from its parts", "area", "mm2", "low", "chip"),
    Metric("die_area", "largest die", "area", "mm2", "low", "chip"),
    Metric("gemm_power", "power of a dense product at the quoted clock", "power", "W", "low", "chip"),
    Metric("parts_usd", "bill of materials of a chip", "", "USD", "low", "chip"),
    Metric("tpp", "total processing performance, TOPS x bits", "", "", "high", "chip"),
    Metric("performance_density", "total processing performance per mm2 of die", "", "", "high", "chip"),
    Metric("memory_bandwidth", "bandwidth of a chip's memory", "bandwidth", "B/s", "high", "chip"),
    Metric("peak_flops", "dense peak in the widest-used type", "compute rate", "FLOP/s", "high", "chip"),
)


def find_metric(name: str, labels: Iterable[str], where: str) -> tuple[str, Metric]:
    """The workload label ("" for all) and the metric of ``LABEL.METRIC`` or ``METRIC``; InputError names the known."""
    labels = list(labels)
    label, dot, metric = name.rpartition(".")
    if metric not in METRICS:
        raise InputError(f"{where}: unknown metric '{metric}'{did_you_mean(metric, METRICS) or _known()}")
    found = METRICS[metric]
    if dot and (found.of != "step" or label not in labels):
        problem = "belongs to the chip, not to a workload" if found.of != "step" else f"there is no workload '{label}'"
        raise InputError(f"{where}: {name}: {problem}{did_you_mean(label, labels)}")
    return label, found


def _known() -> str:
    return f" (known: {', '.join(METRICS)})"


def geometric_mean(values: Mapping[str, float], weights: Mapping[str, float]) -> float:
    """The weighted geometric mean of positive values.

    >>> geometric_mean({"a": 1.0, "b": 8.0}, {"a": 2.0, "b": 1.0})
    2.0
    """
    total = sum(weights[label] for label in values)
    return math.exp(sum(weights[label] * math.log(value) for label, value in values.items()) / total)
