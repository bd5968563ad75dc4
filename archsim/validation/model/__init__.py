"""Suite `model`: whole LLMs on whole systems against published throughputs and latencies.

One parameter set per chip, one set of assumptions per serving stack (`archsim.serving.stacks`); what else was assumed
stands beside each row. Rows share what they simulate.
"""

from __future__ import annotations

from collections.abc import Callable

from archsim.errors import InputError
from archsim.validation.model.case import Case
from archsim.validation.model.exchanges import read_exchange
from archsim.validation.model.inference import read_inference
from archsim.validation.model.layers import read_layer
from archsim.validation.model.wiring import read_training
from archsim.validation.report import Row
from archsim.validation.suite import Outcome, Plan, Reference, Suite
from archsim.validation.table import Record, Table

__all__ = ["MODEL", "read_row"]

COLUMNS = (
    "id source model system parallelism phase batch_concurrency input_len output_len dtype metric value unit notes"
)
EXCHANGE_COLUMNS = "id source chip ranks tokens exchange latency_us"
LAYER_COLUMNS = "device model phase tp op dtype latency_us source_file"

#: one reader for each phase of the table; a reader returns the case of a row, or why it has none
READERS: dict[str, Callable[[Record], Case | str]] = {
    "prefill": read_inference, "decode": read_inference, "e2e": read_inference, "ablation": read_inference,
    "training": read_training,
}  # fmt: skip


def read_row(record: Record) -> Case | str:
    """The case of a row of one of the files, or why it has none."""
    try:
        if "exchange" in record.cells:
            return read_exchange(record)
        if "latency_us" in record.cells:
            return read_layer(record)
        phase = record.text("phase")
        return READERS[phase](record) if phase in READERS else f"the phase '{phase}' is unknown"
    except InputError as error:
        return f"cannot be run ({error})"


def _plan(table: Table) -> list[Plan]:
    cases = [read_row(record) for record in table.records()]
    return [Plan(case.group, case.heavy) if isinstance(case, Case) else Plan("") for case in cases]


def _compare(table: Table) -> Outcome:
    rows: list[Row] = []
    reasons: list[str] = []
    for record in table.records():
        case = read_row(record)
        if isinstance(case, str):
            reasons.append(case)
            continue
        try:
            rows.append(Row(case.name, case.expected, case.got(), case.group, case.assumption))
        except InputError as error:
            reasons.append(f"cannot be run ({error})")
    return rows, reasons


MODEL = Suite(
    name="model",
    title="whole LLMs on whole systems, against published throughputs and latencies",
    references=(
        Reference("published_llm.csv", frozenset(COLUMNS.split()), _compare, _plan),
        Reference("published_exchanges.csv", frozenset(EXCHANGE_COLUMNS.split()), _compare, _plan),
        Reference("measured_llm_layer.csv", frozenset(LAYER_COLUMNS.split()), _compare, _plan),
    ),
)
