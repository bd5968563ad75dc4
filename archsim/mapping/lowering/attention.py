"""Attention as tiles of keys streaming past a resident block of queries (flash attention), decode included.

One *item* is a block of query rows against a range of keys: in prefill a block of one head's queries, in decode
the query heads that share a key/value head, with the keys split over several cores where there are too few
items (split-KV, partial results merged at the end). For every chunk of keys::

    load K, load V -> scores Q K^T (matrix) -> online softmax (vector) -> P V (matrix)

Chunks take turns, or the softmax of one overlaps with P V of the one before, or the units work apart on several
(`archsim.models.attention`): the kernel and the matrix unit decide. Keys and values stored in a narrower type than
the matrix unit multiplies are converted on the vector unit. A causal mask shortens the key range of early query
blocks; the tiles on the diagonal are computed whole. MLA's absorbed form reads one latent array as keys and values
(``kv_shared``). Where matrix and vector units are cores of their own (``core.apart``), scores, probabilities and sums
go through the shared cache on their way from one to the other, and latents are loaded again as values.

Reference: Shah et al., "FlashAttention-3", 2024, section 3; Dao et al., "Flash-Decoding", 2023.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil

import numpy as np
from numpy.typing import NDArray

from archsim.mapping.attention_kernel import AttentionShape
from archsim.mapping.lowering.attention_cut import (
    Cut,
    choose_cut,
    handed,
    item_seconds,
    loaded_again,
    packed_rows,
    stage_cycles,
    sums_blocks,
    tile_height,
)
from archsim.mapping.lowering.deal import deal
from archsim.mapping.lowering.sample import Edges, carry, head_edges, sample_heads
from archsim.mapping.lowering.table import WORKSPACE, Lowered, StepTable
from archsim.mapping.storage import page_runs
from archsim.mapping.target import Target
from archsim.models.vector import VectorCost
from archsim.program import NO_GATHER

__all__ = ["lower_attention"]

Ints = NDArray[np.int64]
Q, K, V, OUT, PARTIAL = 0, 1, 2, 3, 4


@dataclass(frozen=True, eq=False)
class _Items:
    """Blocks of query rows with their key ranges, in execution order."""

    rows: Ints  # query rows
    query: Ints  # first row, over the whole query tensor
    head: Ints  # key/value head, over the batch
    begin: Ints  # first key
    keys: Ints
    out: Ints  # first output row
    parts: Ints  # ranges that the keys of its rows were cut into
    paired: Ints  # keys, from the first on, that the core it shares instructions with walks over with it

    def take(self, order: Ints) -> _Items:
        return _Items(*(getattr(self, f)[order] for f in self.__dataclass_fields__))


def lower_attention(
    target: Target, name: str, shape: AttentionShape, tensors: tuple[int, int, int, int], *, exact: bool = False
) -> Lowered:
    """The Program of ``shape``; ``tensors`` are the graph tensors of q, k, v and the output.

    exact: walk over all heads, instead of some that stand for others (:mod:`archsim.mapping.lowering.sample`).
    """
    if shape.kernel.synchronous:
        target = target.synchronous
    cut = choose_cut(target, shape)
    items = _enumerate(shape, cut)
    pieces = shape.kernel.pieces
    planned = _plan(items, cut, -(-packed_rows(shape) // cut.rows), target.cores) if cut.planned else None
    if planned is not None:
        items = planned[0]
    chunks = -(-items.keys // (cut.keys * pieces)) * pieces
    cores = target.cores
    handing = handed(target, shape, cut.rows, cut.keys)
    steps = 11 if any(handing) else 5  # of a chunk: three times a store and a load more where the units are apart
    heads = 1  # of a section
    if planned is None and shape.kernel.persistent:
        # heads in sections whose keys the cache can hold; in each the longest first, since causal items differ and
        # cores should end together; otherwise blocks of threads start in the order of the grid, head by head
        heads = _heads_per_section(target, shape, items)
        order = np.lexsort((-chunks, items.head // heads))
        items, chunks = items.take(order), chunks[order]
    section, sample = items.head // heads, None
    if planned is None and cut.splits == 1 and not shape.kernel.partials:
        whole = shape.batch * shape.kv_heads // heads
        mine = section == 0
        share = heads * _head_bytes(shape) / target.cache_bytes if target.cache_bytes else 0.0
        sample = sample_heads(
            whole, int(mine.sum()), steps * int(chunks[mine].sum()), cores * cut.resident, share, exact=exact
        )  # fmt: skip
        kept = np.flatnonzero(sample.keeps(section))
        items, chunks, section = items.take(kept), chunks[kept], section[kept]
    count = len(chunks)
    lane, turn = planned[1:] if planned is not None else deal(
        item_seconds(target, shape, cut, chunks), cores * cut.resident
    )  # fmt: skip
    core = lane % cores
    size = steps * chunks + 3  # query load, chunks, normalise, store
    first = np.cumsum(size) - size
    partial = np.flatnonzero((items.parts > 1) | shape.kernel.partials)
    groups = len(np.unique(items.query[partial]))
    # the rows of a group of splits are merged by as many cores as there are for it
    mergers = {"kernel": -(-cores // max(groups, 1)), "cluster": cut.splits, "last": 1}[shape.kernel.merge]
    slices = min(mergers, int(items.rows.max(initial=1)))
    merged = groups * slices
    table = StepTable(target, int(size.sum()) + (3 * merged + (shape.kernel.merge == "kernel") if merged else 0))
    width = shape.q_bytes
    table.load(first, core, Q, items.query * shape.d_qk * width, items.rows * shape.d_qk * width)

    # one row per chunk of any item
    item = np.repeat(np.arange(count), chunks)
    j = np.arange(len(item)) - np.repeat(np.cumsum(chunks) - chunks, chunks)
    spread, rows = core[item], items.rows[item]
    alternate = cut.order == "alternate"
    if any(handing):
        load_k = first[item] + 1 + steps * j
        load_v, score, softmax, value = load_k + 1, load_k + 2, load_k + 5, load_k + 8
    else:
        load_k, load_v, score, softmax, value = _places(first[item], j, chunks[item], alternate=alternate)
    keys = np.clip(items.keys[item] - j * cut.keys, 0, cut.keys)
    begin = items.begin[item] + j * cut.keys
    # cores that pair up load a part each of a block that all of them see as it is
    both = (j * cut.keys + keys <= items.paired[item]) & (cut.together > 1)
    own = np.where(both, -(-keys // cut.together), keys)
    own_begin = begin + np.where(both, items.query[item] // cut.rows % cut.together, 0) * own
    own = np.minimum(own, begin + keys - own_begin)
    again = loaded_again(target, shape)
    for step, region, key_bytes in ((load_k, K, shape.k_bytes), (load_v, V, shape.v_bytes)):
        if again:
            region, key_bytes = K, shape.k_bytes
        _load_keys(table, step, spread, region, items.head[item], own_begin, own, shape, key_bytes)
    # a block is worked on whole, however many of its keys are there, and so are tiles of one height
    if tile_height(target, shape) is not None:
        rows = np.full_like(rows, cut.rows)
    first_product, vector, second_product = stage_cycles(target, shape, rows, cut.keys, cut.order)
    for step, cycles in ((score, first_product), (value, second_product)):
        if shape.kernel.lanes:
            table.vector(step, spread, cycles)
        else:
            table.matrix(step, spread, cycles, shape.dtype, busy=cut.busy)
    if shape.convert and not shape.kernel.lanes:
        read = keys * (shape.d_qk + (0 if shape.kv_shared else shape.d_v))
        vector = vector + target.vector_cycles(read, VectorCost(shape.kernel.widen, 0.0))
    clock = None if shape.kernel.lanes else target.sustained_clock(shape.dtype, cut.busy)
    table.vector(softmax, spread, vector, clock=clock)

    table.after(score, load_k)
    table.after(score, first[item])
    table.after(softmax, score)
    table.after(value, softmax)
    table.after(value, load_v)
    # position of a chunk in its lane's sequence, to find who used its slot and its score tile before
    lanes = lane[item]
    in_lane = np.lexsort((np.arange(len(item)), lanes))
    rank = np.arange(len(item)) - np.searchsorted(lanes[in_lane], lanes[in_lane])
    # keys make room once they are scored, unless they are values as well
    waits = ((cut.slots, load_k, value if shape.kv_shared and not again else score), (cut.slots, load_v, value))
    if any(handing):
        place, summed = lanes * cut.scores + rank % cut.scores, (j + 1) % sums_blocks(cut) == 0
        _hand_over(table, load_k, spread, place, handing, summed | (j + 1 == chunks[item]), 5 if merged else 4)
    for depth, step, user in (*waits, (cut.scores, score, value)):
        has = rank >= depth
        table.after(step[in_lane[has]], user[in_lane[np.flatnonzero(has) - depth]])
    if alternate:  # the warps issue the next scores before they turn to P V, and then work on those scores
        later = np.flatnonzero(j >= 1)
        table.after(score[later], softmax[later - 1])
        table.after(value[later - 1], score[later])
    # the next item's queries arrive while this one runs, if they have a place
    normalise, store = first + size - 2, first + size - 1
    by_turn = np.full((int(turn.max()) + 1, cores * cut.resident), -1, dtype=np.int64)
    by_turn[turn, lane] = store
    older = np.flatnonzero(turn >= cut.queries)
    table.after(first[older], by_turn[turn[older] - cut.queries, lane[older]])
    if not shape.kernel.persistent:
        by_turn[turn, lane] = normalise
        early = np.flatnonzero((j < cut.slots) & (turn[item] >= 1))
        before = by_turn[turn[item[early]] - 1, lanes[early]]
        table.after(load_k[early], before)
        table.after(load_v[early], before)

    table.after(normalise[item], value + 2 if any(handing) else value)
    ending = target.vector_cycles(items.rows * shape.d_v, VectorCost(1.0, 0.0))
    table.vector(normalise, core, ending + shape.kernel.outside)
    place, element = np.full(count, OUT), np.full(count, shape.out_bytes)
    place[partial], element[partial] = PARTIAL, 4.0
    table.store(store, core, place, items.out * shape.d_v * element, items.rows * shape.d_v * element)
    table.after(store, normalise)

    if merged:
        _merge(table, items.take(partial), core[partial], store[partial], shape, cut, int(size.sum()), merged)
    edges: Edges = []
    if sample is not None:
        table.weight[: int(size.sum())] = np.repeat(sample.weights(section), size)
        edges = head_edges(sample, section, lane, store)
    text = f"{cut.rows} queries x {cut.keys} keys, {cut.slots} slots" + (
        ", equal ranges" if cut.planned else f", split-KV {cut.splits}" if cut.splits > 1 else ""
    )
    scratch = ["partial results"] * bool(merged) + ["handed over"] * any(handing)
    return table.build(
        name, ["q", "k", "v", "out", *scratch], [*tensors, *[WORKSPACE] * len(scratch)], text,
        carry=carry(edges, alike=target.alike),
    )  # fmt: skip


def _load_keys(
    table: StepTable, at: Ints, core: Ints, region: int, head: Ints, begin: Ints, keys: Ints, shape: AttentionShape,
    key_bytes: float,
) -> None:  # fmt: skip
    """Ranges of keys, or of values: a head's lie side by side, or in pages where earlier steps left a cache."""
    storage = table.target.storage
    if storage.kv_cache == "contiguous" or shape.kv_len <= shape.q_len or not key_bytes:
        table.load(at, core, region, (head * shape.kv_len + begin) * key_bytes, keys * key_bytes)
        return
    cache, own = np.divmod(head, shape.kv_heads)
    runs, first, places = page_runs(
        cache, own, begin, keys, heads=shape.kv_heads, length=shape.kv_len, key_bytes=key_bytes,
        page=storage.page(latent=shape.kv_shared),
    )  # fmt: skip
    gather = table.gather_list(places)
    run_bytes = np.ceil(keys * key_bytes / np.maximum(runs, 1)).astype(np.int64)
    table.load(at, core, region, 0, runs * run_bytes, runs, 0, np.where(runs > 0, gather + first, NO_GATHER))


