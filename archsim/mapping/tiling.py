"""The choice of tiles for a matrix product: every legal candidate scored at once in closed form.

A product ``C[m, n] = A[m, k] B[k, n]`` (one, or a group of them with the same ``n`` and ``k``) is cut into
output tiles of ``tm x tn``; each core walks over ``k`` in chunks of ``tk`` and keeps up to ``slots`` chunks in
its scratchpad, so that the next chunks arrive while the present one is multiplied. ``split_k`` cores may share
one output tile and add their parts behind a barrier, or on their way through a network that adds. ``pair``
neighbouring cores may run one instruction together, each holding a share of B (tcgen05's pairs of SMs); rows of tiles
are then padded to whole pairs. With stream-K the tiles of the last one or two waves are shared out evenly over all
cores, whose parts of a tile its owner adds.

Score (seconds): wave by wave of tiles the slowest of the pipelined resources, plus what cannot overlap. What a core
has to itself takes as long in the last wave, of ``rest`` tiles, as in the others; what all share is there for fewer::

    t = full waves * max(own, cores * shared) + max(own, rest * shared) + fill + drain + reduction
    own      = max(matrix, vector, port_in, port_out, latency) / waves,  shared = max(noc, cache, dram) / tiles
    matrix   = waves * (chunks * occupancy(tm, tn, tk) + epilogue, where one accumulator tile is all that fits) / clock
    vector   = waves * chunks * (conversion of operands stored narrower than they are multiplied
               + promotion of block-scaled partial sums) / clock
    port_in  = waves * k/split_k * (tm a + tn b / pair) / port bytes/s  a, b: bytes of an element
    latency  = waves * chunks * arrival / (outstanding bytes / chunk), or, for each slot,
               (waves * chunks * (arrival + occupancy / clock) + vector) / slots
               arrival: latency of an idle memory + chunk / port
    dram     = (unique panels of a wave, re-read unless the cache holds them, + results that it has no room for)
               / memory bytes/s between refreshes

with ``waves = ceil(tiles / cores)``, with stream-K ``tiles / cores`` rounded up to a chunk, in which all cores are busy
to the end. It ranks candidates; :mod:`archsim.mapping.search` simulates the best few. Over 490 random products on eight
chips simulated time is 1.05 times the score in the mean, with a standard deviation of 7 %.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from archsim.errors import InputError
from archsim.mapping.target import Target
from archsim.models.systolic import compressed
from archsim.models.vector import COSTS
from archsim.sparsity import Sparsity

__all__ = [
    "INDIFFERENT",
    "MatmulShape",
    "Tiling",
    "chunk_bytes",
    "chunk_vector_cycles",
    "score_tiling",
    "score_tilings",
]

Ints = NDArray[np.int64]

MAX_SLOTS = 4
MAX_EDGE = 4096
SPLITS = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 24, 32)
#: edges that are no powers of two are tried in multiples of the unit's step times this, up to so many
FINE_STEP, FINE_STEPS = 2, 8
#: among candidates within this share of the best time the one with the fewest chunks wins (fewer, larger transfers)
INDIFFERENT = 0.01
#: stream-K is tried where it saves more than this share of the waves, and where its runs (which are walked chunk by
#: chunk, up to two tiles long) are of so many chunks of one tile over all cores at most
STREAM_SAVES, STREAM_CHUNKS = 0.05, 24_000
#: where nothing but the matrix unit, or memory, takes more than this share of its time, it is all that is waited for
STEADY = 0.8


@dataclass(frozen=True)
class MatmulShape:
    """A group of products with common ``n`` and ``k``; ``m`` has one entry per product (experts, batches).

    dtype: what the operands are multiplied in. ``a_bytes`` and so on: bytes of an element as it is stored.
    ``convert_a``, ``convert_b``: the operand is stored narrower than it is multiplied, and converted as it arrives.
    ``block_scaled``: operands carry a scale for each block of the reduction. ``least``: rows and columns of the
    smallest tile that the kernel is built for. ``splits``: whether it can share a tile's reduction out over cores,
    ``streams``: also as stream-K does.
    ``tiles``: rows and columns of the only tiles that a library has kernels for, where they are known.
    ``warp``: output tile of its warps if they load and multiply in turn where the matrix unit is synchronous.
    ``b_padded``: bytes of an element of B in the scratchpad, where it is laid out there as wide as the other operand.
    ``sparsity``: of B, whose zeros are neither stored (``b_bytes`` is its share of all elements) nor multiplied.

    A convolution is a product whose A is expanded inside the core, from the input that lies in the scratchpad: then
    ``a_bytes`` is the input's share of an expanded element, each byte of which the matrix unit reads ``expand`` times,
    and a tile fetches what ``halo`` more rows would fetch, the pixels that it shares with its neighbours.
    """

    m: tuple[int, ...]
    n: int
    k: int
    dtype: str
    a_bytes: float
    b_bytes: float
    c_bytes: float
    convert_a: bool = False
    convert_b: bool = False
    block_scaled: bool = False
    halo: int = 0
    expand: float = 1.0
    least: tuple[int, int] = (1, 1)
    splits: bool = True
    streams: bool = True
    tiles: tuple[tuple[int, int], ...] = ()
    warp: tuple[int, int] | None = None
    sparsity: Sparsity | None = None
    b_padded: float | None = None

    @property
    def b_held(self) -> float:
        """Bytes of an element of B in the scratchpad."""
        return self.b_padded or self.b_bytes

    @property
    def m_sum(self) -> int:
        """Rows of all products."""
        return sum(self.m)

    def conversion(self, m: Ints, n: Ints, k: Ints) -> Ints:
        """Elements of a chunk that are converted as they arrive."""
        return m * self.convert_a * k + n * self.convert_b * self.kept(k)

    def kept(self, k: Ints) -> Ints:
        """Terms of a reduction that are multiplied."""
        return compressed(k, self.sparsity.n, self.sparsity.m) if self.sparsity else k


@dataclass(frozen=True)
class Tiling:
    """One way to cut a product; sizes in elements; ``estimate_s`` and its ``parts`` by the closed form above.

    ``cluster_m``, ``cluster_n``: tiles down and across whose cores fetch once what they share.
    ``busy``: share of the time for which the matrix units multiply.
    """

    tm: int
    tn: int
    tk: int
    slots: int
    split_k: int
    group_m: int
    pair: int
    estimate_s: float
    bound: str
    parts: tuple[tuple[str, float], ...] = ()
    busy: float = 1.0
    stream_k: bool = False
    cluster_m: int = 1
    cluster_n: int = 1

    @property
    def steady(self) -> bool:
        """Whether the matrix unit is what is waited for, by a wide margin: then chunks and waves are equal."""
        others = [time for name, time in self.parts if name != "matrix"]
        return bool(others) and max(others) <= STEADY * dict(self.parts)["matrix"]

    @property
    def streams(self) -> bool:
        """Whether memory is what is waited for, by a wide margin."""
        others = [time for name, time in self.parts if name != "dram"]
        return bool(others) and max(others) <= STEADY * dict(self.parts)["dram"]

    def __str__(self) -> str:
        split = f", split-K {self.split_k}" if self.split_k > 1 else ""
        split += ", stream-K" if self.stream_k else ""
        split += f", {self.pair} cores an instruction" if self.pair > 1 else ""
        shared = self.pair == 1 and self.cluster_m * self.cluster_n > 1
        split += f", clusters of {self.cluster_m} x {self.cluster_n} tiles" if shared else ""
        score = f"{self.bound}, {self.estimate_s * 1e6:.2f} us"
        return f"{self.tm} x {self.tn} x {self.tk}, {self.slots} slots{split} ({score})"


def _edges(low: int, high: int, fine: int) -> NDArray[np.int64]:
    """Powers of two from ``low`` up to the first that covers ``high``, and the first few multiples of ``fine``.

    >>> _edges(16, 100, 32).tolist()
    [16, 32, 64, 96, 128]
    """
    top = low
    while top < min(high, MAX_EDGE):
        top *= 2
    sizes = {low << i for i in range(32) if low << i <= top} | {fine * i for i in range(1, FINE_STEPS + 1)}
    return np.array(sorted(size for size in sizes if low <= size <= top), dtype=np.int64)


def _ceil_div(a: Ints | int, b: Ints | int) -> Ints:
    quotient: Ints = -(-np.asarray(a) // np.asarray(b))
    return quotient


@dataclass(frozen=True, eq=False)
class _Cuts:
    """Candidates, a column of numbers each."""

    tm: Ints
    tn: Ints
    tk: Ints
    split: Ints
    pair: Ints
    slots: Ints
    stream: Ints

    def take(self, which: NDArray[np.bool_]) -> _Cuts:
        return _Cuts(*(getattr(self, field)[which] for field in self.__dataclass_fields__))

    def with_streams(self, which: NDArray[np.bool_]) -> _Cuts:
        """All of them, and behind them these as stream-K."""
        more = replace(self.take(which), stream=np.ones(int(which.sum()), dtype=np.int64))
        both = [(getattr(self, field), getattr(more, field)) for field in self.__dataclass_fields__]
        return _Cuts(*(np.concatenate(columns) for columns in both))


def chunk_bytes(tm: Ints | int, tn: Ints | int, tk: Ints | int, pair: Ints | int, shape: MatmulShape) -> Ints:
    """Scratchpad of one chunk of A and of this core's share of B."""
    a, b = (tm + shape.halo) * tk * shape.a_bytes, tk * tn * shape.b_held / pair
    return np.asarray(np.ceil(a) + np.ceil(b), dtype=np.int64)


