"""How long one core takes for a block of keys in flash attention: two products with an online softmax between them.

A tile of ``r`` query rows meets a block of ``n`` keys in three stages::

    scores   S = Q K^T            matrix unit      r n d_qk multiply-accumulates
    softmax  P = exp(S - max)     vector unit      r n exponentials; maximum, sum, conversion, and r d_v rescalings
    value    O = O + P V          matrix unit      r n d_v multiply-accumulates

The stages of one block depend on each other; blocks overlap as far as the kernel lets them::

    turns     t = scores + softmax + value                the warps do one thing after the other, all together
    overlap   t = scores + max(softmax, value)            the softmax of a block runs beside P V of the block before

and the vector unit works through a softmax in one of two ways::

    turns     softmax = max(exponentials / special lanes, operations / lanes)     many warps fill both pipes
    overlap   softmax =     exponentials / special lanes + operations / lanes     one warp a scheduler: phase by phase

(the one group of warps that is in its softmax goes through it phase by phase, since the sum waits for the
exponentials and these for the maximum, while the other group keeps the matrix unit busy).

The matrix unit is fed from the scratchpad (`feed_cycles`). An asynchronous unit reads ahead; a synchronous one is fed
by load instructions of the same warps, so that feeding and multiplying take turns.

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

>>> block_time(2, 3, 2, overlap=False), block_time(2, 3, 2, overlap=True)
(7, 5)
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["block_time", "feed_cycles"]


def block_time(scores: float, softmax: float, value: float, *, overlap: bool) -> float:
    """Time of one block of keys in the steady state, from the times of its three stages."""
    return scores + max(softmax, value) if overlap else scores + softmax + value


def feed_cycles(
    m: NDArray[np.int64], n: NDArray[np.int64], k: NDArray[np.int64], *, step_m: int, element_bytes: float,
    bytes_per_cycle: float,
) -> NDArray[np.int64]:  # fmt: skip
    """Cycles in which the scratchpad delivers the ``k x n`` operand of an ``m x n x k`` tile product.

    Equation::

        cycles = ceil(ceil(m / M) n k b / B)

    Every group of ``M`` rows, those of one instruction, reads the whole operand; its own rows wait in registers.

    ======= ================================================= =======
    symbol  meaning                                           unit
    ======= ================================================= =======
    M       rows of one matrix instruction                    1
    b       bytes of an element                               B
    B       bytes that the scratchpad delivers per cycle      B/cycle
    ======= ================================================= =======

    >>> int(feed_cycles(np.array(128), np.array(128), np.array(128), step_m=16, element_bytes=2, bytes_per_cycle=128))
    2048
    """
    groups = -(-m // step_m)
    cycles: NDArray[np.int64] = np.ceil(groups * n * k * (element_bytes / bytes_per_cycle)).astype(np.int64)
    return cycles
