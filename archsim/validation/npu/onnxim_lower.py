"""Products and convolutions as ONNXim runs them: tiles dealt to cores, blocks of weights inside a tile.

A tile of a product fetches, block of weights by block of weights, what the next multiplication needs: its weights
and, in the first block column, the rows of A beside them. A tile of a convolution fetches its image first and then
all its weights. Results leave row by row while the last block of their column is multiplied, and two tiles are in a
core's scratchpad at once. The queues of the memory's channels bound how many bytes are on their way to a core.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import ceil

import numpy as np

from archsim.mapping import Lowered, Target
from archsim.mapping.lowering.table import StepTable
from archsim.models.systolic_runs import cut_into_runs
from archsim.validation.npu.onnxim_mapping import Convolution, ConvolutionTile, ProductTile

__all__ = ["convolution_blocks", "lower_tiles", "product_blocks"]

A, B, C = 0, 1, 2
GRAIN = 128
"""Small arrays: blocks are put together up to this size, since a step each would only make many of them."""
PIECES = 8
"""Parts of the results of a block that leave one after the other."""
QUEUE = 256
"""Requests in the queue of one channel, shared out over the cores; each is a burst of the DRAM."""


@dataclass(frozen=True)
class Block:
    """One block of weights: bytes to fetch before it is multiplied, the multiplication, bytes that leave after it."""

    a_bytes: int
    b_bytes: int
    rows: int
    cols: int
    depth: int
    out_bytes: int = 0

    @property
    def pieces(self) -> int:
        """Parts in which the results leave, none so short that the next weights would hold up the array."""
        return max(1, min(PIECES, self.rows // GRAIN)) if self.out_bytes else 1


@dataclass(frozen=True)
class Tile:
    """Blocks in order; ``image``: A is fetched whole before the first block, and not with the first block column."""

    core: int
    blocks: tuple[Block, ...]
    image: bool = False


def product_blocks(target: Target, m: int, n: int, k: int, width: int, cut: ProductTile) -> Iterator[Tile]:
    """The tiles of a product of ``m x k`` by ``k x n``, row by row and along k innermost."""
    side = max(target.tile_floor()[1], GRAIN)
    across, deep = ceil(n / cut.n), ceil(k / cut.k)
    for index in range(ceil(m / cut.m) * across):
        i, j = divmod(index, across)
        rows, columns = min(cut.m, m - i * cut.m), cut_into_runs(min(cut.n, n - j * cut.n), side)
        for piece in range(deep):
            depths = cut_into_runs(min(cut.k, k - piece * cut.k), side)
            blocks = [
                Block(
                    0 if column else rows * depth * width, depth * cols * width, rows, cols, depth,
                    rows * cols * width * (piece == deep - 1 and i == len(depths) - 1),
                )
                for column, cols in enumerate(columns) for i, depth in enumerate(depths)
            ]  # fmt: skip
            yield Tile(index % target.cores, tuple(blocks))


def convolution_blocks(target: Target, conv: Convolution, width: int, cut: ConvolutionTile) -> Iterator[Tile]:
    """The tiles of a convolution: pixels, then filters; kernel positions and channels innermost, on one core."""
    side, least = target.tile_floor()[1], 4
    index = 0
    for rows in cut_into_runs(conv.size, cut.rows):
        for cols in cut_into_runs(conv.size, cut.cols):
            for filters in cut_into_runs(conv.filters, cut.filters):
                inner = [
                    (down * across, channels)
                    for down in cut_into_runs(conv.kernel, cut.kernel_rows)
                    for across in cut_into_runs(conv.kernel, cut.kernel_cols)
                    for channels in cut_into_runs(conv.channels, cut.channels)
                ]
                pixels = rows * sum(max(run, least) for run in cut_into_runs(cols, side))
                seen = _seen(rows, conv) * _seen(cols, conv)
                for piece, (taps, channels) in enumerate(inner):
                    depths = taps * cut_into_runs(channels, side)
                    final = piece == len(inner) - 1
                    blocks = [
                        Block(
                            0, depth * columns * width, pixels, columns, depth,
                            rows * cols * columns * width * (final and i == len(depths) - 1),
                        )
                        for columns in cut_into_runs(filters, side) for i, depth in enumerate(depths)
                    ]  # fmt: skip
                    blocks[0] = replace(blocks[0], a_bytes=seen * channels * width)
                    yield Tile(index % target.cores, tuple(blocks), image=True)
                index += 1


def lower_tiles(target: Target, tiles: Sequence[Tile], dtype: str) -> Lowered:
    """The Program of tiles, each core's in their order."""
    table = StepTable(target, sum(2 + 2 * block.pieces for tile in tiles for block in tile.blocks))
    memory = target.chip.memory
    window = QUEUE * memory.channels * memory.standard.burst_bytes // target.cores
    at, offset = 0, dict.fromkeys((A, B, C), 0)
    moves: list[tuple[int, int, int, int, int]] = []  # step, core, region, offset, bytes
    products: list[tuple[int, int, int, int, int]] = []  # step, core, rows, cols, depth
    edges: list[tuple[int, int]] = []  # step, before
    finished: dict[int, list[int]] = {core: [] for core in range(target.cores)}  # last step of each tile
    coming: dict[int, deque[tuple[int, int]]] = {core: deque() for core in range(target.cores)}  # steps and bytes

    def step(before: Iterable[int]) -> int:
        nonlocal at
        edges.extend((at, each) for each in before)
        at += 1
        return at - 1

    def move(core: int, region: int, nbytes: int, before: Iterable[int]) -> int:
        here = step(before)
        moves.append((here, core, region, offset[region], nbytes))
        offset[region] += nbytes
        return here

    def fetch(core: int, region: int, nbytes: int, room: list[int]) -> int:
        queue, waits = coming[core], [*room]
        while queue and sum(size for _, size in queue) + nbytes > window:
            waits.append(queue.popleft()[0])
        queue.append((move(core, region, nbytes, waits), nbytes))
        return queue[-1][0]

    for tile in tiles:
        core, done = tile.core, finished[tile.core]
        room = done[-2:-1]
        of_a: list[int] = []
        last = -1
        for i, block in enumerate(tile.blocks):
            if block.a_bytes:
                of_a.append(fetch(core, A, block.a_bytes, room))
            weights = fetch(core, B, block.b_bytes, room)
            needed = (weights, of_a[0 if tile.image else i % len(of_a)])
            for piece in range(block.pieces):
                rows = block.rows * (piece + 1) // block.pieces - block.rows * piece // block.pieces
                last = step(needed)
                products.append((last, core, rows, block.cols, block.depth))
                if block.out_bytes:
                    last = move(core, C, block.out_bytes // block.pieces, [last])
        done.append(last)

    moved, multiplied, waiting = (np.array(each, dtype=np.int64).T for each in (moves, products, edges))
    out = moved[2] == C
    table.load(*moved[:, ~out])
    table.store(*moved[:, out])
    step_of, core_of, *shape = multiplied
    table.multiply(step_of, core_of, shape[0], shape[1], shape[2], dtype)
    table.after(*waiting)
    return table.build("tiles", ["A", "B", "C"], [A, B, C], f"{len(tiles)} tiles")


def _seen(length: int, conv: Convolution) -> int:
    """Input rows (or columns) that so many output ones need, the image's border left out."""
    return min((length - 1) * conv.stride + conv.kernel, conv.size * conv.stride)
