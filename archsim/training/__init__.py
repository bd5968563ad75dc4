"""Training steps: plans over tensor, context, pipeline, data and expert parallelism, simulated on a whole system.

graph of a micro-batch --shard, fuse, run on one chip--> times of the passes of each block
    --partition into stages, schedule of micro-batches--> SimPy ranks and links --> a step
"""

from __future__ import annotations

from archsim.training.costs import Software
from archsim.training.plan import RECOMPUTE, SCHEDULES, TrainPlan
from archsim.training.result import TrainStep
from archsim.training.step import simulate_training

__all__ = ["RECOMPUTE", "SCHEDULES", "Software", "TrainPlan", "TrainStep", "simulate_training"]
