"""Gemmini's RTL: compute cycles of single products and convolutions on an 8 x 8 array with a perfect memory.

The mapping of each row says how the operator is cut into tiles. Within a tile, a block of weights stays in the array
while all its rows (of a product) or pixels (of a convolution, image row by image row) stream through. Two facts of
Gemmini's loop instructions matter:

* a product is cut in whole blocks of the array, so that only its end is padded; a convolution's tile is cut in
  channels, and each tile pads its channels to whole blocks (51 channels take 7 blocks of 8);
* the image columns are the longer side of a spatial tile: the tiler grows the columns first, since they fill the array.
"""

from __future__ import annotations

import re
from math import ceil

from archsim.errors import InputError
from archsim.hardware import SystolicArray, load_chip
from archsim.models.systolic_runs import cut_into_runs, stationary_block_cycles, tile_sizes
from archsim.validation.report import Row
from archsim.validation.suite import Outcome
from archsim.validation.table import Record, Table

__all__ = ["compare_gemmini"]

CHIP = "gemmini-8x8"
LOOPS = "NCMPQSR"
LEVEL = re.compile(rf"\[(?P<level>[TOI])\]((?: [{LOOPS}]\d{{1,9}})+)")
Loops = dict[str, int]


def compare_gemmini(table: Table) -> Outcome:
    """Compare `gemmini_rtl_compute_cycles` of every row."""
    array = load_chip(CHIP).core.matrix
    assert isinstance(array, SystolicArray)
    rows = []
    for record in table.records():
        total, tile = _mapping(record)
        convolution = record.text("kind") == "conv"
        got = convolution_cycles(total, tile, array) if convolution else product_cycles(total, tile, array)
        rows.append(Row(record.text("test"), record.integer("gemmini_rtl_compute_cycles"), got, "Gemmini RTL"))
    return rows, []


def product_cycles(total: Loops, tile: Loops, array: SystolicArray) -> float:
    """``N x C`` times ``C x M``: every block of weights serves the rows of one tile.

    >>> array = load_chip("gemmini-8x8").core.matrix
    >>> product_cycles({"N": 16, "C": 8, "M": 8}, {"N": 16, "C": 8, "M": 8}, array)  # two runs of 8, one bubble
    16.3
    """
    blocks = ceil(total["C"] / array.rows) * ceil(total["M"] / array.cols)
    return blocks * sum(
        count * _block(cut_into_runs(rows, array.rows), array) for rows, count in tile_sizes(total["N"], tile["N"])
    )


def convolution_cycles(total: Loops, tile: Loops, array: SystolicArray) -> float:
    """``M`` filters of ``C x S x R`` over ``N`` images of ``P x Q`` output pixels."""

    def blocks(loop: str, size: int) -> int:
        return sum(count * ceil(part / size) for part, count in tile_sizes(total[loop], tile[loop]))

    across, down = ("P", "Q") if tile["P"] >= tile["Q"] else ("Q", "P")
    spatial = sum(
        row_count * column_count * _block(cut_into_runs(columns, array.rows) * rows, array)
        for rows, row_count in tile_sizes(total[down], tile[down])
        for columns, column_count in tile_sizes(total[across], tile[across])
    )
    return total["N"] * total["S"] * total["R"] * blocks("C", array.rows) * blocks("M", array.cols) * spatial


def _block(runs: list[int], array: SystolicArray) -> float:
    return stationary_block_cycles(
        runs, rows=array.rows, least=array.min_stream_cycles, bubble=array.load_bubble_cycles
    )


def _mapping(record: Record) -> tuple[Loops, Loops]:
    """The whole loops and those of one tile: ``[T] N1 C3 ... - [O] ... - [I] N1 C3 ...``."""
    text = record.text("mapping")
    levels = {match["level"]: match[2] for match in LEVEL.finditer(text)}
    if levels.keys() != {"T", "O", "I"}:
        raise InputError(f"{record.place}: mapping is '{text[:60]}', but must name the loops of [T], [O] and [I]")
    total, tile = (
        dict.fromkeys(LOOPS, 1) | {each[0]: int(each[1:]) for each in levels[level].split()} for level in "TI"
    )
    if any(size < 1 for size in (*total.values(), *tile.values())):
        raise InputError(f"{record.place}: mapping is '{text[:60]}', but no loop may be empty")
    return total, tile
