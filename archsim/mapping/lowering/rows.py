"""Vector kernels (norm, rotary, SwiGLU, routing, copies and chains of them) as a Program of row blocks.

Rows are dealt to cores in blocks; every block is loaded, computed and stored, two or more blocks deep, so that
transfers and computation overlap and what the memory delivers within its loaded latency is on its way. A chain of
fused operators reads its outer inputs once, writes its outer outputs once and pays for the computation of all its
members in between.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

import numpy as np

from archsim.mapping.lowering.table import Lowered, StepTable
from archsim.mapping.target import Target
from archsim.models.vector import NarrowLoads, VectorCost

__all__ = ["Stream", "lower_rows"]

#: a block this large amortises its latencies; smaller ones only where rows or scratchpad are short
BLOCK_BYTES = 64 * 1024


@dataclass(frozen=True)
class Stream:
    """Bytes of one operand that the kernel moves in all, evenly over its rows; tensor: its index in the graph."""

    tensor: int
    nbytes: int


def lower_rows(
    target: Target, name: str, rows: int, inputs: Sequence[Stream], outputs: Sequence[Stream],
    work: Sequence[tuple[int, VectorCost]], *, in_turn: bool = False, loads: NarrowLoads | None = None,
    cols: int = 0,
) -> Lowered:  # fmt: skip
    """The Program of a kernel over ``rows`` rows; ``work`` lists (elements, cost) of each fused operator.

    in_turn: barriers keep the pipes of the vector unit from working at the same time. loads: how rows of ``cols``
    elements are moved, if not as fast as the memory allows.
    """
    cores = target.cores
    per_row = max(sum(s.nbytes for s in (*inputs, *outputs)) / rows, 1e-9)
    slots = max(min(ceil(target.in_flight_bytes / BLOCK_BYTES) + 1, target.scratchpad_bytes // BLOCK_BYTES), 2)
    room = min(target.scratchpad_bytes // slots, BLOCK_BYTES)
    held = target.resident_rows(loads, cols) if loads else 0  # blocks of threads that follow each other, a row each
    block = int(np.clip(room // per_row, 1, min(-(-rows // cores), held or rows)))
    block = -(-rows // (cores * -(-rows // (cores * block))))  # no core gets a turn more than it must
    count = -(-rows // block)
    begin = np.arange(count) * block
    end = np.minimum(begin + block, rows)
    core, turn = np.arange(count) % cores, np.arange(count) // cores

    again = loads.passes - 1 if loads and held * sum(s.nbytes for s in inputs) / rows > target.scratchpad_bytes else 0
    streams = [*inputs, *outputs]
    read = len(inputs) * (1 + again)
    size = read + 1 + len(outputs)
    table = StepTable(target, count * size)
    first = np.arange(count) * size
    compute = first + read
    cycles = sum(
        target.vector_cycles(np.ceil((end - begin) * (n / rows)), cost, in_turn=in_turn)
        for n, cost in work
        if cost.simple or cost.special
    )
    if loads:
        cached = not loads.cold and sum(s.nbytes for s in (*inputs, *outputs)) <= target.cache_bytes
        waiting = np.ceil((end - begin) * (target.row_seconds(loads, cols, rows, cached=cached) * target.clock))
        cycles = np.maximum(cycles, waiting.astype(np.int64))
    table.vector(compute, core, np.broadcast_to(np.asarray(cycles), compute.shape))
    freed = np.where(turn >= slots, compute - slots * cores * size, -1)
    for i, stream in enumerate(streams):
        origin = begin * stream.nbytes // rows
        nbytes = end * stream.nbytes // rows - origin
        if i < len(inputs):
            for j in range(1 + again):  # what the core has no room for is fetched again
                step = first + i + j * len(inputs)
                table.load(step, core, i, origin, nbytes)
                table.after(step, step - len(inputs) if j else freed)
                table.after(compute, step)
        else:
            step = first + read + 1 + i - len(inputs)
            table.store(step, core, i, origin, nbytes)
            table.after(step, compute)
    return table.build(
        name,
        [f"stream {i}" for i in range(len(streams))],
        [s.tensor for s in streams],
        f"{count} blocks of {block} rows",
    )
