"""A floorplan to scale: every block of a die as rectangles of its area.

Interfaces lie along the edges as on real dies: links and host on top, memory left and right. The cores fill a grid of
equal tiles, each cut into its matrix units, vector units and memories; what is left stands beside them, sliced so that
no rectangle is thinner than it must be (squarified treemap, Bruls, Huizing and van Wijk, 2000). A sketch: it says how
large things are, not where a designer would put them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import ceil, sqrt

from archsim.physical.area import CORE_BLOCKS, DieArea

__all__ = ["Rectangle", "floorplan", "outline"]

BESIDE = ("memory PHYs", "memory controllers")
ABOVE = ("link PHYs", "link controllers", "host link", "die-to-die link")
MOST_TILES = 400
"""Cores that are drawn one by one."""


@dataclass(frozen=True)
class Rectangle:
    """A block, or one of several equal ones, in mm from the lower left corner of its die."""

    name: str
    x: float
    y: float
    width: float
    height: float

    @property
    def mm2(self) -> float:
        """Its area."""
        return self.width * self.height


def outline(die: DieArea, reticle_mm: tuple[float, float]) -> tuple[float, float]:
    """Width and height of a die: square, or as wide as the reticle where a square would not fit."""
    width = min(sqrt(die.mm2), reticle_mm[0])
    return width, die.mm2 / width


def floorplan(die: DieArea, reticle_mm: tuple[float, float] = (26.0, 33.0)) -> tuple[Rectangle, ...]:
    """The blocks of a die.

    >>> from archsim.physical.area import Block
    >>> die = DieArea("die", "n7", 1, (Block("shared cache", 75.0), Block("network", 25.0)))
    >>> [(r.name, r.mm2) for r in floorplan(die)]
    [('shared cache', 75.0), ('network', 25.0)]
    """
    width, height = outline(die, reticle_mm)
    sizes = {block.name: block.mm2 for block in die.blocks}
    found: list[Rectangle] = []
    links = [(name, sizes.pop(name)) for name in ABOVE if name in sizes]
    band = sum(mm2 for _, mm2 in links) / width
    top = height - band
    found += _row(links, 0.0, top, width, band)
    left, right = 0.0, width
    for name in BESIDE:
        if name in sizes:
            strip = sizes.pop(name) / 2 / top
            found += [Rectangle(name, left, 0.0, strip, top), Rectangle(name, right - strip, 0.0, strip, top)]
            left, right = left + strip, right - strip
    cores = [(name, sizes.pop(name)) for name in CORE_BLOCKS if name in sizes]
    if cores:
        count = next(block.count for block in die.blocks if block.name in CORE_BLOCKS)
        low = top - sum(mm2 for _, mm2 in cores) / (right - left)
        found += _tiles(cores, count, left, low, right - left, top - low)
        top = low
    rest = sorted(sizes.items(), key=lambda item: -item[1])
    return (*found, *_treemap(rest, left, 0.0, right - left, top))


def _row(sizes: Iterable[tuple[str, float]], x: float, y: float, width: float, height: float) -> list[Rectangle]:
    """Blocks side by side that fill a rectangle."""
    sizes = list(sizes)
    whole = sum(mm2 for _, mm2 in sizes)
    found = []
    for name, mm2 in sizes:
        share = width * mm2 / whole
        found.append(Rectangle(name, x, y, share, height))
        x += share
    return found


def _tiles(
    parts: Sequence[tuple[str, float]], count: int, x: float, y: float, width: float, height: float
) -> list[Rectangle]:
    """`count` equal tiles in rows, each cut into `parts`; a row with fewer tiles is flatter, so that areas are true."""
    count = count if count <= MOST_TILES else 1
    rows = min(max(round(sqrt(count * height / width)), 1), count)
    full = ceil(count / rows)
    found = []
    while count:
        tiles = min(full, count)
        tall = height * tiles / count
        for i in range(tiles):
            found += _row(parts, x + i * width / tiles, y, width / tiles, tall)
        y, height, count = y + tall, height - tall, count - tiles
    return found


def _treemap(sizes: Sequence[tuple[str, float]], x: float, y: float, width: float, height: float) -> list[Rectangle]:
    """Rows of rectangles along the shorter side, each as long as adding to it makes its worst rectangle squarer."""
    if not sizes:
        return []
    side = min(width, height)
    row = 1
    while row < len(sizes) and _worst(sizes[: row + 1], side) <= _worst(sizes[:row], side):
        row += 1
    depth = sum(mm2 for _, mm2 in sizes[:row]) / side
    if width < height:
        return _row(sizes[:row], x, y, width, depth) + _treemap(sizes[row:], x, y + depth, width, height - depth)
    upright = _row(sizes[:row], y, x, height, depth)
    turned = [Rectangle(r.name, r.y, r.x, r.height, r.width) for r in upright]
    return turned + _treemap(sizes[row:], x + depth, y, width - depth, height)


def _worst(row: Sequence[tuple[str, float]], side: float) -> float:
    """The worst ratio of sides in a row along `side`."""
    depth = sum(mm2 for _, mm2 in row) / side
    return max(max(depth * depth / mm2, mm2 / (depth * depth)) for _, mm2 in row)
