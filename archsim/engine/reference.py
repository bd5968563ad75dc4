"""The reference interpreter: a program as SimPy processes, one for every step and one for every resource.

It is the readable definition of what the machine does, with the same numbers as `archsim.kernels.interpreter` (whose
docstring has the equations) to the picosecond, about a hundred times slower. It is also the place to try a resource
of a new kind: subclass `Arbiter`, say in `serve` what a request costs, and pass it as `models={"name": MyArbiter}`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple, cast

import numpy as np
from simpy import Environment, Event, Process

from archsim.engine.instant import EndOfInstant
from archsim.engine.interpreter import Bases
from archsim.engine.reference_memory import ReferenceMemory
from archsim.program import (
    Counters,
    Kind,
    Link,
    Machine,
    Memory,
    Program,
    Resource,
    Run,
    Unit,
    Window,
    check_launch,
    service_ps,
)

__all__ = ["Arbiter", "LinkArbiter", "MemoryArbiter", "Request", "Service", "SimpyInterpreter", "UnitArbiter",
           "WindowArbiter"]  # fmt: skip


@dataclass(order=True)
class Request:
    """A step at the door of a resource; requests of one instant are served in the order of their first three fields."""

    priority: int
    order: int
    step: int
    work_ps: int = field(compare=False)
    nbytes: int = field(compare=False)
    address: int = field(compare=False)
    runs: Sequence[int] = field(compare=False)  # where they begin, from the address on
    write: bool = field(compare=False)
    granted: Event = field(compare=False)
    weight: int = field(compare=False)
    room: int = field(compare=False)
    partition: int = field(compare=False)
    counters: Counter[str] = field(compare=False)
    late: Event | None = field(default=None, compare=False)  # fires when the last byte leaves, where that is not known


class Service(NamedTuple):
    """What a resource grants: it starts, the first and the last byte (or result) leave it, and it is busy for so long.

    The latency of the resource is not in it; every step adds it on the way out.
    """

    start_ps: int
    head_ps: int
    done_ps: int
    busy_ps: int


class Arbiter:
    """A resource: a process that gathers the requests of an instant and grants them in order when it is over."""

    def __init__(self, env: Environment, spec: Any) -> None:
        self.env = env
        self.spec = spec
        self._waiting: list[Request] = []
        self._bell = env.event()
        env.process(self._arbitrate())

    def request(self, request: Request) -> Event:
        """Queue up; the event fires at the end of this instant and its value is the `Service`."""
        self._waiting.append(request)
        if not self._bell.triggered:
            self._bell.succeed()
        return request.granted

    def serve(self, request: Request) -> Service:
        """Say when a request is served; requests come in order of arrival, ties settled."""
        raise NotImplementedError

    def _arrivals(self) -> Generator[Event, None, list[Request]]:
        """Wait for the bell, and to the end of its instant; the requests that have come, in order."""
        yield self._bell
        yield EndOfInstant(self.env)
        arrived, self._waiting, self._bell = sorted(self._waiting), [], self.env.event()
        return arrived

    def _arbitrate(self) -> Generator[Event, None, None]:
        while True:
            for request in (yield from self._arrivals()):
                request.granted.succeed(self.serve(request))


class _OneAtATime(Arbiter):
    """Serves requests one after the other."""

    def __init__(self, env: Environment, spec: Unit | Link) -> None:
        super().__init__(env, spec)
        self.free_ps = 0

    def duration_ps(self, request: Request) -> int:
        """How long a request keeps the resource."""
        raise NotImplementedError

    def serve(self, request: Request) -> Service:
        duration = self.duration_ps(request)
        start = max(int(self.env.now), self.free_ps)
        self.free_ps = start + duration
        return Service(start, start, start + duration, duration)


class UnitArbiter(_OneAtATime):
    """Works on one step at a time, for the step's `work_ps`."""

    def duration_ps(self, request: Request) -> int:
        return request.work_ps


class LinkArbiter(_OneAtATime):
    """Carries one transfer at a time, at the rate of the link."""

    def duration_ps(self, request: Request) -> int:
        return service_ps(request.nbytes, self.spec.as_per_byte)


class MemoryArbiter(Arbiter):
    """Hands requests to the memory model as they arrive: the channels sort out who waits."""

    def __init__(self, env: Environment, spec: Memory) -> None:
        super().__init__(env, spec)
        self.memory = ReferenceMemory(spec)

    def serve(self, request: Request) -> Service:
        now = int(self.env.now)
        head, done = self.memory.access(
            now, request.address, request.nbytes, request.write, request.room, request.runs, request.partition
        )
        request.counters.update({name: request.weight * count for name, count in self.memory.counters.items()})
        return Service(now, head, done, self.memory.counters["dram_busy_ps"])


