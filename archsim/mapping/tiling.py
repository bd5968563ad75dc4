"""The choice of tiles for a matrix product: every legal candidate scored at once in closed form.

A product ``C[m, n] = A[m, k] B[k, n]`` (one, or a group of them with the same ``n`` and ``k``) is cut into
output tiles of ``tm x tn``; each core walks over ``k`` in chunks of ``tk`` and keeps up to ``slots`` chunks in
its scratchpad, so that the next chunks arrive while the present one is multiplied. ``split_k`` cores may share
one output tile and add their parts.

Score (seconds), the slowest of the pipelined resources plus what cannot overlap::

    t = max(matrix, vector, port_in, port_out, cache, dram, latency) + fill + drain + reduction
    matrix   = waves * chunks * occupancy(tm, tn, tk) / clock
    vector   = waves * chunks * conversion of operands stored narrower than they are multiplied / clock
    port_in  = waves * k/split_k * (tm a + tn b) / port bytes/s         a, b: bytes of an element
    latency  = waves * chunks * (loaded latency + chunk / port) / slots
    dram     = unique panels of a wave, re-read unless the cache holds them, / memory bytes/s

with ``waves = ceil(tiles / cores)``. It ranks candidates; the engine then says how long the winner takes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from archsim.errors import InputError
from archsim.mapping.target import Target
from archsim.models.vector import COSTS

__all__ = ["MatmulShape", "Tiling", "choose_tiling", "score_tilings"]

MAX_SLOTS = 4
#: among candidates within this share of the best time the one with the fewest chunks wins (fewer, larger transfers)
INDIFFERENT = 0.01


@dataclass(frozen=True)
class MatmulShape:
    """A group of products with common ``n`` and ``k``; ``m`` has one entry per product (experts, batches).

    dtype: what the operands are multiplied in. ``a_bytes`` and so on: bytes of an element as it is stored.
    ``convert_a``, ``convert_b``: the operand is stored narrower than it is multiplied, and converted as it arrives.
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


@dataclass(frozen=True)
class Tiling:
    """One way to cut a product; sizes in elements, ``estimate_s`` by the closed form above."""

    tm: int
    tn: int
    tk: int
    slots: int
    split_k: int
    group_m: int
    estimate_s: float
    bound: str

    def __str__(self) -> str:
        split = f", split-K {self.split_k}" if self.split_k > 1 else ""
        score = f"{self.bound}, {self.estimate_s * 1e6:.2f} us"
        return f"{self.tm} x {self.tn} x {self.tk}, {self.slots} slots{split} ({score})"


def _powers(low: int, high: int) -> NDArray[np.int64]:
    """Powers of two from ``low`` up to the first that covers ``high``."""
    sizes = [low]
    while sizes[-1] < high:
        sizes.append(sizes[-1] * 2)
    return np.array(sizes, dtype=np.int64)


