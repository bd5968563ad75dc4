"""Temperature of the junctions from a single thermal resistance and capacity, and what a cooler can remove.

Equation::

    T(t) = T_coolant + (P R / A) (1 - exp(-t / tau)) + (T(0) - T_coolant) exp(-t / tau)

======== =================================================== ==============
symbol   meaning                                             unit
======== =================================================== ==============
P        power, that of the memory apart                     W
R        thermal resistance of one mm2                       K mm2 / W
A        area that gives off heat: the compute dies          mm2
tau      time constant of die, lid and cooler                s
======== =================================================== ==============

Assumptions: heat spreads evenly over the dies, that of I/O dies leaves through the compute dies on them; memory lies
beside them and has a way of its own. Not modelled: hot spots (two to three times the mean), the limit of the
memory stacks, fans that change speed.
"""

from __future__ import annotations

from math import exp

from archsim.hardware.parts import Cooling
from archsim.physical.area import ChipArea
from archsim.physical.money import die_mm2
from archsim.physical.silicon import Silicon

__all__ = ["chip_heat_warning", "heat_warning", "hot_mm2", "junction_celsius"]


def junction_celsius(
    watts: float, mm2: float, cooling: Cooling, seconds: float | None = None, start_celsius: float | None = None
) -> float:
    """Temperature after `seconds` at constant power, starting from `start_celsius` (the coolant); None: settled.

    >>> from archsim.hardware import load_parts
    >>> round(junction_celsius(700, 814, load_parts().cooling["air"]), 1)
    81.6
    """
    rise = watts * cooling.resistance_k_mm2_per_w / mm2
    if seconds is None:
        return cooling.coolant_celsius + rise
    left = exp(-seconds / cooling.time_constant)
    start = cooling.coolant_celsius if start_celsius is None else start_celsius
    return cooling.coolant_celsius + rise * (1 - left) + (start - cooling.coolant_celsius) * left


def hot_mm2(made: Silicon, area: ChipArea) -> float:
    """Area through which a chip gives off its heat: all compute dies, stated or modelled."""
    return die_mm2(made, area)[0][0] * area.compute.count


def chip_heat_warning(made: Silicon, area: ChipArea, watts: float) -> str | None:
    """`heat_warning` of a chip; modelled dies come out small where the description does not have all their units."""
    found = heat_warning(watts, hot_mm2(made, area), made.parts.cooling)
    stated = die_mm2(made, area)[0][1]
    return found if found is None or stated else f"{found} (if its dies are as small as modelled)"


def heat_warning(watts: float, mm2: float, coolers: dict[str, Cooling]) -> str | None:
    """A sentence where the coolers, weakest first, cannot remove `watts` from `mm2`; None where the first one can."""
    density = watts / mm2
    ordered = sorted(coolers.items(), key=lambda item: item[1].limit_w_per_mm2)
    able = next((name for name, cooling in ordered if density <= cooling.limit_w_per_mm2), None)
    weakest, cooling = ordered[0]
    if able == weakest:
        return None
    what = f"{density:.2f} W/mm2 is more than {weakest} cooling removes ({cooling.limit_w_per_mm2:g} W/mm2)"
    if able is None:
        strongest, cooling = ordered[-1]
        return f"{density:.2f} W/mm2 is more than {strongest} cooling removes ({cooling.limit_w_per_mm2:g} W/mm2)"
    return f"{what}: {able} cooling is needed"
