"""How long one core takes for a block of keys in flash attention: two products with an online softmax between them.

A tile of ``r`` query rows meets a block of ``n`` keys in three stages::

    scores   S = Q K^T            matrix unit      r n d_qk multiply-accumulates
    softmax  P = exp(S - max)     vector unit      r n exponentials; maximum, sum, conversion, and r d_v rescalings
    value    O = O + P V          matrix unit      r n d_v multiply-accumulates

The stages of one block depend on each other; blocks overlap as far as the kernel and the core let them::

    turns       t = scores + softmax + value                the warps do one thing after the other, all together
    alternate   t = scores + max(softmax, value)            the softmax of a block runs beside P V of the block before
    apart       t = max(scores + value, softmax,            each unit has a sequencer of its own and works on whichever
                        (scores + softmax + value + 2 l) / n)    of n blocks is ready; l: latency of the matrix unit

and the vector unit works through a softmax in one of two ways::

    turns, apart   softmax = max(exponentials / special lanes, operations / lanes)     both pipes are full
    alternate      softmax =     exponentials / special lanes + operations / lanes     one warp a scheduler: by phases

(the one group of warps that is in its softmax goes through it phase by phase, since the sum waits for the
exponentials and these for the maximum, while the other group keeps the matrix unit busy; where a sequencer does, two
groups are in theirs at any time).

The matrix unit is fed from the scratchpad (`feed_cycles`). An asynchronous unit reads ahead; a synchronous one is fed
by load instructions of the same warps. Kernels that hold the operands of two steps in registers load the next ones
while they multiply; in others feeding and multiplying take turns.

======== ===================================================== ======
symbol   meaning                                               unit
======== ===================================================== ======
t        time of a block of keys, or cycles                    s
r, n     query rows of the tile, keys of the block             1
======== ===================================================== ======

Assumptions: equal blocks, steady state. Not modelled: exponentials by polynomials on the multiply-add lanes
(FlashAttention-4), rescaling only when the maximum grows, bank conflicts.
Valid when: rows and keys fill the instruction of the matrix unit.
Reference: Shah et al., "FlashAttention-3", 2024, sections 3.1 and 3.2; Dao, "FlashAttention-2", 2023, section 3.3.

>>> [block_time(2, 3, 2, order) for order in ("turns", "alternate", "apart")]
[7, 5, 4]
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

__all__ = ["WARPS", "Order", "block_time", "feed_cycles", "rows_of_a_warp", "two_warps"]

Order = Literal["turns", "alternate", "apart"]

#: warps of a tile: one for each scheduler of a core
WARPS = 4


def block_time(
    scores: float, softmax: float, value: float, order: Order, *, latency: float = 0.0, blocks: int = 4
) -> float:
    """Time of one block of keys in the steady state, from the times of its three stages."""
    if order == "turns":
        return scores + softmax + value
    if order == "alternate":
        return scores + max(softmax, value)
    return max(scores + value, softmax, (scores + softmax + value + 2 * latency) / blocks)


def two_warps(*demands: float) -> float:
    """How much longer work takes that two warps do in turn on units which they share, than its demands over those.

    Equation (mean value analysis of a closed network with two customers; D: sum of the demands)::

        time of one = sum(D_i (1 + D_i / D)),    of both together, each   t = time / 2,    stretch = t / D

    One demand makes 1, n equal ones (n + 1) / 2 n: two warps that meet at random hide less than half of each other.
    Assumptions: a unit serves one warp at a time; pieces are small and their lengths vary.
    Reference: Reiser and Lavenberg, "Mean-value analysis of closed multichain queuing networks", J. ACM 27, 1980.

    >>> two_warps(3.0, 0.0), two_warps(1.0, 1.0), round(two_warps(1.0, 1.0, 1.0), 3)
    (1.0, 0.75, 0.667)
    """
    whole = sum(demands)
    return sum(each * (1 + each / whole) for each in demands) / (2 * whole)


def rows_of_a_warp(rows: int | NDArray[np.int64], step_m: int) -> NDArray[np.int64]:
    """Rows of a tile that a warp holds: its quarter, from one matrix instruction to two (sums of 128 floats a row then
    take half of a warp's registers).

    Reference: FlashAttention-2, flash_fwd_launch_template.h: 128 rows on four warps, 64 where shared memory is short.

    >>> rows_of_a_warp(np.array([16, 64, 128, 256]), 16).tolist()
    [16, 16, 32, 32]
    """
    held: NDArray[np.int64] = np.clip(-(-np.asarray(rows) // WARPS), step_m, 2 * step_m)
    return held


def feed_cycles(
    m: NDArray[np.int64], n: NDArray[np.int64], k: NDArray[np.int64], *, step_m: int | NDArray[np.int64],
    element_bytes: float,
    bytes_per_cycle: float,
    stored: bool = False,
) -> NDArray[np.int64]:  # fmt: skip
    """Cycles in which the scratchpad delivers the operands of an ``m x n x k`` tile product.

    Equation::

        cycles = ceil((ceil(m / M) n + a m) k b / B)

    Every group of ``M`` rows, those of an instruction or of a warp, reads the whole ``k x n`` operand. Its own rows
    wait in registers (a = 0), or are read too where they are ``stored`` in the scratchpad (a = 1), as the queries of
    wgmma and tcgen05 are (FlashAttention-4, 2026, counts shared memory traffic so; from memory).

    ======= ================================================= =======
    symbol  meaning                                           unit
    ======= ================================================= =======
    M       rows that are worked on together                  1
    a       1 where the rows are read as well, or 0           1
    b       bytes of an element                               B
    B       bytes that the scratchpad delivers per cycle      B/cycle
    ======= ================================================= =======

    >>> int(feed_cycles(np.array(128), np.array(128), np.array(128), step_m=16, element_bytes=2, bytes_per_cycle=128))
    2048
    >>> square = np.array(128)
    >>> int(feed_cycles(square, square, square, step_m=128, element_bytes=2, bytes_per_cycle=128, stored=True))
    512
    """
    groups = -(-m // step_m)
    read = (groups * n + (m if stored else 0)) * k
    cycles: NDArray[np.int64] = np.ceil(read * (element_bytes / bytes_per_cycle)).astype(np.int64)
    return cycles
