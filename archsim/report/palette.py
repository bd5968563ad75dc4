"""Colours that every view shares; told apart by colour-blind readers (Okabe and Ito 2008) and on light and dark."""

from __future__ import annotations

__all__ = ["BOUND", "OTHER", "SERIES"]

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

SERIES = ("#0072b2", "#d55e00", "#009e73", "#e69f00", "#cc79a7", "#56b4e9", "#7a68c4", "#a6761d")
"""For operators in a stacked bar, the longest first."""
