"""The chip as its host sees it: streams of launches, each issued in order by a command processor."""

from __future__ import annotations

import weakref
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from simpy import Environment, Event

from archsim.engine.compiled import CompiledEngine
from archsim.engine.interpreter import Bases, Engine
from archsim.engine.reference import Arbiter, SimpyInterpreter
from archsim.errors import InputError
from archsim.kernels.interpreter import MAX_ORDER
from archsim.program import Machine, Program, Run

__all__ = ["Launch", "LaunchRecord", "Session"]


@dataclass(frozen=True, eq=False)
class Launch:
    """One operator on one stream: a program with the addresses of its regions, just a duration, or one `like` another.

    `after` are positions of earlier launches of the same `Session.run`; `launch_ps` is the gap that the device sees
    between "everything it waits for is done" and its start, `startup_ps` what it spends from there to its first step
    (with what its end costs). What a program leaves out because it equals what it contains (its `carry`) is added:
    as it comes out of the run, but no more than `most_carried_ps`. `like` is the position of an earlier launch of the
    same stream, from its start as long as which this one takes.
    """

    name: str
    stream: str
    after: tuple[int, ...] = ()
    launch_ps: int = 0
    startup_ps: int = 0
    program: Program | None = None
    bases: Bases = ()
    duration_ps: int | None = None
    most_carried_ps: int | None = None
    like: int | None = None


@dataclass(frozen=True, eq=False)
class LaunchRecord:
    """When a launch was ready to go, when it started (`launch_ps` later) and ended; `run` if it was a program.

    `end_ps` includes what the program leaves out; the times in `run` do not.
    """

    name: str
    stream: str
    ready_ps: int
    start_ps: int
    end_ps: int
    run: Run | None


class Session:
    """A chip that is switched on: its time and the state of its resources go on from one `run` to the next."""

    def __init__(
        self, machine: Machine, engine: str = "compiled", models: Mapping[str, type[Arbiter]] | None = None
    ) -> None:
        """models: resources, by name, that behave in their own way; they need the engine simpy."""
        self.env = Environment()
        self.engine: Engine
        if engine == "compiled" and not models:
            self.engine = compiled = CompiledEngine(machine, self.env)
            weakref.finalize(self, compiled.close)
        elif engine in ("compiled", "simpy"):
            self.engine = SimpyInterpreter(machine, self.env, models)
        else:
            raise InputError(f"engine '{engine}' is neither 'compiled' nor 'simpy'.")

    @property
    def now_ps(self) -> int:
        """The present time of the chip."""
        return int(self.env.now)

    def skip(self, ps: int) -> None:
        """Let time pass with nothing going on, as when a settled repetition is carried forward."""
        if ps < 0:
            raise InputError(f"time cannot be skipped by {ps} ps.")
        if ps:
            self.env.run(until=self.now_ps + ps)

    def run(self, launches: Sequence[Launch]) -> tuple[LaunchRecord, ...]:
        """Run launches to the end of the last one; the records come in the order of the launches."""
        _check(launches)
        done = [self.env.event() for _ in launches]
        streams: dict[str, list[int]] = {}
        for index, launch in enumerate(launches):
            streams.setdefault(launch.stream, []).append(index)
        processors = [self._command_processor(launches, mine, done) for mine in streams.values()]
        self.env.run(until=self.env.all_of([self.env.process(processor) for processor in processors]))
        return tuple(cast(LaunchRecord, event.value) for event in done)

    def _command_processor(
        self, launches: Sequence[Launch], mine: list[int], done: list[Event]
    ) -> Generator[Event, Any, None]:
        """Issue the launches of one stream, one after the other."""
        env = self.env
        for index in mine:
            launch = launches[index]
            yield env.all_of([done[before] for before in launch.after])
            ready = self.now_ps
            yield env.timeout(launch.launch_ps)
            start = self.now_ps
            run: Run | None = None
            yield env.timeout(launch.startup_ps)
            if launch.program is not None:
                run = yield self.engine.launch(launch.program, launch.bases, order=index)
                carried = launch.program.carry.time_ps(run.finish_ps)
                most = launch.most_carried_ps
                yield env.timeout(carried if most is None else min(carried, most))
            elif launch.like is not None:
                other = cast(LaunchRecord, done[launch.like].value)
                yield env.timeout(other.end_ps - other.start_ps - launch.startup_ps)
            else:
                yield env.timeout(launch.duration_ps or 0)
            done[index].succeed(LaunchRecord(launch.name, launch.stream, ready, start, self.now_ps, run))


def _check(launches: Sequence[Launch]) -> None:
    if len(launches) > MAX_ORDER:
        raise InputError(f"{len(launches)} launches at once are more than {MAX_ORDER}.")
    for index, launch in enumerate(launches):
        if sum(each is not None for each in (launch.program, launch.duration_ps, launch.like)) != 1:
            raise InputError(f"launch {index} ({launch.name}) needs a program, a duration, or one like which it is.")
        like = launch.like
        if like is not None and not (0 <= like < index and launches[like].stream == launch.stream):
            raise InputError(
                f"launch {index} ({launch.name}) is like launch {like}, which is not before it in its stream."
            )
        if min(launch.launch_ps, launch.startup_ps, launch.duration_ps or 0) < 0:
            raise InputError(f"launch {index} ({launch.name}) has a negative time.")
        for before in launch.after:
            if not 0 <= before < index:
                raise InputError(f"launch {index} ({launch.name}) waits for launch {before}, which is not before it.")
