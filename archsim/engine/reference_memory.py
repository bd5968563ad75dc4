"""The memory of `archsim.kernels.memory` in plain Python: readable, and the oracle of the compiled one."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field

from archsim.program import Cache, Dram, Memory, service_ps
from archsim.program.machine import HOLES, LOOK_AHEAD, SESSIONS

__all__ = ["ReferenceMemory"]


@dataclass
class _Session:
    """A row that is open, or has been closed for another one at `closed_ps`."""

    row: int
    opened_ps: int
    next_column_ps: int
    closed_ps: int


@dataclass
class _Bank:
    open: _Session | None = None
    next_activate_ps: int = 0
    sessions: list[_Session] = field(default_factory=list)


@dataclass
class _Bus:
    """A lane's data bus: free from some time on, and in idle times before that."""

    free_ps: int = 0
    latest_ps: int = 0  # the latest end of a hole
    holes: list[tuple[int, int]] = field(default_factory=lambda: [(0, 0)] * HOLES)
    next: int = 0  # the hole to be forgotten

    def take(self, earliest: int, length: int) -> int:
        """A slot in idle time that was left before, or at the end."""
        if earliest + length <= self.latest_ps:
            for i, (begin, end) in enumerate(self.holes):
                slot = max(begin, earliest)
                if slot + length <= end:
                    # of what is left before and after, the longer part is kept
                    self.holes[i] = (begin, slot) if slot - begin > end - slot - length else (slot + length, end)
                    return slot
        slot = max(self.free_ps, earliest)
        if slot > self.free_ps:
            self.holes[self.next] = (self.free_ps, slot)
            self.latest_ps = slot
            self.next = (self.next + 1) % HOLES
        self.free_ps = slot + length
        return slot


@dataclass
class _Lane:
    """One pseudo-channel."""

    banks: list[_Bank]
    group_free_ps: list[int]
    bus: _Bus = field(default_factory=_Bus)
    activate_free_ps: int = 0
    written: int = 0


