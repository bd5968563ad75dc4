"""Figures that export rules speak of, and the rules that they meet: an engineering estimate, not legal advice.

Equation::

    TPP     = max over dtypes of  TOPS x bit length,   TOPS = 2 x MACs / cycle x clock / 10^12, dense
    density = TPP / applicable die area

======== ================================================================================ ==========
symbol   meaning                                                                          unit
======== ================================================================================ ==========
TPP      total processing performance                                                     1
area     of all dies made with transistors that are not planar (16 nm class or finer)     mm2
links    line rate of the scale-up fabric, both directions together                       GB/s
======== ================================================================================ ==========

TOPS are the quoted dense peaks where the chip quotes them. A stated die area counts before a modelled one.
Not modelled: what a chip is designed or marketed for, aggregation over packages, exceptions and licences.
Reference: 15 CFR part 774, supplement 1, ECCN 3A090, technical notes.
"""

from __future__ import annotations

from dataclasses import dataclass

from archsim.hardware import ChipSpec
from archsim.hardware.rules import ExportRule, ExportRules, ExportTest
from archsim.physical.area import chip_area
from archsim.physical.money import die_mm2
from archsim.physical.silicon import Silicon, silicon

__all__ = ["DISCLAIMER", "ExportFigures", "export_figures", "total_processing_performance"]

DISCLAIMER = "engineering estimate, not legal advice"


@dataclass(frozen=True)
class ExportFigures:
    """What the rules look at, and the names of those that a chip meets."""

    tpp: float
    tpp_dtype: str
    density: float
    die_mm2: float
    links_gbyte_s: float
    memory_gbyte_s: float
    met: tuple[ExportRule, ...]


def total_processing_performance(chip: ChipSpec, rules: ExportRules) -> tuple[float, str]:
    """TPP and the type that sets it.

    >>> from archsim.hardware import load_chip, load_rules
    >>> round(total_processing_performance(load_chip("a100"), load_rules())[0])
    4992
    """
    rates = {dtype: chip.peak.get(dtype, chip.flops(dtype)) for dtype in chip.dtypes if dtype in rules.dtype_bits}
    scores = {dtype: rate * 1e-12 * rules.dtype_bits[dtype] for dtype, rate in rates.items()}
    best = max(scores, key=lambda dtype: scores[dtype])
    return scores[best], best


def export_figures(chip: ChipSpec, rules: ExportRules, made: Silicon | None = None) -> ExportFigures:
    """The figures of a chip and the rules that speak of it."""
    made = made or silicon(chip)
    area = chip_area(made)
    mm2 = sum(die * kind.count for (die, _), kind in zip(die_mm2(made, area), area.dies, strict=True))
    tpp, dtype = total_processing_performance(chip, rules)
    links = 2 * chip.scale_up.bandwidth * 1e-9 if chip.scale_up else 0.0
    memory = chip.memory.bandwidth * 1e-9
    found = {
        "tpp": tpp, "density": tpp / mm2, "links_gbyte_s": links, "memory_gbyte_s": memory,
        "memory_and_links_gbyte_s": memory + links,
    }  # fmt: skip
    met = tuple(rule for rule in rules.rules if any(_passes(test, found) for test in rule.tests))
    return ExportFigures(tpp, dtype, tpp / mm2, mm2, links, memory, met)


def _passes(test: ExportTest, found: dict[str, float]) -> bool:
    for name, limit in test.model_dump(exclude_none=True).items():
        figure = found[name.removesuffix("_below")]
        if figure >= limit if name.endswith("_below") else figure < limit:
            return False
    return True