class WindowArbiter(Arbiter):
    """Lets requests in as there is room for their bytes, in order of arrival."""

    def __init__(self, env: Environment, spec: Window) -> None:
        self.held = 0
        super().__init__(env, spec)

    def leave(self, nbytes: int) -> None:
        """Make room again."""
        self.held -= nbytes
        if not self._bell.triggered:
            self._bell.succeed()

    def serve(self, request: Request) -> Service:
        now = int(self.env.now)
        self.held += request.nbytes
        return Service(now, now, now, 0)

    def _arbitrate(self) -> Generator[Event, None, None]:
        line: list[Request] = []
        while True:
            line += yield from self._arrivals()
            while line and (not self.held or self.held + line[0].nbytes <= self.spec.nbytes):
                request = line.pop(0)
                request.granted.succeed(self.serve(request))


@dataclass
class _Job:
    """A program in flight, unpacked to Python integers."""

    program: Program
    order: int
    addresses: list[int]
    start_ps: list[int]
    finish_ps: list[int]
    busy_ps: list[int]
    counters: Counter[str] = field(default_factory=Counter)

    def request(self, env: Environment, step: int) -> Request:
        program = self.program
        return Request(
            int(program.priority[step]),
            self.order,
            step,
            int(program.work_ps[step]),
            int(program.nbytes[step]),
            self.addresses[step],
            program.runs_of(step).tolist(),
            bool(program.write[step]),
            env.event(),
            int(program.weight[step]),
            int(program.room[step]),
            int(program.partition[step]),
            self.counters,
        )


class SimpyInterpreter:
    """Runs programs on one machine as SimPy processes, in an environment of its own or in a given one."""

    arbiters: ClassVar[dict[Kind, type[Arbiter]]] = {
        Kind.UNIT: UnitArbiter,
        Kind.LINK: LinkArbiter,
        Kind.MEMORY: MemoryArbiter,
        Kind.WINDOW: WindowArbiter,
    }

    def __init__(
        self,
        machine: Machine,
        env: Environment | None = None,
        models: Mapping[str, type[Arbiter]] | None = None,
    ) -> None:
        self.machine = machine
        self.models = {machine[machine.index(name)].name: model for name, model in (models or {}).items()}
        self._guest = env is not None
        self.env = env if env is not None else Environment()
        self.resources = [self._arbiter(resource) for resource in machine]

    def _arbiter(self, resource: Resource) -> Arbiter:
        return self.models.get(resource.name, self.arbiters[resource.kind])(self.env, resource)

    def run(self, program: Program, start_ps: int = 0, bases: Bases = ()) -> Run:
        """Run one program from `start_ps` to its end."""
        check_launch(self.machine, program, start_ps, int(self.env.now))
        if start_ps > self.env.now:
            self.env.run(until=start_ps)
        return cast(Run, self.env.run(until=self.launch(program, bases)))

    def launch(self, program: Program, bases: Bases = (), order: int = 0) -> Process:
        """Start a program now; the process ends with it and its value is the `Run`."""
        check_launch(self.machine, program, int(self.env.now), int(self.env.now))
        n = len(program)
        job = _Job(program, order, program.addresses(bases).tolist(), [0] * n, [0] * n, [0] * len(self.machine))
        return self.env.process(self._run(job))

    def reset(self) -> None:
        """Forget all state of the resources; time starts at zero again, unless the environment was given."""
        if not self._guest:
            self.env = Environment()
        self.resources = [self._arbiter(resource) for resource in self.machine]

    def _run(self, job: _Job) -> Generator[Event, None, Run]:
        begin = int(self.env.now)
        steps: list[Process] = []
        for step in range(len(job.program)):
            steps.append(self.env.process(self._step(job, step, steps)))
        yield self.env.all_of(steps)
        channels = [r.dram.channels if isinstance(r, Memory) else 1 for r in self.machine]
        return Run(
            begin,
            int(self.env.now),
            np.array(job.start_ps, dtype=np.int64),
            np.array(job.finish_ps, dtype=np.int64),
            np.array([busy // ways for busy, ways in zip(job.busy_ps, channels, strict=True)], dtype=np.int64),
            Counters(**job.counters),
        )

    def _step(self, job: _Job, step: int, steps: list[Process]) -> Generator[Event, Any, None]:
        env = self.env
        yield env.all_of([steps[before] for before in job.program.preds_of(step)])
        job.start_ps[step] = ready = int(env.now)
        next_arrival = last_byte = ready
        late, behind = None, 0
        for stage, number in enumerate(job.program.route_of(step)):
            yield env.timeout(next_arrival - env.now)
            resource = self.resources[number]
            request = job.request(env, step)
            service: Service = yield resource.request(request)
            if stage == 0:
                job.start_ps[step] = service.start_ps
            job.busy_ps[number] += service.busy_ps * int(job.program.weight[step])
            next_arrival = max(service.head_ps + resource.spec.latency_ps, int(env.now) + 1)
            last_byte = max(service.done_ps, last_byte) + resource.spec.latency_ps
            late = late or request.late
            behind += resource.spec.latency_ps if late else 0
        if late is not None:
            last_byte = max(last_byte, (yield late) + behind)
        finish = max(last_byte, int(env.now) + 1) if len(job.program.route_of(step)) else ready
        yield env.timeout(finish - env.now)
        for number in job.program.route_of(step):
            if isinstance(window := self.resources[number], WindowArbiter):
                window.leave(int(job.program.nbytes[step]))
        job.finish_ps[step] = finish
