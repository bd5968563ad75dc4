"""Matrix products on one systolic array: cycles, utilisation and scratchpad accesses, in closed form.

A product of ``m x k`` (ifmap) and ``k x n`` (filter) is cut into folds that fill an array of R rows and C columns with
what stays put, while the third dimension streams through:

================= ============ ============== ==========
dataflow          down (S_r)   across (S_c)   stream (T)
================= ============ ============== ==========
weight_stationary k            n              m
output_stationary m            n              k
input_stationary  k            m              n
================= ============ ============== ==========

All functions take integers or integer arrays (broadcast against each other) and return int64.

Reference: Samajdar et al., "A systematic methodology for characterizing scalability of DNN accelerators using
SCALE-Sim", ISPASS 2020, section III, for folds and their duration; SCALE-Sim 3.0.0 for the convention of that name.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "DATAFLOWS",
    "Accesses",
    "Folds",
    "accesses",
    "bandwidth_demand",
    "compressed",
    "cycles",
    "folds",
    "mapping_efficiency",
    "utilisation",
]

Ints: TypeAlias = NDArray[np.int64]
Convention = Literal["physical", "scalesim"]

DATAFLOWS = ("weight_stationary", "output_stationary", "input_stationary")


class Folds(NamedTuple):
    """How often the array is filled down and across, and the length of the stream through each fold."""

    down: Ints
    across: Ints
    stream: Ints


class Accesses(NamedTuple):
    """Words that pass between the scratchpads and the array."""

    ifmap_reads: Ints
    filter_reads: Ints
    ofmap_writes: Ints
    ofmap_reads: Ints


def folds(m: ArrayLike, n: ArrayLike, k: ArrayLike, *, rows: ArrayLike, cols: ArrayLike, dataflow: str) -> Folds:
    """Cut a product into folds: ``F_r = ceil(S_r / R)``, ``F_c = ceil(S_c / C)``, with S and T as in the table above.

    >>> down, across, stream = folds(100, 20, 30, rows=16, cols=16, dataflow="weight_stationary")
    >>> int(down), int(across), int(stream)
    (2, 2, 100)
    """
    m, n, k, rows, cols = (np.asarray(each, dtype=np.int64) for each in (m, n, k, rows, cols))
    down, across, stream = {
        "weight_stationary": (k, n, m),
        "output_stationary": (m, n, k),
        "input_stationary": (k, m, n),
    }[dataflow]
    return Folds(-(-down // rows), -(-across // cols), stream)


def cycles(
    m: ArrayLike,
    n: ArrayLike,
    k: ArrayLike,
    *,
    rows: ArrayLike,
    cols: ArrayLike,
    dataflow: str,
    convention: Convention = "physical",
) -> Ints:
    """Cycles from the first operand that enters an idle array to the last result that leaves it.

    Equation, with ``F = F_r F_c`` folds::

        physical   (F - 1) max(T, R) + 2 R + C + T - 2
        scalesim   F P - 1,   P = 2 R + C + T - 2  (output_stationary: P = R + C + T - 2)

    ======== ================================================= ======
    symbol   meaning                                           unit
    ======== ================================================= ======
    R, C     rows and columns of the array                     1
    F        folds of the product                              1
    T        stream through each fold                          cycles
    ======== ================================================= ======

    Physical: weight- and input-stationary arrays shift the stationary operand of the next fold in (R cycles) behind
    the present stream, so only the first load shows; output-stationary arrays shift a fold's results down and out
    (R cycles) while the next fold computes, so only the last drain shows. Either way folds follow each other every
    ``max(T, R)`` cycles, and R + C - 2 is the skew over the array.

    SCALE-Sim: folds never overlap, the last cycle is counted by its index (hence the -1), and the drain of an
    output-stationary fold takes no time of its own, though its last result would be written before it is computed.

    Assumptions: one multiply-accumulate per element and cycle; operands always arrive in time; a fold at the edge keeps
    the whole array busy. Not modelled: stalls on the scratchpads' bandwidth, the pipeline inside an element.
    Valid when: ``m, n, k, rows, cols >= 1``.

    One fold on 4 x 4: 4 cycles of loading, a stream of 4, and 6 cycles of skew. A second fold adds 4:

    >>> [int(cycles(4, n, 4, rows=4, cols=4, dataflow="weight_stationary")) for n in (4, 8)]
    [14, 18]
    >>> [int(cycles(4, n, 4, rows=4, cols=4, dataflow="weight_stationary", convention="scalesim")) for n in (4, 8)]
    [13, 27]
    """
    down, across, stream = folds(m, n, k, rows=rows, cols=cols, dataflow=dataflow)
    count = down * across
    rows, cols = np.asarray(rows, dtype=np.int64), np.asarray(cols, dtype=np.int64)
    fold = 2 * rows + cols + stream - 2
    if convention == "physical":
        return np.asarray((count - 1) * np.maximum(stream, rows) + fold)
    if convention != "scalesim":
        raise ValueError(f"unknown convention '{convention}': physical or scalesim")
    if dataflow == "output_stationary":
        fold = fold - rows
    return np.asarray(count * fold - 1)


def utilisation(
    m: ArrayLike,
    n: ArrayLike,
    k: ArrayLike,
    *,
    rows: ArrayLike,
    cols: ArrayLike,
    dataflow: str,
    convention: Convention = "physical",
) -> NDArray[np.float64]:
    """Share of the array's multiply-accumulates that the product needs: ``m n k / (cycles R C)``.

    At most 1 in the physical convention; SCALE-Sim's missing cycle can lift tiny products above it.

    >>> round(float(utilisation(4096, 128, 128, rows=128, cols=128, dataflow="weight_stationary")), 3)
    0.915
    """
    taken = cycles(m, n, k, rows=rows, cols=cols, dataflow=dataflow, convention=convention)
    return np.asarray(_product(m, n, k) / (taken * _product(rows, cols)))


def mapping_efficiency(
    m: ArrayLike, n: ArrayLike, k: ArrayLike, *, rows: ArrayLike, cols: ArrayLike, dataflow: str
) -> NDArray[np.float64]:
    """Share of the array's elements that hold something, on average over folds: ``S_r S_c / (F_r F_c R C)``.

    >>> float(mapping_efficiency(7, 24, 16, rows=16, cols=16, dataflow="weight_stationary"))
    0.75
    """
    down, across, stream = folds(m, n, k, rows=rows, cols=cols, dataflow=dataflow)
    return np.asarray(_product(m, n, k) / stream / (_product(down, across) * _product(rows, cols)))


def accesses(
    m: ArrayLike, n: ArrayLike, k: ArrayLike, *, rows: ArrayLike, cols: ArrayLike, dataflow: str
) -> Accesses:
    """Words read from and written to the scratchpads.

    Equation::

                           ifmap reads   filter reads   ofmap writes   ofmap reads
        weight_stationary  m k F_c       k n            m n F_r        m n (F_r - 1)
        output_stationary  m k F_c       k n F_r        m n            0
        input_stationary   m k           k n F_c        m n F_r        m n (F_r - 1)

    What is stationary is read once; what streams is read once for each fold that it passes. Where k is folded, partial
    sums are written after every fold and read back before the next. (SCALE-Sim 3.0.0 never reads them back, and adds
    ``F_r F_c (R + C)`` to the writes of output_stationary; both are left out here.)

    >>> [int(count) for count in accesses(7, 24, 20, rows=16, cols=16, dataflow="weight_stationary")]
    [280, 480, 336, 168]
    """
    down, across, _ = folds(m, n, k, rows=rows, cols=cols, dataflow=dataflow)
    ifmap, weights, ofmap = _product(m, k), _product(k, n), _product(m, n)
    if dataflow == "weight_stationary":
        return Accesses(ifmap * across, weights, ofmap * down, ofmap * (down - 1))
    if dataflow == "output_stationary":
        return Accesses(ifmap * across, weights * down, ofmap, np.zeros_like(ofmap))
    return Accesses(ifmap, weights * across, ofmap * down, ofmap * (down - 1))


def compressed(k: ArrayLike, n: int, m: int) -> Ints:
    """Reduction that is left of k with N:M structured sparsity: n of every m weights, and what remains at the end.

    Equation: ``k' = floor(k / m) n + min(k mod m, n)``. Weights lie without their zeros; an index beside each of them
    picks the operand that meets it. Reference: Mishra et al., "Accelerating sparse deep neural networks", 2021.

    >>> int(compressed(4096, 2, 4)), int(compressed(7, 2, 4))
    (2048, 4)
    """
    groups, rest = np.divmod(np.asarray(k, dtype=np.int64), m)
    return np.asarray(groups * n + np.minimum(rest, n))


def bandwidth_demand(
    m: ArrayLike, n: ArrayLike, k: ArrayLike, *, rows: ArrayLike, cols: ArrayLike, dataflow: str
) -> NDArray[np.float64]:
    """Words a cycle of ifmap, filter and ofmap (reads and writes) that keep the array from stalling, on average.

    Equation: ``accesses / cycles`` of the physical convention, one row for each operand.

    >>> [round(float(each), 2) for each in bandwidth_demand(4096, 128, 128, rows=128, cols=128,
    ...                                                     dataflow="weight_stationary")]
    [117.08, 3.66, 117.08]
    """
    counts = accesses(m, n, k, rows=rows, cols=cols, dataflow=dataflow)
    taken = cycles(m, n, k, rows=rows, cols=cols, dataflow=dataflow)
    words = (counts.ifmap_reads, counts.filter_reads, counts.ofmap_writes + counts.ofmap_reads)
    return np.stack(np.broadcast_arrays(*(np.asarray(each / taken) for each in words)))


def _product(*factors: ArrayLike) -> Ints:
    result = np.asarray(1, dtype=np.int64)
    for factor in factors:
        result = result * np.asarray(factor, dtype=np.int64)
    return result
