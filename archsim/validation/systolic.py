"""Suite `systolic`: the closed form of `archsim.models.systolic` against cycles that SCALE-Sim counted.

It holds the fold arithmetic exactly, in SCALE-Sim's convention; the physical convention that the simulator uses differs
from it as the model's docstring says.
"""

from __future__ import annotations

import numpy as np

from archsim.models import systolic
from archsim.validation.report import Row
from archsim.validation.suite import Outcome, Reference, Suite
from archsim.validation.table import Table

__all__ = ["SYSTOLIC"]

DATAFLOWS = {"ws": "weight_stationary", "os": "output_stationary", "is": "input_stationary"}
STALLED = "SCALE-Sim stalled on its scratchpad bandwidth (USER mode), which the closed form leaves out"
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
    for index, short in enumerate(dataflow):
        if stalls[index] or not expected[index]:
            reasons.append(STALLED if stalls[index] else ZERO)
            continue
        case = f"{short} {rows[index]}x{cols[index]} M{m[index]} N{n[index]} K{k[index]}"
        compared.append(Row(case, int(expected[index]), int(got[index])))
    return compared, reasons


SYSTOLIC = Suite(
    name="systolic",
    title="cycles of matrix products on one systolic array, against SCALE-Sim 3.0.0",
    references=(
        Reference(
            file="scalesim_gemm_golden.csv",
            columns=frozenset({"array_rows", "array_cols", "dataflow", "M", "N", "K", "total_cycles"}),
            compare=compare,
        ),
    ),
    band={"max_ape_pct": 0.0},
)
