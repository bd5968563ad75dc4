"""How ONNXim cuts a product: Gemmini's tiling, stretched so that its cores share the columns or rows.

A tile must fit half of the accumulator, as nearly square as whole blocks allow, and be as deep in k as half of the
scratchpad then holds. The counts below are the tiles along each dimension, after which sizes are rounded down to whole
blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import ceil, isqrt

from archsim.mapping import Target

__all__ = ["Convolution", "ConvolutionTile", "ProductTile", "convolution_tile", "product_tile"]

SUM_BYTES = 4
"""An accumulated element."""


@dataclass(frozen=True)
class ProductTile:
    """Rows, columns and depth of a tile."""

    m: int
    n: int
    k: int

    def count(self, m: int, n: int, k: int) -> int:
        """Tiles of a whole product, those along k included."""
        return ceil(m / self.m) * ceil(n / self.n) * ceil(k / self.k)


def product_tile(target: Target, m: int, n: int, k: int, width: int) -> ProductTile:
    """The tile of a product of ``m x k`` by ``k x n`` with elements of ``width`` bytes.

    >>> from archsim.hardware import load_chip
    >>> from archsim.mapping import make_target
    >>> product_tile(make_target(load_chip("onnxim-128x128")), 1, 4096, 4096, 2)  # 11 tiles of 384 columns
    ProductTile(m=128, n=384, k=4096)
    """
    side, cores = target.tile_floor()[1], target.cores
    square = isqrt(target.accumulator_bytes // (2 * side * side * SUM_BYTES))
    depth = target.scratchpad_bytes // (4 * side * side * width) // square
    down, across, deep = ceil(m / (square * side)), ceil(n / (square * side)), ceil(k / (depth * side))
    if down * across < cores:
        more = ceil(cores / (down * across))
        if n > m and n > cores:
            across *= more
        elif m > n and m > cores:
            down *= more
    if over := down * across % cores:
        if n > m and n > cores:
            across += over
        elif m > n and m > cores:
            down += over
    return ProductTile(*(_whole(size, count, side) for size, count in ((m, down), (n, across), (k, deep))))


def _whole(size: int, count: int, side: int) -> int:
    return max(ceil(ceil(size / side) * side / count) // side, 1) * side


@dataclass(frozen=True)
class Convolution:
    """One square convolution of one image: ``size`` is the output's, ``kernel`` that of a side of the filters."""

    size: int
    channels: int
    filters: int
    kernel: int
    stride: int


@dataclass(frozen=True)
class ConvolutionTile:
    """Output rows and columns, filters, kernel rows and columns, channels."""

    rows: int
    cols: int
    filters: int
    kernel_rows: int
    kernel_cols: int
    channels: int


def convolution_tile(target: Target, conv: Convolution, width: int) -> ConvolutionTile:
    """Gemmini's tiling: the largest dimension shrinks until both scratchpads hold the tile, then all grow that can.

    Columns are spared while they fill the array's width, and are the first to grow. Strides are left out, as in ONNXim.

    >>> from archsim.hardware import load_chip
    >>> from archsim.mapping import make_target
    >>> convolution_tile(make_target(load_chip("onnxim-128x128")), Convolution(112, 3, 64, 7, 2), 2)
    ConvolutionTile(rows=36, cols=112, filters=64, kernel_rows=7, kernel_cols=7, channels=3)
    """
    side = target.tile_floor()[1]
    operand_rows = target.scratchpad_bytes // (2 * side * width)
    sum_rows = target.accumulator_bytes // (2 * side * SUM_BYTES)
    whole = [conv.size, conv.size, conv.filters, conv.kernel, conv.kernel, conv.channels]
    tile = list(whole)

    def fits(t: list[int]) -> bool:
        rows, cols, filters, down, across, channels = t
        image = ceil(channels / side) * (rows + down - 1) * (cols + across - 1)
        weights = ceil(filters / side) * down * across * channels
        return image + weights <= operand_rows and ceil(filters / side) * rows * cols <= sum_rows

    while not fits(tile):
        spared = 1 if tile[1] <= side and tile[0] > 1 else -1
        largest = max((i for i in range(6) if i != spared), key=lambda i: (tile[i], -i))
        if largest in (2, 5):  # filters and channels in whole blocks
            tile[largest] = max((tile[largest] - 1) // side * side, 1)
        else:
            tile[largest] -= 1
    _grow(tile, whole, [1], fits)
    while _grow(tile, whole, range(6), fits):
        pass
    return ConvolutionTile(*tile)


def _grow(tile: list[int], whole: list[int], which: Iterable[int], fits: Callable[[list[int]], bool]) -> bool:
    """Let the dimensions ``which`` grow by one as often (one of them) or once (several) as they can."""
    grown = False
    which = list(which)
    for i in which:
        while tile[i] < whole[i] and fits([*tile[:i], tile[i] + 1, *tile[i + 1 :]]):
            tile[i] += 1
            grown = True
            if len(which) > 1:
                break
    return grown
