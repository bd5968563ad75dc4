"""Collectives of a step: which schedule each becomes, and which kernels share the chip with it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from archsim.mapping import Kernel, Target
from archsim.network import Collective, Fabric, Group, foldable, run_collective, schedule_of
from archsim.network.on_chip import beside, on_machine
from archsim.network.request import Kind
from archsim.program import Machine, Program
from archsim.simulation.overlap import collective_spans

__all__ = ["Exchange", "attach", "lower_collective", "narrowed", "overlapping", "spread"]

#: messages of a collective above which it takes part as a duration: more than a second of simulation a layer
MOST_MESSAGES = 400_000

#: experts receive and return tokens by kernels of their own where the fabric has them
KINDS: dict[str, Kind] = {
    "all_reduce": "all_reduce", "all_gather": "all_gather", "reduce_scatter": "reduce_scatter",
    "all_to_all": "dispatch", "head_exchange": "all_to_all",
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Exchange:
    """A collective as the engine plays it: a program of messages, or (too many of them) a duration; and its launch."""

    launch_ps: int
    program: Program | None
    duration_ps: int | None


def attach(target: Target, fabric: Fabric) -> Target:
    """The chip with its ports on the fabric."""
    return replace(target, machine=beside(target.machine, fabric.folded))


def spread(target: Target, fabric: Fabric | None, kernels: Iterable[Kernel]) -> tuple[Target, Fabric | None]:
    """The chip beside as much of its fabric as its collectives need: one chip for all, or a block of groups."""
    wanted = {_request(kernel) for kernel in kernels if kernel.kind == "collective"}
    if fabric is None or not any(_uneven(fabric, request) for request in wanted):
        return target, fabric
    block = fabric.alone([request.group for request in wanted])
    if any(len(schedule_of(block, request).messages) * block.chips > MOST_MESSAGES for request in wanted):
        return target, fabric
    own = target.machine.resources[: len(target.machine) - len(fabric.folded)]
    return replace(target, machine=beside(Machine(own), block.machine)), block


def lower_collective(kernel: Kernel, target: Target, fabric: Fabric, *, alone: bool = False) -> Exchange:
    """The messages of a collective kernel, by the fastest algorithm that inference engines have.

    alone: no kernel runs beside it.
    """
    request = _request(kernel)
    schedule = schedule_of(fabric, request)
    if not schedule.messages or (fabric.folds and not foldable(schedule)):
        return Exchange(0, None, run_collective(fabric, request).time_ps)
    memory = next(i for i, resource in enumerate(target.machine) if resource.group == "memory")
    program = on_machine(schedule, target.machine, memory, request.nbytes, alone=alone)
    received_ps = kernel.tasks[0].dims.get("received_ps", 0)  # by a kernel of its own, which the launch cost contains
    return Exchange(max(round(schedule.launch_s * 1e12) - received_ps, 0), program, None)


def _request(kernel: Kernel) -> Collective:
    task = kernel.tasks[0]
    group = Group(task.dims["ranks"], task.dims["stride"])
    kind, nbytes = KINDS[task.kind], max(task.dims["bytes"], 1)
    top_k, limit = task.dims.get("top_k", 1), task.dims.get("node_limit", 0)
    rows = task.dims.get("rows", 0)
    return Collective(kind, nbytes, group, "fastest", rows=rows, top_k=top_k, node_limit=limit)


def _uneven(fabric: Fabric, request: Collective) -> bool:
    """Whether no one chip stands for all of a collective."""
    schedule = schedule_of(fabric, request)
    return bool(schedule.messages) and not foldable(schedule)


def overlapping(
    exchange: Sequence[bool], waits: Sequence[tuple[int, ...]], seconds: Sequence[float], share: float = 0.5
) -> set[int]:
    """Kernels that share the chip with a collective for more than a ``share`` of their time.

    When each runs is estimated from `seconds`, the least time of each, with one stream for kernels and one for
    collectives: those that ``exchange`` names.
    """
    spans = collective_spans(exchange, waits, seconds)
    busy = [span for span, beside in zip(spans, exchange, strict=True) if beside]

    def shared(start: float, end: float) -> float:
        return sum(max(min(end, after) - max(start, before), 0.0) for before, after in busy)

    return {
        i for i, (start, end) in enumerate(spans)
        if not exchange[i] and shared(start, end) > share * (end - start)
    }  # fmt: skip


def narrowed(target: Target, fabric: Fabric | None, kernels: Iterable[Kernel] | None = None) -> Target:
    """The chip without the cores that the collectives among ``kernels`` occupy, by default those of any collective."""
    taken = 0
    if fabric is not None and kernels is None:
        taken = max((dim.link.cores for dim in fabric.dims), default=0)
    elif fabric is not None and kernels is not None:
        wanted = {_request(kernel) for kernel in kernels if kernel.kind == "collective"}
        taken = max((_cores(fabric, request) for request in wanted), default=0)
    return replace(target, cores=max(1, target.cores - taken)) if taken else target


def _cores(fabric: Fabric, request: Collective) -> int:
    """Cores that a collective keeps.

    None where experts exchange few tokens between nodes: once they are posted, cards do the rest (DeepEP, README: the
    receiving hook of its low-latency kernels occupies no SM), unless cores write the rows one by one.
    """
    parts = fabric.parts(request.group)
    if request.kind == "dispatch" and request.rows:
        specs = (part.dim.link.transports.get("expert") for part in parts)
        if writing := max((spec.row_cores for spec in specs if spec), default=0):
            return writing
    if request.kind == "dispatch" and request.top_k == 1 and len(parts) > 1:
        return 0
    return schedule_of(fabric, request).cores
