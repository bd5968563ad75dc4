"""Rows that were measured on silicon: nccl-tests, custom all-reduce kernels, DeepEP."""

from __future__ import annotations

import re

from archsim.errors import InputError
from archsim.network import KINDS, Collective, Fabric, Group, run_collective
from archsim.network.request import Algorithm
from archsim.validation.collective.machines import fabric, machine_of
from archsim.validation.report import Row
from archsim.validation.suite import Outcome
from archsim.validation.table import Record, Table

__all__ = ["compare_measured", "compare_sampled"]

NAMES = {"alltoall": "all_to_all", "moe_dispatch": "dispatch", "moe_combine": "combine"}
#: DeepEP sends a float32 scale with every 128 values in fp8
FP8_SCALES = 1 + 4 / 128
#: chips -> largest buffer for which vLLM takes its own kernels, and those of one stage (its all_reduce_utils.py for
#: Hopper, symmetric memory included; custom_all_reduce.cuh)
OWN_KERNEL_BYTES = {2: 2**26, 4: 2**25, 6: 2**26, 8: 2**26}
ONE_STAGE_BYTES = {2: 2**26, 4: 2**19, 6: 2**18, 8: 2**18}
#: seconds of one thread for each kernel of a collective that it launches on all chips, from memory, unverified
LAUNCH_S = 3e-6

NO_TIME = "the row gives a bandwidth but not the bytes that it counts"
EAGER = "an eager launch from Python: the host's time, not the fabric's, is in the row"


def compare_measured(table: Table) -> Outcome:
    """Rows with the columns of `collectives_measured.csv`."""
    return _compare(table, "system", "gpus", "bytes", "time_us", "backend_or_algorithm")


def compare_sampled(table: Table) -> Outcome:
    """Rows with the columns of `measured_allreduce.csv`."""
    return _compare(table, "device", "num_gpus", "size_bytes", "latency_us", "collective")


def _compare(table: Table, system: str, gpus: str, size: str, time: str, backend: str) -> Outcome:
    rows: list[Row] = []
    reasons: list[str] = []
    for record in table.records():
        found = _row(record, system, gpus, size, time, backend)
        rows += [found] if isinstance(found, Row) else []
        reasons += [found] if isinstance(found, str) else []
    return rows, reasons


def _row(record: Record, system: str, gpus: str, size: str, time: str, backend: str) -> Row | str:
    """The comparison of one row, or why there is none."""
    machine = machine_of(record.text(system))
    if machine.refused:
        return machine.refused
    if not record.text(size) or not record.text(time):
        return NO_TIME
    library = record.text(backend)
    if "eager" in library:
        return EAGER
    chips, per_node = record.integer(gpus), _chips_per_node(record, gpus)
    expected = record.number(time, least=1e-3)
    try:
        network = fabric(machine.system, chips, chips if machine.rack and per_node > 1 else per_node)
        request = _request(record, network, record.integer(size), library)
        if isinstance(request, str):
            return request
        got = min(run_collective(network, each).time_ps for each in request) * 1e-6
    except InputError as error:
        raise InputError(f"{record.place}: {error}") from error
    what = f"{machine.label} {request[0].kind}{_kernel(library)}"
    if re.search(r"\b1 process x", record.cells.get("note", "")):
        got = max(got, chips * LAUNCH_S * 1e6)
    return Row(f"{what}, {chips} chips, {request[0].nbytes} B", expected, got, what)


def _request(record: Record, network: Fabric, nbytes: int, library: str) -> list[Collective] | str:
    """What was run; of several, the fastest counts."""
    word = re.sub(r"\(.*\)", "", record.text("collective")).strip()
    kind = next((each for each in KINDS if each == NAMES.get(word, word)), None)
    if kind is None:
        return f"no such collective here: {word[:40]}"
    if kind == "dispatch" and record.text("dtype") == "fp8":
        nbytes = round(nbytes * FP8_SCALES)
    group, chips = Group(network.chips), network.chips
    if kind == "all_reduce" and "vLLM" in library and nbytes <= OWN_KERNEL_BYTES.get(chips, 0):
        stages: Algorithm = "one_shot" if nbytes <= ONE_STAGE_BYTES[chips] else "two_shot"
        known = network.dims[0].link.transports
        return [Collective(kind, nbytes, group, stages, transport="pull" if "pull" in known else None)]
    found = [Collective(kind, nbytes, group)]
    if kind == "all_reduce" and re.search("trt", library, re.IGNORECASE):  # one-shot, or falls back on NCCL
        found.append(Collective(kind, nbytes, group, "one_shot"))
    return found


def _kernel(library: str) -> str:
    return " (TensorRT-LLM)" if re.search("trt", library, re.I) else " (vLLM)" if "vLLM" in library else ""


def _chips_per_node(record: Record, gpus: str) -> int:
    """Chips that share a scale-up fabric: as the row says, and one where it went around it."""
    chips = record.integer(gpus)
    if record.cells.get("interconnect") == "RDMA only":
        return 1
    if record.cells.get("gpus_per_node"):
        return record.integer("gpus_per_node")
    return chips // record.integer("nodes") if record.cells.get("nodes") else chips