def most_slots(target: Target, chunk: Ints) -> Ints:
    """Chunks that a core may hold: more of small ones where few cores share a fast memory (Little's law); two where
    they pass through registers, which hold one while the other is multiplied."""
    if target.through_registers:
        return np.full_like(chunk, 2)
    return np.maximum(np.ceil(target.in_flight_bytes / chunk).astype(np.int64), MAX_SLOTS)


def chunk_vector_cycles(target: Target, shape: MatmulShape, m: Ints, n: Ints, k: Ints) -> Ints:
    """Cycles of the vector unit for a chunk: conversion of what arrives, promotion of what leaves the matrix unit.

    Warps that multiply synchronously convert between two products: that is in the cycles of the products.
    """
    cycles: Ints = np.zeros(np.broadcast(m, n, k).shape, dtype=np.int64)
    if target.asynchronous and (shape.convert_a or shape.convert_b):
        cycles = cycles + target.vector_cycles(shape.conversion(m, n, k), COSTS["unpack"])
    if shape.block_scaled and (every := target.promotion(shape.dtype)):
        cycles = cycles + target.vector_cycles(m * n * _ceil_div(k, every), COSTS["promote"])
    return cycles


def _candidates(target: Target, shape: MatmulShape) -> _Cuts:
    """All cuts that are legal: two chunks and one accumulator tile fit, a split leaves every part a chunk."""
    m_low, n_low, k_low = target.tile_floor()
    fine = FINE_STEP * n_low if n_low < 64 else n_low
    rows = _edges(m_low, max(*shape.m, *target.step, shape.least[0]), 64)
    columns = _edges(n_low, max(shape.n, *target.step, shape.least[1]), fine)
    if shape.tiles:
        rows, columns = (np.unique(side) for side in zip(*shape.tiles, strict=True))
    axes = np.meshgrid(
        rows,
        columns,
        _edges(k_low, shape.k, MAX_EDGE),
        np.array(SPLITS),
        np.unique([1, target.pair]),
        indexing="ij",
    )
    tm, tn, tk, split, pair = (axis.ravel() for axis in axes)
    chunk = chunk_bytes(tm, tn, tk, pair, shape)
    slots = np.minimum(target.scratchpad_bytes // chunk, most_slots(target, chunk))
    promotion = target.promotion(shape.dtype) if shape.block_scaled else 0
    held = tm * tn * 4 * (2 if promotion else 1)  # the sums so far, and those of the block in the unit
    legal = (slots >= 2) & (held <= target.accumulator_bytes) & ((tk % promotion == 0) if promotion else True)
    long, short = target.step
    if target.asynchronous:
        # one side is that of the instruction's rows, in whole instructions; those of a pair lie along its two tiles
        legal &= (tm % long == 0) | ((tn % long == 0) & (pair == 1))
    else:  # such tiles are made of the tiles of warps, two by two
        legal &= ((tm & (tm - 1)) == 0) & ((tn & (tn - 1)) == 0)
    legal &= (np.maximum(tm, tn) >= long) & (np.minimum(tm, tn) >= short)
    legal &= (tm >= shape.least[0]) & (tn >= shape.least[1]) & (shape.splits | (split == 1))
    if shape.tiles:
        legal &= np.any([(tm == rows) & (tn == columns) for rows, columns in shape.tiles], axis=0)
    legal &= (split == 1) | ((_ceil_div(shape.k, tk) >= split) & (split * pair <= target.cores))
    if shape.tiles and not legal.any():
        menu = ", ".join(f"{rows} x {columns}" for rows, columns in shape.tiles)
        raise InputError(f"no tile of a {shape.dtype} product on {target.name} is legal: its library has {menu}")
    if not legal.any():
        need = 2 * (m_low * k_low * shape.a_bytes + k_low * n_low * shape.b_bytes)
        raise InputError(
            f"no tile of a {shape.dtype} product fits {target.name}: two chunks of {m_low} x {n_low} x {k_low} need "
            f"{need:,.0f} B of scratchpad ({target.scratchpad_bytes:,} B) and {m_low * n_low * 4:,} B of accumulator "
            f"({target.accumulator_bytes:,} B)"
        )
    cuts = _Cuts(tm, tn, tk, split, pair, slots, np.zeros_like(tm)).take(legal)
    return cuts.with_streams(_streams(target, shape, cuts)) if shape.splits and shape.streams else cuts


def _rows_of_tiles(shape: MatmulShape, cuts: _Cuts) -> tuple[Ints, Ints]:
    """Rows of tiles over all products, and of the tallest one; whole pairs."""
    m, count = np.unique(np.array(shape.m, dtype=np.int64), return_counts=True)
    heights, which = np.unique(cuts.tm * cuts.pair, return_inverse=True)
    each = _ceil_div(m[:, None], heights[None, :])
    return (each * count[:, None]).sum(axis=0)[which] * cuts.pair, each[-1][which] * cuts.pair


def clusters(target: Target) -> list[tuple[int, int]]:
    """Shapes of clusters, in tiles down and across, whose cores fetch together what they share.

    Where cores do not all lie behind one crossbar, what a column shares is handed from one to the next.
    """
    most = target.multicast
    across = range(1, most + 1) if target.alike else (1,)
    return [(down, n) for n in across for down in range(1, most // n + 1)]


def stream_waves(tiles: Ints | int, chunks: Ints | int, cores: int) -> NDArray[np.float64]:
    """Waves of stream-K: all but the last whole one, and the chunks of the rest shared out evenly.

    >>> float(stream_waves(20, 10, 8)), float(stream_waves(5, 10, 8))
    (2.5, 0.7)
    """
    whole = np.maximum(np.asarray(tiles) // cores - 1, 0)
    waves: NDArray[np.float64] = whole + _ceil_div((tiles - whole * cores) * chunks, cores) / chunks
    return waves


def _streams(target: Target, shape: MatmulShape, cuts: _Cuts) -> NDArray[np.bool_]:
    """Which cuts stream-K would make shorter by enough to be worth its parts, in runs that can be simulated."""
    tiles = _rows_of_tiles(shape, cuts)[0] * _ceil_div(shape.n, cuts.tn)
    chunks = _ceil_div(shape.k, cuts.tk)
    saved = 1 - stream_waves(tiles, chunks, target.cores) / _ceil_div(tiles, target.cores)
    short = (chunks * target.cores <= STREAM_CHUNKS) & (tiles * chunks >= target.cores)
    streams: NDArray[np.bool_] = (cuts.split == 1) & (saved > STREAM_SAVES) & short
    return streams


def score_tilings(target: Target, shape: MatmulShape, keep: int = 8) -> list[Tiling]:
    """The ``keep`` best tilings and behind them the ``keep`` best with stream-K, best first; the best ``tk`` of each
    shape of tile, split and pairing only."""
    return _scored(target, shape, _candidates(target, shape), clusters(target), keep)


def score_tiling(
    target: Target, shape: MatmulShape, tiling: Tiling, cluster: tuple[int, int] | None = None
) -> Tiling:  # fmt: skip
    """One tiling with its score, the raster order that suits it and its best cluster, or the given one."""
    sizes = (tiling.tm, tiling.tn, tiling.tk, tiling.split_k, tiling.pair, tiling.slots, int(tiling.stream_k))
    shapes = clusters(target) if cluster is None else [cluster]
    return _scored(target, shape, _Cuts(*(np.array([size]) for size in sizes)), shapes, keep=1)[0]


def _best_clusters(
    shapes: list[tuple[int, int]], alone: NDArray[np.bool_], pair: Ints, a: NDArray[np.float64], b: NDArray[np.float64],
    rows: Ints, columns: Ints,
) -> tuple[Ints, Ints, NDArray[np.float64]]:  # fmt: skip
    """The cluster that fetches least for each candidate: its rows and columns of tiles, and what a tile then fetches.

    a, b: what a tile takes in of either operand. Pairs share B and nothing else, and cores on their own nothing.
    """
    down, across, least = pair, np.ones_like(pair), a + b / pair
    for m, n in shapes:
        fetched = a / np.minimum(n, columns) + b / np.minimum(m, rows)
        better = ~alone & (pair == 1) & (fetched < least)
        down, across = np.where(better, m, down), np.where(better, n, across)
        least = np.where(better, fetched, least)
    return down, across, least


def _scored(
    target: Target, shape: MatmulShape, cuts: _Cuts, shapes: list[tuple[int, int]], keep: int
) -> list[Tiling]:  # fmt: skip
    tm, tn, tk, split, pair, slots, stream = (getattr(cuts, field) for field in cuts.__dataclass_fields__)
    cores, m_max = target.cores, max(shape.m)
    k_part = _ceil_div(_ceil_div(shape.k, tk), split) * tk
    chunks = k_part // tk
    all_rows, rows = _rows_of_tiles(shape, cuts)
    columns = _ceil_div(shape.n, tn)
    tiles = all_rows * columns * split
    waves = np.where(stream, stream_waves(tiles, chunks, cores), _ceil_div(tiles, cores))
    m_tile, n_tile = np.minimum(tm, m_max), np.minimum(tn, shape.n)
    m_read = np.minimum(m_tile + shape.halo, m_max)
    k_chunk, k_span = np.minimum(tk, shape.k), np.minimum(k_part, shape.k)

    # the unit itself, and the epilogue where there is no second accumulator to hide it
    m_busy, n_busy = (tm, tn) if target.whole_tiles else (m_tile, n_tile)
    cycles = target.multiply_cycles(
        m_busy, n_busy, k_chunk, shape.dtype, shape.a_bytes, shape.b_held, pair, shape.warp,
        0 if target.asynchronous else shape.conversion(m_tile, n_tile, k_chunk), shape.expand, shape.sparsity,
    )  # fmt: skip
    loaded = target.sustained_clock(shape.dtype)
    epilogue_s = target.vector_cycles(m_tile * n_tile, COSTS["cast"]) / target.clock
    alone = (target.accumulator_bytes // (tm * tn * 4) < 2) & (waves > 1)
    vector_s = waves * chunks * chunk_vector_cycles(target, shape, m_tile, n_tile, k_chunk) / target.clock

    # a core's port
    down, across_n, tile_in = _best_clusters(
        shapes, (split > 1) | (stream > 0), pair, m_read * shape.a_bytes, n_tile * shape.b_bytes, rows, columns
    )
    chunk_in = k_chunk * (m_read * shape.a_bytes + n_tile * shape.b_bytes / pair)
    tile_out = m_tile * n_tile * np.where(split > 1, 4.0, shape.c_bytes)
    port_in_s = waves * chunks * chunk_in / target.port_read_bytes_per_s
    port_out_s = waves * tile_out / target.port_write_bytes_per_s
    # a slot of the scratchpad is filled, and read until its product is done; and no more is on its way than a core may
    # have outstanding (Little's law). Queues are in the other parts
    arrival_s = target.memory_latency_s + chunk_in / target.port_read_bytes_per_s
    requests_s = waves * chunks * arrival_s * chunk_in / target.outstanding_bytes

    # panels: a wave of tiles covers group_m x group_n tiles, as square in elements as the grid allows
    across = np.maximum(cores // split, 1)
    group_m = np.clip(np.round(np.sqrt(across * tn / tm)), 1, rows).astype(np.int64)
    groups = _ceil_div(rows, group_m)  # of equal height: a low last one would re-read B for little
    group_m = _ceil_div(_ceil_div(rows, groups), down) * down
    a_total = shape.m_sum * shape.k * shape.a_bytes
    b_total = sum(m > 0 for m in shape.m) * shape.n * shape.k * shape.b_bytes
    c_total = shape.m_sum * shape.n * shape.c_bytes
    in_network = target.adds(split)
    partial = np.where((split > 1) & ~in_network, 4.0 * shape.m_sum * shape.n * split, 0.0)
    partial = np.where(stream, 4.0 * m_tile * n_tile * cores, partial)
    fetched = tiles * k_span * tile_in
    if target.cache_bytes:
        fits = a_total + b_total <= target.cache_bytes
        panel_fits = group_m * tm * shape.k * shape.a_bytes <= target.cache_bytes / 2
        passes_b = np.where(fits, 1, _ceil_div(rows, group_m))
        passes_a = np.where(fits | panel_fits, 1, _ceil_div(columns, np.maximum(across // group_m, 1)))
        read = a_total * passes_a + b_total * passes_b
        # no two cores of stream-K are at the same place of k: they share what the cache holds, or nothing
        before = np.maximum(tiles // cores - 1, 0) * cores
        shared = tiles - before
        group_n = _ceil_div(shared, group_m)
        held = shape.k * (group_m * tm * shape.a_bytes + group_n * tn * shape.b_bytes)
        held = np.minimum(held, a_total + b_total)
        read = np.where((stream > 0) & (held > target.cache_bytes), fetched, read)
        # and together they touch all of it, where it is cold, before any has come far
        rush_s = held / target.streamed_bytes_per_s - chunks * cycles / loaded / np.minimum(group_m, group_n)
        rush_s = np.where(before > 0, 0.0, np.maximum(rush_s, 0.0))
        cache_s = (fetched + partial) / target.cache_bytes_per_s
        spilled = np.where(partial > target.cache_bytes, partial, 0.0)
        spilled = spilled + np.clip(read + c_total - target.cache_bytes, 0.0, c_total)  # the rest is written back later
    else:
        read, cache_s, spilled, rush_s = fetched, np.zeros(len(tm)), partial + c_total, np.zeros(len(tm))
    dram_s = (read + spilled) / target.streamed_bytes_per_s

    fill_s = target.memory_latency_s + chunk_in / target.port_read_bytes_per_s
    merging = (partial + c_total) / min(cores * target.port_read_bytes_per_s, target.cache_bytes_per_s or np.inf)
    from_memory_s = np.where(partial > target.cache_bytes, partial / target.streamed_bytes_per_s, 0.0)
    merging = np.maximum(merging, from_memory_s)
    reduction_s = np.where(split > 1, target.barrier_s + 2 * target.memory_latency_s + merging, 0.0)
    helpers = _ceil_div(chunks, np.maximum((waves * chunks).astype(np.int64), 1))  # that an owner of stream-K adds
    fix_up = partial / (target.cache_bytes_per_s or np.inf)
    fix_up = fix_up + helpers * 4.0 * m_tile * n_tile / target.port_read_bytes_per_s
    fix_up = fix_up + target.vector_cycles(helpers * m_tile * n_tile, COSTS["add"]) / target.clock
    reduction_s = np.where(stream, 2 * target.memory_latency_s + fix_up + rush_s, reduction_s)
    reduction_s = np.where(in_network, 4.0 * m_tile * n_tile / target.port_read_bytes_per_s, reduction_s)

    noc_s = fetched / target.noc_bytes_per_s

    def timed(clock: float | NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        multiply_s = cycles / clock
        matrix_s = waves * (chunks * multiply_s + alone * epilogue_s)
        latency_s = np.maximum((waves * chunks * (arrival_s + multiply_s) + vector_s) / slots, requests_s)
        drain_s = multiply_s + epilogue_s + tile_out / target.port_write_bytes_per_s
        parts = np.stack([matrix_s, vector_s, port_in_s, port_out_s, latency_s, noc_s, cache_s, dram_s])
        own_s, shared_s = parts[:5].max(axis=0) / waves, parts[5:].max(axis=0) / tiles
        whole, rest = tiles // cores, tiles % cores
        in_turn_s = whole * np.maximum(own_s, cores * shared_s) + (rest > 0) * np.maximum(own_s, rest * shared_s)
        busiest_s = np.where(stream, parts.max(axis=0), in_turn_s)
        return parts, busiest_s + fill_s + drain_s + reduction_s

    # units that rest draw less, and their clock is higher
    macs = shape.m_sum * shape.n * shape.kept(np.asarray(shape.k)) / (cores * target.macs_per_cycle(shape.dtype))
    busy = np.minimum(macs / loaded / timed(loaded)[1], 1.0)
    parts, time = timed(target.sustained_clocks(shape.dtype, busy))
    names = ("matrix", "vector", "port in", "port out", "latency", "noc", "cache", "dram")

    def tiling(i: int) -> Tiling:
        shares = (*zip(names, parts[:, i].tolist(), strict=True), ("reduction", float(reduction_s[i])))
        return Tiling(
            int(tm[i]), int(tn[i]), int(tk[i]), int(slots[i]), int(split[i]), int(group_m[i]), int(pair[i]),
            float(time[i]), names[int(parts[:, i].argmax())], shares, float(busy[i]), bool(stream[i]), int(down[i]),
            int(across_n[i]),
        )  # fmt: skip

    unsteady = parts[1:].max(axis=0) > STEADY * parts[0]
    ranked: list[Tiling] = []
    for mine in (np.flatnonzero(stream == 0), np.flatnonzero(stream)):
        # by time, but among nearly equal ones whole tiles first (parts of split-K share less in the cache than they are
        # scored for), then those that wait for the matrix unit alone, then the fewest steps
        # (np.lexsort is stable: then the candidate's index)
        least = time[mine].min(initial=np.inf)
        leveled = np.where(time[mine] <= least * (1 + INDIFFERENT), least, time[mine])
        order = mine[np.lexsort(((tiles * chunks)[mine], unsteady[mine], split[mine] > 1, leveled))][: 16 * keep]
        first = {(tm[i], tn[i], split[i], pair[i]): i for i in order[::-1].tolist()}
        ranked += [tiling(i) for i in sorted(first.values(), key=order.tolist().index)[:keep]]
    return ranked
