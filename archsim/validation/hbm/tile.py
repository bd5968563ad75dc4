"""Suite `hbm-tile`: bandwidth of the tile model, which runs of whole models use, on the streams of the suite `hbm`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from archsim.kernels import MemoryModel
from archsim.mapping.dram import tile_dram
from archsim.memory.streams import Stream
from archsim.program import Memory
from archsim.program.dram import DramChannels
from archsim.validation.hbm.suite import HBM, Case, read_case
from archsim.validation.report import Row
from archsim.validation.suite import Outcome, Plan, Reference, Suite
from archsim.validation.table import Table

__all__ = ["HBM_TILE"]

TRANSFER_BYTES = 4096
BANK_QUEUES = "DRAMsim3 sorts requests into a queue for each bank; the tile model knows one queue over all banks"
PACED = "the rate or the order of requests is set from outside, so that the bandwidth says little of the memory"


def _why(case: Case) -> str:
    if case.why:
        return case.why
    if not case.row.text("config_file").startswith("ram_"):
        return BANK_QUEUES
    return PACED if case.serial or case.separate or case.load is not None else ""


def compare(table: Table) -> Outcome:
    """Compare the utilisation at full load."""
    rows: list[Row] = []
    reasons: list[str] = []
    for case in map(read_case, table.records()):
        why = _why(case)
        if why:
            reasons.append(why)
            continue
        dram = case.channels()
        got = tile_utilisation(dram, case.stream(dram))
        rows.append(Row(case.name, case.row.number("utilisation"), got, case.group))
    return rows, reasons


def tile_utilisation(dram: DramChannels, stream: Stream) -> float:
    """Share of the peak that the tile model reaches; requests that follow each other in memory are merged, as a DMA
    does, and offered in order, each once the one before has been taken in."""
    burst = dram.map.organisation.burst_bytes
    most = min(TRANSFER_BYTES, dram.map.interleave_bytes) if dram.map.channels > 1 else TRANSFER_BYTES
    starts = np.ones(len(stream.address), bool)
    starts[1:] = (np.diff(stream.address) != burst) | (stream.write[1:] != stream.write[:-1])
    starts |= stream.address % most == 0
    first = np.flatnonzero(starts)
    nbytes = np.diff(np.append(first, len(starts))) * burst
    model = MemoryModel(Memory("memory", "memory", tile_dram(dram)))
    done = model.access_in_order(stream.address[first], nbytes, stream.write[first])
    return float(nbytes.sum() / (int(done.max()) * 1e-12) / dram.peak_bytes_per_s)


def plan(table: Table) -> Sequence[Plan]:
    """Each row with its group; what is not compared has none."""
    cases = [read_case(record) for record in table.records()]
    return [Plan("" if _why(case) else case.group) for case in cases]


HBM_TILE = Suite(
    name="hbm-tile",
    title="utilisation of DRAM channels (tile model), against Ramulator 2.1",
    references=(Reference(HBM.references[0].file, HBM.references[0].columns, compare, plan),),
    band={"mape_pct": 5.0},
)
