"""A pipeline in SimPy: ranks at work on micro-batches; in training, their gradients on the network as well.

Every rank is a process that takes the actions of its schedule in order. A forward pass waits for the activations of the
stage before, a backward pass for the gradients of the stage after; what is sent arrives after the time of the transfer
while the sender goes on; from one rank to another there is one transfer at a time. Layers run one after the other, so
that with `overlap` the gradients of a layer start on their way as soon as the last micro-batch has added to them, and a
layer's first forward pass waits for its weights. These transfers are served one at a time by the links of a rank.

Bubbles, exposed communication and the number of activations that wait for their backward pass come out; nothing is
put in.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import simpy

from archsim.pipeline.schedule import Action, Chunk, Schedule

__all__ = ["LayerTimes", "PipelineRun", "Span", "run_pipeline"]

Process = Generator[simpy.Event, Any, None]


@dataclass(frozen=True)
class LayerTimes:
    """Picoseconds of one layer (or of the embedding, or of the head) for one micro-batch on one chip.

    forward, backward: whole passes, with the collectives that nothing hides. weights: of the backward pass, the part
    that gives gradients of weights. both: a forward and a backward pass that hide each other's collectives.
    gather, reduce: of its weights and gradients over the replicas.
    """

    forward: int
    backward: int
    weights: int
    both: int
    gather: int = 0
    reduce: int = 0


@dataclass(frozen=True)
class Span:
    """What a rank did: an action, a transfer or an update, for the timeline."""

    rank: int
    lane: str
    name: str
    start_ps: int
    ps: int


@dataclass
class PipelineRun:
    """busy_ps: per rank, the time in passes. alive: per rank, most chunks x micro-batches whose activations are
    kept. ends_ps: when each micro-batch leaves the last stage."""

    time_ps: int = 0
    passes_ps: int = 0
    busy_ps: list[int] = field(default_factory=list)
    alive: list[int] = field(default_factory=list)
    ends_ps: list[int] = field(default_factory=list)
    spans: list[Span] = field(default_factory=list)


def run_pipeline(
    schedule: Schedule, layers: Mapping[Chunk, Sequence[LayerTimes]], *, send_ps: int, update_ps: Sequence[int],
    overlap: bool = False, sharded: bool = False, timeline: bool = False, return_ps: int = 0,
) -> PipelineRun:  # fmt: skip
    """Run one step.

    layers: of each chunk, in forward order. send_ps: of activations, or gradients, from a stage to the next. update_ps:
    of the weights of each rank, once their gradients are there. sharded: weights are gathered for every pass and
    gradients reduced after every backward pass (ZeRO-3) and not once a step. return_ps: from the last stage to the
    first, where micro-batches begin again.
    """
    ranks = len(schedule.orders)
    step = _Step(schedule, layers, send_ps, update_ps, overlap, sharded, timeline, return_ps)
    step.run.busy_ps, step.run.alive = [0] * ranks, [0] * ranks
    done = [step.env.process(step.rank(rank)) for rank in range(ranks)]
    step.env.run(until=step.env.all_of(done))
    step.run.time_ps = int(step.env.now)
    return step.run


class _Step:
    def __init__(
        self, schedule: Schedule, layers: Mapping[Chunk, Sequence[LayerTimes]], send_ps: int,
        update_ps: Sequence[int], overlap: bool, sharded: bool, timeline: bool, return_ps: int,
    ) -> None:  # fmt: skip
        self.schedule, self.layers, self.send_ps, self.update_ps = schedule, layers, send_ps, update_ps
        self.overlap, self.sharded, self.timeline, self.return_ps = overlap, sharded, timeline, return_ps
        self.env = simpy.Environment()
        self.run = PipelineRun()
        self.arrived: dict[tuple[str, Chunk, int], simpy.Event] = {}
        self.links = [simpy.Resource(self.env, 1) for _ in schedule.orders]
        self.ports: dict[tuple[int, int], simpy.Resource] = {}  # from a rank to another
        self.kept = [0] * len(schedule.orders)
        self.reduced: list[list[simpy.Event]] = [[] for _ in schedule.orders]
        self.last = [_last_backwards(order) for order in schedule.orders]
        self.gathered: dict[tuple[Chunk, int], simpy.Event] = {}

    # a rank ---------------------------------------------------------------------------------------------------

    def rank(self, rank: int) -> Process:
        if not self.sharded:
            yield from self._gather_all(rank)
        for action in self.schedule.orders[rank]:
            yield self.env.all_of(self._needs(action))
            yield from self._perform(rank, action)
        self.run.passes_ps = max(self.run.passes_ps, int(self.env.now))
        if not self.sharded and not self.overlap:
            for chunk in self.schedule.chunks_of(rank):
                for times in self.layers[chunk]:
                    yield from self._transfer(rank, "reduce gradients", times.reduce)
        yield self.env.all_of(self.reduced[rank])
        start = int(self.env.now)
        yield self.env.timeout(self.update_ps[rank])
        self._note(rank, "compute", "update of weights", start)

    def _perform(self, rank: int, action: Action) -> Process:
        start = int(self.env.now)
        if action.kind == "FB":
            yield from self._both(rank, action)
        elif action.forward is not None:
            yield from self._forward(rank, action.forward[0])
        elif action.backward is not None:
            yield from self._backward(rank, *action.backward, action.kind)
        self.run.busy_ps[rank] += int(self.env.now) - start
        self._note(rank, "compute", _label(action), start)
        if action.forward is not None:
            self.kept[rank] += 1
            self.run.alive[rank] = max(self.run.alive[rank], self.kept[rank])
            self._send("F", *action.forward, +1)
            if action.forward[0].stage == self.schedule.stages - 1:
                self.run.ends_ps.append(int(self.env.now))
        if action.backward is not None and action.kind != "W":
            self.kept[rank] -= action.kind != "I"
            self._send("B", *action.backward, -1)
        if action.kind == "W":
            self.kept[rank] -= 1

    def _forward(self, rank: int, chunk: Chunk) -> Process:
        for number, times in enumerate(self.layers[chunk]):
            yield from self._weights(rank, chunk, number, +1)
            yield self.env.timeout(times.forward)

    def _backward(self, rank: int, chunk: Chunk, micro_batch: int, kind: str) -> Process:
        layers = self.layers[chunk]
        for number in reversed(range(len(layers))):
            times = layers[number]
            if self.sharded:
                yield from self._weights(rank, chunk, number, -1)
            part = {"B": times.backward, "I": times.backward - times.weights, "W": times.weights}[kind]
            yield self.env.timeout(part)
            if kind != "I":
                self._reduce(rank, chunk, micro_batch, times)

    def _both(self, rank: int, action: Action) -> Process:
        """A forward and a backward pass side by side: as many layers as both have overlap."""
        assert action.forward is not None
        assert action.backward is not None
        ahead, back = self.layers[action.forward[0]], self.layers[action.backward[0]]
        for number in range(max(len(ahead), len(back))):
            first = ahead[number] if number < len(ahead) else None
            second = back[len(back) - 1 - number] if number < len(back) else None
            if first is not None and second is not None:
                alone = first.forward + second.backward
                yield self.env.timeout(min(alone, (first.both + second.both) // 2))
            elif first is not None:
                yield self.env.timeout(first.forward)
            elif second is not None:
                yield self.env.timeout(second.backward)
            if second is not None:
                self._reduce(rank, action.backward[0], action.backward[1], second)

    # between ranks --------------------------------------------------------------------------------------------

    def _needs(self, action: Action) -> list[simpy.Event]:
        waits = []
        if action.forward is not None and (action.forward[0].stage or self._begins_again(action.forward[1])):
            waits.append(self._event("F", *action.forward))
        if action.kind != "W" and action.backward is not None and action.backward[0].stage < self.schedule.stages - 1:
            waits.append(self._event("B", *action.backward))
        return waits

    def _event(self, kind: str, chunk: Chunk, micro_batch: int) -> simpy.Event:
        key = (kind, chunk, micro_batch)
        if key not in self.arrived:
            self.arrived[key] = self.env.event()
        return self.arrived[key]

    def _begins_again(self, micro_batch: int) -> bool:
        return 0 < self.schedule.again <= micro_batch

    def _send(self, kind: str, chunk: Chunk, micro_batch: int, step: int) -> None:
        """What the next stage waits for arrives there after the transfer (none between chunks of one rank)."""
        stage, ps = chunk.stage + step, self.send_ps
        if stage == self.schedule.stages and self.schedule.again:
            stage, ps, micro_batch = 0, self.return_ps, micro_batch + self.schedule.again
        if not 0 <= stage < self.schedule.stages:
            return
        there = Chunk(chunk.copy, stage)
        way = self.schedule.rank_of(chunk), self.schedule.rank_of(there)
        event = self._event(kind, there, micro_batch)
        self.env.process(self._deliver(event, way, ps if way[0] != way[1] else 0))

    def _deliver(self, event: simpy.Event, way: tuple[int, int], ps: int) -> Process:
        if ps:
            port = self.ports.setdefault(way, simpy.Resource(self.env, 1))
            with port.request() as free:
                yield free
                yield self.env.timeout(ps)
        event.succeed()

    # replicas -------------------------------------------------------------------------------------------------

    def _transfer(self, rank: int, name: str, ps: int) -> Process:
        if not ps:
            return
        with self.links[rank].request() as link:
            yield link
            start = int(self.env.now)
            yield self.env.timeout(ps)
            self._note(rank, "network", name, start)

    def _gather_all(self, rank: int) -> Process:
        """Weights that the update before this step has left in shards, in the order in which they are needed."""
        if not self.overlap:
            for chunk in self.schedule.chunks_of(rank):
                for times in self.layers[chunk]:
                    yield from self._transfer(rank, "gather weights", times.gather)
            return
        for chunk in self.schedule.chunks_of(rank):
            for number, times in enumerate(self.layers[chunk]):
                if times.gather:
                    self.gathered[chunk, number] = self._ask(rank, chunk, number)

    def _weights(self, rank: int, chunk: Chunk, number: int, way: int) -> Process:
        """Wait for the weights of a layer; with shards, those of the next one on the way are asked for meanwhile."""
        times = self.layers[chunk][number]
        if not times.gather:
            return
        ready = self.gathered.pop((chunk, number), None)
        if self.sharded:
            ready = ready or self._ask(rank, chunk, number)
        if ready is not None:
            yield ready
        if self.sharded and self.overlap and 0 <= number + way < len(self.layers[chunk]):
            self.gathered[chunk, number + way] = self._ask(rank, chunk, number + way)

    def _ask(self, rank: int, chunk: Chunk, number: int) -> simpy.Process:
        return self.env.process(self._transfer(rank, "gather weights", self.layers[chunk][number].gather))

    def _reduce(self, rank: int, chunk: Chunk, micro_batch: int, times: LayerTimes) -> None:
        """Send the gradients of a layer on their way, where this was their last part."""
        if not times.reduce or not (self.overlap or self.sharded):
            return
        if self.sharded or self.last[rank][chunk] == micro_batch:
            self.reduced[rank].append(self.env.process(self._transfer(rank, "reduce gradients", times.reduce)))

    def _note(self, rank: int, lane: str, name: str, start: int) -> None:
        if self.timeline and self.env.now > start:
            self.run.spans.append(Span(rank, lane, name, start, int(self.env.now) - start))


def _last_backwards(order: Sequence[Action]) -> dict[Chunk, int]:
    """The micro-batch with which each chunk of a rank ends."""
    return {action.backward[0]: action.backward[1] for action in order if action.backward is not None}


def _label(action: Action) -> str:
    parts = []
    if action.forward is not None:
        parts.append(f"F{action.forward[1]}" + (f".{action.forward[0].stage}" if action.forward[0].stage else ""))
    if action.backward is not None:
        name = {"FB": "B"}.get(action.kind, action.kind)
        parts.append(f"{name}{action.backward[1]}")
    return " + ".join(parts)
