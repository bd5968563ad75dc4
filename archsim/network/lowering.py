"""From a schedule to a program of the engine: every message a step over its links, for one chip or for all.

*Folded*, one chip stands for all: what it sends arrives, at the same time, as what it receives, and a link of another
chip on the way of a message is its own link of that class. Where all chips are alike (switches, meshes, closed rings)
that is exact: every step of a chip then takes the same time as on the machine of all chips, which a test checks.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from archsim.network.fabric import Part
from archsim.network.schedule import Message, Move, Schedule
from archsim.program import Program

__all__ = ["foldable", "lower_schedule", "steps_of"]

Ints = NDArray[np.int64]
NOWHERE = -(2**40)


def foldable(schedule: Schedule) -> bool:
    """Whether all chips are alike to the schedule."""
    parts = schedule.parts
    fabric = schedule.fabric
    return fabric.folds and not fabric.faults and not any(
        message.senders
        or message.wrapped is not None
        or any(move.swap and parts[move.part].dim.kind == "ring" for move in message.moves)
        for message in schedule.messages
    )


def lower_schedule(schedule: Schedule, *, folded: bool) -> Program:
    """The program of a schedule: message after message, the steps of each in the order of the chips that send it."""
    fabric, messages = schedule.fabric, schedule.messages
    walk = _Walk(schedule.parts, 1 if folded else fabric.chips)
    senders = [walk.senders(message.senders) for message in messages]
    counts = np.array([len(each) for each in senders], np.int64)
    first = np.concatenate(([0], np.cumsum(counts)))
    routes = _Routes(walk)
    starts, preds = _predecessors(messages, senders, first, walk)
    route = np.concatenate([routes.of(message, who) for message, who in zip(messages, senders, strict=True)])
    steps = int(first[-1])
    none = np.zeros(steps, np.int32)
    return Program(
        fabric.folded if folded else fabric.unfolded,
        f"{len(messages)} messages on {fabric.name}",
        route_start=routes.starts.astype(np.int32), route_resources=routes.resources.astype(np.int32),
        route=route.astype(np.int32), work_ps=np.repeat([message.issue_ps for message in messages], counts),
        nbytes=np.repeat([message.wire_bytes for message in messages], counts), region=none - 1,
        offset=none.astype(np.int64), write=np.zeros(steps, np.bool_), priority=none, tag=none,
        pred_start=starts, preds=preds.astype(np.int32),
    )  # fmt: skip


def steps_of(schedule: Schedule, chip: int, *, folded: bool) -> list[tuple[int, int, bool]]:
    """What one chip sends and receives in the program of a schedule: (step, payload bytes, whether it receives)."""
    walk = _Walk(schedule.parts, 1 if folded else schedule.fabric.chips)
    found: list[tuple[int, int, bool]] = []
    first = 0
    for message in schedule.messages:
        who = walk.senders(message.senders)
        if message.payload:
            sends, receives = who == chip, walk.to(message.moves)[who] == chip
            for is_end, mine in ((False, sends), (True, receives)):
                found += [(first + int(at), message.payload, is_end) for at in np.flatnonzero(mine)]
        first += len(who)
    return found


class _Walk:
    """Where chips stand, and who is where a move leads: arrays over the numbers of the chips."""

    def __init__(self, parts: tuple[Part, ...], chips: int) -> None:
        self.parts, self.chips = parts, chips
        self.everyone: Ints = np.arange(chips)
        self._known: dict[tuple[tuple[Move, ...], bool], Ints] = {}

    def to(self, moves: tuple[Move, ...], *, back: bool = False) -> Ints:
        """The chip that `moves` lead to from each chip, or (`back`) the one from which they lead to it."""
        if self.chips == 1:
            return self.everyone
        if (moves, back) not in self._known:
            at = self.everyone
            for move in moves:
                index, size, stride = self._index(move, at)
                there = index ^ move.shift if move.swap else (index - move.shift if back else index + move.shift) % size
                at = at + (there - index) * stride
            self._known[moves, back] = at
        return self._known[moves, back]

    def wraps(self, move: Move) -> NDArray[np.bool_]:
        """Chips from which a move leads over the end of the line."""
        index, size, _ = self._index(move, self.everyone)
        there = index + move.shift
        return (there < 0) | (there >= size)

    def senders(self, conditions: tuple[tuple[int, int], ...]) -> Ints:
        """The chips that have the wanted index in each part."""
        if not conditions:
            return self.everyone
        fits = np.ones(self.chips, bool)
        for part, index in conditions:
            fits &= self._index(Move(part, 0), self.everyone)[0] == index
        return self.everyone[fits]

    def _index(self, move: Move, at: Ints) -> tuple[Ints, int, int]:
        """Index of each chip along a move, how many there are, and how far apart their numbers lie."""
        part = self.parts[move.part]
        size, stride = (part.dim.size, part.dim.stride) if move.along else (part.size, part.stride)
        return at // stride % size, size, stride


class _Routes:
    """The routes of a program: one per way and chip."""

    def __init__(self, walk: _Walk) -> None:
        self.walk = walk
        self._first: dict[tuple[object, ...], int] = {}
        self._tables: list[Ints] = []
        self._count = 0

    def of(self, message: Message, who: Ints) -> Ints:
        """Route numbers of a message for the chips that send it."""
        key = (message.hops, message.wrapped)
        if key not in self._first:
            table = self._table(message)
            self._first[key] = self._count
            self._tables.append(table)
            self._count += len(table)
        return self._first[key] + who

    @property
    def starts(self) -> Ints:
        counts = [np.count_nonzero(table != NOWHERE, axis=1) for table in self._tables]
        return np.concatenate([np.zeros(1, np.int64), np.cumsum(np.concatenate(counts))])

    @property
    def resources(self) -> Ints:
        return np.concatenate([table[table != NOWHERE] for table in self._tables])

    def _table(self, message: Message) -> Ints:
        """Resources that the message of each chip visits, a row per chip, filled up with NOWHERE."""
        chips, walk = self.walk.chips, self.walk
        ways = [message.hops] if message.wrapped is None else [message.hops, message.wrapped]
        table = np.full((chips, max(map(len, ways))), NOWHERE, np.int64)
        for way, hops in enumerate(ways):
            who = np.ones(chips, bool) if len(ways) == 1 else walk.wraps(message.moves[-1]) == bool(way)
            for column, (port, moves) in enumerate(hops):
                table[who, column] = (port * chips + walk.to(moves))[who]
        return table


def _predecessors(
    messages: list[Message], senders: list[Ints], first: Ints, walk: _Walk
) -> tuple[Ints, Ints]:
    """Whom every step waits for: the messages that its chip has been sent, as (starts, steps)."""
    if walk.chips == 1:  # message m is step m
        lengths = [len(message.after) for message in messages]
        return np.cumsum([0, *lengths]), np.array([m for message in messages for m in message.after], np.int64)
    place = np.full(walk.chips, -1, np.int64)
    counts, found = [], [np.empty(0, np.int64)]
    for message, who in zip(messages, senders, strict=True):
        before = []
        for earlier in message.after:
            place[:] = -1
            place[senders[earlier]] = first[earlier] + np.arange(len(senders[earlier]))
            before.append(place[walk.to(messages[earlier].moves, back=True)[who]])
        table = np.stack(before, axis=1) if before else np.empty((len(who), 0), np.int64)
        counts.append(np.count_nonzero(table >= 0, axis=1))
        found.append(table[table >= 0])
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(np.concatenate(counts))]), np.concatenate(found)
