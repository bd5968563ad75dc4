"""Collectives of a step: which schedule each becomes, and which kernels share the chip with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from archsim.mapping import Kernel, Target
from archsim.network import Collective, Fabric, Group, foldable, run_collective, schedule_of
from archsim.network.on_chip import beside, on_machine
from archsim.network.request import Kind
from archsim.program import Program

__all__ = ["Exchange", "attach", "lower_collective", "narrowed", "overlapping"]

#: experts receive and return tokens by kernels of their own where the fabric has them
KINDS: dict[str, Kind] = {"all_reduce": "all_reduce", "all_gather": "all_gather", "all_to_all": "dispatch"}


@dataclass(frozen=True, eq=False)
class Exchange:
    """A collective as the engine plays it: a program of messages, or (a faulty fabric) a duration; and its launch."""

    launch_ps: int
    program: Program | None
    duration_ps: int | None


def attach(target: Target, fabric: Fabric) -> Target:
    """The chip with its ports on the fabric."""
    return replace(target, machine=beside(target.machine, fabric.folded))


def lower_collective(kernel: Kernel, target: Target, fabric: Fabric) -> Exchange:
    """The messages of a collective kernel, by the fastest algorithm that inference engines have."""
    task = kernel.tasks[0]
    nbytes, ranks = task.dims["bytes"], task.dims["ranks"]
    request = Collective(KINDS[task.kind], max(nbytes, 1), Group(ranks), "fastest")
    schedule = schedule_of(fabric, request)
    if not schedule.messages or not foldable(schedule):  # chips differ, none stands for all: all, on an idle fabric
        return Exchange(0, None, run_collective(fabric, request).time_ps)
    memory = next(i for i, resource in enumerate(target.machine) if resource.group == "memory")
    return Exchange(round(schedule.launch_s * 1e12), on_machine(schedule, target.machine, memory, nbytes), None)


def overlapping(kernels: Sequence[Kernel], waits: Sequence[tuple[int, ...]]) -> set[int]:
    """Kernels that may run while a collective does: after what it waits for, before its readers."""
    found: set[int] = set()
    for position, kernel in enumerate(kernels):
        if kernel.kind != "collective":
            continue
        starts = max((before for before in waits[position] if kernels[before].kind != "collective"), default=-1)
        readers = (
            i for i in range(position + 1, len(kernels)) if position in waits[i] and kernels[i].kind != "collective"
        )
        ends = next(readers, len(kernels))
        found |= {i for i in range(starts + 1, ends) if kernels[i].kind != "collective"}
    return found


def narrowed(target: Target, fabric: Fabric | None) -> Target:
    """The chip without the cores that a collective occupies."""
    taken = max((dim.link.cores for dim in fabric.dims), default=0) if fabric is not None else 0
    return replace(target, cores=max(1, target.cores - taken)) if taken else target
