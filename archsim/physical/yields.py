"""Dies on a wafer, and how many of them are good.

======== ==================================================== =============================
model    yield of a die with A D defects on average           idea
======== ==================================================== =============================
poisson  exp(-A D)                                            defects fall independently
murphy   ((1 - exp(-A D)) / (A D))^2                          triangular spread of D
seeds    1 / (1 + A D)                                        exponential spread of D
negative (1 + A D / alpha)^-alpha                             gamma spread: defects cluster
======== ==================================================== =============================

A is the area in cm2, D the defects per cm2. Dies on a wafer of radius r: pi r^2 / A - 2 pi r / sqrt(2 A), the second
term being those that the edge cuts.

Redundancy: a die with n equal cores of which k must work is good if all else is, and at least k cores are::

    Y = Y(rest) sum over i = k..n of C(n, i) y^i (1 - y)^(n - i),     y = Y(one core)

Assumptions: cores fail independently of each other; defects in SRAM are repaired by its spare rows.
References: Cunningham, "The use and evaluation of yield models in integrated circuit manufacturing", 1990; de Vries,
"Investigation of gross die per wafer formulas", 2005.
"""

from __future__ import annotations

from collections.abc import Callable
from math import comb, exp, pi, sqrt

__all__ = ["YIELD_MODELS", "dies_per_wafer", "redundant_yield"]

WAFER_MM = 300.0


def dies_per_wafer(mm2: float, wafer_mm: float = WAFER_MM) -> float:
    """Whole dies of `mm2` on a round wafer, on average; 0 where not one fits.

    >>> round(dies_per_wafer(814), 1)
    63.5
    """
    radius = wafer_mm / 2
    return max(pi * radius**2 / mm2 - 2 * pi * radius / sqrt(2 * mm2), 0.0)


def _murphy(defects: float, alpha: float) -> float:
    return ((1 - exp(-defects)) / defects) ** 2 if defects > 0 else 1.0


YIELD_MODELS: dict[str, Callable[[float, float], float]] = {
    "poisson": lambda defects, alpha: exp(-defects),
    "murphy": _murphy,
    "seeds": lambda defects, alpha: 1 / (1 + defects),
    "negative": lambda defects, alpha: float((1 + defects / alpha) ** -alpha),
}
"""Yield as a function of the mean number of defects of a die, and of alpha (used by the last one).

>>> [round(model(0.814, 3) * 100, 1) for model in YIELD_MODELS.values()]
[44.3, 46.8, 55.1, 48.7]
"""


def redundant_yield(rest: float, core: float, cores: int, needed: int) -> float:
    """Yield of a die of which `needed` of `cores` equal cores must work, and all else.

    >>> redundant_yield(0.9, 0.5, 2, 2), redundant_yield(0.9, 0.5, 2, 1)
    (0.225, 0.675)
    """
    enough = sum(comb(cores, i) * core**i * (1 - core) ** (cores - i) for i in range(needed, cores + 1))
    return rest * enough
