"""Matrix products (single, batched, grouped by expert) as a Program of tiles.

Each core walks over its output tiles, and for every tile over the chunks of the reduction::

    load A chunk, load B chunk -> multiply -> ... -> epilogue on the vector unit -> store C tile

An operand that is stored in a narrower type than the matrix unit multiplies is converted chunk by chunk on the
vector unit, between the load and the multiply. Where the unit cannot scale blocks itself, the vector unit scales and
adds up the partial sums of every chunk after the multiply, while the next chunk is multiplied into other accumulators.

A chunk's loads wait for the multiply that frees their scratchpad slot; the first multiply of a tile waits for
the epilogue that frees its accumulator. Tiles are dealt to cores in raster order of ``group_m`` rows, so that
the tiles in flight share panels of A and B in the cache. Where the network can multicast, the tiles of a cluster fetch
what they share once; where cores pair up for an instruction, each fetches its share of B and keeps no more. With
split-K several cores sum parts of one tile: the parts go to a workspace in fp32, and behind a barrier a last pass adds
them. Where the routers of the network add, neighbouring cores share a tile, and its parts meet on their way to the
last of them, at once and without a workspace. With stream-K the tiles of the last waves are shared out over all cores
(:mod:`archsim.mapping.lowering.stream_k`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from archsim.mapping.lowering.sample import (
    carry,
    chunk_count,
    chunk_edges,
    sample_chunks,
    sample_waves,
    tile_count,
    wave_edges,
    whole_waves,
)  # fmt: skip
from archsim.mapping.lowering.stream_k import StreamK
from archsim.mapping.lowering.table import WORKSPACE, Lowered, StepTable
from archsim.mapping.lowering.tiles import enumerate_tiles
from archsim.mapping.lowering.walk import PARTIAL, Job, Walk
from archsim.mapping.target import Target
from archsim.mapping.tiling import MatmulShape, Tiling
from archsim.models.vector import COSTS, VectorCost

__all__ = ["ProductOperands", "lower_product", "step_count"]

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class ProductOperands:
    """Graph tensors of A, B and C, and whether the products of the group have a B each (``b_each``)."""

    a: int
    b: int
    c: int
    b_each: bool


@dataclass(frozen=True)
class _StepIds:
    """Numbers of the steps. Teams of parts advance together, step by step, so that no step waits for a later one."""

    chunks: int
    team: int
    steps: int  # of a chunk

    def count(self, parts: int) -> int:
        """Steps of ``parts`` parts; the last team may have seats that stay empty."""
        return -(-parts // self.team) * self.team * (self.steps * self.chunks + 2)

    def chunk(self, part: Ints, chunk: Ints, which: int) -> Ints:
        """Step of a chunk, in the order of time: loads of A and B, conversion, multiply, promotion."""
        squad, seat = np.divmod(part, self.team)
        step: Ints = squad * self.count(1) + (self.steps * chunk + which) * self.team + seat
        return step

    def end(self, part: Ints, which: int) -> Ints:
        """Step after the last chunk: 0 the epilogue, 1 the store."""
        squad, seat = np.divmod(part, self.team)
        step: Ints = squad * self.count(1) + self.steps * self.chunks * self.team + 2 * seat + which
        return step


def step_count(target: Target, shape: MatmulShape, tiling: Tiling) -> int:
    """About how many steps :func:`lower_product` makes."""
    chunks, parts = len(sample_chunks(target, shape, tiling)), tile_count(shape, tiling) * tiling.split_k
    waves = whole_waves(target, shape, tiling) if tiling.stream_k else parts // target.cores
    kept, left = len(sample_waves(target, shape, tiling, chunks, waves)), parts - waves * target.cores
    if tiling.stream_k:
        return kept * target.cores * (3 * chunks + 2) + 3 * left * chunk_count(shape, tiling) + 9 * target.cores
    return (kept * target.cores + left) * (3 * chunks + 2)


def lower_product(
    target: Target, name: str, shape: MatmulShape, tiling: Tiling, operands: ProductOperands, *,
    epilogue: VectorCost = COSTS["cast"], exact: bool = False,
) -> Lowered:  # fmt: skip
    """The Program of the products ``shape`` cut by ``tiling``; ``epilogue`` is applied to every output element."""
    tiles = enumerate_tiles(shape, tiling)
    split, cores, pair = tiling.split_k, target.cores, tiling.pair
    per_wave = max(cores // split, 1)
    sample = sample_chunks(target, shape, tiling, exact=exact)
    chunks = len(sample)
    k_part = chunk_count(shape, tiling) * tiling.tk
    whole = whole_waves(target, shape, tiling)
    waves = sample_waves(target, shape, tiling, chunks, whole, exact=exact)
    if len(waves) < whole:
        tiles = tiles.take(np.r_[0 : len(waves) * per_wave, whole * per_wave : len(tiles)])
    job = Job(target, shape, tiling, tiles, operands.b_each)
    in_network = bool(target.adds(split))
    workspace = split > 1 and not in_network
    # neighbouring cores that share rows of A and columns of B, or a tile
    team = max(pair, tiling.cluster_m * tiling.cluster_n, split if in_network else 1)
    ids = _StepIds(chunks, team, job.chunk_steps)

    kept = len(waves) * per_wave
    parts = (kept if tiling.stream_k else len(tiles)) * split
    body = ids.count(parts)
    runs = StreamK(job, kept, body) if tiling.stream_k else None
    slices = max(cores // len(tiles), 1)  # in which the parts of a tile are added, so that all cores add
    added = 1 + 3 * len(tiles) * slices if workspace else 0
    table = StepTable(target, body + added + (runs.count if runs else 0))

    part = np.arange(parts)
    squad, member = np.divmod(part, split * pair)  # the pieces of a pair of tiles, whose cores are neighbours
    piece, tile = member // pair, squad * pair + member % pair
    core, turn = part % cores, part // cores  # turn: how many parts this core has done before
    m, n = tiles.m[tile], tiles.n[tile]
    j = np.arange(chunks)
    k_begin = piece[:, None] * k_part + sample.kept * tiling.tk
    k_len = np.clip(np.minimum(tiling.tk, shape.k - k_begin), 0, None)
    times = np.ones(parts, dtype=np.int64)
    if split == 1:
        times[:kept] = np.repeat(waves.weight, per_wave)
    walk = Walk(
        job, ids.chunk(part[:, None], j, 0), team, core, tile[:, None], k_begin, k_len, times[:, None] * sample.weight,
        sample.weight,
    )  # fmt: skip
    # the slot of chunk g on this core was last used by chunk g - slots, maybe of an earlier tile
    slot = turn[:, None] * chunks + j - tiling.slots
    freed_turn, freed_chunk = np.divmod(slot, chunks)
    freed = np.where(slot >= 0, ids.chunk(freed_turn * cores + core[:, None], freed_chunk, 2 + job.converts), -1)
    walk.lay(table, freed)
    rows, columns = [(walk.load_a, tiles.row)], [(walk.load_b, tiles.col)]
    for load, origin in rows * (tiling.cluster_n > 1) + columns * (tiling.cluster_m > pair):
        # the first of a cluster fetches for all that share it, once all have a slot for it
        leader = tiles.leaders(team, origin)[:parts]
        led = np.flatnonzero(leader != part)
        table.receive(load[led], np.broadcast_to(core[led, None], load[led].shape))
        table.after(load[led], load[leader[led]])
        table.after(load[leader[led]], freed[led])
    finish, store = ids.end(part, 0), ids.end(part, 1)
    table.weight[finish] = table.weight[store] = times
    reused = ids.end((turn - job.accumulators) * cores + core, 0)
    for first in range(min(tiling.slots, chunks)):  # those whose loads may be there by then
        table.after(walk.multiply[:, first], np.where(turn >= job.accumulators, reused, -1))
    result = walk.result
    table.after(np.broadcast_to(finish[:, None], result.shape).ravel(), result.ravel())

    if in_network:  # the first part's finish is the sum on its way, which empties the accumulators of all but the last
        first, last = piece == 0, piece == split - 1
        total = np.repeat(finish[first], split)
        table.add_up(finish[first], core[last], split, 4 * m[last] * n[last])
        table.after(np.broadcast_to(total[:, None], result.shape)[~first].ravel(), result[~first].ravel())
        table.after(finish[~first], total[~first])
        area = (m * n)[last]
        cycles = target.vector_cycles(area, COSTS["add"]) + target.vector_cycles(area, epilogue)
        table.vector(finish[last], core[last], np.where(area > 0, cycles, 0))
        job.store(table, store[last], core[last], tile[last])
    elif split == 1:
        table.vector(finish, core, np.where(m > 0, target.vector_cycles(m * n, epilogue), 0))
        job.store(table, store, core, tile)
    else:
        origin = tiles.row[tile] * shape.n + tiles.col[tile] * m
        table.store(store, core, PARTIAL, 4 * (origin * split + piece * m * n), 4 * m * n)
    table.after(store, finish)

    edges = wave_edges(waves, turn, finish)
    for each in range(parts and int(turn.max()) + 1):
        mine = np.flatnonzero(turn == each)
        edges += chunk_edges(sample, tiling.slots, walk.multiply[mine], int(times[mine[0]]))
    regions, tensors = ["A", "B", "C"], [operands.a, operands.b, operands.c]
    if workspace or runs:
        regions.append("partial sums")
        tensors.append(WORKSPACE)
    if workspace:
        table.barrier(body, store)
        _merge(table, body, job, slices, epilogue)
    if runs:
        runs.lay(table, walk, finish, epilogue)
    return table.build(
        name, regions, tensors, f"{tiling}, summed in the network" if in_network else str(tiling),
        carry=carry(edges, alike=target.alike),
    )  # fmt: skip


def _merge(table: StepTable, barrier: int, job: Job, slices: int, epilogue: VectorCost) -> None:
    """The last pass of split-K, behind the ``barrier``: each core reads all parts of some rows of a tile and adds them.

    The parts of a slice lie side by side.
    """
    target, tiles, shape, split = job.target, job.tiles, job.shape, job.tiling.split_k
    tile, slot = np.divmod(np.arange(len(tiles) * slices), slices)
    rows, n = tiles.m[tile], tiles.n[tile]
    begin, end = rows * slot // slices, rows * (slot + 1) // slices
    origin, size = (tiles.row * shape.n + tiles.col * tiles.m)[tile] + begin * n, (end - begin) * n
    fetch = barrier + 1 + 3 * np.arange(len(tile))
    adder = np.arange(len(tile)) % target.cores
    table.load(fetch, adder, PARTIAL, 4 * origin * split, 4 * size * split)
    table.after(fetch, barrier)
    cycles = target.vector_cycles(size * split, COSTS["add"]) + target.vector_cycles(size, epilogue)
    table.vector(fetch + 1, adder, np.where(size > 0, cycles, 0))
    table.after(fetch + 1, fetch)
    job.store(table, fetch + 2, adder, tile, part=(slot, slices))
    table.after(fetch + 2, fetch + 1)