def _ceil_div(a: NDArray[np.int64] | int, b: NDArray[np.int64] | int) -> NDArray[np.int64]:
    quotient: NDArray[np.int64] = -(-np.asarray(a) // np.asarray(b))
    return quotient


def choose_tiling(target: Target, shape: MatmulShape) -> Tiling:
    """The best-scored legal tiling of ``shape`` on ``target``; deterministic.

    Raises InputError, naming the buffer and the bytes, when not even the smallest tile fits.
    """
    return score_tilings(target, shape, keep=1)[0]


def score_tilings(target: Target, shape: MatmulShape, keep: int = 8) -> list[Tiling]:
    """The ``keep`` best tilings, best first."""
    m_all = np.array(shape.m, dtype=np.int64)
    m_max = int(m_all.max())
    cores = target.cores
    m_low, n_low, k_low = target.tile_floor()
    axes = np.meshgrid(
        _powers(m_low, min(m_max, 4096)),
        _powers(n_low, min(shape.n, 4096)),
        _powers(k_low, min(shape.k, 4096)),
        np.array([1, 2, 4, 8, 16, 32]),
        indexing="ij",
    )
    tm, tn, tk, split = (axis.ravel() for axis in axes)

    # legality: at least two chunks and one accumulator tile fit; a split leaves every part at least one chunk
    chunk_bytes = np.ceil(tm * tk * shape.a_bytes) + np.ceil(tk * tn * shape.b_bytes)
    slots = np.minimum(target.scratchpad_bytes // chunk_bytes, MAX_SLOTS).astype(np.int64)
    accumulator = tm * tn * 4
    legal = (slots >= 2) & (accumulator <= target.accumulator_bytes)
    legal &= (split == 1) | (_ceil_div(shape.k, tk) >= split)
    if not legal.any():
        need = 2 * (m_low * k_low * shape.a_bytes + k_low * n_low * shape.b_bytes)
        raise InputError(
            f"no tile of a {shape.dtype} product fits {target.name}: two chunks of {m_low} x {n_low} x {k_low} need "
            f"{need:,.0f} B of scratchpad ({target.scratchpad_bytes:,} B) and {m_low * n_low * 4:,} B of accumulator "
            f"({target.accumulator_bytes:,} B)"
        )
    tm, tn, tk, split, slots = (x[legal] for x in (tm, tn, tk, split, slots))

    k_part = _ceil_div(_ceil_div(shape.k, tk), split) * tk
    chunks = k_part // tk
    rows_of_tiles = _ceil_div(m_all[:, None], tm[None, :])
    cols_of_tiles = _ceil_div(shape.n, tn)
    tiles = rows_of_tiles.sum(axis=0) * cols_of_tiles * split
    waves = _ceil_div(tiles, cores)
    m_tile = np.minimum(tm, m_max)
    n_tile = np.minimum(tn, shape.n)
    k_span = np.minimum(k_part, shape.k)

    matrix_s = (
        waves
        * chunks
        * target.matrix_cycles(m_tile, n_tile, np.minimum(tk, shape.k), shape.dtype)
        / target.matrix_clock
    )
    arriving = np.minimum(tk, shape.k) * (m_tile * shape.convert_a + n_tile * shape.convert_b)
    vector_s = waves * chunks * target.vector_cycles(arriving, COSTS["dequantise"]) / target.clock
    if not (shape.convert_a or shape.convert_b):
        vector_s = np.zeros(len(tm))
    tile_in = k_span * (m_tile * shape.a_bytes + n_tile * shape.b_bytes)
    team = np.where(split == 1, np.minimum(target.multicast, rows_of_tiles.max(axis=0)), 1)
    fetched = k_span * (m_tile * shape.a_bytes + n_tile * shape.b_bytes / team)
    tile_out = m_tile * n_tile * np.where(split > 1, 4.0, shape.c_bytes)
    port_in_s = waves * tile_in / target.port_read_bytes_per_s
    port_out_s = waves * tile_out / target.port_write_bytes_per_s

    # panels: a wave of tiles covers group_m x group_n tiles, as square in elements as the grid allows
    across = np.maximum(cores // split, 1)
    group_m = np.clip(np.round(np.sqrt(across * tn / tm)), 1, rows_of_tiles.max(axis=0)).astype(np.int64)
    groups = _ceil_div(rows_of_tiles.max(axis=0), group_m)  # of equal height: a low last one would re-read B for little
    group_m = _ceil_div(_ceil_div(rows_of_tiles.max(axis=0), groups), team) * team
    a_total = float(m_all.sum()) * shape.k * shape.a_bytes
    b_total = float((m_all > 0).sum()) * shape.n * shape.k * shape.b_bytes
    if target.cache_bytes:
        fits = a_total + b_total <= target.cache_bytes
        panel = group_m * tm * shape.k * shape.a_bytes
        passes_b = np.where(fits, 1, _ceil_div(rows_of_tiles.max(axis=0), group_m))
        passes_a = np.where(
            fits | (panel <= target.cache_bytes / 2), 1, _ceil_div(cols_of_tiles, np.maximum(across // group_m, 1))
        )
        read = a_total * passes_a + b_total * passes_b
        cache_s = tiles * fetched / target.cache_bytes_per_s
    else:
        read = tiles * fetched
        cache_s = np.zeros(len(tm))
    dram_s = (read + float(m_all.sum()) * shape.n * shape.c_bytes) / target.dram_bytes_per_s

    # Little's law: no more than the slots' bytes are on their way to a core at once
    first_chunk = np.minimum(tk, shape.k) * (m_tile * shape.a_bytes + n_tile * shape.b_bytes)
    fill = target.memory_latency_s + first_chunk / target.port_read_bytes_per_s
    arrival = target.loaded_latency_s + first_chunk / target.port_read_bytes_per_s
    latency_s = waves * chunks * arrival / slots
    drain = matrix_s / (waves * chunks) + tile_out / target.port_write_bytes_per_s
    merge = target.memory_latency_s + (split + 1) * tile_out / target.port_read_bytes_per_s
    reduction = np.where(split > 1, target.barrier_s + merge, 0.0)

    parts = np.stack([matrix_s, vector_s, port_in_s, port_out_s, cache_s, dram_s, latency_s])
    time = parts.max(axis=0) + fill + drain + reduction
    steps = tiles * chunks
    # lexicographic: time class first, then few steps, then the candidate's index (np.lexsort is stable)
    close = time <= time.min() * (1 + INDIFFERENT)
    order = np.lexsort((steps, np.where(close, time.min(), time)))[:keep]
    names = ("matrix", "vector", "port in", "port out", "cache", "dram", "latency")
    return [
        Tiling(
            int(tm[i]), int(tn[i]), int(tk[i]), int(slots[i]), int(split[i]), int(group_m[i]), float(time[i]),
            names[int(parts[:, i].argmax())],
        )
        for i in order
    ]  # fmt: skip
