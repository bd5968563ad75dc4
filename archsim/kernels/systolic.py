"""A matrix product on the systolic arrays of one core, fold by fold: the `cycle` fidelity of `archsim.models.systolic`.

Folds go down the reduction (or the rows of outputs) first and are dealt to the arrays in turn. On each array, with
``move(x, b) = ceil(x / b)`` for x words over a port of b words a cycle (0 if b is unlimited)
and a fold of h x w elements:

weights or inputs stay::

    load  begins when the fold before has begun to stream (its registers are double) and takes max(R, move(h w, b_stay))
    start = max(load ends, the fold before ends)
    end   = start + max(T, move(T h, b_stream), move(T w, b_out))         twice T w where sums of a fold above come back
    out   = end + R + C - 2

outputs stay::

    start = the fold before ends
    end   = max(start + max(T, move(T h, b_ifmap), move(T w, b_filter)), the fold before has left)
    left  = end + max(R, move(h w, b_out));   out = left + R + C - 2

Without double registers (``overlap=False``) a fold begins when the last result of the fold before is out. A data type
of rate r lets T and R count ``ceil(T / r)`` and ``ceil(R / r)``. The SCALE-Sim convention: no overlap, no time to
drain, and the last cycle counted by its index from zero.

Assumptions: each array has ports of its own; the scratchpad holds what is read; partial folds keep the array busy.
Stalls are the cycles beyond those of the same folds with unlimited ports. Not modelled: banks, filling the scratchpad.
Reference: Samajdar et al., SCALE-Sim, ISPASS 2020, section III.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from archsim.errors import InputError
from archsim.kernels._systolic import walk_folds
from archsim.models import systolic

__all__ = ["ArrayRun", "Ports", "SystolicCore", "run_product"]

Ints = NDArray[np.int64]
Convention = Literal["physical", "scalesim"]
#: beyond this many folds no timeline is kept
MAX_TIMELINE = 1_000_000


@dataclass(frozen=True)
class Ports:
    """Words a cycle between the scratchpads and one array; 0 is unlimited."""

    ifmap: int = 0
    filter: int = 0
    ofmap: int = 0


@dataclass(frozen=True)
class SystolicCore:
    """``count`` arrays of ``rows`` x ``cols``. sparsity: (n, m) if at most n of m weights along k differ from zero."""

    rows: int
    cols: int
    dataflow: str
    count: int = 1
    rate: float = 1.0
    overlap: bool = True
    sparsity: tuple[int, int] | None = None


@dataclass(frozen=True, eq=False)
class ArrayRun:
    """What came out. ``timeline``: a row per fold of array, load begins, stream starts, stream ends, last result out.

    With sparsity, ``utilisation`` counts the weights that are kept.
    """

    cycles: int
    stall_cycles: int
    folds: int
    utilisation: float
    mapping_efficiency: float
    accesses: systolic.Accesses
    timeline: Ints


def run_product(
    core: SystolicCore, m: int, n: int, k: int, *, ports: Ports = Ports(), convention: Convention = "physical",
    timeline: bool = False,
) -> ArrayRun:  # fmt: skip
    """Walk the folds of ``m x k`` times ``k x n``.

    >>> core = SystolicCore(4, 4, "weight_stationary")
    >>> run_product(core, 4, 8, 4).cycles  # loads 4, streams 4 and 4, skew 6
    18
    >>> slow = run_product(core, 4, 8, 4, ports=Ports(ifmap=2))  # 16 words a fold take 8 cycles
    >>> slow.cycles, slow.stall_cycles
    (26, 8)
    """
    _check(core, m, n, k, ports)
    if convention not in ("physical", "scalesim"):
        raise InputError(f"unknown convention '{convention}': physical or scalesim")
    kept = int(systolic.compressed(k, *core.sparsity)) if core.sparsity else k
    rows, cols, flow = core.rows, core.cols, core.dataflow
    cut = systolic.folds(m, n, kept, rows=rows, cols=cols, dataflow=flow)
    down, across, stream = (int(each) for each in cut)
    record = np.zeros((down * across, 5), dtype=np.int64) if timeline and down * across <= MAX_TIMELINE else None
    limited = _walk(core, (m, n, kept), (down, across, stream), ports, convention, record)
    free = _walk(core, (m, n, kept), (down, across, stream), Ports(), convention, None) if ports != Ports() else limited
    return ArrayRun(
        cycles=limited,
        stall_cycles=limited - free,
        folds=down * across,
        utilisation=m * n * kept / (max(limited, 1) * core.rows * core.cols * core.count * core.rate),
        mapping_efficiency=float(systolic.mapping_efficiency(m, n, kept, rows=rows, cols=cols, dataflow=flow)),
        accesses=systolic.accesses(m, n, kept, rows=rows, cols=cols, dataflow=flow),
        timeline=np.zeros((0, 5), dtype=np.int64) if record is None else record,
    )


def _walk(
    core: SystolicCore, shape: tuple[int, int, int], cut: tuple[int, int, int], ports: Ports, convention: Convention,
    record: Ints | None,
) -> int:  # fmt: skip
    m, n, k = shape
    down, across, stream = cut
    spatial_down, spatial_across = {
        "weight_stationary": (k, n), "output_stationary": (m, n), "input_stationary": (k, m),
    }[core.dataflow]  # fmt: skip
    streamed, staying = (
        (ports.filter, ports.ifmap) if core.dataflow == "input_stationary" else (ports.ifmap, ports.filter)
    )
    loaded, begun, ended, drained = (np.zeros(core.count, dtype=np.int64) for _ in range(4))
    physical = convention == "physical"
    last = walk_folds(
        down, across, spatial_down - (down - 1) * core.rows, spatial_across - (across - 1) * core.cols, core.rows,
        core.cols, stream, ceil(stream / core.rate), ceil(core.rows / core.rate),
        core.dataflow == "output_stationary", core.overlap and physical, physical, streamed, staying, ports.ofmap,
        loaded, begun, ended, drained, np.zeros((0, 5), dtype=np.int64) if record is None else record,
    )  # fmt: skip
    return last - (convention == "scalesim")


def _check(core: SystolicCore, m: int, n: int, k: int, ports: Ports) -> None:
    if core.dataflow not in systolic.DATAFLOWS:
        raise InputError(f"unknown dataflow '{core.dataflow}'; there are: {', '.join(systolic.DATAFLOWS)}")
    sizes = {"m": m, "n": n, "k": k, "rows": core.rows, "cols": core.cols, "count": core.count}
    for name, size in sizes.items():
        if not 1 <= size < 2**31:
            raise InputError(f"{name} is {size}, but must lie between 1 and 2^31 - 1")
    if m * n * k >= 2**62:
        raise InputError(f"a product of {m} x {n} x {k} is too large to count in 64 bits")
    if not 0 < core.rate <= 1024:
        raise InputError(f"the rate is {core.rate:g}, but must lie above 0 and be at most 1024")
    if core.sparsity and not 1 <= core.sparsity[0] <= core.sparsity[1]:
        raise InputError(f"a sparsity of {core.sparsity[0]}:{core.sparsity[1]} keeps no weight, or more than there are")
    if min(ports.ifmap, ports.filter, ports.ofmap) < 0:
        raise InputError("a port moves a negative number of words a cycle; 0 means unlimited")
