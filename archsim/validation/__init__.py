"""Suites that hold the simulator against reference data.

>>> report = run_suite(SUITES["systolic"])
>>> report.cases, report.max_ape_pct
(253, 0.0)
"""

from __future__ import annotations

from archsim.validation.collective import COLLECTIVE
from archsim.validation.hbm import HBM, HBM_TILE
from archsim.validation.model import MODEL
from archsim.validation.noc import NOC
from archsim.validation.npu import NPU
from archsim.validation.op import OP
from archsim.validation.physical import PHYSICAL
from archsim.validation.report import Report, Row, markdown_table
from archsim.validation.suite import FEW, MANY, Reference, Suite, run_suite, suite_of
from archsim.validation.systolic import SYSTOLIC
from archsim.validation.table import Table

__all__ = [
    "FEW",
    "MANY",
    "SUITES",
    "Reference",
    "Report",
    "Row",
    "Suite",
    "Table",
    "markdown_table",
    "run_suite",
    "suite_of",
]

SUITES: dict[str, Suite] = {
    suite.name: suite for suite in (SYSTOLIC, NPU, HBM, HBM_TILE, NOC, COLLECTIVE, OP, MODEL, PHYSICAL)
}
