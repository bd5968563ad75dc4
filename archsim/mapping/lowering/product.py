"""Matrix products (single, batched, grouped by expert) as a Program of tiles.

Each core walks over its output tiles, and for every tile over the chunks of the reduction::

    load A chunk, load B chunk -> multiply -> ... -> epilogue on the vector unit -> store C tile

An operand that is stored in a narrower type than the matrix unit multiplies is converted chunk by chunk on the
vector unit, between the load and the multiply. Where the unit cannot scale blocks itself, the vector unit scales and
adds up the partial sums of every chunk after the multiply, while the next chunk is multiplied into other accumulators.

A chunk's loads wait for the multiply that frees their scratchpad slot; the first multiply of a tile waits for
the epilogue that frees its accumulator. Tiles are dealt to cores in raster order of ``group_m`` rows, so that
the tiles in flight share panels of A and B in the cache. Where the network can multicast, neighbouring tiles of
one column fetch B once; where cores pair up for an instruction, each fetches its share of B and keeps no more. With
split-K several cores sum parts of one tile: the parts go to a workspace in fp32, and behind a barrier a last pass adds
them. Where the routers of the network add, neighbouring cores share a tile, and its parts meet on their way to the
last of them, at once and without a workspace.

Layout: operands are stored tile by tile (A in panels of ``tm`` rows, B in panels of ``tn`` columns, chunk after
chunk), as packed weights are.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from archsim.mapping.lowering.sample import carry, chunk_count, sample_chunks, sample_waves, tile_count
from archsim.mapping.lowering.table import WORKSPACE, Lowered, StepTable
from archsim.mapping.target import Target
from archsim.mapping.tiling import MatmulShape, Tiling
from archsim.models.vector import COSTS, VectorCost

__all__ = ["ProductOperands", "lower_product", "step_count", "waves_of"]

Ints = NDArray[np.int64]

A, B, C, PARTIAL = 0, 1, 2, 3


@dataclass(frozen=True)
class ProductOperands:
    """Graph tensors of A, B and C, and whether the products of the group have a B each (``b_each``)."""

    a: int
    b: int
    c: int
    b_each: bool


@dataclass(frozen=True, eq=False)
class _Tiles:
    """Output tiles in execution order: sizes and origins in elements of the whole group."""

    m: Ints
    n: Ints
    row: Ints  # first row, counted over all products of the group
    col: Ints
    product: Ints

    def __len__(self) -> int:
        return len(self.m)

    def take(self, which: Ints) -> _Tiles:
        return _Tiles(self.m[which], self.n[which], self.row[which], self.col[which], self.product[which])


def _enumerate(shape: MatmulShape, tiling: Tiling) -> _Tiles:
    """All tiles, product after product, each in raster order of ``group_m`` tile rows; empty ones fill up the pairs."""
    columns: list[tuple[Ints, ...]] = []
    first_row = 0
    across = -(-shape.n // tiling.tn)
    for product, rows in enumerate(shape.m):
        down = -(-rows // (tiling.tm * tiling.pair)) * tiling.pair
        if down:
            i, j = np.divmod(np.arange(down * across), across)
            order = np.lexsort((i, j, i // tiling.group_m))
            i, j = i[order], j[order]
            m = np.clip(rows - i * tiling.tm, 0, tiling.tm)
            n = np.minimum(tiling.tn, shape.n - j * tiling.tn)
            columns.append((m, n, first_row + i * tiling.tm, j * tiling.tn, np.full(len(m), product)))
        first_row += rows
    return _Tiles(*(np.concatenate(parts).astype(np.int64) for parts in zip(*columns, strict=True)))


def waves_of(shape: MatmulShape, tiling: Tiling, cores: int) -> Ints:
    """For each tile of the first product, by row and column of tiles: which turn of its core computes it."""
    tiles = _enumerate(shape, tiling)
    first = tiles.product == 0
    row, column = tiles.row[first] // tiling.tm, tiles.col[first] // tiling.tn
    wave = np.zeros((int(row.max()) + 1, int(column.max()) + 1), dtype=np.int64)
    wave[row, column] = np.flatnonzero(first) * tiling.split_k // cores
    return wave


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


def _leaders(tiles: _Tiles, team: int) -> Ints:
    """For each tile the first one of its team, or itself where that one works on another column of B."""
    here = np.arange(len(tiles))
    first = here // team * team
    same = (tiles.col[first] == tiles.col) & (tiles.product[first] == tiles.product)
    return np.where(same, first, here)


def step_count(target: Target, shape: MatmulShape, tiling: Tiling) -> int:
    """About how many steps :func:`lower_product` makes."""
    chunks = len(sample_chunks(target, shape, tiling))
    waves, left = divmod(tile_count(shape, tiling) * tiling.split_k, target.cores)
    kept = len(sample_waves(target, shape, tiling, chunks, waves))
    return (kept * target.cores + left) * (3 * chunks + 2)


def lower_product(
    target: Target, name: str, shape: MatmulShape, tiling: Tiling, operands: ProductOperands, *,
    epilogue: VectorCost = COSTS["cast"], exact: bool = False,
) -> Lowered:  # fmt: skip
    """The Program of the products ``shape`` cut by ``tiling``; ``epilogue`` is applied to every output element."""
    tiles = _enumerate(shape, tiling)
    split, cores = tiling.split_k, target.cores
    per_wave = max(cores // split, 1)
    sample = sample_chunks(target, shape, tiling, exact=exact)
    chunks = len(sample)
    k_part = chunk_count(shape, tiling) * tiling.tk
    whole = len(tiles) // per_wave
    waves = sample_waves(target, shape, tiling, chunks, whole, exact=exact)
    if len(waves) < whole:
        tiles = tiles.take(np.r_[0 : len(waves) * per_wave, whole * per_wave : len(tiles)])
    parts = len(tiles) * split
    pair = tiling.pair
    in_network = bool(target.adds(split))
    workspace = split > 1 and not in_network
    # neighbouring cores that share a column of B, or a tile
    team = pair if pair > 1 else target.multicast if split == 1 else split if in_network else 1
    converts, promotion = shape.convert_a or shape.convert_b, target.promotion(shape.dtype) * shape.block_scaled
    ids = _StepIds(chunks, team, 3 + converts + bool(promotion))
    body = ids.count(parts)
    slices = max(cores // len(tiles), 1)  # in which the parts of a tile are added, so that all cores add
    table = StepTable(target, body + (1 + 3 * len(tiles) * slices if workspace else 0))

    part = np.arange(parts)
    tile, piece = np.divmod(part, split)
    core, turn = part % cores, part // cores  # turn: how many parts this core has done before
    m, n = tiles.m[tile], tiles.n[tile]
    j = np.arange(chunks)
    k_begin = piece[:, None] * k_part + sample.kept * tiling.tk
    k_len = np.clip(np.minimum(tiling.tk, shape.k - k_begin), 0, None)
    load_a, load_b, multiply = (ids.chunk(part[:, None], j, which) for which in (0, 1, 2 + converts))
    finish, store = ids.end(part, 0), ids.end(part, 1)
    times = np.ones(parts, dtype=np.int64)
    if split == 1:
        times[: len(waves) * per_wave] = np.repeat(waves.weight, per_wave)
    table.weight[finish] = table.weight[store] = times
    for place in range(ids.steps):
        steps = ids.chunk(part[:, None], j, place)
        table.weight[steps], table.room[steps] = times[:, None] * sample.weight, sample.weight
    spread = np.broadcast_to(core[:, None], load_a.shape)
    a_bytes, b_bytes, c_bytes = shape.a_bytes, shape.b_bytes, shape.c_bytes
    a_origin = (tiles.row[tile] * shape.k)[:, None] + k_begin * m[:, None]
    b_origin = (tiles.col[tile] * shape.k)[:, None] + k_begin * n[:, None]
    if operands.b_each:
        b_origin = b_origin + (tiles.product[tile] * shape.n * shape.k)[:, None]
    a_rows = np.minimum(m + shape.halo, np.array(shape.m)[tiles.product[tile]])[:, None]
    if shape.halo:  # the last tile's neighbours lie before it
        a_origin = np.minimum(a_origin, sum(shape.m) * shape.k - a_rows * k_len)
    table.load(load_a, spread, A, a_origin * a_bytes, a_rows * k_len * a_bytes)
    share = n[:, None] * k_len * b_bytes / pair
    table.load(load_b, spread, B, b_origin * b_bytes + (part % pair)[:, None] * share, share)
    busy = (np.where(m > 0, tiling.tm, 0), np.full_like(n, tiling.tn)) if target.whole_tiles else (m, n)
    widths = (a_bytes, b_bytes, pair)
    table.multiply(
        multiply, spread, busy[0][:, None], busy[1][:, None], k_len, shape.dtype, widths=widths, busy=tiling.busy,
        warp=shape.warp,
    )  # fmt: skip
    ready = multiply
    if converts:
        ready = ids.chunk(part[:, None], j, 2)
        elements = shape.conversion(m[:, None], n[:, None], k_len)
        cycles = np.where(elements > 0, target.vector_cycles(elements, COSTS["unpack"]), 0)
        table.vector(ready, spread, cycles)
        table.after(multiply, ready)
    table.after(ready, load_a)
    table.after(ready, load_b)
    mates = [part - part % pair + (part + away) % pair for away in range(1, pair)]
    for mate in mates:
        table.after(ready, load_b[mate])

    # the slot of chunk g on this core was last used by chunk g - slots, maybe of an earlier tile
    slot = turn[:, None] * chunks + j - tiling.slots
    freed_turn, freed_chunk = np.divmod(slot, chunks)
    freed = np.where(slot >= 0, ids.chunk(freed_turn * cores + spread, freed_chunk, 2 + converts), -1)
    table.after(load_a, freed)
    table.after(load_b, freed)
    for mate in mates:
        table.after(load_b, freed[mate])
    if split == 1 and team > pair:  # the first of a team fetches its column of B for all, once all have a slot for it
        leader = _leaders(tiles, team)
        led = np.flatnonzero(leader != part)
        table.receive(load_b[led], spread[led])
        table.after(load_b[led], load_b[leader[led]])
        table.after(load_b[leader[led]], freed[led])
    held = tiling.tm * tiling.tn * 4 * (2 if promotion else 1)
    accumulators = int(np.clip(target.accumulator_bytes // held, 1, 2))
    reused = ids.end((turn - accumulators) * cores + core, 0)
    for first in range(min(tiling.slots, chunks)):  # those whose loads may be there by then
        table.after(multiply[:, first], np.where(turn >= accumulators, reused, -1))

    result = multiply
    if promotion:  # two sets of partial sums take turns
        result = ids.chunk(part[:, None], j, 3 + converts)
        partial_sums = (m * n)[:, None] * -(-k_len // promotion)
        cycles = np.where(partial_sums > 0, target.vector_cycles(partial_sums, COSTS["promote"]), 0)
        table.vector(result, spread, cycles)
        table.after(result, multiply)
        table.after(multiply[:, 2:], result[:, :-2])
    table.after(np.broadcast_to(finish[:, None], result.shape).ravel(), result.ravel())
    c_origin = tiles.row[tile] * shape.n + tiles.col[tile] * m
    if in_network:  # the first part's finish is the sum on its way, which empties the accumulators of all but the last
        first, last = piece == 0, piece == split - 1
        total = np.repeat(finish[first], split)
        table.add_up(finish[first], core[last], split, 4 * m[last] * n[last])
        table.after(np.broadcast_to(total[:, None], result.shape)[~first].ravel(), result[~first].ravel())
        table.after(finish[~first], total[~first])
        area = (m * n)[last]
        cycles = target.vector_cycles(area, COSTS["add"]) + target.vector_cycles(area, epilogue)
        table.vector(finish[last], core[last], np.where(area > 0, cycles, 0))
        table.store(store[last], core[last], C, c_origin[last] * c_bytes, area * c_bytes)
    elif split == 1:
        table.vector(finish, core, np.where(m > 0, target.vector_cycles(m * n, epilogue), 0))
        table.store(store, core, C, c_origin * c_bytes, m * n * c_bytes)
    else:
        table.store(store, core, PARTIAL, 4 * (c_origin * split + piece * m * n), 4 * m * n)
    table.after(store, finish)

    regions, tensors = ["A", "B", "C"], [operands.a, operands.b, operands.c]
    if workspace:
        regions.append("partial sums")
        tensors.append(WORKSPACE)
        table.barrier(body, store)
        _merge(table, body, tiles, slices, shape, split, epilogue)
    return table.build(
        name, regions, tensors, f"{tiling}, summed in the network" if in_network else str(tiling),
        carry=carry(sample, waves, tiling.slots, turn, times, multiply, finish, alike=target.alike),
    )  # fmt: skip


def _merge(
    table: StepTable, barrier: int, tiles: _Tiles, slices: int, shape: MatmulShape, split: int, epilogue: VectorCost
) -> None:
    """The last pass of split-K, behind the ``barrier``: each core reads all parts of a slice of a tile, and adds them.

    The parts of a slice lie side by side.
    """
    target = table.target
    tile, slot = np.divmod(np.arange(len(tiles) * slices), slices)
    area = (tiles.m * tiles.n)[tile]
    begin, end = area * slot // slices, area * (slot + 1) // slices
    origin, size = (tiles.row * shape.n + tiles.col * tiles.m)[tile] + begin, end - begin
    fetch = barrier + 1 + 3 * np.arange(len(tile))
    adder = np.arange(len(tile)) % target.cores
    table.load(fetch, adder, PARTIAL, 4 * origin * split, 4 * size * split)
    table.after(fetch, barrier)
    cycles = target.vector_cycles(size * split, COSTS["add"]) + target.vector_cycles(size, epilogue)
    table.vector(fetch + 1, adder, np.where(size > 0, cycles, 0))
    table.after(fetch + 1, fetch)
    table.store(fetch + 2, adder, C, origin * shape.c_bytes, size * shape.c_bytes)
    table.after(fetch + 2, fetch + 1)
