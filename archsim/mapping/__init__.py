"""Mapping: who does what, in which tiles, in which order.

graph --shard--> tasks of one chip --fuse--> kernels --tile, lower--> Programs, at addresses given by the layout
"""

from archsim.mapping.footprint import Footprint, footprint, require_fit, usable
from archsim.mapping.fuse import COLLECTIVES, Fusion, Kernel, KernelBlock, fuse, savings
from archsim.mapping.layout import Layout, lay_out
from archsim.mapping.lowering import Lowered, lower
from archsim.mapping.machine import make_target
from archsim.mapping.pin import FUSION, LAYOUT, Pins, pin_kernels, read_pins
from archsim.mapping.plan import Plan, candidate_plans, make_plan
from archsim.mapping.roofline import Bounds, Rates, bound_kernels
from archsim.mapping.search import candidates, choose_tiling
from archsim.mapping.shard import Fabric, Handover, shard
from archsim.mapping.shard_context import shard_step
from archsim.mapping.shard_training import shard_training
from archsim.mapping.storage import Storage, checked
from archsim.mapping.target import Target, require_sparsity
from archsim.mapping.tiling import MatmulShape, Tiling, score_tilings

__all__ = [
    "COLLECTIVES",
    "FUSION",
    "LAYOUT",
    "Bounds",
    "Fabric",
    "Footprint",
    "Fusion",
    "Handover",
    "Kernel",
    "KernelBlock",
    "Layout",
    "Lowered",
    "MatmulShape",
    "Pins",
    "Plan",
    "Rates",
    "Storage",
    "Target",
    "Tiling",
    "bound_kernels",
    "candidate_plans",
    "candidates",
    "checked",
    "choose_tiling",
    "footprint",
    "fuse",
    "lay_out",
    "lower",
    "make_plan",
    "make_target",
    "pin_kernels",
    "read_pins",
    "require_fit",
    "require_sparsity",
    "savings",
    "score_tilings",
    "shard",
    "shard_step",
    "shard_training",
    "usable",
]
