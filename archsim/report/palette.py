"""Colours that every view shares; told apart by colour-blind readers (Okabe and Ito 2008) and on light and dark."""

from __future__ import annotations

__all__ = ["BOUND", "ENERGY", "ENERGY_NAMES", "OTHER", "SERIES"]

OTHER = "#8c8c8c"
BOUND = {
    "compute": "#d55e00",
    "vector": "#e69f00",
    "memory": "#0072b2",
    "noc": "#56b4e9",
    "collective": "#cc79a7",
    "launch": OTHER,
    "latency": "#b3b3b3",
}
"""By what holds an operator back."""

ENERGY = {
    "matrix": "#d55e00",
    "vector": "#e69f00",
    "sram": "#009e73",
    "noc": "#56b4e9",
    "memory": "#0072b2",
    "link": "#cc79a7",
    "static": OTHER,
    "idle": "#b3b3b3",
}
"""By the unit that takes energy."""

ENERGY_NAMES = {"static": "clock and leakage", "sram": "scratchpad and cache", "noc": "network", "idle": "idle gaps"}
"""What a reader calls a unit where it is not its key."""

SERIES = ("#0072b2", "#d55e00", "#009e73", "#e69f00", "#cc79a7", "#56b4e9", "#7a68c4", "#a6761d")
"""For operators in a stacked bar, the longest first."""