def _hand_over(
    table: StepTable, first: Ints, core: Ints, place: Ints, nbytes: tuple[int, int, int], summed: NDArray[np.bool_],
    region: int,
) -> None:  # fmt: skip
    """The stores and loads between the stages of chunks that begin at ``first``: scores, probabilities, outputs.

    place: of the buffer that a chunk has in the ``region``. summed: whether a chunk's outputs go, with those before it.
    """
    begin = place * sum(nbytes)
    for stage, size in enumerate(nbytes):
        step, moved = first + 3 * (stage + 1), np.where(summed, size, 0) if stage == 2 else size
        table.store(step, core, region, begin, moved)
        table.load(step + 1, core, region, begin, moved)
        table.after(step, step - 1)  # the stage before
        table.after(step + 1, step)
        if stage < 2:
            table.after(step + 2, step + 1)
        begin = begin + size


def _merge(
    table: StepTable, items: _Items, core: Ints, store: Ints, shape: AttentionShape, cut: Cut, first: int, merged: int
) -> None:
    """Steps from ``first`` on: reading the partial results of all splits, adding, and the output.

    Behind a barrier, or on cores that had a split, once all of them have stored; the fence after the stores and the
    counter cost a round trip to memory each.
    """
    total, target = shape.batch * shape.heads * shape.q_len, table.target
    base = items.out % total  # the same for all splits of a block of queries
    starts, which = np.unique(base, return_inverse=True)
    groups, slices = len(starts), merged // len(starts)
    height, parts = np.zeros((2, groups), dtype=np.int64)
    height[which], parts[which] = items.rows, items.parts
    group, part = (x.ravel() for x in np.meshgrid(np.arange(groups), np.arange(slices), indexing="ij"))
    begin = height[group] * part // slices
    rows = height[group] * (part + 1) // slices - begin
    adding = target.vector_cycles(rows * parts[group] * shape.d_v, VectorCost(2.0, 0.0))
    if shape.kernel.merge != "kernel":
        fetch = first + 3 * np.arange(merged)
        lanes = core[np.argsort(which, kind="stable")].reshape(groups, cut.splits)[:, :slices].ravel()
        for one in fetch.reshape(groups, slices).T:
            table.after(one[which], store)
        adding = adding + ceil(2 * target.memory_latency_s * target.clock)
    else:
        fetch, lanes = first + 1 + 3 * np.arange(merged), np.arange(merged) % target.cores
        table.barrier(first, store)
        table.after(fetch, np.full(merged, first))
    row = shape.d_v * (starts[group] + begin)
    table.load(fetch, lanes, PARTIAL, row * 4, rows * parts[group] * shape.d_v * 4)
    table.vector(fetch + 1, lanes, adding)
    table.after(fetch + 1, fetch)
    table.store(fetch + 2, lanes, OUT, row * shape.out_bytes, rows * shape.d_v * shape.out_bytes)
    table.after(fetch + 2, fetch + 1)


