"""Attention as tiles of keys streaming past a resident block of queries (flash attention), decode included.

One *item* is a block of query rows against a range of keys: in prefill a block of one head's queries, in decode
the query heads that share a key/value head, with the keys split over several cores where there are too few
items (split-KV, partial results merged at the end). For every chunk of keys::

    load K, load V -> scores Q K^T (matrix) -> online softmax (vector) -> P V (matrix)

The scores of the next chunk depend on neither the softmax nor P V of this one, so matrix and vector unit
overlap, two score tiles deep, as in FlashAttention-3. Keys and values stored in a narrower type than the matrix unit
multiplies are converted on the vector unit. A causal mask shortens the key range of early query
blocks; the tiles on the diagonal are computed whole. MLA's absorbed form reads one latent array as keys and
values (``kv_shared``).

Reference: Shah et al., "FlashAttention-3", 2024, section 3; Dao et al., "Flash-Decoding", 2023.
"""

from __future__ import annotations

from dataclasses import dataclass
from heapq import heapreplace
from itertools import product

import numpy as np
from numpy.typing import NDArray

from archsim.errors import InputError
from archsim.mapping.lowering.table import WORKSPACE, Lowered, StepTable
from archsim.mapping.target import Target
from archsim.models.vector import COSTS, VectorCost

__all__ = ["AttentionShape", "lower_attention"]

Ints = NDArray[np.int64]
Q, K, V, OUT, PARTIAL = 0, 1, 2, 3, 4
SCORE_TILES = 2
MAX_SLOTS = 4
#: share of the best time within which cuts count as equal
INDIFFERENT = 0.02


@dataclass(frozen=True)
class AttentionShape:
    """Dims of the operator (see docs/trace-format.md), bytes of an element of queries, of keys and values, of output.

    ``convert``: keys and values are stored narrower than they are multiplied.
    """

    batch: int
    q_len: int
    kv_len: int
    heads: int
    kv_heads: int
    d_qk: int
    d_v: int
    causal: bool
    window: int | None
    kv_shared: bool
    dtype: str
    q_bytes: float
    kv_bytes: float
    out_bytes: float = 2.0
    convert: bool = False


@dataclass(frozen=True)
class _Cut:
    """Query rows and keys of a tile, ranges the keys are split into, chunks that fit the scratchpad."""

    rows: int
    keys: int
    splits: int
    slots: int


@dataclass(frozen=True, eq=False)
class _Items:
    """Blocks of query rows with their key ranges, in execution order."""

    rows: Ints  # query rows
    query: Ints  # first row, over the whole query tensor
    head: Ints  # key/value head, over the batch
    begin: Ints  # first key
    keys: Ints
    out: Ints  # first output row

    def take(self, order: Ints) -> _Items:
        return _Items(*(getattr(self, f)[order] for f in self.__dataclass_fields__))


