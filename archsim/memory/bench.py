"""What channels of a memory make of a stream of requests: bandwidth, latency, row hits, refresh, energy."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from archsim.hardware import load_memory_standard
from archsim.hardware.memory import ControllerSpec, DramEnergy, MappingSpec, MemoryStandard
from archsim.kernels.dram_cycle import CycleRun, run_cycle
from archsim.mapping.dram import dram_channels
from archsim.memory.streams import Stream, due_ticks, make_stream
from archsim.memory.traces import read_requests
from archsim.program.dram import DramChannels

__all__ = ["BenchResult", "bench"]

PERCENTILES = (50, 90, 99, 100)


@dataclass(frozen=True, eq=False)
class BenchResult:
    """One stream on one memory; times in seconds, energy in joules by what it went into.

    refresh_share: of the time of a pseudo-channel, spent in all-bank refreshes (of a bank, in its own,
    if bank by bank).
    """

    memory: str
    stream: str
    channels: int
    requests: int
    time_s: float
    bytes_moved: int
    peak_bytes_per_s: float
    latency_s: dict[str, float]
    row_hit_rate: float
    refresh_share: float
    counts: dict[str, int]
    energy_j: dict[str, float]
    done_s: NDArray[np.floating[Any]] = field(repr=False)
    read_latency_s: NDArray[np.floating[Any]] = field(repr=False)

    @property
    def bytes_per_s(self) -> float:
        """Achieved bandwidth."""
        return self.bytes_moved / self.time_s

    @property
    def utilisation(self) -> float:
        """Achieved over peak bandwidth."""
        return self.bytes_per_s / self.peak_bytes_per_s

    @property
    def pj_per_bit(self) -> float:
        """All energy over all bits moved."""
        return sum(self.energy_j.values()) * 1e12 / (8 * self.bytes_moved)

    def as_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return {
            "memory": self.memory, "stream": self.stream, "channels": self.channels, "requests": self.requests,
            "time_s": self.time_s, "bytes_per_s": self.bytes_per_s, "peak_bytes_per_s": self.peak_bytes_per_s,
            "utilisation": self.utilisation, "latency_s": self.latency_s, "row_hit_rate": self.row_hit_rate,
            "refresh_share": self.refresh_share, "counts": self.counts, "energy_j": self.energy_j,
            "pj_per_bit": self.pj_per_bit,
        }  # fmt: skip


def bench(
    memory: str | Path | MemoryStandard = "hbm3", pattern: str = "sequential", *, trace: Path | None = None,
    requests: int = 100_000, reads: float = 1.0, load: float | None = None, serial: bool = False, channels: int = 1,
    data_rate: float | None = None, controller: ControllerSpec | None = None, mapping: MappingSpec | None = None,
) -> BenchResult:  # fmt: skip
    """Run a stream, or a trace of Ramulator or DRAMsim3, through the cycle model.

    Args:
        memory: name or file of a standard; channels: how many of its command channels (two pseudo-channels each
        in HBM).
        pattern: see `archsim.memory.PATTERNS`; requests are bursts. reads: the share of them that read.
        load: offered share of the peak bandwidth; as fast as the channels take them if it is not given.
        serial: one request at a time.

    >>> result = bench("hbm3", "random", requests=5000)
    >>> 0.25 < result.utilisation < 0.33 and result.row_hit_rate < 0.05
    True
    """
    standard = memory if isinstance(memory, MemoryStandard) else load_memory_standard(memory)
    dram = dram_channels(
        standard, channels=channels, data_rate=data_rate, mapping=mapping, controller=controller or ControllerSpec()
    )
    organisation = dram.map.organisation
    due = None
    if trace is None:
        stripe = organisation.banks * organisation.columns * organisation.burst_bytes * channels
        stream = make_stream(
            pattern, requests, request_bytes=organisation.burst_bytes, region_bytes=dram.map.capacity_bytes,
            stripe_bytes=stripe, read_share=reads,
        )  # fmt: skip
        due = due_ticks(dram, requests, load) if load is not None else None
    else:
        stream, clocks = read_requests(trace, capacity_bytes=dram.map.capacity_bytes)
        due = None if clocks is None else clocks * dram.timing.ticks_per_clock
    run = run_cycle(dram, stream.address, stream.write, due=due, serial=serial)
    return _result(dram, standard, stream, run, pattern if trace is None else str(trace))


def _result(dram: DramChannels, standard: MemoryStandard, stream: Stream, run: CycleRun, name: str) -> BenchResult:
    tick_s = dram.timing.tick_ps * 1e-12
    organisation, counts = dram.map.organisation, run.counts
    lanes = dram.map.channels * organisation.pseudo_channels
    time_s = max(run.ticks, 1) * tick_s
    latency = (run.done - run.arrive)[~stream.write] * tick_s
    picks = {f"p{p}": float(np.percentile(latency, p)) for p in PERCENTILES} if len(latency) else {}
    if len(latency):
        picks = {"mean": float(latency.mean()), **picks}
    served = counts["row_hits"] + counts["row_misses"] + counts["row_conflicts"]
    refreshing = counts["refreshes"] * dram.timing.rfc
    refreshing += counts["refreshes_pb"] * dram.timing.rfc_pb // (organisation.banks // organisation.pseudo_channels)
    return BenchResult(
        memory=standard.name, stream=name, channels=dram.map.channels, requests=len(stream.address), time_s=time_s,
        bytes_moved=len(stream.address) * organisation.burst_bytes, peak_bytes_per_s=dram.peak_bytes_per_s,
        latency_s=picks, row_hit_rate=counts["row_hits"] / max(1, served),
        refresh_share=refreshing * tick_s / (lanes * time_s), counts=counts,
        energy_j=_energy(standard.energy, dram, counts, time_s), done_s=run.done * tick_s, read_latency_s=latency,
    )  # fmt: skip


def _energy(unit: DramEnergy, dram: DramChannels, counts: dict[str, int], time_s: float) -> dict[str, float]:
    """Energy by command: counts times the energy of each, and the power of waiting times its time."""
    organisation = dram.map.organisation
    bits = 8 * organisation.burst_bytes
    lanes = dram.map.channels * organisation.pseudo_channels
    open_s = counts["open_ticks"] * dram.timing.tick_ps * 1e-12
    banks = organisation.banks // organisation.pseudo_channels
    refreshes = counts["refreshes"] + counts["refreshes_pb"] / banks
    return {
        "activate": counts["activates"] * unit.activate_pj * 1e-12,
        "read": counts["reads"] * bits * unit.read_pj_per_bit * 1e-12,
        "write": counts["writes"] * bits * unit.write_pj_per_bit * 1e-12,
        "io": (counts["reads"] + counts["writes"]) * bits * unit.io_pj_per_bit * 1e-12,
        "refresh": refreshes * unit.refresh_pj * 1e-12,
        "background": (open_s * unit.active_mw + (lanes * time_s - open_s) * unit.idle_mw) * 1e-3,
    }
