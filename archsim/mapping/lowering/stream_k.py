"""Stream-K: the tiles of the last waves, laid end to end along the reduction and cut evenly among the cores.

``G`` tiles of ``c`` chunks each are one stream of ``G c`` chunks, of which core w of W takes::

    [w G c / W, (w + 1) G c / W)

so that all cores are done at the same time, however badly the tiles divide. A run crosses from tile to tile::

    core 0  |---- tile 0 ----|-- tile 1 .  owner of tile 1: adds what core 1 has of it
    core 1  . tile 1 --|---- tile 2 ----|  stores its part of tile 1, computes tile 2 alone

The core that begins a tile owns it. It comes last to its head, those behind it first to the rest, so it hardly waits:
their sums lie in a workspace (in fp32), from where it fetches and adds them (the fix-up). Cores that pair up for an
instruction walk together.

The waves before the last whole one stay as they are (data-parallel): they share panels in the cache, and no run is
shorter than a tile if there was a whole wave.

Assumptions: parts are added by the owner alone, in one go; the operands of a stream-K run are fetched by each core for
itself, since no two cores are at the same place of the reduction.
Reference: Osama et al., "Stream-K: work-centric parallel decomposition for dense matrix-matrix multiplication on the
GPU", PPoPP 2023, section 5.2 (the two-tile hybrid).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from archsim.mapping.lowering.sample import chunk_count
from archsim.mapping.lowering.table import StepTable
from archsim.mapping.lowering.walk import PARTIAL, Job, Walk
from archsim.models.vector import COSTS, VectorCost

__all__ = ["StreamK"]

Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class StreamK:
    """The runs of a product's last tiles, those behind the first ``whole``; their steps begin at ``base``.

    Arrays have a row for each core. A segment is what a run has of one tile; a run has ``segments`` of them, the last
    ones maybe empty.
    """

    job: Job
    whole: int
    base: int

    @cached_property
    def chunks(self) -> int:
        """Chunks of one tile."""
        return chunk_count(self.job.shape, self.job.tiling)

    @cached_property
    def core(self) -> Ints:
        return np.arange(self.job.target.cores)

    @cached_property
    def bounds(self) -> Ints:
        """Where each worker's run begins in the stream, and where the last one ends; a worker is a core or a pair."""
        pair = self.job.tiling.pair
        workers = len(self.core) // pair
        return np.arange(workers + 1) * ((len(self.job.tiles) - self.whole) // pair * self.chunks) // workers

    @cached_property
    def length(self) -> int:
        """Chunks of the longest run."""
        return int(np.diff(self.bounds).max())

    @cached_property
    def run(self) -> tuple[Ints, Ints]:
        """Begin and end of each core's run."""
        worker = self.core // self.job.tiling.pair
        return self.bounds[worker], self.bounds[worker + 1]

    @cached_property
    def cuts(self) -> tuple[Ints, Ints, Ints]:
        """Place in the stream where each segment begins and ends, and its tile; empty ones begin where they end."""
        begin, end = (edge[:, None] for edge in self.run)
        first = begin // self.chunks
        segments = int(((end - 1) // self.chunks - first).max()) + 1
        place = first + np.arange(segments)
        tile = self.whole + place * self.job.tiling.pair + (self.core % self.job.tiling.pair)[:, None]
        starts = np.clip(place * self.chunks, begin, end)
        return starts, np.clip((place + 1) * self.chunks, begin, end), np.minimum(tile, len(self.job.tiles) - 1)

    @cached_property
    def last(self) -> Ints:
        """Position in the run of the last chunk of each segment."""
        starts, ends, _ = self.cuts
        position: Ints = np.where(ends > starts, ends - self.run[0][:, None], self.length) - 1
        return position

    @cached_property
    def ended(self) -> Ints:
        """Segments that have ended before each chunk of a run."""
        count: Ints = (self.last[:, None, :] < np.arange(self.length)[:, None]).sum(axis=2)
        return count

    @cached_property
    def segment(self) -> Ints:
        """The segment that each chunk of a run belongs to; a shorter run's last place is empty, like its segments."""
        mine: Ints = np.minimum(self.ended, self.last.shape[1] - 1)
        return mine

    @property
    def rows(self) -> int:
        """Steps of a run."""
        return self.job.chunk_steps * self.length + 2 * int(self.last.shape[1])

    def step(self, row: Ints) -> Ints:
        """Numbers of the steps in these rows of each core's list; pairs advance together."""
        pair = self.job.tiling.pair
        squad, seat = np.divmod(self.core, pair)
        return self.base + (squad * self.rows * pair + seat)[:, None] + row * pair

    @cached_property
    def ends(self) -> tuple[Ints, Ints]:
        """Steps behind each segment: its epilogue and its store."""
        row = self.job.chunk_steps * (self.last + 1) + 2 * np.arange(self.last.shape[1])
        return self.step(row), self.step(row + 1)

    @cached_property
    def walk(self) -> Walk:
        begin, end = (edge[:, None] for edge in self.run)
        at = np.arange(self.length)
        place = begin + at
        tile = np.take_along_axis(self.cuts[2], self.segment, 1)
        k_begin = place % self.chunks * self.job.tiling.tk
        k_len = np.where(place < end, np.clip(self.job.shape.k - k_begin, 0, self.job.tiling.tk), 0)
        first = self.step(self.job.chunk_steps * at + 2 * self.ended)
        once = np.ones(1, dtype=np.int64)
        return Walk(self.job, first, self.job.tiling.pair, self.core, tile, k_begin, k_len, once, once)

    @cached_property
    def owned(self) -> tuple[Ints, Ints]:
        """Cores and segments that begin a tile and leave the rest of it to others."""
        starts, ends, _ = self.cuts
        mine = (starts % self.chunks == 0) & (ends % self.chunks != 0) & (ends > starts)
        cores, segments = np.nonzero(mine)
        return cores, segments

    @cached_property
    def fix_ups(self) -> int:
        """The first step of the fix-ups."""
        return self.base + len(self.core) * self.rows

    @property
    def count(self) -> int:
        """Steps in all."""
        return self.fix_ups - self.base + 3 * len(self.owned[0])

    def lay(self, table: StepTable, before: Walk, finished: Ints, epilogue: VectorCost) -> None:
        """Write the steps. ``before`` are the whole tiles, and ``finished`` their epilogues, turn after turn of the
        cores."""
        cores, slots, walk = len(self.core), self.job.tiling.slots, self.walk
        turns = before.multiply[-slots * cores :].reshape(-1, cores, before.multiply.shape[1])
        earlier = turns.swapaxes(0, 1).reshape(cores, turns.shape[0] * turns.shape[2])
        past = np.concatenate([np.full((cores, slots), -1), earlier, walk.multiply], axis=1)
        walk.lay(table, past[:, earlier.shape[1] : earlier.shape[1] + self.length])

        finish, store = self.ends
        table.after(np.take_along_axis(finish, self.segment, 1), np.where(walk.k_len > 0, walk.result, -1))
        table.after(store, finish)
        self._wait_for_accumulators(table, np.concatenate([finished.reshape(-1, cores).T, finish], axis=1))
        self._end(table, epilogue)
        self._fix_up(table, epilogue)

    def _wait_for_accumulators(self, table: StepTable, finish: Ints) -> None:
        """The first products of a segment wait for an epilogue; ``finish``: all that the core comes to, in order."""
        walk, held, segments = self.walk, self.job.accumulators, self.last.shape[1]
        turns = finish.shape[1] - segments
        padded = np.concatenate([np.full((len(self.core), held), -1), finish], axis=1)
        starts, ends, _ = self.cuts
        for ahead in range(self.job.tiling.slots):
            here = np.minimum(starts - self.run[0][:, None] + ahead, self.length - 1)
            mine = starts + ahead < ends
            table.after(
                np.take_along_axis(walk.multiply, here, 1)[mine], padded[:, turns : turns + segments][mine]
            )  # fmt: skip

    def _end(self, table: StepTable, epilogue: VectorCost) -> None:
        """Tiles that one core computes from end to end."""
        starts, ends, tile = self.cuts
        target, tiles = self.job.target, self.job.tiles
        alone = ends - starts == self.chunks
        tile, core = tile[alone], np.nonzero(alone)[0]
        area = tiles.area[tile]
        finish, store = (steps[alone] for steps in self.ends)
        table.vector(finish, core, np.where(area > 0, target.vector_cycles(area, epilogue), 0))
        self.job.store(table, store, core, tile)

    def _fix_up(self, table: StepTable, epilogue: VectorCost) -> None:
        """Parts of tiles, on their way to the owners through the workspace."""
        starts, ends, tile = self.cuts
        target, tiles, pair = self.job.target, self.job.tiles, self.job.tiling.pair
        owner, head = self.owned
        mine = tile[owner, head]
        area = tiles.area[mine]
        tile_end = (starts[owner, head] // self.chunks + 1) * self.chunks
        helpers = np.searchsorted(self.bounds, tile_end - 1, side="right") - 1 - owner // pair
        base = np.cumsum(4 * area * helpers) - 4 * area * helpers
        fetch = self.fix_ups + 3 * np.arange(len(owner))

        core, part = np.nonzero((starts % self.chunks != 0) & (ends > starts))
        whose = np.zeros(len(tiles), dtype=np.int64)
        whose[mine] = np.arange(len(mine))
        whose = whose[tile[core, part]]
        piece = (core - owner[whose]) // pair - 1
        stored = self.ends[1][core, part]
        table.store(stored, core, PARTIAL, base[whose] + 4 * area[whose] * piece, 4 * area[whose])

        table.load(fetch, owner, PARTIAL, base, 4 * area * helpers)
        table.after(fetch[whose], stored)
        table.after(fetch, self.ends[0][owner, head])
        cycles = target.vector_cycles(area * helpers, COSTS["add"]) + target.vector_cycles(area, epilogue)
        table.vector(fetch + 1, owner, np.where(area > 0, cycles, 0))
        table.after(fetch + 1, fetch)
        self.job.store(table, fetch + 2, owner, mine)
        table.after(fetch + 2, fetch + 1)
