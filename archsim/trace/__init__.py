"""Operator traces: what a model does, in symbols, and what it costs at one point.

>>> graph = load_workload("deepseek-v3", "decode").at(batch=64, ctx=4096)
>>> round(graph.n_params / 1e9, 2)
671.03
"""

from archsim.trace.exporter import capture
from archsim.trace.graph import Block, Graph, Op, Tensor
from archsim.trace.hdf5 import load_trace
from archsim.trace.mtp import with_mtp
from archsim.trace.prune import pruned
from archsim.trace.quantise import QUANTS, quantised
from archsim.trace.routing import routed
from archsim.trace.shared import with_routed_shared
from archsim.trace.trace import BlockSpec, OpSpec, TensorSpec, Trace
from archsim.trace.workloads import list_workloads, load_workload

__all__ = [
    "QUANTS",
    "Block",
    "BlockSpec",
    "Graph",
    "Op",
    "OpSpec",
    "Tensor",
    "TensorSpec",
    "Trace",
    "capture",
    "list_workloads",
    "load_trace",
    "load_workload",
    "pruned",
    "quantised",
    "routed",
    "with_mtp",
    "with_routed_shared",
]
