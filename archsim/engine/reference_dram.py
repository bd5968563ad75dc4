"""The DRAM of `archsim.kernels.memory` in plain Python: queues, buses, rows and banks, waiting writes, refresh."""

from __future__ import annotations

from bisect import insort
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import takewhile

from archsim.program import Dram
from archsim.program.machine import BURSTS, LOOK_AHEAD, OLDEST, PASSED, SESSIONS

__all__ = ["ReferenceDram", "scatter"]


NEVER = -(1 << 60)  # long ago


@dataclass
class _Session:
    """A row that is open, or has been closed for another one at `closed_ps`."""

    row: int
    opened_ps: int
    next_column_ps: int
    next_activate_ps: int  # of the bank, as far as tRC and writes are concerned
    late_ps: int  # how long the activate waited for its bank
    closed_ps: int = 0


@dataclass
class _Bus:
    """A lane's data bus. Nothing before the end is idle while it is `solid`; else `taken` tells which bank group has
    which burst of time, from the burst `first` on (-1: the time that a change of stacks costs)."""

    dram: Dram
    group_free_ps: list[int]
    end_ps: int = 0
    front_ps: int = NEVER  # the end of what did not wait for its bank
    origin_ps: int = 0  # where bursts are counted from
    first: int = 0
    solid: bool = True
    writing: bool = False
    stack: int = 0  # of what was served last
    owed_ps: int = 0  # for changes of stacks, less than a burst
    taken: dict[int, tuple[int, int]] = field(default_factory=dict)  # stack and group of a burst

    def take(self, arrival: int, earliest: int, group: int, bursts: int) -> tuple[int, int]:
        """Columns of a bank group from `earliest` on, wherever the bus is idle after `arrival`: the first, the last."""
        burst, spacing = self.dram.burst_ps, self.dram.column_ps
        self.stack = group // self.dram.groups_of_stack
        if self.solid and earliest <= self.end_ps:
            begin = self.end_ps
            self.end_ps += bursts * burst
            return begin, begin + (bursts - 1) * spacing
        if self.solid:
            self.solid, self.first, self.origin_ps = False, 0, max(self.end_ps, arrival)
            self.taken.clear()
        self._forget((arrival - self.origin_ps) // burst)
        at = max(earliest, self._begin(self.first))
        slot = (at - self.origin_ps) // burst
        while slot < self._limit and (slot in self.taken or (bursts == 1 and self._is_near(slot, group))):
            slot += 1
        begin, before = max(at, self._begin(slot)), slot - 1
        self._use(slot, group)
        for _ in range(bursts - 1):  # the columns of several bursts leave time to others: only what they fill is taken
            while slot in self.taken:
                slot += 1
            self._use(slot, group)
        self.end_ps = max(self.end_ps, self._begin(slot + 1), begin + bursts * burst)
        if self.dram.switch_ps and slot < self._limit:
            self._change_stacks(before, slot, arrival, group)
        while self.first in self.taken:
            self.first += 1
        self.solid = self._begin(self.first) >= self.end_ps
        return begin, max(begin + (bursts - 1) * spacing, self._begin(slot + 1) - burst)

    def idle_from(self, earliest: int, group: int) -> int:
        """When the bus is idle, from `earliest` on, but for what the group itself has there: that will be put off."""
        if self.solid:
            return max(earliest, self.end_ps)
        slot = max((earliest - self.origin_ps) // self.dram.burst_ps, self.first)
        while slot in self.taken and self.taken[slot][1] != group:
            slot += 1
        return max(earliest, self._begin(slot))

    def turn(self, idle: int) -> None:
        """Change the direction once all is served that did not wait for a bank; idle time before that is lost."""
        self.writing = not self.writing
        self.front_ps += idle
        self.end_ps = max(self.end_ps, self.front_ps)
        if not self.solid:
            self._forget(-((self.origin_ps - self.front_ps) // self.dram.burst_ps))

    def _begin(self, slot: int) -> int:
        return self.origin_ps + slot * self.dram.burst_ps

    @property
    def _limit(self) -> int:
        """What lies too far ahead is not remembered."""
        return self.first + BURSTS - 2 * PASSED

    def _use(self, slot: int, group: int) -> None:
        if slot < self._limit:
            self.taken[slot] = self.stack, group

    def _is_near(self, slot: int, group: int) -> bool:
        """Whether tCCD_L keeps a burst from others of the group."""
        near = range(slot - self.dram.reach + 1, slot + self.dram.reach)
        return any(self.taken.get(other, (0, -1))[1] == group for other in near)

    def _change_stacks(self, before: int, slot: int, arrival: int, group: int) -> None:
        """What bursts beside bursts of other stacks cost, as bursts of idle time after them.

        Where both stacks have several columns to go on with, all that waits of one is served before the other."""
        near = [self.taken[each] for each in (before, slot + 1) if each in self.taken]
        others = [stack for stack, _ in near if stack != self.stack]
        changes = len(others) - (len(near) == 2 and near[0][0] != near[1][0])
        if changes:
            alone = slot == before + 1 and any(self._busy(stack, arrival, group) < 2 for stack in (self.stack, *others))
            self.owed_ps += changes * self.dram.switch_ps // (1 if alone else self.dram.share_of_stack)
        while self.owed_ps >= self.dram.burst_ps:
            self.owed_ps -= self.dram.burst_ps
            while slot in self.taken:
                slot += 1
            if slot < self._limit:
                self._use(slot, -1)
                self.end_ps = max(self.end_ps, self._begin(slot + 1))

    def _busy(self, stack: int, arrival: int, group: int) -> int:
        """Bank groups of a stack with columns after `arrival`, or now."""
        groups = self.dram.groups_of_stack
        within = range(stack * groups, (stack + 1) * groups)
        return sum(each == group or self.group_free_ps[each] > arrival for each in within)

    def _forget(self, before: int) -> None:
        if before > self.first:
            self.first = before
            for slot in [slot for slot in self.taken if slot < before - PASSED]:
                del self.taken[slot]


@dataclass
class _Lane:
    """One pseudo-channel; `sessions` holds the rows of each bank, the latest first."""

    bus: _Bus
    sessions: list[list[_Session]]
    activate_free_ps: int = 0
    late_activate_ps: int = NEVER  # the last one that waited for its bank
    posted: int = 0  # bursts of writes that wait


class _Queue:
    """Requests that wait in a controller, each a few bursts, by when they leave; `room` bursts (0: no limit)."""

    def __init__(self, room: int) -> None:
        self.room, self.bursts = room, 0
        self.piece = min(255, max(1, room // LOOK_AHEAD)) if room else 1 << 40
        self.left: list[tuple[int, int]] = []
        self.latest_ps = 0  # when the last of those that have entered leaves

    def enter(self, bursts: int, t: int) -> int:
        """When there is room for so many bursts that are offered at `t`."""
        self.bursts += bursts
        while self.room and self.bursts > self.room and self.left:
            leaves, gone = self.left.pop(0)
            self.bursts -= gone
            t = max(t, leaves)
        return t

    def leave(self, bursts: int, leaves: int) -> None:
        """So many bursts that are in the queue will have left it at `leaves`."""
        self.latest_ps = max(self.latest_ps, leaves)
        if self.room:
            insort(self.left, (leaves, bursts))


@dataclass
class _Posted:
    """A write that waits to be served."""

    lane: int
    bank: int
    row: int
    bursts: int


@dataclass
class _Channel:
    lanes: list[_Lane]
    reads: _Queue
    writes: _Queue
    posted: list[_Posted] = field(default_factory=list)
    accepted_ps: int = 0
    drained_ps: int = 0  # the last of the writes that were served together has left the queue
    row_bus_free_ps: int = 0
    closed_before_ps: int = 0  # rows opened before have been closed by a refresh


class ReferenceDram:
    """DRAM channels; `access` is a few contiguous ranges, cut into runs that lie in one row of one bank.

    Times inside are live times: those that all-bank refreshes take are left out, and put back at the end.
    """

    def __init__(self, spec: Dram, counters: Counter[str]) -> None:
        self.spec, self.counters, groups = spec, counters, spec.bank_groups
        self.channels = [
            _Channel(
                [
                    _Lane(_Bus(spec, [0] * groups), [[_Session(-1, 0, NEVER, 0, 0)] for _ in range(spec.banks)])
                    for _ in range(spec.lanes_per_channel)
                ],
                _Queue(spec.read_queue),
                _Queue(spec.write_queue),
            )
            for _ in range(spec.channels)
        ]

    def access(self, t: int, ranges: Sequence[tuple[int, int]], write: bool) -> tuple[int, int]:
        dram = self.spec
        t, nbytes = self._live(t), sum(size for _, size in ranges)
        columns = [self._run(t, *run, write) for each in ranges for run in self._cut(*each)]
        head = min(first for each in columns for first, _ in each)
        done = max(t, *(last + dram.burst_ps for each in columns for _, last in each))
        self.counters["bytes_written" if write else "bytes_read"] += nbytes
        to_data = 0 if write else dram.cl_ps
        return self._real(head + to_data), self._real(done + to_data)

    def _cut(self, address: int, nbytes: int) -> Iterator[tuple[_Channel, int, int, int, int]]:
        """Yield (channel, lane, bank, row, bursts) of the runs of a range."""
        dram, end = self.spec, address + nbytes
        while address < end:
            chunk, within = divmod(address, dram.interleave_bytes)
            local = chunk // dram.channels * dram.interleave_bytes + within
            size = min(end - address, dram.interleave_bytes - within, dram.run_bytes - local % dram.run_bytes)
            bursts = -(-(local % dram.burst_bytes + size) // dram.burst_bytes)
            turned = scatter(chunk // dram.channels) if dram.hashed else 0
            yield self.channels[(chunk + turned) % dram.channels], *self._place(local), bursts
            address += size

    def _place(self, local: int) -> tuple[int, int, int]:
        if self.spec.map is None:
            row = local // self.spec.row_bytes
            return 0, row % self.spec.banks, row
        flat, row = self.spec.map.place(local)
        return *divmod(flat, self.spec.banks), row

    def _run(
        self, t: int, channel: _Channel, lane: int, bank: int, row: int, bursts: int, write: bool
    ) -> list[tuple[int, int]]:
        """First and last columns of the pieces of a run."""
        self.counters["write_bursts" if write else "read_bursts"] += bursts
        self.counters["dram_busy_ps"] += bursts * self.spec.burst_ps
        columns = []
        queue = channel.writes if write else channel.reads
        while bursts:
            piece = min(bursts, queue.piece)
            bursts -= piece
            t = channel.accepted_ps = queue.enter(piece, max(t, channel.accepted_ps))
            columns.append((self._write if write else self._read)(channel, t, _Posted(lane, bank, row, piece)))
        return columns

    def _read(self, channel: _Channel, t: int, run: _Posted) -> tuple[int, int]:
        if channel.posted and channel.reads.latest_ps < t:
            self._drain(channel, channel.reads.latest_ps, 0)
        # activates go on while writes are served, so that columns may follow at once
        return self._serve(channel, max(t, channel.drained_ps - self.spec.rcd_ps), run, False)

    def _write(self, channel: _Channel, t: int, run: _Posted) -> tuple[int, int]:
        """At once while nothing is read; else a write waits until enough of them do."""
        if not channel.writes.room or (not channel.posted and channel.reads.latest_ps <= t):
            return self._serve(channel, t, run, True)
        channel.posted.append(run)
        lane = channel.lanes[run.lane]
        lane.posted += run.bursts
        last = max(t, lane.bus.end_ps) + (lane.posted - 1) * self.spec.burst_ps
        if sum(each.bursts for each in channel.posted) > self.spec.drain_high or channel.reads.latest_ps <= t:
            self._drain(channel, t, self.spec.drain_low)
        return t, last

    def _drain(self, channel: _Channel, t: int, down_to: int) -> None:
        """Serve writes that wait, of the oldest first those whose bank is ready first, until at most so many bursts are
        left."""

        def ready(run: _Posted) -> int:
            lane = channel.lanes[run.lane]
            session, group = lane.sessions[run.bank][0], run.bank // (self.spec.banks // self.spec.bank_groups)
            if session.row == run.row and session.opened_ps >= channel.closed_before_ps:
                return max(t, lane.bus.group_free_ps[group], session.next_column_ps)
            return max(t, self._ready_again(session))

        while sum(run.bursts for run in channel.posted) > down_to:
            run = min(channel.posted[:OLDEST], key=ready)
            channel.posted.remove(run)
            channel.lanes[run.lane].posted -= run.bursts
            self._serve(channel, t, run, True)
        channel.drained_ps = channel.writes.latest_ps

    def _serve(self, channel: _Channel, arrival: int, run: _Posted, write: bool) -> tuple[int, int]:
        """Bursts in one row of one bank that are in the queue from `arrival` on: their first and their last column."""
        dram, lane, bursts = self.spec, channel.lanes[run.lane], run.bursts
        if dram.live_ps and arrival >= channel.closed_before_ps + dram.live_ps:
            channel.closed_before_ps = arrival - arrival % dram.live_ps
        if lane.bus.writing != write:
            lane.bus.turn(dram.to_write_ps if write else dram.to_read_ps)
        sessions = lane.sessions[run.bank]
        session, activate = sessions[0], NEVER
        if session.row != run.row or session.opened_ps < channel.closed_before_ps:
            session, activate = self._open(channel, lane, arrival, run, write)
        spacing = dram.column_ps
        group = run.bank // (dram.banks // dram.bank_groups)
        token = max(lane.bus.group_free_ps[group], arrival)
        # what goes with an earlier row does not wait for its group's turn, for the row is closed then
        column = max(token if session is sessions[0] else arrival, session.next_column_ps)
        column, last = lane.bus.take(arrival, column, group, bursts)
        session.next_column_ps = last + spacing
        lane.bus.group_free_ps[group] = max(token + bursts * spacing, session.next_column_ps - session.late_ps)
        lane.bus.front_ps = max(lane.bus.front_ps, last + dram.burst_ps - session.late_ps)
        if write:
            session.next_activate_ps = max(session.next_activate_ps, last + dram.wr_ps + dram.rp_ps)
        self._put_off(sessions, session)
        # a request leaves the queue with its activate or its column command; those of a run one after the other
        queue = channel.writes if write else channel.reads
        queue.leave(bursts, (column + last) // 2 if bursts > 1 or activate == NEVER else activate)
        return column, last

    def _open(
        self, channel: _Channel, lane: _Lane, arrival: int, run: _Posted, write: bool
    ) -> tuple[_Session, int]:  # fmt: skip
        """The session of a row that is not open, and its activate, if it was not open when the run arrived either."""
        dram, sessions = self.spec, lane.sessions[run.bank]
        before, group = sessions[0], run.bank // (dram.banks // dram.bank_groups)
        conflict = before.row >= 0 and before.opened_ps >= channel.closed_before_ps
        if conflict:
            alive = list(takewhile(lambda session: session.closed_ps > arrival, sessions[1:]))
            for session in alive:
                if (
                    session.row == run.row
                    and session.closed_ps > lane.bus.idle_from(max(arrival, session.next_column_ps), group)
                    and session.opened_ps >= channel.closed_before_ps
                ):
                    # it waits beside those that the row is open for, and goes with them
                    return session, NEVER
            sessions[1:] = alive  # what has been closed for good is forgotten
        self.counters["activates"] += 1
        # the activate takes its place in the lane's order now; a bank that must wait does not hold up the others
        turn = max(arrival, lane.activate_free_ps, channel.row_bus_free_ps) + (dram.rp_ps if conflict else 0)
        lane.activate_free_ps = max(arrival, lane.activate_free_ps) + dram.act_ps
        channel.row_bus_free_ps = max(arrival, channel.row_bus_free_ps) + dram.row_bus_ps
        activate = max(turn, self._ready_again(before))
        if activate > turn:  # those that wait for their banks keep their distance as well
            if abs(activate - lane.late_activate_ps) < dram.act_ps:
                activate = lane.late_activate_ps + dram.act_ps
            lane.late_activate_ps = activate
        if dram.refi_bank_ps:
            phase = (activate - run.bank * dram.refi_bank_ps) % (dram.banks * dram.refi_bank_ps)
            activate += max(0, dram.rfc_bank_ps - phase)
        if conflict:
            before.closed_ps = activate - dram.rp_ps
        else:
            sessions.pop(0)
        to_column = (dram.rcd_write_ps or dram.rcd_ps) if write else dram.rcd_ps
        sessions.insert(
            0, _Session(run.row, activate, activate + to_column, activate + dram.rc_ps, activate - turn)
        )  # fmt: skip
        del sessions[SESSIONS:]
        return sessions[0], activate

    def _put_off(self, sessions: list[_Session], session: _Session) -> None:
        """A row stays open longer than was thought: those that the bank opens after it come later."""
        at = next(i for i, each in enumerate(sessions) if each is session)
        while at:
            delay = self._ready_again(sessions[at]) - sessions[at - 1].opened_ps
            if delay <= 0:
                return
            sessions[at].closed_ps += delay
            at -= 1
            later = sessions[at]
            later.opened_ps += delay
            later.late_ps += delay
            later.next_column_ps += delay
            later.next_activate_ps += delay

    def _ready_again(self, session: _Session) -> int:
        """When the bank of this row can be activated for another one."""
        dram = self.spec
        last = session.next_column_ps - dram.column_ps
        return max(session.next_activate_ps, last + dram.rtp_ps + dram.rp_ps)

    def _live(self, t: int) -> int:
        dram = self.spec
        if not dram.live_ps:
            return t
        intervals, phase = divmod(t, dram.refi_ps)
        return intervals * dram.live_ps + min(phase, dram.live_ps)

    def _real(self, t: int) -> int:
        return t + t // self.spec.live_ps * self.spec.rfc_ps if self.spec.live_ps else t


def scatter(block: int) -> int:
    """A number of 24 bits that has nothing to do with where the block lies."""
    return (block * 0x9E3779B97F4A7C15 & (1 << 64) - 1) >> 40
