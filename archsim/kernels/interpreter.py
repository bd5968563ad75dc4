"""The compiled interpreter: what a machine does with a program, one heap event at a time.

A step that is ready at a0 (all predecessors finished) visits the resources of its route. On arrival at a, with
`before` the time at which its last byte left the stage before (a0 at the first stage):

| kind   | start        | free afterwards                  | head            | done                                   |
| ------ | ------------ | -------------------------------- | --------------- | -------------------------------------- |
| UNIT   | max(a, free) | start + work_ps                  | start + latency | max(start + work_ps, before) + latency |
| LINK   | max(a, free) | start + service_ps(nbytes, rate) | start + latency | max(start + service, before) + latency |
| MEMORY | a            | see `archsim.kernels.memory`     | head + latency  | max(done, before) + latency            |
| WINDOW | see below    | at the finish of the step        | start           | start                                  |

    next arrival = max(head, a + 1);    finish = max(done at the last stage, its a + 1)

A WINDOW has room for so many bytes under way; it takes steps in the order of their arrival, each when its bytes fit
beside those of the steps in it, or when it is empty. It is first on a route, and a step leaves it when it finishes.

An empty route is a join: the step finishes the instant it is ready. In one instant all finishes come first (with the
joins that they release), then all arrivals in order of (priority, order of the program, step): a resource arbitrates at
the end of the instant, and the outcome never depends on the order of calls.

A step of weight w stands for w equal ones: busy times and counters grow by w times what it does. A block that a step of
room r brings into a cache takes the room of r blocks, and one in r of the dirty blocks that leave for it is written
back. Time is the step's own.

The state of the resources (when they are free, cached blocks, open rows) lives on from run to run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from archsim.errors import InputError
from archsim.kernels._interpreter import InterpreterKernel
from archsim.kernels.memory import memory_kernel
from archsim.program import Counters, Link, Machine, Memory, Program, Run, Window, check_launch

__all__ = ["MAX_ORDER", "CompiledInterpreter"]

MAX_ORDER = 2**20 - 1
FOREVER = 2**63 - 1


@dataclass(frozen=True, eq=False)
class _Job:
    begin_ps: int
    start_ps: NDArray[np.int64]
    finish_ps: NDArray[np.int64]
    busy_ps: NDArray[np.int64]


class CompiledInterpreter:
    """Runs programs on one machine; several may be in flight when they are submitted and advanced step by step."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self._kernel = InterpreterKernel(
            machine.kinds,
            np.array([resource.latency_ps for resource in machine], dtype=np.int64),
            np.array([r.as_per_byte if isinstance(r, Link) else 0 for r in machine], dtype=np.int64),
            np.array([r.nbytes if isinstance(r, Window) else 0 for r in machine], dtype=np.int64),
            [memory_kernel(resource) if isinstance(resource, Memory) else None for resource in machine],
        )
        self._channels = np.array([r.dram.channels if isinstance(r, Memory) else 1 for r in machine], dtype=np.int64)
        self._jobs: dict[int, _Job] = {}

    @property
    def now_ps(self) -> int:
        """The time of the last event that was handled."""
        return int(self._kernel.now_ps)

    @property
    def next_ps(self) -> int:
        """The time of the next event, or 2^63 - 1 when nothing is under way."""
        return int(self._kernel.next_ps)

    def run(self, program: Program, start_ps: int = 0, bases: Sequence[int] | Mapping[str, int] = ()) -> Run:
        """Run one program from `start_ps` to its end; `bases` gives the address of each region, listed or by name."""
        if self._jobs:
            raise InputError(f"program {program.name}: another program is still under way on this interpreter.")
        self.submit(program, start_ps, bases)
        self._kernel.advance(FOREVER)
        return self.collect()[0]

    def submit(
        self, program: Program, start_ps: int, bases: Sequence[int] | Mapping[str, int] = (), order: int = 0
    ) -> None:
        """Put a program in flight; among programs in flight, the one of lower `order` wins ties."""
        check_launch(self.machine, program, start_ps, self.now_ps)
        if order in self._jobs or not 0 <= order <= MAX_ORDER:
            raise InputError(f"program {program.name}: order {order} is taken or outside 0..{MAX_ORDER}.")
        n = len(program)
        job = _Job(start_ps, np.empty(n, np.int64), np.empty(n, np.int64), np.zeros(len(self.machine), np.int64))
        self._kernel.submit(
            order, start_ps,
            program.route_start, program.route_resources, program.route,
            program.work_ps, program.nbytes, program.addresses(bases), program.write.view(np.uint8), program.priority,
            program.weight, program.room, program.partition,
            program.runs, program.stride, program.gather, program.gather_offsets,
            *program.successors, program.pred_start,
            job.start_ps, job.finish_ps, job.busy_ps,
        )  # fmt: skip
        self._jobs[order] = job

    def settle(self, time_ps: int) -> bool:
        """Let finish what finishes at `time_ps`; return whether a program completed with it."""
        return bool(self._kernel.settle(time_ps))

    def advance(self, until_ps: int) -> bool:
        """Handle all events before `until_ps`; stop early, and return True, where a program completes."""
        return bool(self._kernel.advance(until_ps))

    def collect(self) -> dict[int, Run]:
        """Take out the runs that have completed, by order."""
        runs = {}
        for order, end_ps, counters in self._kernel.collect():
            job = self._jobs.pop(order)
            busy = job.busy_ps // self._channels
            runs[order] = Run(job.begin_ps, end_ps, job.start_ps, job.finish_ps, busy, Counters(**counters))
        return runs

    def reset(self) -> None:
        """Forget all state: resources free, caches empty, rows closed, time back at zero."""
        self._kernel.reset()
        self._jobs.clear()
