"""Suite `systolic`: folds walked one by one (and the closed form of them) against cycles that SCALE-Sim counted.

It holds the fold arithmetic exactly, in SCALE-Sim's convention; the physical convention that the simulator uses differs
from it as the model's docstring says.

Rows in which SCALE-Sim stalled on its bandwidth say how that tool prefetches, and nothing that an array does: they are
left out with the mechanism, beside how far they lie above a bandwidth bound (the folds' cycles, or each operand moved
once, whichever is longer).
"""

from __future__ import annotations

import numpy as np

from archsim.kernels.systolic import SystolicCore, run_product
from archsim.models import systolic
from archsim.validation.report import Row
from archsim.validation.suite import Outcome, Reference, Suite
from archsim.validation.table import Table

__all__ = ["SYSTOLIC"]

DATAFLOWS = {"ws": "weight_stationary", "os": "output_stationary", "is": "input_stationary"}
THRASH = (
    "SCALE-Sim stalled and thrashed: operands that straddle its prefetch window out of order make it go round the "
    "whole operand again (its filter or ifmap DRAM reads are more than the operand)"
)
STALLED = (
    "SCALE-Sim stalled on its prefetch, which refills half a buffer at a time in fold order, holds up all operands at "
    "once and counts a stall twice"
)
ZERO = "the reference value is 0, so that no relative error exists"


def compare(table: Table) -> Outcome:
    """Compare `total_cycles` of every row without stalls."""
    dataflow = table.choices("dataflow", DATAFLOWS)
    rows, cols, m, n, k = (table.integers(name) for name in ("array_rows", "array_cols", "M", "N", "K"))
    expected = table.integers("total_cycles", least=0)
    stalls = table.integers("stall_cycles", least=0) if "stall_cycles" in table.columns else np.zeros_like(m)
    got = np.zeros_like(expected)
    for short, name in DATAFLOWS.items():
        at = np.array(dataflow) == short
        got[at] = systolic.cycles(
            m[at], n[at], k[at], rows=rows[at], cols=cols[at], dataflow=name, convention="scalesim"
        )
    compared: list[Row] = []
    reasons: list[str] = []
    ratios: dict[str, list[float]] = {}
    for index, short in enumerate(dataflow):
        if not expected[index]:
            reasons.append(ZERO)
        elif stalls[index]:
            reason, ratio = _stalled(table, index, int(m[index]), int(n[index]), int(k[index]), int(got[index]))
            reasons.append(reason)
            ratios.setdefault(reason, []).append(int(expected[index]) / ratio)
        else:
            case = f"{short} {rows[index]}x{cols[index]} M{m[index]} N{n[index]} K{k[index]}"
            walked = run_product(
                SystolicCore(int(rows[index]), int(cols[index]), DATAFLOWS[short]), int(m[index]), int(n[index]),
                int(k[index]), convention="scalesim",
            ).cycles  # fmt: skip
            worst = max((int(got[index]), walked), key=lambda each: abs(each - int(expected[index])))
            compared.append(Row(case, int(expected[index]), worst))
    spread = {
        reason: f"{reason}; {min(each):.1f} to {max(each):.0f} times a bandwidth bound" if min(each) > 0 else reason
        for reason, each in ratios.items()
    }
    return compared, [spread.get(reason, reason) for reason in reasons]


def _stalled(table: Table, index: int, m: int, n: int, k: int, folds: int) -> tuple[str, float]:
    """Why a row stalled, and the least time in cycles that its bandwidth allows."""
    extra = ("bandwidth_words_per_cycle", "ifmap_dram_reads", "filter_dram_reads")
    if not all(name in table.columns for name in extra):
        return STALLED, float("inf")
    width, ifmap, weights = (float(table.take([index]).integers(name, least=0)[0]) for name in extra)
    bound = max(folds, max(m * k, k * n, m * n) / width if width else 0.0)
    return (THRASH if ifmap > 1.05 * m * k or weights > 1.05 * k * n else STALLED), bound


SYSTOLIC = Suite(
    name="systolic",
    title="cycles of matrix products on one systolic array, against SCALE-Sim 3.0.0",
    references=(
        Reference(
            file="scalesim_gemm_golden.csv",
            columns=frozenset({"array_rows", "array_cols", "dataflow", "M", "N", "K", "total_cycles"}),
            compare=compare,
        ),
        Reference(
            file="scalesim_gemm_bw_golden.csv",
            columns=frozenset({"array_rows", "array_cols", "dataflow", "M", "N", "K", "total_cycles", "stall_cycles"}),
            compare=compare,
        ),
    ),
    band={"max_ape_pct": 0.0},
)
