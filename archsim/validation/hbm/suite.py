"""Rows of the reference file: which can be trusted, what each measures, and what the cycle model says to it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from archsim.errors import InputError
from archsim.kernels.dram_cycle import CycleRun, run_cycle
from archsim.memory.streams import Stream, due_ticks, make_stream
from archsim.program.dram import DramChannels
from archsim.validation.hbm.configurations import REFRESH, channels_of
from archsim.validation.report import Row
from archsim.validation.suite import Outcome, Plan, Reference, Suite
from archsim.validation.table import Record, Table

__all__ = ["HBM", "Case", "read_case"]

PER_BANK = "per-bank refresh in Ramulator 2.1 stops the whole channel, which is an artefact of its controller"
CAPPED = "the closed-row policy of Ramulator 2.1 (ClosedCAP) aborts on some streams and is not trusted"
STOCK_RANDOM = "random accesses on the stock HBM2 of DRAMsim3 are bound by its tFAW of 30 clocks, twice the real one"

#: offered load in percent up to which the mean latency is compared, if the channel keeps up
LOW_LOAD = 50.0
KEEPS_UP = 0.98
_LOAD = re.compile(r"(?P<how>single in-order|per-channel) FIFO(?: @(?P<load>[0-9.]+)% of peak)?")


@dataclass(frozen=True)
class Case:
    """One row, ready to be run; `why` says why it is left out, if it is."""

    row: Record
    group: str
    why: str
    serial: bool
    separate: bool
    load: float | None

    @property
    def name(self) -> str:
        """What the row is, for people."""
        row, load = self.row, "" if self.load is None else f" at {100 * self.load:g} %"
        pick = ("standard", "address_mapping", "pattern")
        text = " ".join(row.text(name) for name in pick)
        each = "one at a time" if self.serial else "separate FIFOs" if self.separate else ""
        reads = f"{100 * row.number('read_fraction'):g} % reads"
        return f"{row.text('row_id')} {text} x{row.text('channels')}, {reads}{load} {each}".rstrip()

    def channels(self) -> DramChannels:
        """The channels that it ran on."""
        return channels_of(self.row)

    def stream(self, dram: DramChannels) -> Stream:
        """The requests that it served."""
        row = self.row
        request, region = row.integer("request_bytes"), row.integer("region_bytes")
        if request != dram.map.organisation.burst_bytes:
            raise InputError(
                f"{row.place}: request_bytes is {request}, but this configuration has bursts of another size"
            )
        if row.integer("num_requests") > 10**7 or region > dram.map.capacity_bytes:
            raise InputError(
                f"{row.place}: at most 10 million requests, in a region of at most {dram.map.capacity_bytes} bytes"
            )
        return make_stream(
            row.text("pattern"), row.integer("num_requests"), request_bytes=request, region_bytes=region,
            stripe_bytes=row.integer("stripe_bytes"), read_share=row.number("read_fraction"),
        )  # fmt: skip


def read_case(row: Record) -> Case:
    """What a row of the reference file measures."""
    mode = _LOAD.fullmatch(row.text("injection_mode"))
    if mode is None or row.text("refresh") not in REFRESH:
        name = "injection_mode" if mode is None else "refresh"
        raise InputError(f"{row.place}: {name} is '{row.text(name)[:60]}', which is not known")
    load = float(mode["load"]) / 100 if mode["load"] else None
    serial = row.text("injection") == "one"
    return Case(row, _group(row, serial), _untrusted(row), serial, mode["how"] == "per-channel", load)


def _untrusted(row: Record) -> str:
    if row.text("refresh") == "per-bank":
        return PER_BANK
    if row.text("config_file").endswith("_cap.yaml"):
        return CAPPED
    if row.text("config_file").startswith("ds3_stock") and row.text("pattern") == "uniform_random":
        return STOCK_RANDOM
    return ""


def _group(row: Record, serial: bool) -> str:
    pattern, reads = row.text("pattern"), row.number("read_fraction")
    if serial:
        return "one at a time"
    if 0.0 < reads < 1.0:
        return "mixed reads and writes"
    if pattern.startswith("streams"):
        return "streams, " + pattern.rpartition("_")[2]
    for beginning, name in (
        ("row_thrash", "row thrash"), ("uniform_random", "random"), ("sequential", "sequential"),
        ("stride", "strided"), ("chunk", "random chunks"),
    ):  # fmt: skip
        if pattern.startswith(beginning):
            return name
    raise InputError(f"{row.place}: pattern is '{pattern[:60]}', which is not known")


def compare(table: Table) -> Outcome:
    """Compare the utilisation of every trusted row, and the read latency where the load is low."""
    rows: list[Row] = []
    reasons: list[str] = []
    for record in table.records():
        case = read_case(record)
        if case.why:
            reasons.append(case.why)
        else:
            rows += _compare(case)
    return rows, reasons


def _compare(case: Case) -> list[Row]:
    dram = case.channels()
    stream = case.stream(dram)
    count = len(stream.address)
    due = None if case.load is None else due_ticks(dram, count, case.load)
    run = run_cycle(dram, stream.address, stream.write, due=due, serial=case.serial, separate=case.separate)
    found = [Row(case.name, case.row.number("utilisation"), _utilisation(dram, run, count), case.group)]
    expected = case.row.number("avg_read_latency_cycles")
    slow = case.load is not None and case.load <= LOW_LOAD / 100
    keeps_up = case.load is not None and case.row.number("utilisation") >= KEEPS_UP * case.load
    if expected and (case.serial or (slow and keeps_up)):
        reads = ~stream.write
        latency = float(np.mean((run.done - run.arrive)[reads])) / dram.timing.ticks_per_clock
        found.append(
            Row(case.name + ", latency", expected, latency, "latency, " + ("probe" if case.serial else "low load"))
        )
    return found


def _utilisation(dram: DramChannels, run: CycleRun, count: int) -> float:
    """Bytes a second over those of all data buses."""
    seconds = run.ticks * dram.timing.tick_ps * 1e-12
    return count * dram.map.organisation.burst_bytes / seconds / dram.peak_bytes_per_s


def plan(table: Table) -> Sequence[Plan]:
    """Each row with its group; what is not trusted has none."""
    cases = [read_case(record) for record in table.records()]
    return [Plan("" if case.why else f"{case.group} {case.load or ''}") for case in cases]


HBM = Suite(
    name="hbm",
    title="utilisation and low-load latency of DRAM channels (cycle model), against Ramulator 2.1 and DRAMsim3",
    references=(
        Reference(
            file="dram_golden.csv",
            columns=frozenset({
                "simulator", "config_file", "address_mapping", "pattern", "read_fraction", "injection_mode",
                "num_requests",
                "utilisation", "avg_read_latency_cycles", "region_bytes", "stripe_bytes", "row_id",
            }),
            compare=compare,
            plan=plan,
        ),
    ),
    band={"mape_pct": 2.0, "max_ape_pct": 10.0},
)  # fmt: skip