@dataclass
class _Queue:
    """What a channel's controller looks ahead,
    in blocks of bursts; `left_sums` sum up when the bursts of each leave."""

    block_bursts: int
    bursts: int = 0
    gate_ps: int = 0
    present: int = 0
    left_sums: list[int] = field(default_factory=lambda: [0] * LOOK_AHEAD)

    def enter(self, t: int) -> int:
        """When a run that is offered at `t` is taken in."""
        if self.block_bursts and self.bursts >= self.block_bursts:
            self.present = min(range(LOOK_AHEAD), key=lambda i: self.left_sums[i])
            self.gate_ps = max(self.gate_ps, self.left_sums[self.present] // self.block_bursts)
            self.left_sums[self.present] = self.bursts = 0
        return max(t, self.gate_ps)

    def leave(self, bursts: int, leaves: int) -> None:
        """A run has entered and will have left at `leaves`; blocks that it fills take the place of the first to
        leave."""
        while self.block_bursts:
            part = min(bursts, self.block_bursts - self.bursts)
            self.left_sums[self.present] += part * leaves
            self.bursts += part
            bursts -= part
            if bursts == 0:
                return
            self.enter(0)


@dataclass
class _Block:
    ready_ps: int
    dirty: bool
    room: int


@dataclass
class _DramState:
    """DRAM lanes; `access` is one contiguous range, cut into runs that lie in one row of one bank.

    Times inside are live times: those that all-bank refreshes take are left out, and put back at the end.
    """

    spec: Dram
    counters: Counter[str]
    lanes: list[_Lane] = field(init=False)
    queues: list[_Queue] = field(init=False)
    closed_before_ps: int = 0

    def __post_init__(self) -> None:
        dram = self.spec
        self.lanes = [
            _Lane([_Bank() for _ in range(dram.banks)], [0] * dram.bank_groups)
            for _ in range(dram.channels * dram.lanes_per_channel)
        ]
        self.queues = [_Queue(dram.block_bursts) for _ in range(dram.channels)]

    def access(self, t: int, address: int, nbytes: int, write: bool) -> tuple[int, int]:
        t = self._live(t)
        if self.spec.live_ps:
            self.closed_before_ps = max(self.closed_before_ps, t - t % self.spec.live_ps)
        runs = [self._run(t, *run, write) for run in self._cut(address, nbytes)]
        self.counters["bytes_written" if write else "bytes_read"] += nbytes
        return self._real(min(head for head, _ in runs)), self._real(max(t, *(done for _, done in runs)))

    def _cut(self, address: int, nbytes: int) -> Iterator[tuple[_Queue, _Lane, int, int, int]]:
        """Yield (queue, lane, bank, row, bytes) of the runs of a range."""
        dram, end = self.spec, address + nbytes
        while address < end:
            chunk, within = divmod(address, dram.interleave_bytes)
            local = chunk // dram.channels * dram.interleave_bytes + within
            size = min(end - address, dram.interleave_bytes - within, dram.run_bytes - local % dram.run_bytes)
            lane, bank, row = self._place(local)
            channel = chunk % dram.channels
            yield self.queues[channel], self.lanes[channel * dram.lanes_per_channel + lane], bank, row, size
            address += size

    def _place(self, local: int) -> tuple[int, int, int]:
        if self.spec.map is None:
            row = local // self.spec.row_bytes
            return 0, row % self.spec.banks, row
        flat, row = self.spec.map.place(local)
        return *divmod(flat, self.spec.banks), row

    def _run(
        self, t: int, queue: _Queue, lane: _Lane, number: int, row: int, nbytes: int, write: bool
    ) -> tuple[int, int]:
        dram, bank = self.spec, lane.banks[number]
        bursts = -(-nbytes // dram.burst_bytes)
        group = number // (dram.banks // dram.bank_groups)
        arrival = queue.enter(t)
        if write:
            turned = min(dram.drain_bursts, lane.written + bursts)
            lane.bus.free_ps += dram.turn_ps * (turned - lane.written) // dram.drain_bursts
            lane.written = turned
        else:
            lane.written = 0
        activate = 0
        session = bank.open
        if session and session.row == row and session.opened_ps >= self.closed_before_ps:
            self.counters["row_hits"] += 1
        else:
            session, activate = self._open(arrival, lane, number, row, write)
        spacing = max(dram.ccd_ps, dram.burst_ps)
        lane.group_free_ps[group] = max(lane.group_free_ps[group], arrival)
        column = lane.bus.take(max(arrival, session.next_column_ps, lane.group_free_ps[group]), bursts * dram.burst_ps)
        lane.group_free_ps[group] += bursts * spacing
        last = column + (bursts - 1) * spacing
        session.next_column_ps = last + spacing
        closed = last + (dram.wr_ps if write else dram.rtp_ps) + dram.rp_ps
        bank.next_activate_ps = max(bank.next_activate_ps, closed)
        # a request leaves the queue with its activate or its column command; those of a run one after the other
        queue.leave(bursts, (column + last) // 2 if bursts > 1 or activate == 0 else activate)
        self.counters["dram_busy_ps"] += bursts * dram.burst_ps
        if write:
            return column, column + bursts * dram.burst_ps
        return column + dram.cl_ps, last + dram.burst_ps + dram.cl_ps

    def _open(self, arrival: int, lane: _Lane, number: int, row: int, write: bool) -> tuple[_Session, int]:
        """The session of a row that is not open, and its activate, if it was not open when the run arrived either."""
        dram, bank = self.spec, lane.banks[number]
        before = bank.open if bank.open and bank.open.opened_ps >= self.closed_before_ps else None
        if before:
            for session in bank.sessions:
                if session.row == row and session.closed_ps > arrival and session.opened_ps >= self.closed_before_ps:
                    # it waited beside those that the row was open for, and went with them
                    self.counters["row_hits"] += 1
                    return session, 0
        self.counters["row_misses"] += 1
        # the activate takes its place in the lane's order now; a bank that must wait does not hold up the others
        turn = max(arrival, lane.activate_free_ps)
        lane.activate_free_ps = turn + dram.act_ps
        activate = max(turn + dram.rp_ps if before else turn, bank.next_activate_ps)
        if dram.refi_bank_ps:
            phase = (activate - number * dram.refi_bank_ps) % (dram.banks * dram.refi_bank_ps)
            activate += max(0, dram.rfc_bank_ps - phase)
        if before:
            before.closed_ps = activate - dram.rp_ps
            bank.sessions = [before, *bank.sessions[: SESSIONS - 1]]
        to_column = (dram.rcd_write_ps or dram.rcd_ps) if write else dram.rcd_ps
        bank.open, bank.next_activate_ps = _Session(row, activate, activate + to_column, 0), activate + dram.rc_ps
        return bank.open, activate

    def _live(self, t: int) -> int:
        dram = self.spec
        if not dram.live_ps:
            return t
        intervals, phase = divmod(t, dram.refi_ps)
        return intervals * dram.live_ps + min(phase, dram.live_ps)

    def _real(self, t: int) -> int:
        return t + t // self.spec.live_ps * self.spec.rfc_ps if self.spec.live_ps else t


class _CacheState:
    """A write-back block cache in front of a DRAM; the dictionary is ordered from least to most recent."""

    def __init__(self, spec: Cache, dram: _DramState) -> None:
        self.spec, self.dram, self.counters = spec, dram, dram.counters
        self.blocks: OrderedDict[int, _Block] = OrderedDict()
        self.free_ps = self.held = 0

    def access(self, t: int, address: int, nbytes: int, write: bool, room: int) -> tuple[int, int]:
        cache = self.spec
        room = min(room, cache.capacity_bytes // cache.block_bytes)
        service = service_ps(nbytes, cache.as_per_byte)
        start = max(t, self.free_ps)
        self.free_ps = start + service
        self.counters["cache_busy_ps"] += service
        t1 = start + cache.hit_latency_ps
        heads, done = [], t1 + service
        for number in range(address // cache.block_bytes, (address + nbytes - 1) // cache.block_bytes + 1):
            if number in self.blocks:
                head, ready = self._hit(t1, number, write)
            else:
                head, ready = self._miss(t1, number, write, room)
            self.held += room - self.blocks[number].room
            self.blocks[number].room = room
            heads.append(head)
            done = max(done, ready)
        return min(heads), done

    def _hit(self, t1: int, number: int, write: bool) -> tuple[int, int]:
        self.counters["block_hits"] += 1
        self.blocks.move_to_end(number)
        block = self.blocks[number]
        block.dirty |= write
        return t1, block.ready_ps

    def _miss(self, t1: int, number: int, write: bool, room: int) -> tuple[int, int]:
        self.counters["block_misses"] += 1
        written = self._make_room(t1, room)
        head = ready = t1
        if not write:
            head, ready = self.dram.access(t1, number * self.spec.block_bytes, self.spec.block_bytes, False)
        self.blocks[number] = _Block(ready, write, 0)
        return head, max(ready, written)

    def _make_room(self, t1: int, room: int) -> int:
        """Evict the least recent blocks if the cache is full; return when the bus has taken those that were dirty, of
        which one in `room` is written back."""
        size, written = self.spec.block_bytes, 0
        while self.blocks and (self.held + room) * size > self.spec.capacity_bytes:
            number, block = self.blocks.popitem(last=False)
            self.held -= block.room
            if block.dirty and _scatter(number) % room < block.room:
                written = max(written, self.dram.access(t1, number * size, size, True)[1])
        return written


def _scatter(block: int) -> int:
    """A number of 24 bits that has nothing to do with where the block lies."""
    return (block * 0x9E3779B97F4A7C15 & (1 << 64) - 1) >> 40


class ReferenceMemory:
    """One memory; `counters` tells what the latest access did, under the names of `archsim.program.Counters`."""

    def __init__(self, spec: Memory) -> None:
        self.counters: Counter[str] = Counter()
        dram = _DramState(spec.dram, self.counters)
        self._dram = dram
        self._cache = _CacheState(spec.cache, dram) if spec.cache else None

    def access(self, t: int, address: int, nbytes: int, write: bool, room: int = 1) -> tuple[int, int]:
        """Serve one access that arrives at `t` and return (head, done); calls come in order of arrival."""
        self.counters.clear()
        self.counters["bytes_requested"] = nbytes
        if self._cache is None:
            return self._dram.access(t, address, nbytes, write)
        return self._cache.access(t, address, nbytes, write, room)
