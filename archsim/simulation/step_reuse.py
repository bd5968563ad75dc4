"""A step that was simulated before, on a chip that differs in nothing that its times depend on.

The unit is the whole step from power-on. An operator inside it depends on the time at which it starts (refresh), on
open rows and on what its predecessors left in the cache, thus on all of them: docs/decisions/0005-what-is-reused.md.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from archsim.engine import LaunchRecord
from archsim.mapping import KernelBlock
from archsim.reuse import is_active, recall
from archsim.simulation.blocks import COMMUNICATION, COMPUTE, BlockRun, KernelRun
from archsim.simulation.job import Job

__all__ = ["step_runs"]


def step_runs(job: Job, simulate: Callable[[], list[BlockRun]]) -> list[BlockRun]:
    """The block runs of a step, simulated or recalled; recalled ones have no programs and no tile steps."""
    if not is_active():
        return simulate()
    how = f"{job.options.fidelity} {job.options.engine} {job.options.exact}"
    content = f"{how} {job.target.digest} {job.network} {job.blocks} {job.layout}"
    packed = recall("step", content, lambda: [_packed(run) for run in simulate()])
    return [_unpacked(block, data) for block, data in zip(job.blocks, packed, strict=True)]


def _packed(run: BlockRun) -> dict[str, Any]:
    return {
        "span": [run.start_ps, run.end_ps, run.simulated, run.period_ps],
        "kernels": [
            [k.time_ps, k.launch_ps, k.startup_ps, k.dram_bytes, k.busy_ps, k.requested_bytes, k.activates,
             k.read_bursts, k.write_bursts, k.link_ps] for k in run.kernels
        ],
        "records": [[[r.ready_ps, r.start_ps, r.end_ps] for r in records] for records in run.records],
    }  # fmt: skip


def _unpacked(block: KernelBlock, data: dict[str, Any]) -> BlockRun:
    records = tuple(_records(block, times) for times in data["records"])
    kernels = tuple(
        KernelRun(kernel, None, first, *numbers)
        for kernel, first, numbers in zip(block.kernels, records[0], data["kernels"], strict=True)
    )
    start, end, simulated, period = data["span"]
    return BlockRun(block, start, end, simulated, period, kernels, records)


def _records(block: KernelBlock, times: Sequence[Sequence[int]]) -> tuple[LaunchRecord, ...]:
    return tuple(
        LaunchRecord(kernel.name, COMMUNICATION if block.communicates(kernel) else COMPUTE, ready, start, end, None)
        for kernel, (ready, start, end) in zip(block.kernels, times, strict=True)
    )
