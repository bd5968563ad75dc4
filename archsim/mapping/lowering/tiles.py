"""The output tiles of a product in the order in which cores compute them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from archsim.mapping.tiling import MatmulShape, Tiling

__all__ = ["Tiles", "enumerate_tiles", "waves_of"]

Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Tiles:
    """Output tiles in execution order: sizes and origins in elements of the whole group."""

    m: Ints
    n: Ints
    row: Ints  # first row, counted over all products of the group
    col: Ints
    product: Ints

    def __len__(self) -> int:
        return len(self.m)

    def take(self, which: Ints) -> Tiles:
        return Tiles(self.m[which], self.n[which], self.row[which], self.col[which], self.product[which])

    @property
    def area(self) -> Ints:
        """Elements of each tile."""
        return self.m * self.n

    def leaders(self, team: int, origin: Ints) -> Ints:
        """For each tile the first of its team that has the same ``origin`` (row or column) in the same product."""
        here = np.arange(len(self))
        found = here
        for seat in range(team - 2, -1, -1):
            other = np.minimum(here // team * team + seat, here)
            same = (origin[other] == origin) & (self.product[other] == self.product)
            found = np.where(same, other, found)
        return found


def enumerate_tiles(shape: MatmulShape, tiling: Tiling) -> Tiles:
    """All tiles, product after product, each in raster order of ``group_m`` tile rows, the tiles of a cluster side by
    side; empty ones fill up the pairs."""
    columns: list[tuple[Ints, ...]] = []
    first_row = 0
    across = -(-shape.n // tiling.tn)
    for product, rows in enumerate(shape.m):
        down = -(-rows // (tiling.tm * tiling.pair)) * tiling.pair
        if down:
            i, j = np.divmod(np.arange(down * across), across)
            cluster = (i // max(tiling.cluster_m, tiling.pair), j // tiling.cluster_n)
            order = np.lexsort((i, j, *cluster, i // tiling.group_m))
            i, j = i[order], j[order]
            m = np.clip(rows - i * tiling.tm, 0, tiling.tm)
            n = np.minimum(tiling.tn, shape.n - j * tiling.tn)
            columns.append((m, n, first_row + i * tiling.tm, j * tiling.tn, np.full(len(m), product)))
        first_row += rows
    return Tiles(*(np.concatenate(parts).astype(np.int64) for parts in zip(*columns, strict=True)))


def waves_of(shape: MatmulShape, tiling: Tiling, cores: int) -> Ints:
    """For each tile of the first product, by row and column of tiles: which turn of its core computes it.

    With stream-K the last turn is that of all tiles that are shared out.
    """
    tiles = enumerate_tiles(shape, tiling)
    first = tiles.product == 0
    row, column = tiles.row[first] // tiling.tm, tiles.col[first] // tiling.tn
    wave = np.zeros((int(row.max()) + 1, int(column.max()) + 1), dtype=np.int64)
    turn = np.flatnonzero(first) * tiling.split_k // cores
    wave[row, column] = np.minimum(turn, max(len(tiles) // cores - 1, 0)) if tiling.stream_k else turn
    return wave
