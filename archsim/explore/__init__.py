"""Exploring a space of designs: sweep files, samplers, pruning by bounds, stores that survive kills, Pareto fronts.

    sweep = load_sweep("npu-serving")
    run_sweep(sweep, Store("out"), executors.local(2), in_flight=4)
    open_sweep("out").to_frame()
"""

from __future__ import annotations

from archsim.explore import executors
from archsim.explore.metrics import METRICS, Metric
from archsim.explore.pareto import front
from archsim.explore.runner import Outcome, run_sweep
from archsim.explore.space import SAMPLERS, Space
from archsim.explore.store import Record, Store
from archsim.explore.sweep import Sweep, list_sweeps, load_sweep
from archsim.explore.view import SweepView, open_sweep

__all__ = [
    "METRICS",
    "SAMPLERS",
    "Metric",
    "Outcome",
    "Record",
    "Space",
    "Store",
    "Sweep",
    "SweepView",
    "executors",
    "front",
    "list_sweeps",
    "load_sweep",
    "open_sweep",
    "run_sweep",
]
