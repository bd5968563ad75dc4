"""The gradients of attention as tiles of queries streaming past a resident block of keys (FlashAttention-2).

One *item* is a block of keys of one query head. For every block of queries that sees it::

    load Q, dO -> S = Q K^T, dP = dO V^T (matrix) -> P = exp(S - l), dS = P (dP - D) (vector)
               -> dV += P^T dO, dK += dS^T Q, dQ = dS K (matrix) -> add dQ to memory in fp32

The warps take turns between products and vector work: no published kernel of before 2025 hides the one behind the
other, since P and dS leave no registers for a second block. Before it a pass over O and dO leaves ``D = rowsum(O
dO)`` of every query, after it another narrows dQ. A causal mask leaves a block of keys the queries from its own on;
blocks on the diagonal are computed whole.

Keys and values that several query heads share are read by each, and each writes gradients of its own, which the last
pass sums up (as the kernel does). Not modelled: windows (their blocks count as whole), dropout, deterministic sums.

Reference: Dao, "FlashAttention-2", 2023, section 3.1, algorithm 2; Shah et al., "FlashAttention-3", 2024, section 3.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from archsim.errors import InputError
from archsim.mapping.lowering.attention_kernel import AttentionShape
from archsim.mapping.lowering.table import WORKSPACE, Lowered, StepTable
from archsim.mapping.target import Target
from archsim.models.attention import block_time, feed_cycles
from archsim.models.vector import COSTS, VectorCost

__all__ = ["lower_attention_backward"]

Ints = NDArray[np.int64]
Q, K, V, OUT, DO, DQ, DK, DV, SUMS = range(9)
#: sides of a tile; systolic arrays are worth more rows than a warp group has
SIDES, LONG_SIDES = (64, 128), (128, 256, 512, 1024)
MAX_SLOTS = 3


@dataclass(frozen=True)
class _Cut:
    rows: int
    keys: int
    slots: int


def lower_attention_backward(target: Target, name: str, shape: AttentionShape, tensors: tuple[int, ...]) -> Lowered:
    """The Program of the gradients of ``shape``; ``tensors``: q, k, v, o and do, then the gradients of q, k and v."""
    cut = _choose(target, shape)
    heads = shape.batch * shape.heads
    head, block = (x.ravel() for x in np.meshgrid(np.arange(heads), np.arange(-(-shape.kv_len // cut.keys)),
                                                  indexing="ij"))  # fmt: skip
    first_row = _first_row(shape, block * cut.keys) // cut.rows * cut.rows
    chunks = np.maximum(-(-(shape.q_len - first_row) // cut.rows), 1)
    order = np.lexsort((-chunks, head // max(_heads_at_once(target, shape), 1)))
    head, block, first_row, chunks = head[order], block[order], first_row[order], chunks[order]
    count, cores = len(head), target.cores
    core = np.arange(count) % cores
    keys = np.minimum(cut.keys, shape.kv_len - block * cut.keys)

    size = 6 * chunks + 2  # load of K and V, six steps a chunk, store of dK and dV
    slices = min(cores * 4, heads * shape.q_len)
    start = 3 * slices + 1 + np.cumsum(size) - size
    main = int(size.sum())
    table = StepTable(target, 6 * slices + 2 + main)
    rows_bytes = shape.q_bytes * (shape.d_qk + shape.d_v)
    head_rows = heads * shape.q_len
    _pass(table, 0, slices, head_rows, (OUT, DO), 2 * shape.d_v * shape.out_bytes, SUMS, 4.0, 2.0 * shape.d_v)
    table.barrier(3 * slices, 3 * np.arange(slices) + 2)

    kv_head = head * shape.kv_heads // shape.heads
    where = kv_head * shape.kv_len + block * cut.keys
    table.load(start, core, K, where * shape.k_bytes, keys * (shape.k_bytes + shape.v_bytes))
    table.after(start, np.full(count, 3 * slices))
    item = np.repeat(np.arange(count), chunks)
    j = np.arange(len(item)) - np.repeat(np.cumsum(chunks) - chunks, chunks)
    on = core[item]
    load, scores, weigh, grads, dq, add = (start[item] + 1 + 6 * j + i for i in range(6))
    rows = np.minimum(cut.rows, shape.q_len - first_row[item] - j * cut.rows)
    position = head[item] * shape.q_len + first_row[item] + j * cut.rows
    table.load(load, on, Q, position * rows_bytes / 2, rows * rows_bytes)
    for step, cycles in zip((scores, grads, dq), _product_cycles(target, shape, cut.rows, cut.keys), strict=True):
        table.matrix(step, on, np.full(len(item), cycles), shape.dtype)
    table.vector(weigh, on, _vector_cycles(target, np.full(len(item), cut.rows * cut.keys)))
    table.store(add, on, SUMS, position * shape.d_qk * 4, rows * shape.d_qk * 4)
    table.after(scores, load)
    table.after(scores, start[item])
    for step, before in ((weigh, scores), (grads, weigh), (dq, grads), (add, dq)):
        table.after(step, before)
    in_core = np.lexsort((np.arange(len(item)), on))
    rank = np.arange(len(item)) - np.searchsorted(on[in_core], on[in_core])
    for distance, step, user in ((cut.slots, load, dq), (1, scores, dq)):
        has = rank >= distance
        table.after(step[in_core[has]], user[in_core[np.flatnonzero(has) - distance]])
    store = start + size - 1
    table.store(store, core, DK, (head * shape.kv_len + block * cut.keys) * (shape.d_qk + shape.d_v) * 2.0,
                keys * (shape.d_qk + shape.d_v) * 2.0)  # fmt: skip
    table.after(store, dq[np.cumsum(chunks) - 1])
    behind = np.flatnonzero(np.arange(count) >= cores)
    table.after(start[behind], store[behind - cores])

    end = 3 * slices + 1 + main
    table.barrier(end, np.concatenate([store, add]))
    shared = shape.heads // shape.kv_heads > 1
    extra = shape.kv_len / shape.q_len * (shape.d_qk + shape.d_v) * 2.0 if shared else 0.0  # gradients to be summed
    read, written = 4.0 * shape.d_qk + extra, shape.q_bytes * shape.d_qk + extra * shape.kv_heads / shape.heads
    _pass(table, end + 1, slices, head_rows, (SUMS,), read, DQ, written, 2.0 * shape.d_qk, after=end)
    text = f"{cut.keys} keys x {cut.rows} queries, {cut.slots} slots"
    names = ["q", "k", "v", "out", "dout", "dq", "dk", "dv", "sums"]
    return table.build(name, names, [*tensors, WORKSPACE], text)


def _pass(
    table: StepTable, first: int, slices: int, rows: int, reads: tuple[int, ...], read: float, write: int,
    written: float, operations: float, after: int = -1,
) -> None:  # fmt: skip
    """A pass over rows: load, a few operations, store; `read` and `written` bytes a row."""
    lanes = np.arange(slices)
    begin = rows * lanes // slices
    mine = rows * (lanes + 1) // slices - begin
    core, step = lanes % table.target.cores, first + 3 * lanes
    table.load(step, core, reads[0], begin * read, mine * read)
    table.vector(step + 1, core, table.target.vector_cycles(mine, VectorCost(operations, 0.0)))
    table.store(step + 2, core, write, begin * written, mine * written)
    table.after(step, np.full(slices, after))
    table.after(step + 1, step)
    table.after(step + 2, step + 1)


def _first_row(shape: AttentionShape, key: Ints) -> Ints:
    """The first query that sees a key."""
    if not shape.causal:
        return np.zeros_like(key)
    return np.clip(key - (shape.kv_len - shape.q_len), 0, shape.q_len - 1)


def _heads_at_once(target: Target, shape: AttentionShape) -> int:
    """Heads whose queries and gradients half of the cache holds, but enough for every core."""
    nbytes = shape.q_len * (2 * shape.q_bytes * (shape.d_qk + shape.d_v) + 4 * shape.d_qk)
    for_cores = -(-target.cores // max(shape.kv_len // SIDES[-1], 1))
    return max(int(target.cache_bytes / 2 // nbytes), for_cores)


def _choose(target: Target, shape: AttentionShape) -> _Cut:
    """The cut with the least time for a pair of query and key."""
    best: tuple[float, _Cut] | None = None
    wide = shape.d_qk + shape.d_v
    systolic = target.chip.core.matrix.kind == "systolic"
    # kernels of tensor cores spend nearly all registers on sums, twice what a forward pass does
    room = target.accumulator_bytes * (1 if systolic else 2)
    for rows, keys in product(*2 * (LONG_SIDES if systolic else SIDES,)):
        # S and dP are sums in registers, of which the scratchpad holds a copy; of an array it holds them themselves
        pairs = 2 * rows * keys
        sums = 4 * (keys * wide + rows * shape.d_qk + (0 if systolic else pairs))
        free = target.scratchpad_bytes - keys * wide * shape.q_bytes - pairs * (4 if systolic else shape.q_bytes)
        slots = min(int(free // (rows * wide * shape.q_bytes)), MAX_SLOTS)
        if slots < 1 or sums > room:
            continue
        seconds = _pair_time(target, shape, rows, keys) * (1.0 if slots > 1 else 2.0)
        if best is None or seconds <= best[0]:
            best = seconds, _Cut(rows, keys, slots)
    if best is None:
        side = SIDES[0]
        raise InputError(
            f"no tile of the gradients of attention with heads of {shape.d_qk} fits {target.name}: {side} queries x "
            f"{side} keys need {4 * side * (wide + 2 * side + shape.d_qk):,} B of sums ({room:,} B) and "
            f"{3 * side * wide * shape.q_bytes:,.0f} B of scratchpad ({target.scratchpad_bytes:,} B)"
        )
    return best[1]


def _pair_time(target: Target, shape: AttentionShape, rows: int, keys: int) -> float:
    clock = target.sustained_clock(shape.dtype)
    scores, grads, dq = (cycles / clock for cycles in _product_cycles(target, shape, rows, keys))
    weigh = float(_vector_cycles(target, rows * keys)) / target.clock
    block = block_time(scores, weigh, grads + dq, "turns")
    moved = rows * ((shape.d_qk + shape.d_v) * shape.q_bytes + 4 * shape.d_qk) / target.port_read_bytes_per_s
    return max(block, moved) / (rows * keys)


def _vector_cycles(target: Target, elements: Ints | int) -> Ints:
    return target.vector_cycles(elements, COSTS["attention_backward"], in_turn=target.asynchronous)


def _product_cycles(target: Target, shape: AttentionShape, rows: int, keys: int) -> tuple[int, int, int]:
    """Cycles of the products of a block: S and dP; dV and dK; dQ.

    P and dS are in registers as dV and dK need them, so that one operand of these comes from the scratchpad. Of the
    others both do, the first one once for every instruction's width of columns.
    """
    wide, unit = shape.d_qk + shape.d_v, target.chip.core.matrix
    sizes = ((rows, keys, wide), (keys, wide, rows), (rows, shape.d_qk, keys))
    m, n, k = np.array(sizes).T
    if unit.kind == "tensor_core" and unit.synchronous:
        cycles = target.multiply_cycles(m, n, k, shape.dtype, shape.q_bytes, shape.q_bytes)
    else:
        cycles = target.fed_cycles(m, n, k, shape.dtype)
        rate = target.chip.core.scratchpad.read_bytes_per_cycle
        if unit.kind == "tensor_core" and rate is not None and unit.reuse_n is not None:
            second_cycles = feed_cycles(m, n, k, step_m=unit.m, element_bytes=shape.q_bytes, bytes_per_cycle=rate)
            first_cycles = np.ceil(m * k * -(-n // unit.reuse_n) * (shape.q_bytes / rate)).astype(np.int64)
            both = first_cycles + second_cycles
            cycles = np.where([True, False, True], np.maximum(cycles, both), cycles)
    first, second, third = (int(each) for each in cycles)
    return first, second, third
