"""Suite `op`: single operators on one chip against times measured on silicon, in microseconds.

Every row of the reference files becomes the kernels that its time covers, tiled and lowered as those of a model are,
and runs on the chip preset of its device. Nothing is fitted to these rows: what comes out is what the presets give.
"""

from __future__ import annotations

from collections.abc import Callable

from archsim.errors import InputError
from archsim.validation.op.case import Case, simulate_us, too_fast
from archsim.validation.op.published import read_published
from archsim.validation.op.readers import read_attention, read_matmul, read_mla, read_moe, read_rows
from archsim.validation.op.sources import INFORMED
from archsim.validation.report import Row
from archsim.validation.suite import Outcome, Plan, Reference, Suite
from archsim.validation.table import Record, Table

__all__ = ["OP"]

#: steps of a program that take about a second to make and run
HEAVY_STEPS = 4e5
TOO_FAST = "faster than the peaks of the chip allow: operands were on the chip before, or the row is wrong"

Reader = Callable[[Record], "Case | str"]


def _read(reader: Reader, record: Record) -> Case | str:
    case = reader(record)
    if isinstance(case, Case) and too_fast(case):
        return TOO_FAST
    return case


def _plan(reader: Reader) -> Callable[[Table], list[Plan]]:
    def plan(table: Table) -> list[Plan]:
        cases = [_read(reader, record) for record in table.records()]
        return [_planned(case) for case in cases]

    return plan


def _planned(case: Case | str) -> Plan:
    return Plan("") if isinstance(case, str) else Plan(case.group, case.steps > HEAVY_STEPS, case.expected_us)


def _compare(reader: Reader) -> Callable[[Table], Outcome]:
    def compare(table: Table) -> Outcome:
        rows: list[Row] = []
        reasons: list[str] = []
        for record in table.records():
            case = _read(reader, record)
            if isinstance(case, str):
                reasons.append(case)
                continue
            try:
                rows.append(Row(case.name, case.expected_us, simulate_us(case), case.group))
            except InputError as error:  # one row that no tile of the chip can serve must not cost the others
                reasons.append(f"cannot be mapped onto the {case.chip} ({error})")
        return rows, reasons

    return compare


def _reference(file: str, columns: str, reader: Reader) -> Reference:
    return Reference(f"{file}.csv", frozenset(columns.split()), _compare(reader), _plan(reader))


OP = Suite(
    name="op",
    title="time of single operators, against times measured on silicon",
    transfer=lambda group: group.split()[0] not in INFORMED,
    references=(
        _reference("measured_matmul", "device M K N dtype latency_us op source_file", read_matmul),
        _reference("measured_matmul_aiconfigurator", "device M K N dtype latency_us source_file", read_matmul),
        _reference(
            "measured_attention_aiconfigurator",
            "device phase batch q_len kv_len q_heads kv_heads head_dim dtype kv_dtype latency_us source_file",
            read_attention,
        ),
        _reference(
            "measured_attention",
            "device phase batch q_len kv_len kv_len_means q_heads kv_heads head_dim dtype latency_us source_file",
            read_attention,
        ),
        _reference(
            "measured_mla_aiconfigurator",
            "device phase batch q_len kv_len heads_per_gpu dtype kv_dtype latency_us source_file",
            read_mla,
        ),
        _reference(
            "measured_moe",
            "device model num_tokens hidden inter topk experts tp ep dtype distribution latency_us source_file",
            read_moe,
        ),
        _reference("measured_norm_softmax_gelu", "device op rows cols dtype latency_us model source_file", read_rows),
        _reference("published_ops", "id source chip op M N K groups batch dtype value unit notes", read_published),
    ),
)
