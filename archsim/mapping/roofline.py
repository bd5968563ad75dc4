"""The roofline fidelity: a true lower bound on time, in closed form over whole arrays of kernels.

For every kernel ``t = start-up + max(matrix FLOPs / peak, vector operations / lanes, cold bytes / memory bandwidth)``.
*Cold* bytes are those that no cache can hold yet: weights, which each step reads once, and the keys and values
of earlier steps; without a shared cache, everything. Launch gaps, tile shapes, latencies and contention are
left out, so the bound holds for any mapping. Streams may overlap: the step takes at least as long as the longer
of its streams.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from archsim.mapping.fuse import Kernel
from archsim.mapping.lowering import converted, vector_work
from archsim.mapping.target import Target
from archsim.mapping.task import Task
from archsim.models.vector import COSTS, VectorCost
from archsim.trace.costs import attention_keys, attention_pairs

__all__ = ["Bounds", "Rates", "bound_kernels"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Rates:
    """What the bound needs of a chip, per second: numbers, or arrays of shape (points, 1) for many chips at once.

    flops: by the type that the matrix units compute in. simple, special: operations of all vector lanes. memory: bytes.
    startup: seconds of every kernel.
    """

    flops: Mapping[str, Floats]
    simple: Floats
    special: Floats
    memory: Floats
    startup: Floats

    @staticmethod
    def of(target: Target) -> Rates:
        """The rates of one chip."""
        unit, cycles = target.chip.core.vector, target.cores * target.clock
        flops: dict[str, Floats] = {dtype: np.asarray(target.chip.flops(dtype)) for dtype in target.chip.dtypes}
        simple, special = np.asarray(unit.lanes * cycles), np.asarray(unit.special_lanes * cycles)
        memory, startup = np.asarray(target.dram_bytes_per_s), np.asarray(target.chip.launch.startup)
        return Rates(flops, simple, special, memory, startup)


@dataclass(frozen=True, eq=False)
class Bounds:
    """Seconds of each kernel on each resource; a column per kernel, and a row per design point where there are many."""

    matrix: Floats
    vector: Floats
    memory: Floats
    fabric: Floats
    startup: Floats

    @property
    def seconds(self) -> Floats:
        """The lower bound of each kernel."""
        longest: Floats = np.max([self.matrix, self.vector, self.memory, self.fabric], axis=0)
        return self.startup + longest


def bound_kernels(kernels: Sequence[Kernel], target: Target, rates: Rates | None = None) -> Bounds:
    """Lower bounds of ``kernels`` on ``target``, or on chips like it that differ in their ``rates`` only."""
    rates = rates or Rates.of(target)
    memory = np.array(_cold_bytes(kernels, cached=target.cache_bytes > 0), dtype=np.float64) / rates.memory
    fabric = np.array([sum(task.seconds for task in kernel.tasks) for kernel in kernels])
    matrix, vector = np.zeros_like(memory), np.zeros_like(memory)
    for i, kernel in enumerate(kernels):
        if _multiplies(kernel):
            matrix[..., i : i + 1] = kernel.flops / rates.flops[target.compute_dtype(kernel.tasks[0].dtype)]
        for elements, cost in _vector_work(kernel, target):
            slower = np.maximum(cost.simple / rates.simple, cost.special / rates.special)
            vector[..., i : i + 1] += elements * slower
    startup = np.array([not kernel.exchanges for kernel in kernels]) * rates.startup
    return Bounds(matrix, vector, memory, *(np.broadcast_to(each, memory.shape) for each in (fabric, startup)))


def _multiplies(kernel: Kernel) -> bool:
    return kernel.kind in ("product", "grouped", "attention")


def _vector_work(kernel: Kernel, target: Target) -> list[tuple[int, VectorCost]]:
    """The kernel's essential vector work: elements, and the operations of each."""
    if kernel.kind == "attention":
        d, attrs = kernel.tasks[0].dims, kernel.tasks[0].attrs
        window = attrs.get("window")
        pairs = attention_pairs(
            d["q_len"], d["kv_len"], bool(attrs.get("causal")), None if window is None else int(window)
        )
        cost = "attention_backward" if kernel.op_kind == "attention_backward" else "online_softmax"
        return [(d["batch"] * d["heads"] * pairs, COSTS[cost])]
    if kernel.kind == "vector":
        return [vector_work(task) for task in kernel.tasks]
    if kernel.kind in ("product", "grouped"):  # each weight that is stored narrower is widened once at least
        narrow = [task for task in kernel.tasks if converted(task, task.inputs[1], target)]
        return [(_weights(task), COSTS["unpack"]) for task in narrow]
    return []


def _weights(task: Task) -> int:
    """Elements of the weights that a product reads."""
    d = task.dims
    k = task.sparsity.kept(d["k"]) if task.sparsity else d["k"]
    return d["n"] * k * (d["b"] if task.kind == "matmul" else sum(rows > 0 for rows in task.rows))


def _cold_bytes(kernels: Sequence[Kernel], *, cached: bool) -> list[int]:
    """Bytes of each kernel that must come from memory whatever the cache did before."""
    if not cached:
        return [0 if kernel.exchanges else kernel.nbytes for kernel in kernels]
    seen: set[int] = set()  # a weight that two kernels read may still be warm for the second
    cold = []
    for kernel in kernels:
        total = 0
        for operand in kernel.inputs:
            if operand.role == "weight" and kernel.op_kind != "embedding" and operand.tensor not in seen:
                total += operand.nbytes
                seen.add(operand.tensor)
            elif operand.role == "kv_cache" and kernel.kind == "attention":
                task = kernel.tasks[0]
                keys = attention_keys(task.dims, task.attrs)
                total += operand.nbytes * max(keys - task.dims["q_len"], 0) // keys
        cold.append(total)
    return cold
