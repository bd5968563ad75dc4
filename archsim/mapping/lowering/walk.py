"""Cores that walk over the chunks of a reduction: what whole tiles, parts of split-K and stream-K runs have in common.

For every chunk::

    load A, load B -> (conversion on the vector unit) -> multiply -> (promotion on the vector unit)

A chunk's loads wait for the multiply that frees their scratchpad slot. Cores that pair up for an instruction fetch a
share of B each and wait for each other's.

Layout (`archsim.mapping.storage`): a row-major operand, A with a row for each row of C and B with one for each column
as frameworks keep weights, is read in runs, one a row of the tile. A tiled one is stored as it is read: A in panels of
``tm`` rows, B in panels of ``tn`` columns, chunk after chunk.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from archsim.mapping.lowering.table import StepTable
from archsim.mapping.lowering.tiles import Tiles
from archsim.mapping.storage import shuffled, tile_runs
from archsim.mapping.target import Target
from archsim.mapping.tiling import MatmulShape, Tiling
from archsim.models.vector import COSTS
from archsim.program import MAX_PRIORITY

__all__ = ["PARTIAL", "A", "B", "C", "Job", "Walk"]

Ints = NDArray[np.int64]

#: regions of a product; partial sums only where parts of a tile meet in memory
A, B, C, PARTIAL = 0, 1, 2, 3


@dataclass(frozen=True, eq=False)
class Job:
    """A product that is cut: ``tiles`` of ``shape``; ``b_each``: the products of a group have a B each."""

    target: Target
    shape: MatmulShape
    tiling: Tiling
    tiles: Tiles
    b_each: bool

    @property
    def converts(self) -> bool:
        """Whether operands are converted by themselves, not by warps that multiply synchronously."""
        return (self.shape.convert_a or self.shape.convert_b) and self.target.asynchronous

    @property
    def promotion(self) -> int:
        """Terms after which partial sums leave the matrix unit; 0: never."""
        return self.target.promotion(self.shape.dtype) * self.shape.block_scaled

    @property
    def chunk_steps(self) -> int:
        """Steps of a chunk."""
        return 3 + self.converts + bool(self.promotion)

    @property
    def accumulators(self) -> int:
        """Tiles whose sums a core holds at once: one that is written out, and one that is computed.

        Arrays are long: the sums of two more tiles may be on their way through one.
        """
        held = self.tiling.tm * self.tiling.tn * 4 * (2 if self.promotion else 1)
        most = 4 if self.target.chip.core.matrix.kind == "systolic" else 2
        return int(np.clip(self.target.accumulator_bytes // held, 1, most))

    @cached_property
    def origins(self) -> Ints:
        """Address of each product's B behind that of the first: one for all, a stack, or anywhere."""
        shape, storage, count = self.shape, self.target.storage, len(self.shape.m)
        if not self.b_each:
            return np.zeros(count, dtype=np.int64)
        row = shape.k * shape.b_bytes
        nbytes = int(shape.n * (row if storage.weights == "tiled" else round(row)))
        if storage.experts == "stacked":
            return np.arange(count) * nbytes
        apart: Ints = shuffled(count) * (-(-nbytes // self.target.block_bytes) * self.target.block_bytes)
        return apart

    def store(self, table: StepTable, at: Ints, core: Ints, tile: Ints, part: tuple[ArrayLike, int] = (0, 1)) -> None:
        """Write tiles of C, or one of so many parts of their rows."""
        tiles, shape = self.tiles, self.shape
        runs = tile_runs(
            self.target.storage.activations, tiles.row[tile], tiles.col[tile], tiles.m[tile], tiles.n[tile],
            width=shape.n, element_bytes=shape.c_bytes, part=part,
        )  # fmt: skip
        table.store(at, core, C, *runs)


@dataclass(frozen=True, eq=False)
class Walk:
    """Runs over chunks, one a row, with the chunks of each along it (or a single column where they are all alike).

    first: the first step of every chunk; the others follow ``stride`` apart. core: of each run. tile: whose chunk it
    is. k_begin, k_len: the terms of the reduction. weight, room: as in a Program.
    """

    job: Job
    first: Ints
    stride: int
    core: Ints
    tile: Ints
    k_begin: Ints
    k_len: Ints
    weight: Ints
    room: Ints

    @property
    def load_a(self) -> Ints:
        return self.first

    @property
    def load_b(self) -> Ints:
        return self.first + self.stride

    @property
    def multiply(self) -> Ints:
        return self.first + (2 + self.job.converts) * self.stride

    @property
    def result(self) -> Ints:
        """The step behind which the sums of a chunk are there."""
        return self.multiply + (self.stride if self.job.promotion else 0)

    def lay(self, table: StepTable, freed: Ints) -> None:
        """Write the steps; ``freed`` are the multiplies that free the slot of each chunk, negative for none."""
        job, shape, tiling, target, tiles = self.job, self.job.shape, self.job.tiling, self.job.target, self.job.tiles
        for which in range(job.chunk_steps):
            steps = self.first + which * self.stride
            table.weight[steps], table.room[steps] = self.weight, self.room
        core = np.broadcast_to(self.core[:, None], self.first.shape)
        # loads that all cores ask for at once: the first chunks go first, as cores ask for one after the other
        order = np.minimum(np.arange(self.first.shape[1]), MAX_PRIORITY)
        table.priority[self.load_a] = table.priority[self.load_b] = order
        part, pair = np.arange(len(self.core)), tiling.pair
        m, n = tiles.m[self.tile], tiles.n[self.tile]
        k_begin, k_len, product = self.k_begin, self.k_len, tiles.product[self.tile]

        if shape.halo:  # the last tile's neighbours lie before it
            rows = np.minimum(m + shape.halo, np.array(shape.m)[product])
            origin = np.minimum(tiles.row[self.tile] * shape.k + k_begin * m, sum(shape.m) * shape.k - rows * k_len)
            table.load(self.load_a, core, A, origin * shape.a_bytes, rows * k_len * shape.a_bytes)
        else:
            runs = tile_runs(
                target.storage.activations, tiles.row[self.tile], k_begin, m, k_len, width=shape.k,
                element_bytes=shape.a_bytes,
            )  # fmt: skip
            table.load(self.load_a, core, A, *runs)
        runs = tile_runs(
            target.storage.weights, tiles.col[self.tile], k_begin, n, k_len, width=shape.k,
            element_bytes=shape.b_bytes, part=((part % pair)[:, None], pair),
        )  # fmt: skip
        table.load(self.load_b, core, B, runs.offset + job.origins[product], *runs[1:])

        busy = (np.where(m > 0, tiling.tm, 0), np.full_like(n, tiling.tn)) if target.whole_tiles else (m, n)
        widths = (shape.a_bytes, shape.b_held, pair)
        unpacked = shape.conversion(m, n, k_len)
        table.multiply(
            self.multiply, core, busy[0], busy[1], k_len, shape.dtype, widths=widths, busy=tiling.busy,
            warp=shape.warp, unpacked=0 if job.converts else unpacked, expand=shape.expand, sparsity=shape.sparsity,
        )  # fmt: skip
        ready = self.multiply
        if job.converts:
            ready = self.first + 2 * self.stride
            cycles = np.where(unpacked > 0, target.vector_cycles(unpacked, COSTS["unpack"]), 0)
            table.vector(ready, core, cycles)
            table.after(self.multiply, ready)
        for load in (self.load_a, self.load_b):
            table.after(ready, load)
            table.after(load, freed)
        for away in range(1, pair):
            mate = part - part % pair + (part + away) % pair
            table.after(ready, self.load_b[mate])
            table.after(self.load_b, freed[mate])

        if job.promotion:  # two sets of partial sums take turns
            partial_sums = m * n * -(-k_len // job.promotion)
            cycles = np.where(partial_sums > 0, target.vector_cycles(partial_sums, COSTS["promote"]), 0)
            table.vector(self.result, core, cycles)
            table.after(self.result, self.multiply)
            table.after(self.multiply[:, 2:], self.result[:, :-2])
