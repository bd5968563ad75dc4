"""The least time that a machine takes for a program, in any order of service: what a simulation cannot beat.

Nothing of a program is served before its predecessors allow it, and a resource serves one step at a time. For every
resource::

    t >= head + work + tail

======  =============================================================================================== ====
symbol  meaning                                                                                         unit
======  =============================================================================================== ====
head    earliest arrival of any step at the resource, if nothing had to queue                           ps
work    service times of all steps on it; weighted where they stand for more (`Program.weight`)         ps
tail    least time from the end of a service on it to the end of the program, if nothing had to queue   ps
======  =============================================================================================== ====

and t is no less than the longest path through the program. A memory counts as its cache (every access passes it, and
may hit); what its DRAM has to deliver is for the caller to know, who gets the head and the tail of reads.

Assumptions: those of `archsim.kernels.interpreter`. Valid when: the program starts on idle resources.
Reference: Carlier, "The one-machine sequencing problem", EJOR 11 (1982), for head + work + tail.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from archsim.kernels._least import walk_program
from archsim.program import Link, Machine, Memory, Program

__all__ = ["Least", "least_of"]

FOREVER = 2**62


@dataclass(frozen=True)
class Least:
    """The bounds of a program: its busiest resource, its longest path, and what goes round the reads of memory.

    carried_ps: the part of `busiest_ps` that weights add, which stands for what is carried forward.
    """

    busiest_ps: int
    carried_ps: int
    path_ps: int
    read_head_ps: int
    read_tail_ps: int


def least_of(program: Program) -> Least:
    """The least times of ``program`` on its machine.

    >>> from archsim.program import ProgramBuilder, Unit
    >>> build = ProgramBuilder(Machine((Unit("vector", "v"), Unit("matrix", "m"))))
    >>> first = build.step("vector", work_ps=10)
    >>> for _ in range(3):
    ...     product = build.step("matrix", work_ps=20, after=[first])
    >>> bound = least_of(build.build())
    >>> bound.busiest_ps, bound.path_ps
    (70, 30)
    """
    machine, steps = program.machine, len(program)
    ready, finish, after = (np.zeros(steps, np.int64) for _ in range(3))
    head, tail = (np.full(len(machine) + 1, FOREVER, np.int64) for _ in range(2))
    work, more = (np.zeros(len(machine) + 1, np.int64) for _ in range(2))
    path = walk_program(
        *_rates(machine), program.route_start, program.route_resources, program.route, program.work_ps, program.nbytes,
        program.write.view(np.uint8), program.weight, program.pred_start, program.preds, ready, finish, after, head,
        work, more, tail,
    )  # fmt: skip
    total = np.where(work > 0, head + work + more + tail, 0)
    busiest = int(total.argmax())
    read = (int(head[-1]), int(tail[-1])) if head[-1] < FOREVER else (0, 0)
    return Least(int(total[busiest]), int(more[busiest]), int(path), *read)


def _rates(machine: Machine) -> tuple[NDArray[np.int8], NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    caches = [resource.cache if isinstance(resource, Memory) else None for resource in machine]
    return (
        machine.kinds,
        np.array([resource.latency_ps for resource in machine], np.int64),
        np.array([cache.hit_latency_ps if cache else 0 for cache in caches], np.int64),
        np.array([r.as_per_byte if isinstance(r, Link) else cache.as_per_byte if cache else 0
                  for r, cache in zip(machine, caches, strict=True)], np.int64),
    )  # fmt: skip
