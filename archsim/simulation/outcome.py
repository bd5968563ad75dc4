"""From what ran to what is reported: the Result of a job."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from archsim.mapping import Bounds, Kernel, KernelBlock, Target
from archsim.results import OpTable, Result, Slice
from archsim.results.op_table import ENERGIES
from archsim.simulation.blocks import BlockRun, KernelRun
from archsim.simulation.cost import Counted, Meter, meter
from archsim.simulation.job import Job
from archsim.simulation.staged import StagedJob

__all__ = ["from_bounds", "from_runs", "from_stages"]

#: tile steps of one core that a timeline shows at most for each kernel
TIMELINE_STEPS = 2000
#: times its busiest link above which a kernel that the network limits is warned of
CROWDED = 1.2
#: share of the step below which such kernels are not worth a warning
MATTERS = 0.05
#: a kernel none of whose resources is busy for this share of its time waits for latencies
IDLE = 0.35


def from_runs(job: Job, runs: Sequence[BlockRun], meta: dict[str, object], *, timeline: bool) -> Result:
    """The Result of the ``tile`` fidelity."""
    measure = meter(job.chip, job.target)
    rows = [
        _row(run.block, kernel) | (measure.run(kernel) if measure else {}) for run in runs for kernel in run.kernels
    ]
    total = max(runs[-1].end_ps, 1)
    busy: dict[str, float] = {}
    for run in runs:
        for kernel in run.kernels:
            for group, ps in kernel.busy_ps.items():
                busy[group] = busy.get(group, 0.0) + ps * run.block.repeat
    units = {group: min(ps / total, 1.0) for group, ps in busy.items()}
    slices = tuple(_slices(runs, tiles=timeline))
    meta = meta | {"notes": [*job.notes(), *_crowded(runs, total)]}
    return replace(_result(job, meta, total, rows, units, slices, measure), links=_links(runs, total))


def _links(runs: Sequence[BlockRun], total: int) -> dict[str, float]:
    """Share of the step that each link of the on-chip network is busy."""
    links: dict[str, float] = {}
    for run in runs:
        for kernel in run.kernels:
            for name, ps in kernel.link_ps.items():
                links[name] = links.get(name, 0.0) + ps * run.block.repeat
    return {name: min(ps / total, 1.0) for name, ps in links.items()}


def _crowded(runs: Sequence[BlockRun], total: int) -> list[str]:
    """What kernels the on-chip network limits and take much longer than its busiest link, if they matter."""
    found: dict[str, tuple[float, float]] = {}
    for run in runs:
        for kernel in run.kernels:
            busiest = max(kernel.link_ps.values(), default=0.0)
            if busiest > IDLE * kernel.time_ps and busiest >= max(kernel.busy_ps.values(), default=0.0):
                ratio, spent = kernel.time_ps / busiest, kernel.time_ps * run.block.repeat
                if ratio > CROWDED:
                    found[kernel.kernel.name] = (spent + found.get(kernel.kernel.name, (0.0, 0.0))[0], ratio)
    share = sum(spent for spent, _ in found.values()) / total
    if share < MATTERS:
        return []
    longest = max(found, key=lambda name: found[name][0])
    others = f" and {len(found) - 1} more operators" if len(found) > 1 else ""
    return [
        f"the on-chip network limits {longest}{others}, {share:.0%} of the step: {longest} takes "
        f"{found[longest][1]:.2f} times what its busiest link needs, since transfers wait for each other"
    ]


def from_bounds(job: Job, bounds: Sequence[Bounds], meta: dict[str, object]) -> Result:
    """The Result of the ``roofline`` fidelity: streams overlap as far as they can."""
    measure = meter(job.chip, job.target)
    rows: list[dict[str, object]] = []
    stream = {"compute": 0.0, "communication": 0.0}
    busy = {"matrix": 0.0, "vector": 0.0, "memory": 0.0, "fabric": 0.0}
    slices: list[Slice] = []
    for block, bound in zip(job.blocks, bounds, strict=True):
        for i, (kernel, seconds) in enumerate(zip(block.kernels, bound.seconds, strict=True)):
            lane = "communication" if block.communicates(kernel) else "compute"
            parts = {group: float(getattr(bound, group)[i]) for group in busy}
            start = stream[lane]
            stream[lane] += float(seconds) * block.repeat
            for group, part in parts.items():
                busy[group] += part * block.repeat * (kernel.kind != "handover")
            whole = max(float(seconds), 1e-15)
            limit = max(parts, key=lambda group: parts[group])
            if float(bound.startup[i]) > parts[limit]:
                limit = "launch"
            rows.append(
                _describe(block, kernel)
                | {
                    "start_ps": round(start * 1e12),
                    "time_ps": round(float(seconds) * 1e12),
                    "launch_ps": 0,
                    "dram_bytes": round(float(bound.memory[i]) * job.target.dram_bytes_per_s),
                    "bound": {"matrix": "compute", "fabric": "collective"}.get(limit, limit),
                    **{f"{unit}_busy": parts[unit] / whole for unit in ("matrix", "vector", "memory")},
                }
                | (measure.row(kernel, _bounded(kernel, parts, whole, job.target)) if measure else {})
            )
            slices.append(Slice(lane, kernel.name, round(start * 1e12), round(float(seconds) * block.repeat * 1e12)))
    total = max(round(max(stream.values()) * 1e12), 1)
    return _result(job, meta, total, rows, {g: s * 1e12 / total for g, s in busy.items()}, tuple(slices), measure)


def from_stages(job: StagedJob, results: Sequence[Result], *, timeline: bool) -> Result:
    """The Result of a step on a pipeline, from those of a micro-batch on its stages: a chip of the slowest stands."""
    times = [result.time_ps for result in results]
    total, run = job.flow(times, timeline=timeline)
    slowest = max(range(len(times)), key=times.__getitem__)
    stage, result = job.stages[slowest], results[slowest]
    again = job.micro_batches
    table = result.op_table.columns()
    rows = [dict(zip(table, row, strict=True)) for row in zip(*(c.tolist() for c in table.values()), strict=True)]
    rows = [row | {"repeat": row["repeat"] * again} for row in rows]
    busy = again * times[slowest] / total
    pipeline = _pipeline(job, results, total)
    notes = [
        f"{len(times)} stages of {', '.join(map(str, job.layers))} layers, {again} micro-batches: the mean stage waits "
        f"for {pipeline['bubble']:.0%} of the step",
        f"operators and utilisation are those of stage {slowest}, the slowest; memory is that of the fullest stage",
        *result.meta["notes"],
    ]
    meta = result.meta | {
        "batch": job.options.batch, "notes": notes, "pipeline": pipeline,
        "plan": result.meta["plan"] | {"pp": job.plan.pp},
    }  # fmt: skip
    whole = replace(stage, options=job.options, need=job.fullest.need)
    units = {group: share * busy for group, share in result.units.items()}
    slices = tuple(Slice(f"stage {span.rank}", span.name, span.start_ps, span.ps) for span in run.spans)
    measure = meter(stage.chip, stage.target)
    found = _result(whole, meta, total, rows, units, slices or result.timeline, measure)
    return replace(found, links={name: share * busy for name, share in result.links.items()})


def _pipeline(job: StagedJob, results: Sequence[Result], total: int) -> dict[str, Any]:
    """What is to say of the stages.

    period_s: between two micro-batches once the pipeline is full. bubble: share of the step in which the mean stage
    waits.
    """
    busy = job.micro_batches * sum(result.time_ps for result in results) / len(results)
    return {
        "micro_batches": job.micro_batches,
        "send_s": job.send_ps * 1e-12,
        "period_s": max(result.time_ps for result in results) * 1e-12,
        "bubble": 1 - busy / total,
        "stages": [
            {"layers": layers, "time_s": result.time_s, "memory_bytes": dict(stage.need.rows())}
            for layers, result, stage in zip(job.layers, results, job.stages, strict=True)
        ],
    }


def _bounded(kernel: Kernel, parts: Mapping[str, float], whole: float, target: Target) -> Counted:
    """What the closed form knows: every operand moves once, only cold bytes come from memory."""
    dram_bytes = parts["memory"] * target.dram_bytes_per_s
    return Counted(
        seconds=whole,
        matrix_busy=parts["matrix"] / whole,
        vector_busy=parts["vector"] / whole,
        vector_seconds=parts["vector"],
        port_bytes=kernel.nbytes,
        requested_bytes=kernel.nbytes,
        read_bytes=dram_bytes,
        write_bytes=0.0,
        activates=dram_bytes / target.chip.memory.standard.row_bytes,
    )


def _result(
    job: Job, meta: dict[str, Any], total: int, rows: Sequence[Mapping[str, object]], units: Mapping[str, float],
    slices: tuple[Slice, ...], measure: Meter | None,
) -> Result:  # fmt: skip
    physical = None
    if measure is not None:
        filled = [dict.fromkeys(ENERGIES, 0) | dict(row) for row in rows]
        physical = measure.figures(total * 1e-12, filled, tokens=job.tokens, options=job.options, chips=job.plan.chips)
        meta = meta | {"notes": [*meta["notes"], *measure.warnings(physical)]}
    return Result(
        meta=meta,
        time_ps=total,
        tokens=job.tokens,
        op_table=OpTable.from_rows(rows),
        units=dict(units),
        memory=job.need.rows(),
        memory_capacity=int(job.chip.memory.usable_capacity),
        timeline=slices,
        physical=physical,
    )


def _describe(block: KernelBlock, kernel: Kernel) -> dict[str, object]:
    return {
        "block": block.name, "name": kernel.name, "kind": kernel.op_kind, "repeat": block.repeat,
        "flops": kernel.flops, "bytes": kernel.nbytes,
    }  # fmt: skip


def _row(block: KernelBlock, run: KernelRun) -> dict[str, object]:
    whole = max(run.time_ps, 1.0)
    share = {group: min(ps / whole, 1.0) for group, ps in run.busy_ps.items()}
    return _describe(block, run.kernel) | {
        "start_ps": run.first.ready_ps,
        "time_ps": round(run.time_ps),
        "launch_ps": run.launch_ps,
        "dram_bytes": round(run.dram_bytes),
        "activates": round(run.activates),
        "bursts": round(run.read_bursts + run.write_bursts),
        "bound": _bound(run, share),
        **{f"{unit}_busy": share.get(unit, 0.0) for unit in ("matrix", "vector", "memory")},
    }


def _bound(run: KernelRun, share: Mapping[str, float]) -> str:
    """What keeps the kernel from being faster: its busiest resource, or else launch and start-up or plain latency."""
    if run.kernel.exchanges:
        return "collective"
    link = max(run.link_ps.values(), default=0.0) / max(run.time_ps, 1.0)  # one full link holds all up
    name, busiest = max([*share.items(), ("noc", link)], key=lambda item: item[1])
    if busiest < IDLE:
        return "launch" if run.launch_ps + run.startup_ps > run.time_ps / 2 else "latency"
    return {"matrix": "compute", "vector": "vector", "memory": "memory"}.get(name, "noc")


def _slices(runs: Sequence[BlockRun], *, tiles: bool) -> list[Slice]:
    slices: list[Slice] = []
    for run in runs:
        for repeat, records in enumerate(run.records):
            for record, kernel in zip(records, run.kernels, strict=True):
                slices.append(Slice(record.stream, record.name, record.start_ps, record.end_ps - record.start_ps))
                if tiles and repeat == 0:
                    slices += _tile_slices(kernel)
        left = run.block.repeat - run.simulated
        if left:
            slices.append(
                Slice(
                    "compute",
                    f"{run.block.name}: {left} more like the last",
                    run.end_ps - left * run.period_ps,
                    left * run.period_ps,
                )
            )
    return slices


def _tile_slices(kernel: KernelRun) -> list[Slice]:
    """The first steps of core 0, a lane for each of its units."""
    if kernel.lowered is None or kernel.first.run is None:
        return []
    program, run = kernel.lowered.program, kernel.first.run
    lanes = {"memory": "core 0 load", "port_out": "core 0 store", "matrix": "core 0 matrix", "vector": "core 0 vector"}
    slices = []
    for step in (program.tag == 0).nonzero()[0][:TIMELINE_STEPS]:
        route = program.route_of(step)
        if len(route):
            lane = lanes[program.machine[route[0]].group]
            slices.append(
                Slice(lane, kernel.kernel.name, int(run.start_ps[step]), int(run.finish_ps[step] - run.start_ps[step]))
            )
    return slices
