"""The voltage that a clock needs, and how power follows it."""

from __future__ import annotations

from numpy import interp

from archsim.hardware import TechnologySpec

__all__ = ["dynamic_scale", "leakage_scale", "nominal_clock", "voltage"]

LEAKAGE_EXPONENT = 3.0
"""Leakage power over voltage near nominal: current grows about with its square (drain-induced barrier lowering)."""


def voltage(node: TechnologySpec, clock_hz: float) -> float:
    """Volts that `clock_hz` needs: linear between the points of the node's curve, its lowest voltage below them.

    Beyond the last point the last segment goes on.

    >>> from archsim.hardware import load_technology
    >>> n7 = load_technology("n7")
    >>> round(voltage(n7, 1.4e9), 3), voltage(n7, 0.1e9)
    (0.78, 0.65)
    """
    points = node.curve
    if clock_hz <= points[0].clock:
        return points[0].volt
    above = next((i for i, point in enumerate(points) if point.clock >= clock_hz), len(points) - 1)
    low, high = points[above - 1], points[above]
    return low.volt + (high.volt - low.volt) * (clock_hz - low.clock) / (high.clock - low.clock)


def nominal_clock(node: TechnologySpec) -> float:
    """The clock in Hz that the nominal voltage of a node allows.

    >>> from archsim.hardware import load_technology
    >>> n7 = load_technology("n7")
    >>> round(voltage(n7, nominal_clock(n7)), 6) == n7.nominal_volt
    True
    """
    return float(interp(node.nominal_volt, [point.volt for point in node.curve], [point.clock for point in node.curve]))


def dynamic_scale(node: TechnologySpec, clock_hz: float) -> float:
    """Energy of a switching event at the voltage of `clock_hz` over that in the table: (V / V_nominal)^2."""
    return (voltage(node, clock_hz) / node.nominal_volt) ** 2


def leakage_scale(node: TechnologySpec, clock_hz: float) -> float:
    """Leakage power at the voltage of `clock_hz` over that in the table: (V / V_nominal)^3."""
    return float((voltage(node, clock_hz) / node.nominal_volt) ** LEAKAGE_EXPONENT)
