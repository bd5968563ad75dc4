"""The gradients of attention as tiles of queries streaming past a resident block of keys (FlashAttention-2).

One *item* is a block of keys of one query head. For every block of queries that sees it::

    load Q, dO -> S = Q K^T, dP = dO V^T (matrix) -> P = exp(S - l), dS = P (dP - D) (vector)
               -> dV += P^T dO, dK += dS^T Q, dQ = dS K (matrix) -> add dQ to memory in fp32

The warps take turns between products and vector work: no published kernel of before 2025 hides the one behind the
other, since P and dS leave no registers for a second block. Before it a pass over O and dO leaves ``D = rowsum(O
dO)`` of every query and clears dQ, after it another narrows it. A causal mask leaves a block of keys the queries from
its own on; blocks on the diagonal are computed whole.

Keys and values that several query heads share are read by each, and each writes gradients of its own, which the last
pass sums up (as the kernel does). Not modelled: windows (their blocks count as whole), dropout, deterministic sums,
and what units that are apart (``core.apart``) hand over by way of the cache.

Reference: Dao, "FlashAttention-2", 2023, section 3.1, algorithm 2; Shah et al., "FlashAttention-3", 2024, section 3.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from math import ceil
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from archsim.errors import InputError
from archsim.mapping.attention_kernel import AttentionShape
from archsim.mapping.lowering.attention_cut import VECTOR_POWER
from archsim.mapping.lowering.deal import deal
from archsim.mapping.lowering.sample import carry, head_edges, sample_heads
from archsim.mapping.lowering.table import WORKSPACE, Lowered, StepTable
from archsim.mapping.target import Target
from archsim.models.attention import block_time, feed_cycles, two_warps
from archsim.models.matrix import operand_reads
from archsim.models.vector import COSTS, VectorCost

__all__ = ["lower_attention_backward"]

Ints = NDArray[np.int64]
Q, K, V, OUT, DO, DQ, DK, DV, SUMS = range(9)
#: sides of a tile; systolic arrays are worth more rows than a warp group has, warps that issue synchronous instructions
#: do with few
SIDES, LONG_SIDES, SHORT_SIDES = (64, 128), (128, 256, 512, 1024), (16, 32, 64, 128)
MAX_SLOTS = 3
#: warps of a core, two a scheduler, and rows that each computes of a product at most, with synchronous instructions
WARPS, WARP_ROWS = 8, 32

Held = Literal["", "values", "keys and values"]


@dataclass(frozen=True)
class _Cut:
    """Queries and keys of a tile, blocks of queries in the scratchpad, and what of the keys is in registers instead.

    Operands of synchronous instructions are registers. Where the scratchpad is short, values stay there (FlashAttention
    on parts with 100 KiB, ``Is_V_in_regs``), or keys, their transpose and values (composable_kernel on AMD's 64 KiB).
    """

    rows: int
    keys: int
    slots: int
    held: Held = ""


def lower_attention_backward(
    target: Target, name: str, shape: AttentionShape, tensors: tuple[int, ...], *, exact: bool = False
) -> Lowered:
    """The Program of the gradients of ``shape``; ``tensors``: q, k, v, o and do, then the gradients of q, k and v.

    exact: walk over all heads, instead of some that stand for others (:mod:`archsim.mapping.lowering.sample`).
    """
    if shape.kernel.synchronous:
        target = target.synchronous
    cut = _choose(target, shape)
    heads = shape.batch * shape.heads
    head, block = (x.ravel() for x in np.meshgrid(np.arange(heads), np.arange(-(-shape.kv_len // cut.keys)),
                                                  indexing="ij"))  # fmt: skip
    first_row = _first_row(shape, block * cut.keys) // cut.rows * cut.rows
    chunks = np.maximum(-(-(shape.q_len - first_row) // cut.rows), 1)
    per_section = min(_heads_at_once(target, shape), heads)
    section = head // per_section
    mine, cached = section == 0, target.cache_bytes
    share = per_section * _head_bytes(shape) / cached if cached else 0.0
    sample = sample_heads(
        heads // per_section, int(mine.sum()), 6 * int(chunks[mine].sum()), target.cores, share, exact=exact
    )
    kept = np.flatnonzero(sample.keeps(section))
    order = kept[np.lexsort((-chunks[kept], section[kept]))]
    head, block, first_row, chunks, section = (x[order] for x in (head, block, first_row, chunks, section))
    count, cores = len(head), target.cores
    core, turn = deal(chunks.astype(np.float64), cores)
    keys = np.minimum(cut.keys, shape.kv_len - block * cut.keys)

    size = 6 * chunks + 3  # load of K and V, six steps a chunk, narrowing and store of dK and dV
    slices = min(cores * 4, heads * shape.q_len)
    start = 3 * slices + 1 + np.cumsum(size) - size
    main = int(size.sum())
    table = StepTable(target, 6 * slices + 2 + main)
    wide = shape.d_qk + shape.d_v
    rows_bytes = shape.q_bytes * wide
    head_rows = heads * shape.q_len
    _pass(table, 0, slices, head_rows, (OUT, DO), 2 * shape.d_v * shape.out_bytes, SUMS,
          4.0 + 4.0 * shape.d_qk, 2.0 * shape.d_v)  # fmt: skip
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
    stages = _stages(target, shape, cut)
    for step, cycles in ((scores, stages.scores), (grads, stages.grads), (dq, stages.dq)):
        table.matrix(step, on, np.full(len(item), cycles), shape.dtype, busy=stages.busy)
    clock = target.sustained_clock(shape.dtype, stages.busy)
    table.vector(weigh, on, np.full(len(item), stages.weigh), clock=clock)
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
    narrow, store = start + size - 2, start + size - 1
    table.vector(narrow, core, target.vector_cycles(keys * wide, VectorCost(1.0, 0.0)) + shape.kernel.outside)
    table.store(store, core, DK, (head * shape.kv_len + block * cut.keys) * wide * 2.0, keys * wide * 2.0)
    table.after(narrow, dq[np.cumsum(chunks) - 1])
    table.after(store, narrow)
    by_turn = np.full((int(turn.max()) + 1, cores), -1, dtype=np.int64)
    by_turn[turn, core] = store
    behind = np.flatnonzero(turn)
    table.after(start[behind], by_turn[turn[behind] - 1, core[behind]])

    end = 3 * slices + 1 + main
    table.barrier(end, np.concatenate([store, add]))
    table.weight[start[0] : end] = np.repeat(sample.weights(section), size)
    edges = head_edges(sample, section, core, store)
    shared = shape.heads // shape.kv_heads > 1
    extra = shape.kv_len / shape.q_len * wide * 2.0 if shared else 0.0  # gradients to be summed
    read, written = 4.0 * shape.d_qk + extra, shape.q_bytes * shape.d_qk + extra * shape.kv_heads / shape.heads
    _pass(table, end + 1, slices, head_rows, (SUMS,), read, DQ, written, 2.0 * shape.d_qk, after=end)
    text = f"{cut.keys} keys x {cut.rows} queries, {cut.slots} slots"
    names = ["q", "k", "v", "out", "dout", "dq", "dk", "dv", "sums"]
    return table.build(name, names, [*tensors, WORKSPACE], text, carry=carry(edges, alike=target.alike))


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
    for_cores = -(-target.cores // max(shape.kv_len // SIDES[-1], 1))
    return max(int(target.cache_bytes / 2 // _head_bytes(shape)), for_cores)


def _head_bytes(shape: AttentionShape) -> float:
    """Of one query head: queries and their gradients, outputs and theirs, and sums of gradients."""
    return shape.q_len * (2 * shape.q_bytes * (shape.d_qk + shape.d_v) + 4 * shape.d_qk)


def _choose(target: Target, shape: AttentionShape) -> _Cut:
    """The cut with the least time for a pair of query and key, of the first kind that leaves room for two slots."""
    found: list[tuple[float, _Cut]] = []
    for rows, keys, held in _kinds(target):
        found += _rated(target, shape, [_Cut(*sides, 0, held) for sides in product(rows, keys)])
        if any(cut.slots > 1 for _, cut in found):
            break
    if not found:
        side, wide = SIDES[0], shape.d_qk + shape.d_v
        raise InputError(
            f"no tile of the gradients of attention with heads of {shape.d_qk} fits {target.name}: {side} queries x "
            f"{side} keys need {4 * side * (wide + 2 * side + shape.d_qk):,} B of sums ({_sums_bytes(target):,} B) and "
            f"{3 * side * wide * shape.q_bytes:,.0f} B of scratchpad ({target.scratchpad_bytes:,} B)"
        )
    least = min(seconds for seconds, _ in found)
    return [cut for seconds, cut in found if seconds == least][-1]


def _kinds(target: Target) -> Iterator[tuple[Sequence[int], Sequence[int], Held]]:
    """Sides of tiles, rows and keys, and what registers hold besides sums, in the order in which kernels try them."""
    unit = target.chip.core.matrix
    if unit.kind == "systolic":
        yield LONG_SIDES, LONG_SIDES, ""
        return
    yield SIDES, SIDES, ""
    if unit.synchronous:
        yield SIDES, SIDES, "values"
        yield SIDES, SIDES, "keys and values"
        yield SHORT_SIDES, SIDES, "values"
        yield SHORT_SIDES, SIDES, "keys and values"


def _sums_bytes(target: Target) -> int:
    """Room for sums: kernels of tensor cores spend nearly all registers on them, twice what a forward pass does."""
    return target.accumulator_bytes * (1 if target.chip.core.matrix.kind == "systolic" else 2)


def _rated(target: Target, shape: AttentionShape, cuts: Iterable[_Cut]) -> Iterator[tuple[float, _Cut]]:
    """Those that fit, with as many slots as there is room for, and the time for a pair of query and key."""
    wide, systolic = shape.d_qk + shape.d_v, target.chip.core.matrix.kind == "systolic"
    for cut in cuts:
        # S and dP are sums in registers, of which the scratchpad holds a copy; of an array it holds them themselves
        pairs = 2 * cut.rows * cut.keys
        registers, scratchpad = {
            "": (0, wide), "values": (shape.d_v, shape.d_qk), "keys and values": (wide + shape.d_qk, 0)
        }[cut.held]  # fmt: skip
        sums = 4 * (cut.keys * wide + cut.rows * shape.d_qk + (0 if systolic else pairs))
        held = pairs * (4 if systolic else shape.q_bytes) + cut.keys * scratchpad * shape.q_bytes
        free = target.scratchpad_bytes - held
        slots = min(int(free // (cut.rows * wide * shape.q_bytes)), MAX_SLOTS)
        if slots and sums + cut.keys * registers * shape.q_bytes <= _sums_bytes(target):
            yield _pair_time(target, shape, cut) * (1.0 if slots > 1 else 2.0), replace(cut, slots=slots)


def _pair_time(target: Target, shape: AttentionShape, cut: _Cut) -> float:
    """Seconds for a pair of query and key."""
    stages = _stages(target, shape, cut)
    block = block_time(stages.scores, stages.weigh, stages.grads + stages.dq, "turns")
    moved = cut.rows * ((shape.d_qk + shape.d_v) * shape.q_bytes + 4 * shape.d_qk) / target.port_read_bytes_per_s
    return max(block / target.sustained_clock(shape.dtype, stages.busy), moved) / (cut.rows * cut.keys)


class _Stages(NamedTuple):
    """Cycles of a block: S and dP; P and dS on the vector unit; dV and dK; dQ. busy: power drawn, as a share of that of
    matrix units that multiply all the time."""

    scores: int
    weigh: int
    grads: int
    dq: int
    busy: float


def _stages(target: Target, shape: AttentionShape, cut: _Cut) -> _Stages:
    """What a block takes of the units of a core.

    Of an asynchronous unit P and dS are in registers as dV and dK need them, so that one operand of these comes from
    the scratchpad; of the others both do, the first one once for every instruction's width of columns. The warps of a
    synchronous unit read their operands, P and dS among them, and multiply, two warps a scheduler
    (:func:`archsim.models.attention.two_warps`); barriers keep them from working on elements meanwhile.
    """
    wide, unit, rows, keys = shape.d_qk + shape.d_v, target.chip.core.matrix, cut.rows, cut.keys
    m, n, k = np.array(((rows, keys, wide), (keys, wide, rows), (rows, shape.d_qk, keys))).T
    rate, width = target.chip.core.scratchpad.read_bytes_per_cycle, shape.q_bytes
    multiply = target.matrix_cycles(m, n, k, shape.dtype)
    weigh = int(target.vector_cycles(rows * keys, COSTS["attention_backward"], in_turn=target.asynchronous))
    if unit.kind == "systolic" or rate is None:
        cycles = multiply
    elif unit.synchronous:
        read = _read_cycles(shape, cut, rate)
        cycles = np.ceil(two_warps(float(multiply.sum()), float(read.sum())) * (multiply + read)).astype(np.int64)
    else:
        cycles = target.fed_cycles(m, n, k, shape.dtype)
        if unit.reuse_n is not None:
            second_cycles = feed_cycles(m, n, k, step_m=unit.m, element_bytes=width, bytes_per_cycle=rate)
            first_cycles = np.ceil(m * k * -(-n // unit.reuse_n) * (width / rate)).astype(np.int64)
            cycles = np.where([True, False, True], np.maximum(cycles, first_cycles + second_cycles), cycles)
    busy = (float(multiply.sum()) + VECTOR_POWER * weigh) / (float(cycles.sum()) + weigh)
    first, second, third = (int(each) for each in cycles)
    return _Stages(first, weigh, second, third, min(busy, 1.0))


def _read_cycles(shape: AttentionShape, cut: _Cut, rate: float) -> Ints:
    """Cycles in which the warps of a synchronous unit read operands: of S and dP; dV and dK, for which P and dS are
    stored first; dQ. Each of ``WARPS`` computes its part of a product (FlashAttention-2, flash_bwd_launch_template.h).
    """
    rows, keys, width = cut.rows, cut.keys, shape.q_bytes
    there, values = width * (cut.held != "keys and values"), width * (not cut.held)

    def read(m: int, n: int, k: int, b_bytes: float = width) -> int:
        high = min(WARP_ROWS, m)
        warp = high, max(m * n // (WARPS * high), 8)
        sizes = (np.array(each) for each in (m, n, k))
        return int(operand_reads(*sizes, a_bytes=width, b_bytes=b_bytes, warp=warp, bytes_per_cycle=rate))

    scores = read(rows, keys, shape.d_qk, there) + read(rows, keys, shape.d_v, values)
    grads = read(keys, shape.d_v, rows) + read(keys, shape.d_qk, rows) + ceil(2 * rows * keys * width / rate)
    return np.array([scores, grads, read(rows, shape.d_qk, keys, there)])