def _places(first: Ints, j: Ints, chunks: Ints, *, alternate: bool) -> tuple[Ints, Ints, Ints, Ints, Ints]:
    """Steps of chunk ``j`` of items that begin at ``first``: loads of K and V, scores, softmax, value.

    Five in a row; where warps alternate, P V of a chunk comes after the scores of the next, which are issued before it.

    >>> one = np.zeros(2, dtype=int)
    >>> [each.tolist() for each in _places(one, np.arange(2), one + 2, alternate=True)]
    [[1, 5], [2, 6], [3, 7], [4, 9], [8, 10]]
    """
    load_k = first + 1 + 5 * j
    if not alternate:
        return load_k, load_k + 1, load_k + 2, load_k + 3, load_k + 4
    load_k = load_k - (j > 0)
    value = np.where(j + 1 < chunks, load_k + 7 + (j > 0), first + 5 * chunks)
    return load_k, load_k + 1, load_k + 2, load_k + 3 + (j > 0), value


def _heads_per_section(target: Target, shape: AttentionShape, items: _Items) -> int:
    """Key/value heads that are worked on at a time: as many as half the cache holds, but enough for every core.

    Longest-first over all heads would stream the keys of all of them past the cache once for every block of queries.
    Reference: the scheduler of FlashAttention-3 for causal and variable-length batches does the same.
    """
    heads = shape.batch * shape.kv_heads
    head_bytes = shape.kv_len * (shape.k_bytes + shape.v_bytes)
    for_cores = -(-target.cores * heads // len(items.head))
    return min(max(int(target.cache_bytes / 2 // head_bytes), for_cores), heads) if target.cache_bytes else heads


def _head_bytes(shape: AttentionShape) -> float:
    """Of one key/value head: its keys and values, and the queries and outputs of the heads that share it."""
    rows = shape.heads // shape.kv_heads * shape.q_len
    queries = rows * (shape.d_qk * shape.q_bytes + shape.d_v * shape.out_bytes)
    return shape.kv_len * (shape.k_bytes + shape.v_bytes) + queries


def _enumerate(shape: AttentionShape, cut: Cut) -> _Items:
    packed = packed_rows(shape)
    units = shape.batch * shape.heads * shape.q_len // packed  # blocks of rows with the same keys and mask
    per_kv_head = units // (shape.batch * shape.kv_heads)
    blocks = -(-packed // cut.rows)
    unit, block, split = (
        x.ravel() for x in np.meshgrid(np.arange(units), np.arange(blocks), np.arange(cut.splits), indexing="ij")
    )
    begin_row = block * cut.rows
    rows = np.minimum(cut.rows, packed - begin_row)
    end, begin = np.full(len(unit), shape.kv_len), np.zeros(len(unit), dtype=np.int64)
    if shape.causal and packed == shape.q_len and not shape.kernel.whole:
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
    parts = np.full(len(unit), cut.splits)
    # the tiles of a pair are neighbours in a unit; of another begin nothing is walked over together
    first, seen = (x.reshape(-1, cut.together, cut.splits) for x in (begin, keys))
    alike = (first == first[:, :1]).all(axis=1, keepdims=True)
    paired = np.broadcast_to(np.where(alike, seen.min(axis=1, keepdims=True), 0), seen.shape).ravel()
    return _Items(rows, query, unit // per_kv_head, begin, keys, query + split * total, parts, paired)


def _plan(items: _Items, cut: Cut, heights: int, cores: int) -> tuple[_Items, Ints, Ints]:
    """Equal tiles in ranges of as many blocks of keys for every core; with the core of each, and its turn there.

    Tiles that see the same keys (``heights`` of them follow each other) walk over them side by side, on neighbouring
    cores; the sequences are laid end to end and cut into ranges.

    Reference: the tile scheduler of FlashMLA (``get_mla_metadata``).

    >>> tile = _Items(*(np.array([x, x]) for x in (64, 0, 0, 0, 192, 0, 1, 192)))
    >>> tile = replace(tile, query=np.array([0, 64]), out=np.array([0, 64]))
    >>> planned, core, turn = _plan(tile, Cut(64, 64, 1, 2, 1, 1, "turns"), 1, 4)
    >>> [field.tolist() for field in (planned.query, planned.begin, planned.keys, planned.parts, core, turn)]
    [[0, 0, 64, 64], [0, 128, 0, 64], [128, 64, 64, 128], [2, 2, 2, 2], [0, 1, 1, 2], [0, 0, 1, 0]]
    """
    units, blocks = len(items.query) // heights, -(-int(items.keys[0]) // cut.keys)
    share = -(-units * blocks // (cores // heights))
    bounds = np.unique(np.concatenate([np.arange(units + 1) * blocks, np.arange(0, units * blocks, share)]))
    unit, first = np.divmod(bounds[:-1], blocks)
    place = bounds[:-1] // share
    rank, turn = (np.arange(len(unit)) - np.searchsorted(of, of) for of in (unit, place))
    parts = np.bincount(unit)[unit]
    side = np.tile(np.arange(heights), len(unit))
    unit, first, place, rank, turn, parts, length = (
        np.repeat(each, heights) for each in (unit, first, place, rank, turn, parts, np.diff(bounds))
    )
    found = items.take(unit * heights + side)
    begin = first * cut.keys
    keys = np.minimum(length * cut.keys, found.keys - begin)
    out = found.out + rank * int(items.rows.sum())
    return replace(found, begin=found.begin + begin, keys=keys, out=out, parts=parts), place * heights + side, turn
