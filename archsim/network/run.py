"""Running a collective by itself: the choice of algorithm, the simulation, and what came out."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import inf

from archsim.errors import InputError
from archsim.kernels import CompiledInterpreter
from archsim.network.algorithms import Choice, build
from archsim.network.fabric import Fabric
from archsim.network.lowering import foldable, lower_schedule
from archsim.network.request import Collective
from archsim.network.schedule import Hops, Schedule
from archsim.network.tuner import candidates
from archsim.program import Program, Run

__all__ = ["CollectiveRun", "bus_factor", "floor_ps", "occupied_cores", "run_collective", "schedule_of"]

#: most steps that a collective may have: a minute of simulation
MOST_STEPS = 60_000_000


@dataclass(frozen=True, eq=False)
class CollectiveRun:
    """One collective, alone on its fabric.

    time_ps: from launch to end. bound_ps: of that, the time of the busiest link, below which no order of messages
    can come. busy: share of the time that each class of links is busy (the mean over chips). cores: that it occupies.
    """

    request: Collective
    choice: Choice
    folded: bool
    messages: int
    time_ps: int
    bound_ps: int
    busy: dict[str, float]
    cores: int = 0

    @property
    def algbw(self) -> float:
        """Bytes per second as nccl-tests defines them: size over time (0 where a chip is alone)."""
        return self.request.nbytes / (self.time_ps * 1e-12) if self.time_ps else 0.0

    @property
    def busbw(self) -> float:
        """Bytes per second that a link would need by the ring's traffic: nccl-tests' bus bandwidth."""
        return self.algbw * bus_factor(self.request.kind, self.request.group.size)


def bus_factor(kind: str, size: int) -> float:
    """Bus over algorithm bandwidth: ``2 (p-1)/p``, ``(p-1)/p`` or 1 (nccl-tests, doc/PERFORMANCE.md).

    >>> bus_factor("all_reduce", 8), bus_factor("broadcast", 8)
    (1.75, 1.0)
    """
    share = (size - 1) / size
    return {"all_reduce": 2 * share, "broadcast": 1.0, "send_recv": 1.0}.get(kind, share)


def run_collective(fabric: Fabric, request: Collective, *, fold: bool | None = None) -> CollectiveRun:
    """Simulate a collective on an idle fabric.

    fold: one chip for all; by default wherever that is exact. InputError for what the fabric cannot do.
    """
    found: CollectiveRun | None = None
    for floor, choice, schedule in _options(fabric, request):
        if found is None or floor < found.time_ps:
            run = _run(request, choice, schedule, fold)
            found = run if found is None or run.time_ps < found.time_ps else found
    assert found is not None, "there is always a candidate"
    return found


@lru_cache(maxsize=4096)
def schedule_of(fabric: Fabric, request: Collective) -> Schedule:
    """The schedule of the fastest candidate on an idle fabric."""
    found: Schedule | None = None
    time_ps = 0
    options = _options(fabric, request)
    for floor, choice, schedule in options:
        if found is None or floor < time_ps:
            fewest = _fewest(schedule, request, choice)
            mine = _time(fewest, folded=foldable(fewest))[0] if len(options) > 1 else floor
            found, time_ps = (schedule, mine) if found is None or mine < time_ps else (found, time_ps)
    assert found is not None, "there is always a candidate"
    return found


def occupied_cores(fabric: Fabric, request: Collective) -> int:
    """Cores that the kernel of a collective keeps from others while it runs; 0 where engines or the switch do the work.

    >>> from archsim.hardware import load_chip, load_system
    >>> from archsim.network import Group
    >>> occupied_cores(Fabric.of(load_system("h800-x32"), load_chip("h800")), Collective("dispatch", 2**22, Group(8)))
    20
    """
    return schedule_of(fabric, request).cores


def _options(fabric: Fabric, request: Collective) -> list[tuple[int, Choice, Schedule]]:
    """The candidates with the time below which none of them can come, the most promising first."""
    schedules = [(choice, build(fabric, request, choice)) for choice in candidates(fabric, request)]
    return sorted(((floor_ps(s), choice, s) for choice, s in schedules), key=lambda option: option[0])


def floor_ps(schedule: Schedule) -> int:
    """Time below which a schedule cannot come: its launch, and the longest chain of messages or the busiest link."""
    ports = schedule.fabric.ports
    chain: list[float] = []
    load: dict[int, float] = {}
    known: dict[Hops, tuple[float, float]] = {}  # seconds, and seconds a byte, on the way of a message
    for message in schedule.messages:
        if message.hops not in known:
            way = [ports[port] for port, _ in message.hops]
            slowest = min((port.bytes_per_s for port in way if port.bytes_per_s), default=inf)
            known[message.hops] = sum(port.latency_s for port in way), 1 / slowest
        latency, per_byte = known[message.hops]
        before = max([chain[number] for number in message.after], default=0.0)
        chain.append(before + latency + message.wire_bytes * per_byte)
        if not message.senders:
            for port, _ in message.hops:
                load[port] = load.get(port, 0.0) + message.wire_bytes
    rates = ((nbytes, ports[port].bytes_per_s) for port, nbytes in load.items())
    busiest = max((nbytes / rate for nbytes, rate in rates if rate), default=0.0)
    return int((schedule.launch_s + max(max(chain, default=0.0), busiest)) * 1e12 * (1 - 1e-6))  # rates are rounded


def _run(request: Collective, choice: Choice, schedule: Schedule, fold: bool | None) -> CollectiveRun:
    alike = foldable(schedule)
    schedule = schedule if fold is False else _fewest(schedule, request, choice)
    fabric = schedule.fabric
    if fold and not alike:
        raise InputError(f"{request.kind} by {choice[0]}: the chips are not alike, so one cannot stand for all")
    folded = alike if fold is None else fold
    groups = max(fabric.chips // request.group.size, 1)
    steps = sum(1 if folded else groups if message.senders else fabric.chips for message in schedule.messages)
    if steps > MOST_STEPS:
        raise InputError(f"{request.kind} by {choice[0]}: {steps:,} messages are more than can be simulated")
    time_ps, program, run = _time(schedule, folded=folded)
    if program is None or run is None:
        return CollectiveRun(request, choice, folded, 0, time_ps, 0, {}, schedule.cores)
    members = 1 if folded else fabric.chips
    links = [i for i, port in enumerate(fabric.ports) if port.group == "fabric"]
    busy = run.busy_ps.reshape(len(fabric.ports), members)[links]
    elapsed = max(run.elapsed_ps, 1)
    return CollectiveRun(
        request, choice, folded, len(program), time_ps, int(busy.max(initial=0)),
        {fabric.ports[i].name: float(b.mean()) / elapsed for i, b in zip(links, busy, strict=True)},
        schedule.cores,
    )  # fmt: skip


def _fewest(schedule: Schedule, request: Collective, choice: Choice) -> Schedule:
    """The same messages among as few chips as say all: where chips are not alike, those of one block of groups."""
    fabric = schedule.fabric
    if foldable(schedule) or fabric.faults or not schedule.messages:
        return schedule
    return build(fabric.alone([request.group]), request, choice)


def _time(schedule: Schedule, *, folded: bool) -> tuple[int, Program | None, Run | None]:
    """Picoseconds from launch to end."""
    launch_ps = round(schedule.launch_s * 1e12)
    if not schedule.messages:
        return launch_ps, None, None
    program = lower_schedule(schedule, folded=folded)
    run = CompiledInterpreter(program.machine).run(program)
    return launch_ps + run.elapsed_ps, program, run
