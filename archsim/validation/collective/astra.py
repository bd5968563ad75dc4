"""Rows of ASTRA-sim's analytical backend, where its own model is sound.

Its ring and its fully connected network are; what is not is listed with the reason. One of its links carries data one
way round a ring, so its rings are compared with the ring algorithm behind ports of that rate.
"""

from __future__ import annotations

from archsim.hardware import LinkSpec
from archsim.network import Collective, Dim, Fabric, Group, run_collective
from archsim.network.request import Algorithm, Kind
from archsim.validation.report import Row
from archsim.validation.suite import Outcome
from archsim.validation.table import Record, Table

__all__ = ["compare_astra"]

GIB = 2**30
KINDS: dict[str, Kind] = {
    "allreduce": "all_reduce", "allgather": "all_gather", "reducescatter": "reduce_scatter", "alltoall": "all_to_all",
}  # fmt: skip
ALGORITHMS: dict[str, Algorithm] = {"ring": "ring", "direct": "direct", "halvingDoubling": "halving_doubling"}

FORWARD = "ASTRA-sim stores a whole chunk at the switch, or at each chip on the way, before it passes it on"
NO_SHARING = "ASTRA-sim lets all messages of a chip leave or share a link at once (no serialisation at the card)"
WHOLE_TREE = "ASTRA-sim sends the whole buffer up and down a tree, without chunks"
BASELINE = "ASTRA-sim's baseline reduces the whole buffer along every dimension, or waits for each before the next"
IDLE = "ASTRA-sim works on one chunk after the other here, and links lie idle in between"
RING_EXCHANGE = "ASTRA-sim's all-to-all round a ring is no algorithm of archsim, whose all-to-all is direct"


def compare_astra(table: Table) -> Outcome:
    """Rows with the columns of `collectives_golden.csv`."""
    rows: list[Row] = []
    reasons: list[str] = []
    for record in table.records():
        reason = _unsound(record)
        if reason:
            reasons.append(reason)
            continue
        kind, algorithm = KINDS[record.text("collective")], ALGORITHMS[record.text("algorithm")]
        if "x" in record.text("topology"):
            algorithm = "hierarchical"
        elif algorithm == "direct" and kind == "all_reduce":
            algorithm = "two_shot"
        chips, nbytes = record.integer("npus"), record.integer("bytes")
        total = nbytes * chips if record.text("bytes_semantics").startswith("per-NPU") else nbytes
        fabric = _fabric(record, algorithm)
        request = Collective(kind, total, Group(chips), algorithm, chunks=record.integer("dataset_splits"))
        got = run_collective(fabric, request).time_ps * 1e-6
        name = f"{record.text('topology')} {chips} {kind} {algorithm} {nbytes} B"
        rows.append(Row(name, record.number("simulated_us"), got, f"ASTRA-sim {record.text('topology')}"))
    return rows, reasons


def _unsound(record: Record) -> str:
    """Why a row does not say what a fabric would do, or nothing."""
    topology, algorithm = record.text("topology"), record.text("algorithm")
    aware = record.text("backend").endswith("_aware")
    splits, active = record.integer("dataset_splits"), record.integer("active_chunks")
    single = "x" not in topology
    if algorithm == "doubleBinaryTree":
        return WHOLE_TREE
    if record.text("collective") == "alltoall" and algorithm == "ring":
        return RING_EXCHANGE
    if not aware and algorithm != "ring" and (("Switch" in topology and algorithm == "direct") or topology == "Ring"):
        return NO_SHARING
    if aware and (topology == "Switch" or (topology == "Ring" and algorithm != "ring")):
        return FORWARD
    if splits > 1 and active < splits and single and active == 1:
        return IDLE
    if not single and (record.text("collective_optimization") == "baseline" or splits == 1):
        return BASELINE
    return ""


def _fabric(record: Record, algorithm: Algorithm) -> Fabric:
    """Ports at ASTRA-sim's rate: GiB/s, and a hop of its latency (two through a switch) plus its endpoint delay."""
    sizes = [int(n) for n in record.text("npus_per_dim").split("x")]
    rates = [float(rate) * GIB for rate in record.text("bandwidth_GiBps_per_link").split("x")]
    latencies = [float(ns) * 1e-9 for ns in record.text("latency_ns").split("x")]
    dims: list[Dim] = []
    stride = 1
    for topology, size, rate, latency in zip(_split(record.text("topology")), sizes, rates, latencies, strict=True):
        hop = (2 if topology == "Switch" else 1) * latency + record.number("endpoint_delay") * 1e-9
        mesh = topology == "FullyConnected" and algorithm != "ring"
        link = LinkSpec(
            name=topology, bandwidth=rate * (size - 1) if mesh else rate, latency=hop,
            topology="full_mesh" if mesh else "switch", domain=size, efficiency=1.0,
        )  # fmt: skip
        dims.append(Dim("scale_up", "mesh" if mesh else "switch", size, stride, link, rate))
        stride *= size
    return Fabric("ASTRA-sim", stride, tuple(dims))


def _split(topology: str) -> list[str]:
    return topology.split("x") if "x" in topology else [topology]
