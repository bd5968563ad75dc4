"""What one chip has to hold: weights and KV cache to the byte, activations as an estimate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from archsim.errors import InputError
from archsim.hardware.memory import MemorySpec
from archsim.mapping.task import TaskBlock
from archsim.trace import Graph

__all__ = ["Footprint", "footprint", "require_fit", "usable"]


@dataclass(frozen=True)
class Footprint:
    """Bytes on one chip. ``activations``: the most that is alive at once inside a block (an estimate)."""

    weights: int
    kv_cache: int
    activations: int

    @property
    def total(self) -> int:
        return self.weights + self.kv_cache + self.activations

    def rows(self) -> tuple[tuple[str, int], ...]:
        """(label, bytes), the way results keep it."""
        return (("weights", self.weights), ("kv cache", self.kv_cache), ("activations (estimate)", self.activations))


def footprint(graph: Graph, blocks: Sequence[TaskBlock]) -> Footprint:
    """Add up the shares of one chip."""
    held = {"weight": 0, "kv_cache": 0}
    copies: dict[int, int] = {}
    share: dict[int, int | Fraction] = {}
    for block in blocks:
        for task in block.tasks:
            for operand in (*task.inputs, *task.outputs):
                copies[operand.tensor] = max(block.repeat, copies.get(operand.tensor, 0))
                share[operand.tensor] = max(block.shares.get(operand.tensor, 1), share.get(operand.tensor, 1))
    for tensor, count in copies.items():
        role = graph.tensors[tensor].role
        if role in held:
            held[role] += -(-graph.tensors[tensor].nbytes // share[tensor]) * count
    return Footprint(held["weight"], held["kv_cache"], max((_peak_alive(block) for block in blocks), default=0))


def _peak_alive(block: TaskBlock) -> int:
    """Largest sum of activations that are alive at one task: from their first use in the block to their last."""
    first: dict[int, int] = {}
    last: dict[int, int] = {}
    size: dict[int, int] = {}
    for position, task in enumerate(block.tasks):
        for operand in (*task.inputs, *task.outputs):
            if operand.role == "activation":
                first.setdefault(operand.tensor, position)
                last[operand.tensor] = position
                size[operand.tensor] = max(size.get(operand.tensor, 0), operand.nbytes)
    change = [0] * (len(block.tasks) + 1)
    for tensor, nbytes in size.items():
        change[first[tensor]] += nbytes
        change[last[tensor] + 1] -= nbytes
    alive = peak = 0
    for step in change:
        alive += step
        peak = max(peak, alive)
    return peak


def usable(memory: MemorySpec) -> str:
    """The capacity that a model can use, and what the rest goes into."""
    lost = {"error correction": memory.capacity * memory.ecc_overhead, "reserved": memory.reserved or 0.0}
    parts = " and ".join(f"{n / 1e9:.2f} GB {what}" for what, n in lost.items() if n)
    less = f" ({memory.capacity / 1e9:.2f} GB less {parts})" if parts else ""
    return f"{memory.usable_capacity / 1e9:.2f} GB{less}"


def require_fit(need: Footprint, memory: MemorySpec, *, workload: str, where: str, remedy: str) -> None:
    """Raise InputError with the table in one sentence when ``need`` exceeds what ``memory`` can hold."""
    if need.total <= memory.usable_capacity:
        return
    parts = " + ".join(f"{n / 1e9:.2f} GB {label}" for label, n in need.rows())
    raise InputError(
        f"{workload} does not fit {where}: each chip would hold {parts} = {need.total / 1e9:.2f} GB, "
        f"but has {usable(memory)}; {remedy}"
    )
