"""Running the kernels of a block, repetition after repetition, until the time of one no longer changes.

Repeated blocks (the layers of a model) do the same work on other weights. They are run one after another on the same
session, with caches and open rows carried along; once two repetitions in a row take the same time (within ``SETTLED``)
the rest is carried forward at their mean. ``exact`` runs every one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from archsim.engine import Launch, LaunchRecord, Session
from archsim.mapping import Kernel, KernelBlock, Layout, Lowered, Target, bound_kernels, lower
from archsim.mapping.target import ps
from archsim.network import Fabric
from archsim.simulation.collectives import Exchange, lower_collective, narrowed, overlapping

__all__ = ["BlockRun", "KernelRun", "run_block"]

#: relative change of a repetition's time below which the block has settled
SETTLED = 3e-3
COMPUTE, COMMUNICATION = "compute", "communication"


@dataclass(frozen=True, eq=False)
class KernelRun:
    """One kernel, averaged over the repetitions of its block (times in ps, bytes and busy times per repetition).

    busy_ps: by resource group, the mean over the group's resources. first: the record of the first repetition.
    lowered: the program; None for a collective, and where the run was recalled. link_ps: busy time of every link of the
    on-chip network, and between dies, by its name.
    """

    kernel: Kernel
    lowered: Lowered | None
    first: LaunchRecord
    time_ps: float
    launch_ps: int
    startup_ps: int
    dram_bytes: float
    busy_ps: dict[str, float]
    requested_bytes: float
    written_bytes: float
    activates: float
    link_ps: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class BlockRun:
    """A block as it ran: ``simulated`` repetitions, the others carried forward at ``period_ps`` each."""

    block: KernelBlock
    start_ps: int
    end_ps: int
    simulated: int
    period_ps: int
    kernels: tuple[KernelRun, ...]
    records: tuple[tuple[LaunchRecord, ...], ...]


def run_block(
    session: Session, block: KernelBlock, target: Target, layout: Layout, fabric: Fabric | None = None, *, exact: bool,
    on_repeat: Callable[[int], None] = lambda done: None,
) -> BlockRun:  # fmt: skip
    """Run ``block`` to its end on ``session``; ``on_repeat`` hears how many repetitions are done."""
    waits = _dependencies(block.kernels)
    bounds = bound_kernels(block.kernels, target).seconds
    beside, narrow = overlapping(block.kernels, waits, bounds.tolist()), narrowed(target, fabric)
    lowered = [
        None if k.kind == "collective" else lower(k, narrow if i in beside else target, exact=exact)
        for i, k in enumerate(block.kernels)
    ]
    exchanges = [
        lower_collective(k, target, fabric) if k.kind == "collective" and fabric is not None else None
        for k in block.kernels
    ]
    startup_ps = ps(target.chip.launch.startup)
    gaps = [
        ps(target.launch_s(vector=k.kind == "vector")) if exchange is None else exchange.launch_ps
        for k, exchange in zip(block.kernels, exchanges, strict=True)
    ]
    start_ps = session.now_ps
    records: list[tuple[LaunchRecord, ...]] = []
    periods: list[int] = []
    for repeat in range(block.repeat):
        before = session.now_ps
        launches = _launches(block.kernels, lowered, exchanges, waits, gaps, startup_ps, layout, repeat)
        records.append(session.run(launches))
        periods.append(session.now_ps - before)
        on_repeat(repeat + 1)
        if not exact and repeat and abs(periods[-1] - periods[-2]) <= SETTLED * periods[-1]:
            break
    left = block.repeat - len(records)
    period = sum(periods[-2:]) // len(periods[-2:])
    session.skip(left * period)
    on_repeat(block.repeat)
    weights = np.ones(len(records))
    weights[-2:] += left / len(periods[-2:])  # the last two stand for those carried forward
    kernels = tuple(
        _average(kernel, lowered[i], [r[i] for r in records], weights / block.repeat, target)
        for i, kernel in enumerate(block.kernels)
    )
    return BlockRun(block, start_ps, session.now_ps, len(records), period, kernels, tuple(records))


def _launches(
    kernels: Sequence[Kernel], lowered: Sequence[Lowered | None], exchanges: Sequence[Exchange | None],
    waits: Sequence[tuple[int, ...]], gaps: Sequence[int], startup_ps: int, layout: Layout, repeat: int,
) -> list[Launch]:  # fmt: skip
    launches = []
    for kernel, program, exchange, after, gap in zip(kernels, lowered, exchanges, waits, gaps, strict=True):
        if exchange is not None:
            bases = [layout.base_of(kernel.outputs[0].tensor, repeat)] if exchange.program is not None else []
            launches.append(
                Launch(
                    kernel.name, COMMUNICATION, after, gap, program=exchange.program, bases=bases,
                    duration_ps=exchange.duration_ps,
                )
            )  # fmt: skip
        elif program is not None:
            launches.append(
                Launch(
                    kernel.name, COMPUTE, after, gap, startup_ps, program.program, layout.bases(program, repeat),
                )
            )  # fmt: skip
    return launches


def _dependencies(kernels: Sequence[Kernel]) -> list[tuple[int, ...]]:
    """For each kernel the earlier ones that wrote what it reads, or last touched what it writes."""
    writer: dict[int, int] = {}
    readers: dict[int, list[int]] = {}
    waits = []
    for position, kernel in enumerate(kernels):
        reads = {o.tensor for o in kernel.inputs}
        writes = {o.tensor for o in kernel.outputs}
        before = {writer[t] for t in reads | writes if t in writer}
        before |= {r for t in writes for r in readers.get(t, [])}
        waits.append(tuple(sorted(before - {position})))
        for tensor in reads:
            readers.setdefault(tensor, []).append(position)
        for tensor in writes:
            writer[tensor] = position
            readers[tensor] = []
    return waits


def _average(
    kernel: Kernel,
    lowered: Lowered | None,
    records: Sequence[LaunchRecord],
    weights: NDArray[np.float64],
    target: Target,
) -> KernelRun:
    time_ps = float(np.dot(weights, [r.end_ps - r.ready_ps for r in records]))
    dram_bytes = requested = written = activates = 0.0
    busy: dict[str, float] = {}
    links: dict[str, float] = {}
    runs = [record.run for record in records if record.run is not None]
    if runs:
        dram_bytes = float(np.dot(weights, [r.counters.bytes_read + r.counters.bytes_written for r in runs]))
        requested = float(np.dot(weights, [r.counters.bytes_requested for r in runs]))
        written = float(np.dot(weights, [r.counters.bytes_written for r in runs]))
        activates = float(np.dot(weights, [r.counters.row_misses for r in runs]))
    if lowered is not None:
        mean = np.average([r.busy_ps for r in runs], axis=0, weights=weights) * weights.sum()
        for group, members in target.groups.items():
            if group in ("fabric", "transport"):
                continue
            busy[group] = float(mean[members].mean())
            if group in ("noc", "die"):
                links |= {target.machine[i].name: float(mean[i]) for i in members.tolist()}
        busy["cache"] = float(np.dot(weights, [r.counters.cache_busy_ps for r in runs]))
    else:
        busy["fabric"] = float(np.dot(weights, [_links_busy(record, target) for record in records]))
    launch_ps = records[0].start_ps - records[0].ready_ps
    startup_ps = 0 if lowered is None else ps(target.chip.launch.startup)
    return KernelRun(
        kernel, lowered, records[0], time_ps, launch_ps, startup_ps, dram_bytes, busy, requested, written, activates,
        links,
    )  # fmt: skip


def _links_busy(record: LaunchRecord, target: Target) -> int:
    """How long a collective keeps the busiest of the chip's links; all of its time where that is not known."""
    if record.run is None:
        return record.end_ps - record.start_ps
    return int(record.run.busy_ps[target.groups["fabric"]].max(initial=0))
