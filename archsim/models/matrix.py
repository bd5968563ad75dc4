"""Occupancy of one matrix unit by one tile step, in cycles.

A tile step multiplies an ``m x k`` operand by a ``k x n`` operand that already lie in the core's scratchpad.
Two figures describe it: how long it keeps the unit from the next step (*occupancy*) and how long after that the
last result appears (*latency*, a property of the unit). The engine overlaps the latency of one step with the
occupancy of the next, as a pipelined unit does.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from archsim.models.systolic import folds

__all__ = [
    "operand_feed", "operand_reads", "systolic_latency", "systolic_occupancy", "tensor_core_occupancy", "warp_tile",
]  # fmt: skip

#: halvings of a tile until there is a warp for each of the four matrix units of a core, and the edge that stays whole
HALVINGS, LEAST_WARP = 2, 16

Ints = NDArray[np.int64]


def _ceil_div(a: Ints, b: Ints | int) -> Ints:
    quotient: Ints = -(-a // b)
    return quotient


def tensor_core_occupancy(
    m: Ints,
    n: Ints,
    k: Ints,
    *,
    step_m: int,
    step_n: int,
    step_k: int,
    macs_per_cycle: float,
    swaps: bool = True,
) -> Ints:
    """Cycles in which the tensor cores of one core are busy with an ``m x n x k`` tile.

    Equation::

        cycles = ceil(M' N' K' / rate),   X' = X rounded up to the instruction's step in that dimension

    ======== ==================================================== ======
    symbol   meaning                                              unit
    ======== ==================================================== ======
    m, n, k  tile of the output (m x n) and its reduction (k)     1
    step_*   instruction tile; the operands may be swapped, so
             the cheaper of ``(m, n)`` and ``(n, m)`` is taken
             if ``swaps``                                         1
    rate     multiply-accumulates per cycle of the whole core     1/cycle
    ======== ==================================================== ======

    Assumptions: the instruction stream issues back to back; operands arrive from shared memory at full rate.
    Not modelled: register-file bank conflicts, promotion of fp8 partial sums.
    Valid when: ``m, n, k >= 1``.
    Reference: NVIDIA PTX ISA, ``wgmma.mma_async`` (m64nNk16, N a multiple of 8).

    >>> int(tensor_core_occupancy(np.array([128]), np.array([256]), np.array([64]),
    ...                           step_m=64, step_n=8, step_k=16, macs_per_cycle=2048)[0])
    1024
    """
    kk = _ceil_div(k, step_k) * step_k
    straight = (_ceil_div(m, step_m) * step_m) * (_ceil_div(n, step_n) * step_n)
    swapped = (_ceil_div(n, step_m) * step_m) * (_ceil_div(m, step_n) * step_n)
    macs = (np.minimum(straight, swapped) if swaps else straight) * kk
    cycles: Ints = np.maximum(np.ceil(macs / macs_per_cycle).astype(np.int64), 1)
    return cycles


def operand_feed(
    m: Ints, n: Ints, k: Ints, *, a_bytes: float, b_bytes: float, pair: Ints | int, reuse_m: Ints | int,
    reuse_n: Ints | int, bytes_per_cycle: float, expand: float = 1.0,
) -> Ints:  # fmt: skip
    """Cycles in which the scratchpad is busy with the operands of an ``m x n x k`` tile: they arrive, and are read.

    Equation::

        cycles = k (A (1 + E ceil(n / N)) + B (1 + ceil(m / M))) / rate,   A = m a,  B = n b / pair

    ======== ========================================================================= =======
    symbol   meaning                                                                   unit
    ======== ========================================================================= =======
    a, b     one element of either operand                                             bytes
    M, N     output tile for which operands are read once (``reuse_m``, ``reuse_n``)    1
    pair     cores that share B, each holding its part                                 1
    E        times that A is read for what arrives (convolutions, ``expand``)          1
    rate     bytes that the scratchpad reads or writes per cycle                       B/cycle
    ======== ========================================================================= =======

    Assumptions: no bank conflicts; results leave through registers.
    Reference: NVIDIA CUTLASS, "Efficient GEMM in CUDA": thread-block, warp and instruction tiles.

    >>> operand_feed(np.array([128]), np.array([128]), np.array([64]), a_bytes=2, b_bytes=2, pair=1, reuse_m=64,
    ...              reuse_n=64, bytes_per_cycle=128).tolist()
    [768]
    >>> operand_feed(np.array([128]), np.array([128]), np.array([64]), a_bytes=2 / 8, b_bytes=2, pair=1, reuse_m=64,
    ...              reuse_n=64, bytes_per_cycle=128, expand=8).tolist()
    [656]
    """
    a = m * a_bytes * (1 + expand * _ceil_div(n, reuse_n))
    b = n * b_bytes / pair * (1 + _ceil_div(m, reuse_m))
    cycles: Ints = np.ceil(k * (a + b) / bytes_per_cycle).astype(np.int64)
    return cycles


def warp_tile(m: Ints, n: Ints, most_m: int, most_n: int) -> tuple[Ints, Ints]:
    """Rows and columns that each warp computes of an ``m x n`` tile, where the matrix unit is synchronous.

    There is a warp for each of the core's four matrix units at least, so the longer edge is halved, twice; and no
    warp holds the sums of more than ``most_m x most_n``. Tiles too small for that are shared out along k: every warp
    reads what no other does.

    Reference: NVIDIA CUTLASS, "Efficient GEMM in CUDA": the warp tiles of its device-wide defaults (two by two).

    >>> [tuple(map(int, warp_tile(np.array(m), np.array(n), 64, 64))) for m, n in ((256, 128), (128, 64), (64, 64))]
    [(64, 64), (32, 64), (32, 32)]
    """
    rows, columns = np.asarray(m), np.asarray(n)
    for _ in range(HALVINGS):
        down = (rows >= columns) & (rows > LEAST_WARP)
        across = (rows < columns) & (columns > LEAST_WARP)
        rows, columns = np.where(down, _ceil_div(rows, 2), rows), np.where(across, _ceil_div(columns, 2), columns)
    return np.minimum(rows, most_m), np.minimum(columns, most_n)


def operand_reads(
    m: Ints, n: Ints, k: Ints, *, a_bytes: float, b_bytes: float, warp: tuple[int, int], bytes_per_cycle: float
) -> Ints:
    """Cycles in which warps read the operands of an ``m x n x k`` tile, each for its own part ``M x N`` of the output.

    Equation, with the symbols of :func:`operand_feed`::

        cycles = k (m a ceil(n / N) + n b ceil(m / M)) / rate

    Warps that load and multiply in turn, without registers for the operands of two steps, add this to the products.
    Reference: NVIDIA CUTLASS, "Efficient GEMM in CUDA": warp tiles.

    >>> operand_reads(np.array([128]), np.array([128]), np.array([64]), a_bytes=2, b_bytes=2, warp=(64, 32),
    ...               bytes_per_cycle=128).tolist()
    [768]
    """
    read = m * a_bytes * _ceil_div(n, warp[1]) + n * b_bytes * _ceil_div(m, warp[0])
    cycles: Ints = np.ceil(k * read / bytes_per_cycle).astype(np.int64)
    return cycles


def systolic_occupancy(
    m: Ints,
    n: Ints,
    k: Ints,
    *,
    rows: int,
    cols: int,
    count: int,
    dataflow: str,
    rate: float,
    bubble: float = 0.0,
) -> Ints:
    """Cycles in which the systolic arrays of one core are busy with an ``m x n x k`` tile.

    Equation (F folds with a stream of T each, shared out over ``count`` equal arrays)::

        weight_stationary  F = ceil(k/R) ceil(n/C),  T = m
        input_stationary   F = ceil(k/R) ceil(m/C),  T = n
        output_stationary  F = ceil(m/R) ceil(n/C),  T = k
        fold(t) = max(t, R) / rate + bubble
        cycles  = floor(F / count) fold(T)  +  fold(ceil(T / floor(count / r)))   for r = F mod count folds left over

    ======== ================================================================ ======
    symbol   meaning                                                          unit
    ======== ================================================================ ======
    R, C     rows and columns of one array                                    1
    rate     multiply-accumulates per element and cycle of the dtype          1/cycle
    bubble   lost whenever the stationary operand changes                     cycles
    ======== ================================================================ ======

    Where fewer folds than arrays are left, arrays hold the same fold and share its stream (with outputs stationary that
    is split-K inside the core).
    Assumptions: the stationary operand of the next fold is shifted in (R cycles) while the present fold streams, and
    finished outputs are shifted out (R cycles) while the next fold computes; hence no fold is shorter than R.
    Edge folds keep the whole array busy. The skew of the first and last fold is the unit's latency, not occupancy.
    Not modelled: operand bandwidth of the scratchpad.
    Reference: Samajdar et al., "A systematic methodology for characterizing scalability of DNN accelerators using
    SCALE-Sim", ISPASS 2020, section III, with overlapped folds.

    >>> int(systolic_occupancy(np.array([256]), np.array([256]), np.array([256]), rows=128, cols=128, count=1,
    ...                        dataflow="weight_stationary", rate=1.0)[0])
    1024
    >>> [int(systolic_occupancy(np.array([512]), np.array([128]), np.array([128]), rows=128, cols=128, count=count,
    ...                         dataflow="weight_stationary", rate=1.0)[0]) for count in (1, 2)]
    [512, 256]
    """
    down, across, stream = folds(m, n, k, rows=rows, cols=cols, dataflow=dataflow)

    def fold(length: Ints) -> NDArray[np.float64]:
        return np.ceil(np.maximum(length, rows) / rate) + bubble

    turns, left = np.divmod(down * across, count)
    sharing = count // np.maximum(left, 1)
    total = turns * fold(stream) + np.where(left > 0, fold(-(-stream // sharing)), 0.0)
    cycles: Ints = np.maximum(np.ceil(total).astype(np.int64), 1)
    return cycles


def systolic_latency(rows: int, cols: int) -> int:
    """Cycles from the last streamed operand to the last result: the skew over the array, ``R + C - 2``.

    >>> systolic_latency(128, 128)
    254
    """
    return rows + cols - 2
