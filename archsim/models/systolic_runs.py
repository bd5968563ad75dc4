"""Cycles of one stationary block of a systolic array that serves several short streams, such as the rows of an image.

A convolution keeps a block of weights while the pixels of a tile pass, one image row (cut to the array's height) after
another; a product keeps it while blocks of rows pass. Each such run is one instruction.
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["cut_into_runs", "stationary_block_cycles", "tile_sizes"]


def stationary_block_cycles(runs: Sequence[int], *, rows: int, least: int = 1, bubble: float = 0.0) -> float:
    """Cycles between the loading of one stationary block and that of the next.

    Equation::

        cycles = sum over all runs but the last of max(r, least)  +  max(r_last, R)  +  bubble

    ======== ======================================================================= ======
    symbol   meaning                                                                 unit
    ======== ======================================================================= ======
    r        rows that one instruction streams through the block                     cycles
    R        rows of the array: the next block shifts in beside the last run         cycles
    least    shortest instruction (accumulator rows are written so far apart)        cycles
    bubble   lost on average whenever the block changes                              cycles
    ======== ======================================================================= ======

    Assumptions: operands lie in the scratchpad; the load of the next block hides behind the last run only, since an
    instruction carries the load and the stream together.
    Not modelled: bank conflicts between the load and the stream.
    Valid when: every run has at least one row.
    Reference: Genc et al., "Gemmini", DAC 2021; ``ExecuteController.scala`` of ucb-bar/gemmini at 01c93bf (an
    instruction that loads takes the block's height; one that does not takes at least four rows, because two writes to
    one accumulator row must lie four cycles apart).

    Seven image rows of 7 pixels on an 8 x 8 array: six runs of 7, and one that has to load the next 8 rows:

    >>> stationary_block_cycles([7] * 7, rows=8, least=4)
    50.0
    """
    return float(sum(max(run, least) for run in runs[:-1]) + max(runs[-1], rows) + bubble)


def cut_into_runs(length: int, limit: int) -> list[int]:
    """A row of ``length`` cut into runs of at most ``limit``.

    >>> cut_into_runs(17, 8)
    [8, 8, 1]
    """
    whole, rest = divmod(length, limit)
    return [limit] * whole + [rest] * (rest > 0)


def tile_sizes(total: int, tile: int) -> list[tuple[int, int]]:
    """Sizes of the tiles of one dimension, with how often each occurs.

    >>> tile_sizes(28, 17), tile_sizes(32, 16)
    ([(17, 1), (11, 1)], [(16, 2)])
    """
    whole, rest = divmod(total, tile)
    return [(tile, whole)] * (whole > 0) + [(rest, 1)] * (rest > 0)
