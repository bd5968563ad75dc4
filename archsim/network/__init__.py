"""The fabric of a system and the collectives on it, as messages over links.

>>> from archsim.hardware import load_chip, load_system
>>> fabric = Fabric.of(load_system("hgx-h100"), load_chip("h100"))
>>> run = run_collective(fabric, Collective("all_reduce", 2**28, Group(8)))
>>> 900e-6 < run.time_ps * 1e-12 < 1300e-6
True
"""

from __future__ import annotations

from archsim.network.algorithms import build
from archsim.network.fabric import Dim, Fabric, Part
from archsim.network.lowering import foldable, lower_schedule
from archsim.network.request import ALGORITHMS, KINDS, Collective, Group
from archsim.network.run import CollectiveRun, bus_factor, occupied_cores, run_collective, schedule_of
from archsim.network.schedule import Move, Schedule
from archsim.network.session import FabricSession
from archsim.network.tuner import candidates

__all__ = [
    "ALGORITHMS", "KINDS", "Collective", "CollectiveRun", "Dim", "Fabric", "FabricSession", "Group", "Move", "Part",
    "Schedule", "build", "bus_factor", "candidates", "foldable", "lower_schedule", "occupied_cores",
    "run_collective", "schedule_of",
]  # fmt: skip