def lower_attention(target: Target, name: str, shape: AttentionShape, tensors: tuple[int, int, int, int]) -> Lowered:
    """The Program of ``shape``; ``tensors`` are the graph tensors of q, k, v and the output."""
    cut = _choose(target, shape)
    items = _enumerate(shape, cut)
    chunks = -(-items.keys // cut.keys)
    # heads in sections whose keys the cache can hold; in each the longest first, since causal items differ and cores
    # should end together
    order = np.lexsort((-chunks, items.head // _heads_per_section(target, shape, items)))
    items, chunks = items.take(order), chunks[order]
    count, cores = len(chunks), target.cores
    core, turn = _deal(chunks, cores)

    size = 5 * chunks + 3  # query load, five steps a chunk, normalise, store
    first = np.cumsum(size) - size
    merged = count // cut.splits if cut.splits > 1 else 0
    table = StepTable(target, int(size.sum()) + 3 * merged)
    width = shape.q_bytes
    table.load(first, core, Q, items.query * shape.d_qk * width, items.rows * shape.d_qk * width)

    # one row per chunk of any item
    item = np.repeat(np.arange(count), chunks)
    j = np.arange(len(item)) - np.repeat(np.cumsum(chunks) - chunks, chunks)
    spread, rows = core[item], items.rows[item]
    load_k = first[item] + 1 + 5 * j
    load_v, score, softmax, value = (load_k + i for i in range(1, 5))
    keys = np.minimum(cut.keys, items.keys[item] - j * cut.keys)
    position = items.head[item] * shape.kv_len + items.begin[item] + j * cut.keys
    table.load(load_k, spread, K, position * shape.d_qk * shape.kv_bytes, keys * shape.d_qk * shape.kv_bytes)
    v_bytes = 0 if shape.kv_shared else shape.d_v * shape.kv_bytes
    table.load(load_v, spread, V, position * v_bytes, keys * v_bytes)
    table.multiply(score, spread, rows, keys, shape.d_qk, shape.dtype)
    vector = target.vector_cycles(rows * keys, COSTS["online_softmax"])
    if shape.convert:
        read = keys * (shape.d_qk + (0 if shape.kv_shared else shape.d_v))
        vector = vector + target.vector_cycles(read, COSTS["dequantise"])
    table.vector(softmax, spread, vector)
    table.multiply(value, spread, rows, shape.d_v, keys, shape.dtype)

    table.after(score, load_k)
    table.after(score, first[item])
    table.after(softmax, score)
    table.after(value, softmax)
    table.after(value, load_v)
    # position of a chunk in its core's sequence, to find who used its slot and its score tile before
    in_core = np.lexsort((np.arange(len(item)), spread))
    rank = np.arange(len(item)) - np.searchsorted(spread[in_core], spread[in_core])
    for depth, waiting in ((cut.slots, (load_k, load_v)), (SCORE_TILES, (score,))):
        has = rank >= depth
        for steps in waiting:
            table.after(steps[in_core[has]], value[in_core[np.flatnonzero(has) - depth]])
    # two query blocks fit: the next item's queries arrive while this one runs
    normalise, store = first + size - 2, first + size - 1
    by_turn = np.full((int(turn.max()) + 1, cores), -1, dtype=np.int64)
    by_turn[turn, core] = store
    older = np.flatnonzero(turn >= 2)
    table.after(first[older], by_turn[turn[older] - 2, core[older]])

    table.after(normalise[item], value)
    table.vector(normalise, core, target.vector_cycles(items.rows * shape.d_v, VectorCost(1.0, 0.0)))
    out_width = 4.0 if cut.splits > 1 else shape.out_bytes
    table.store(
        store,
        core,
        PARTIAL if cut.splits > 1 else OUT,
        items.out * shape.d_v * out_width,
        items.rows * shape.d_v * out_width,
    )
    table.after(store, normalise)

    if merged:
        fetch = int(size.sum()) + 3 * np.arange(merged)
        group = items.out // (shape.batch * shape.heads * shape.q_len)  # the split that an item belongs to
        base = items.out - group * shape.batch * shape.heads * shape.q_len
        starts, which = np.unique(base, return_inverse=True)
        height = np.zeros(merged, dtype=np.int64)
        height[which] = items.rows
        lanes = np.arange(merged) % cores
        table.load(fetch, lanes, PARTIAL, starts * shape.d_v * 4, height * cut.splits * shape.d_v * 4)
        table.after(fetch[which], store)
        table.vector(fetch + 1, lanes, target.vector_cycles(height * cut.splits * shape.d_v, VectorCost(2.0, 0.0)))
        table.after(fetch + 1, fetch)
        table.store(fetch + 2, lanes, OUT, starts * shape.d_v * shape.out_bytes, height * shape.d_v * shape.out_bytes)
        table.after(fetch + 2, fetch + 1)
    text = f"{cut.rows} queries x {cut.keys} keys, {cut.slots} slots" + (f", split-KV {cut.splits}" if merged else "")
    regions = ["q", "k", "v", "out"] + (["partial results"] if merged else [])
    return table.build(name, regions, [*tensors, *([WORKSPACE] if merged else [])], text)


def _deal(chunks: Ints, cores: int) -> tuple[Ints, Ints]:
    """Core of each item, and how many that core had before: every item goes to the core with the least work so far.

    >>> [each.tolist() for each in _deal(np.array([5, 3, 1, 1, 1]), 2)]
    [[0, 1, 1, 1, 0], [0, 0, 1, 2, 1]]
    """
    ready = [(0, core) for core in range(cores)]  # a heap
    core = np.empty(len(chunks), dtype=np.int64)
    turn = np.empty_like(core)
    taken = [0] * cores
    for item, work in enumerate(chunks.tolist()):
        busy, lane = ready[0]
        heapreplace(ready, (busy + work, lane))
        core[item], turn[item] = lane, taken[lane]
        taken[lane] += 1
    return core, turn


def _heads_per_section(target: Target, shape: AttentionShape, items: _Items) -> int:
    """Key/value heads that are worked on at a time: as many as half the cache holds, but enough for every core.

    Longest-first over all heads would stream the keys of all of them past the cache once for every block of queries.
    Reference: the scheduler of FlashAttention-3 for causal and variable-length batches does the same.
    """
    heads = shape.batch * shape.kv_heads
    head_bytes = shape.kv_len * shape.kv_bytes * (shape.d_qk + (0 if shape.kv_shared else shape.d_v))
    for_cores = -(-target.cores * heads // len(items.head))
    return min(max(int(target.cache_bytes / 2 // head_bytes), for_cores), heads) if target.cache_bytes else heads


def _packed_rows(shape: AttentionShape) -> int:
    """Query rows that share a key/value head: a whole group's when one query each, as decode kernels pack them."""
    return shape.q_len * (shape.heads // shape.kv_heads) if shape.q_len <= 16 else shape.q_len


def _enumerate(shape: AttentionShape, cut: _Cut) -> _Items:
    packed = _packed_rows(shape)
    units = shape.batch * shape.heads * shape.q_len // packed  # blocks of rows with the same keys and mask
    per_kv_head = units // (shape.batch * shape.kv_heads)
    blocks = -(-packed // cut.rows)
    unit, block, split = (
        x.ravel() for x in np.meshgrid(np.arange(units), np.arange(blocks), np.arange(cut.splits), indexing="ij")
    )
    begin_row = block * cut.rows
    rows = np.minimum(cut.rows, packed - begin_row)
    end, begin = np.full(len(unit), shape.kv_len), np.zeros(len(unit), dtype=np.int64)
    if shape.causal and packed == shape.q_len:
        past = shape.kv_len - shape.q_len
        end = past + begin_row + rows
        if shape.window is not None:
            begin = np.maximum(past + begin_row - shape.window + 1, 0)
    elif shape.window is not None:
        begin = np.full(len(unit), max(shape.kv_len - shape.window - shape.q_len + 1, 0))
    share = -(-(end - begin) // cut.splits)
    part = -(-share // cut.keys) * cut.keys
    begin = begin + split * part
    keys = np.clip(np.minimum(part, end - begin), 0, None)
    query = unit * packed + begin_row
    total = shape.batch * shape.heads * shape.q_len
    return _Items(rows, query, unit // per_kv_head, begin, keys, query + split * total)


def _choose(target: Target, shape: AttentionShape) -> _Cut:
    """The cut with the least estimated time; ties go to the larger tile."""
    packed = _packed_rows(shape)
    k_width = shape.d_qk * shape.kv_bytes
    v_width = 0.0 if shape.kv_shared else shape.d_v * shape.kv_bytes
    units = shape.batch * shape.heads * shape.q_len // packed
    seen = shape.kv_len if shape.window is None else min(shape.kv_len, shape.window + shape.q_len)
    mean_keys = seen - (shape.q_len - 1) / 2 if shape.causal and packed == shape.q_len else seen
    found: list[tuple[float, _Cut]] = []
    sizes = [16, 32, 64, 128, 256, 512, 1024]
    for rows, keys, splits in product(sizes, sizes, [1, 2, 4, 8, 16, 32, 64]):
        if (
            (rows > 16 and rows >= 2 * packed)
            or (keys > 16 and keys >= 2 * seen)
            or (splits > 1 and splits * keys > seen)
        ):
            continue
        free = target.scratchpad_bytes - 2 * rows * shape.d_qk * shape.q_bytes
        slots = min(int(free // (keys * (k_width + v_width))), MAX_SLOTS)
        if slots < 2 or 4 * rows * (shape.d_v + SCORE_TILES * keys) > target.accumulator_bytes:
            continue
        items = units * -(-packed // rows) * splits
        height = min(rows, packed)
        chunks = max(mean_keys / splits / keys, 1.0)
        m, n, d = np.array([height, height]), np.array([keys, shape.d_v]), np.array([shape.d_qk, keys])
        matrix = float(target.matrix_cycles(m, n, d, shape.dtype).sum()) / target.matrix_clock
        vector = float(target.vector_cycles(height * keys, COSTS["online_softmax"])) / target.clock
        port = keys * (k_width + v_width) / target.port_read_bytes_per_s
        load = items / target.cores
        waves = max(np.ceil(load) if splits > 1 or not shape.causal or load < 2 else load, 1.0)
        tail = matrix + vector + port + target.memory_latency_s * (2 if splits > 1 else 1)
        merge = items * height * shape.d_v * 8 / target.cores / target.port_read_bytes_per_s if splits > 1 else 0.0
        # Little's law: no more than the slots' bytes are on their way at once
        waiting = (target.loaded_latency_s + port) / slots
        dram = shape.batch * shape.kv_heads * seen * (k_width + v_width) / target.dram_bytes_per_s
        time = max(waves * chunks * max(matrix, vector, port, waiting), dram) + tail + merge
        found.append((time, _Cut(rows, keys, splits, slots)))
    if not found:
        need = 2 * 16 * shape.d_qk * shape.q_bytes + 2 * 16 * (k_width + v_width)
        raise InputError(
            f"no attention tile with heads of {shape.d_qk} fits {target.name}: 16 queries x 16 keys need "
            f"{need:,.0f} B of scratchpad ({target.scratchpad_bytes:,} B) and {64 * (shape.d_v + 32):,} B of "
            f"accumulator ({target.accumulator_bytes:,} B)"
        )
    # among nearly equal ones the largest tile: fewer, larger transfers hold up better in a busy memory
    close = min(time for time, _ in found) * (1 + INDIFFERENT)
    return max((cut for time, cut in found if time <= close), key=lambda cut: (cut.rows * cut.keys, -cut.splits))
