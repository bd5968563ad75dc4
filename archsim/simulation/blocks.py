"""Running the kernels of a block, repetition after repetition, until the time of one no longer changes.

Repeated blocks (the layers of a model) do the same work on other weights. They are run one after another on the same
session, with caches and open rows carried along; once two repetitions in a row take the same time (within ``SETTLED``)
the rest is carried forward at their mean. What one repetition hands over to the next is what the cache holds of its
activations, and a refresh that a kernel may meet or not. Where both are less than ``OWED`` of its time, at most, the
first stands for all. A block that is a small part of the step may be off by more (:func:`leeways`). ``exact`` runs
every one.

Micro-batches that take turns (`overlap.py`) flow from one layer into the next, so a few layers run together and the
rest is carried forward at the time between the ends of two layers inside. In the first of them kernels and exchanges
are simulated, those of one half beside those of the other; in those that follow each takes as long as it did there.
Where a layer may owe more than ``OWED_BY_TURNS`` of its time to the one before, two are simulated. (The half that leads
meets no exchange of the other before its first: DeepSeek-V3 on H800s and 910Cs comes out within 0.6 % of two layers.)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import sqrt

import numpy as np
from numpy.typing import NDArray

from archsim.engine import CompiledInterpreter, Launch, LaunchRecord, Session
from archsim.mapping import Kernel, KernelBlock, Layout, Lowered, Target, bound_kernels, lower
from archsim.mapping.machine import ps
from archsim.network import Fabric
from archsim.simulation.collectives import lower_collective, narrowed, overlapping
from archsim.simulation.overlap import take_turns

__all__ = ["BlockRun", "KernelRun", "leeways", "run_block"]

#: relative change of a repetition's time below which the block has settled
SETTLED = 3e-3
#: share of a repetition's time that it may owe to the one before, at most, for it to stand for all
OWED = 1e-2
OWED_BY_TURNS = 5e-2
#: layers of micro-batches that run together. The half that is ahead ends the last two with the other beside it, as all
#: further layers would, since nothing that is launched later holds it up: the time between these ends is the period
TOGETHER = 3
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
    activates: float
    read_bursts: float
    write_bursts: float
    link_ps: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class BlockRun:
    """A block as it ran: ``simulated`` repetitions, the others carried forward at ``period_ps`` each.

    records: of the repetitions, layer after layer and micro-batch after micro-batch. cores: of each kernel, fewer where
    a collective beside it kept some; none where the run was recalled.
    """

    block: KernelBlock
    start_ps: int
    end_ps: int
    simulated: int
    period_ps: int
    kernels: tuple[KernelRun, ...]
    records: tuple[tuple[LaunchRecord, ...], ...]
    cores: tuple[int, ...] = ()


def run_block(
    session: Session, block: KernelBlock, target: Target, layout: Layout, fabric: Fabric | None = None, *, exact: bool,
    whole: bool = False, leeway: float = 1.0, on_repeat: Callable[[int], None] = lambda done: None,
    lent: Mapping[int, KernelRun] | None = None,
) -> BlockRun:  # fmt: skip
    """Run ``block`` to its end on ``session``; ``on_repeat`` hears how many repetitions are done.

    whole: kernels leave nothing out, though repetitions may. leeway: how many times as far as ``SETTLED`` and ``OWED``
    say a repetition may be off. lent: kernels, by position, that another block has as well, as they ran there
    (`borrowing.py`).
    """
    lent = lent or {}
    launcher = _Launcher(block, target, layout, fabric, exact=exact or whole, lent=lent)
    start_ps = session.now_ps
    turns = block.micro_batches > 1 and any(launcher.exchange)  # without an exchange there is nothing to hide
    if turns:
        records, weights, period = _take_turns(session, launcher, exact=exact)
    else:
        records, weights, period = _in_order(session, launcher, exact=exact, leeway=leeway, on_repeat=on_repeat)
    session.skip((block.repeat - len(records)) * period)
    on_repeat(block.repeat)
    kernels = tuple(
        replace(lent[i], kernel=kernel, first=records[0][i]) if i in lent else
        _average(kernel, launcher.lowered[i], [r[i] for r in records], weights / block.repeat, target)
        for i, kernel in enumerate(block.kernels)
    )
    cores = tuple(launcher.target_of(i).cores for i in range(len(block.kernels)))
    return BlockRun(block, start_ps, session.now_ps, len(records), period, kernels, tuple(records), cores)


def leeways(blocks: Sequence[KernelBlock], target: Target) -> list[float]:
    """How many times as far as ``SETTLED`` and ``OWED`` say a repetition of each of ``blocks`` may be off.

    The repeated blocks share out evenly by how much the step may be off::

        leeway = max(1, step / (blocks that repeat x block)),    times by the closed form

    No block is held to less than by itself, so that the step is off by at most twice what a step of one block is.
    """
    seconds = [block.repeat * float(bound_kernels(block.kernels, target).seconds.sum()) for block in blocks]
    repeated = max(sum(block.repeat > 1 for block in blocks), 1)
    return [max(1.0, sum(seconds) / (repeated * each)) if each else 1.0 for each in seconds]


#: records of the repetitions, how many repetitions each stands for, and the time that one more takes
_Repetitions = tuple[list[tuple[LaunchRecord, ...]], NDArray[np.float64], int]


def _in_order(
    session: Session, launcher: _Launcher, *, exact: bool, leeway: float, on_repeat: Callable[[int], None]
) -> _Repetitions:
    """One layer, or half of its batch, after the other, until the time of one has settled."""
    repeats, halves = launcher.block.repeat, launcher.block.micro_batches
    records: list[tuple[LaunchRecord, ...]] = []
    periods: list[int] = []
    for done in range(repeats):
        before = session.now_ps
        launches = [launcher.launch(i, after, *divmod(done, halves)) for i, after in enumerate(launcher.waits)]
        records.append(session.run(launches))
        periods.append(session.now_ps - before)
        on_repeat(done + 1)
        differs, most = (abs(periods[-1] - periods[-2]), SETTLED) if done else (launcher.owed_ps, OWED)
        if not exact and differs <= leeway * most * periods[-1]:
            break
    left = repeats - len(records)
    weights = np.ones(len(records))
    weights[-2:] += left / len(periods[-2:])  # the last two stand for those carried forward
    return records, weights, sum(periods[-2:]) // len(periods[-2:])


def _take_turns(session: Session, launcher: _Launcher, *, exact: bool) -> _Repetitions:
    """Two halves of the batch by turns, over a few layers at once."""
    block = launcher.block
    layers = block.layers if exact else min(block.layers, TOGETHER)
    turns = take_turns(launcher.exchange, launcher.waits, launcher.seconds, layers)
    flat = overlapping([launcher.exchange[t.kernel] for t in turns], [t.after for t in turns],
                       [launcher.seconds[t.kernel] for t in turns])  # fmt: skip
    launcher.beside = {turns[position].kernel for position in flat}
    owes = launcher.owed_ps > OWED_BY_TURNS * 1e12 * sum(launcher.seconds)
    simulated = layers if exact else min(layers, 2 if owes else 1)
    launches: list[Launch] = []
    latest: dict[tuple[int, int], int] = {}
    for position, turn in enumerate(turns):
        launch = launcher.launch(turn.kernel, turn.after, turn.layer, turn.half)
        if turn.layer < simulated:
            latest[turn.half, turn.kernel] = position
        else:
            alike = replace(launch, program=None, bases=(), duration_ps=None, most_carried_ps=None)
            launch = replace(alike, like=latest[turn.half, turn.kernel])
        launches.append(launch)
    ran = session.run(launches)
    by_repeat: dict[tuple[int, int], list[LaunchRecord]] = {}
    for turn, record in sorted(zip(turns, ran, strict=True), key=lambda pair: pair[0].kernel):
        by_repeat.setdefault((turn.layer, turn.half), []).append(record)
    records = [tuple(by_repeat[key]) for key in sorted(by_repeat)]
    ends = [max(record.end_ps for record in by_repeat[layer, 0]) for layer in range(layers)]
    period = ends[-1] - ends[-2] if layers > 1 else 0
    weights = np.zeros(len(records))
    last = simulated * block.micro_batches
    weights[:last] = 1.0
    # of two layers the half that fills the pipeline and the one that drains it are alone for a part
    weights[last // 2 - 1 : last // 2 + 1] += (block.repeat - last) / 2
    return records, weights, period // block.micro_batches


class _Launcher:
    """The kernels of a block as programs, made when they are first launched.

    beside: kernels that share the chip with a collective, which occupies some of its cores.
    """

    def __init__(
        self, block: KernelBlock, target: Target, layout: Layout, fabric: Fabric | None, *, exact: bool,
        lent: Mapping[int, KernelRun],
    ) -> None:  # fmt: skip
        self.block, self.target, self.layout, self.exact, self.lent = block, target, layout, exact, lent
        self.narrow = narrowed(target, fabric, filter(block.communicates, block.kernels))
        self.waits = _dependencies(block.kernels)
        self.seconds: list[float] = bound_kernels(block.kernels, target).seconds.tolist()
        self.exchange = [block.communicates(kernel) for kernel in block.kernels]
        self.beside = overlapping(self.exchange, self.waits, self.seconds)
        met = overlapping(self.exchange, self.waits, self.seconds, share=0.0)
        alone = block.micro_batches == 1 and not met and not exact
        self.exchanges = [
            lower_collective(k, target, fabric, alone=alone)
            if k.kind == "collective" and fabric is not None else None
            for k in block.kernels
        ]  # fmt: skip
        self.carried: dict[int, int] = {}

    @property
    def owed_ps(self) -> float:
        """What a repetition may owe to the one before: to find in the cache what it reads or overwrites of activations
        (or all that it reads, where that is not much more than the cache and so has not left it), and refreshes, which
        some kernels meet and others do not."""
        dram, cache = self.target.memory.dram, self.target.cache_bytes
        operands = {o.tensor: o for kernel in self.block.kernels for o in (*kernel.inputs, *kernel.outputs)}.values()
        whole = sum(operand.nbytes for operand in operands)
        found = sum(operand.nbytes for operand in operands if whole <= 2 * cache or operand.role == "activation")
        refreshes = sqrt(len(self.block.kernels)) * max(dram.rfc_ps, dram.rfc_bank_ps)
        return 1e12 * min(found, cache) / self.target.dram_bytes_per_s + refreshes

    @cached_property
    def alone(self) -> CompiledInterpreter:
        """The chip with nothing else on it."""
        return CompiledInterpreter(self.target.machine)

    @cached_property
    def lowered(self) -> list[Lowered | None]:
        return [
            None if k.exchanges or i in self.lent else
            lower(k, self.target_of(i), exact=self.exact)
            for i, k in enumerate(self.block.kernels)
        ]  # fmt: skip

    def target_of(self, i: int) -> Target:
        """What kernel ``i`` has of the chip."""
        return self.narrow if i in self.beside else self.target

    def launch(self, i: int, after: tuple[int, ...], layer: int, micro: int = 0) -> Launch:
        """The launch of kernel ``i`` of the block in a layer, for a micro-batch."""
        kernel, exchange, program = self.block.kernels[i], self.exchanges[i], self.lowered[i]
        if exchange is not None:
            base = [self.layout.base_of(kernel.outputs[0].tensor, layer, micro)]
            return Launch(
                kernel.name, COMMUNICATION if self.exchange[i] else COMPUTE, after, exchange.launch_ps,
                program=exchange.program,
                bases=base if exchange.program is not None else [], duration_ps=exchange.duration_ps,
            )  # fmt: skip
        if kernel.kind == "handover":
            gap_ps = ps(self.target.launch_s(vector=True))
            return Launch(kernel.name, COMPUTE, after, gap_ps, duration_ps=ps(kernel.tasks[0].seconds))
        gap, startup = self.target.launch_s(vector=kernel.kind == "vector"), self.target.chip.launch.startup
        if i in self.lent:
            left_ps = max(round(self.lent[i].time_ps) - ps(gap) - ps(startup), 0)
            return Launch(kernel.name, COMPUTE, after, ps(gap), ps(startup), duration_ps=left_ps)
        assert program is not None, "collectives need a fabric"
        bases = self.layout.bases(program, layer, micro)
        return Launch(
            kernel.name, COMPUTE, after, ps(gap), ps(startup), program.program, bases,
            most_carried_ps=self.carried_alone(i, bases) if i in self.beside else None,
        )  # fmt: skip

    def carried_alone(self, i: int, bases: Sequence[int]) -> int | None:
        """What kernel ``i`` leaves out while nothing else uses the chip; None if it leaves out nothing.

        A kernel beside a collective meets it in what is simulated. What is left out is not delayed again: a message in
        a window of a few microseconds would count as often as the window stands for others.
        """
        program = self.lowered[i]
        assert program is not None
        if i not in self.carried and len(program.program.carry.weights):
            self.alone.reset()
            run = self.alone.run(program.program, bases=bases)
            self.carried[i] = program.program.carry.time_ps(run.finish_ps)
        return self.carried.get(i)


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
    simulated = np.flatnonzero(weights)
    first, records, weights = records[0], [records[i] for i in simulated.tolist()], weights[simulated]
    time_ps = float(np.dot(weights, [r.end_ps - r.ready_ps for r in records]))
    dram_bytes = requested = activates = read = written = 0.0
    busy: dict[str, float] = {}
    links: dict[str, float] = {}
    runs = [record.run for record in records if record.run is not None]
    if runs:
        dram_bytes = float(np.dot(weights, [r.counters.bytes_read + r.counters.bytes_written for r in runs]))
        requested = float(np.dot(weights, [r.counters.bytes_requested for r in runs]))
        activates = float(np.dot(weights, [r.counters.activates for r in runs]))
        read = float(np.dot(weights, [r.counters.read_bursts for r in runs]))
        written = float(np.dot(weights, [r.counters.write_bursts for r in runs]))
    if lowered is not None:
        mean = np.average([r.busy_ps for r in runs], axis=0, weights=weights) * weights.sum()
        for group, members in target.groups.items():
            if group in ("fabric", "transport"):
                continue
            busy[group] = float(mean[members].mean())
            if group in ("noc", "die"):
                links |= {target.machine[i].name: float(mean[i]) for i in members.tolist()}
        busy["cache"] = float(np.dot(weights, [r.counters.cache_busy_ps for r in runs]))
    elif kernel.kind == "collective":
        busy["fabric"] = float(np.dot(weights, [_links_busy(record, target) for record in records]))
    launch_ps = first.start_ps - first.ready_ps
    startup_ps = 0 if lowered is None else ps(target.chip.launch.startup)
    return KernelRun(
        kernel, lowered, first, time_ps, launch_ps, startup_ps, dram_bytes, busy, requested, activates, read,
        written, links,
    )  # fmt: skip


def _links_busy(record: LaunchRecord, target: Target) -> int:
    """How long a collective keeps the busiest of the chip's links; all of its time where that is not known."""
    if record.run is None:
        return record.end_ps - record.start_ps
    return int(record.run.busy_ps[target.groups["fabric"]].max(initial=0))
