"""The memory of `archsim.kernels.memory` in plain Python: readable, and the oracle of the compiled one."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field

from archsim.program import Cache, Dram, Memory, service_ps

__all__ = ["ReferenceMemory"]


@dataclass
class _Bank:
    open_row: int | None = None
    ready_ps: int = 0
    next_activate_ps: int = 0


@dataclass
class _Channel:
    banks: list[_Bank]
    bus_free_ps: int = 0
    activate_free_ps: int = 0
    last_write: bool = False


@dataclass
class _Block:
    ready_ps: int
    dirty: bool


@dataclass
class _DramState:
    """DRAM channels; `access` is one contiguous range, cut into pieces that lie in one row of one channel."""

    spec: Dram
    counters: Counter[str]
    channels: list[_Channel] = field(init=False)

    def __post_init__(self) -> None:
        self.channels = [_Channel([_Bank() for _ in range(self.spec.banks)]) for _ in range(self.spec.channels)]

    def access(self, t: int, address: int, nbytes: int, write: bool) -> tuple[int, int]:
        pieces = [self._piece(t, *piece, write) for piece in self._cut(address, nbytes)]
        self.counters["bytes_written" if write else "bytes_read"] += nbytes
        return min(head for head, _ in pieces), max(done for _, done in pieces)

    def _cut(self, address: int, nbytes: int) -> Iterator[tuple[_Channel, int, int]]:
        """Yield (channel, row, bytes) of the pieces of a range."""
        dram, end = self.spec, address + nbytes
        while address < end:
            chunk, within = divmod(address, dram.interleave_bytes)
            local = chunk // dram.channels * dram.interleave_bytes + within
            size = min(end - address, dram.interleave_bytes - within, dram.row_bytes - local % dram.row_bytes)
            yield self.channels[chunk % dram.channels], local // dram.row_bytes, size
            address += size

    def _piece(self, t: int, channel: _Channel, row: int, nbytes: int, write: bool) -> tuple[int, int]:
        dram = self.spec
        data = -(-nbytes // dram.burst_bytes) * dram.burst_ps
        slot = max(channel.bus_free_ps, t)
        if write != channel.last_write:
            slot += dram.turn_ps
            channel.last_write = write
        slot = self._after_refresh(slot)
        ready = self._open(t, channel, row)
        channel.bus_free_ps = slot + data
        self.counters["dram_busy_ps"] += data
        head = slot if write else max(slot, ready) + dram.cl_ps
        return head, head + data

    def _open(self, t: int, channel: _Channel, row: int) -> int:
        dram, bank = self.spec, channel.banks[row % self.spec.banks]
        if bank.open_row == row:
            self.counters["row_hits"] += 1
            return bank.ready_ps
        self.counters["row_misses"] += 1
        # the activate takes its place in the channel's order now; a bank that must wait does not hold up the others
        activate = max(t, channel.activate_free_ps)
        channel.activate_free_ps = activate + dram.act_ps
        activate = self._after_refresh(max(activate, bank.next_activate_ps))
        bank.next_activate_ps = activate + dram.rc_ps
        precharge = dram.rp_ps if bank.open_row is not None else 0
        bank.open_row, bank.ready_ps = row, activate + precharge + dram.rcd_ps
        return bank.ready_ps

    def _after_refresh(self, t: int) -> int:
        dram = self.spec
        if dram.refi_ps and t % dram.refi_ps < dram.rfc_ps:
            return t - t % dram.refi_ps + dram.rfc_ps
        return t


class _CacheState:
    """A write-back block cache in front of a DRAM; the dictionary is ordered from least to most recent."""

    def __init__(self, spec: Cache, dram: _DramState) -> None:
        self.spec, self.dram, self.counters = spec, dram, dram.counters
        self.blocks: OrderedDict[int, _Block] = OrderedDict()
        self.free_ps = 0

    def access(self, t: int, address: int, nbytes: int, write: bool) -> tuple[int, int]:
        cache = self.spec
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
                head, ready = self._miss(t1, number, write)
            heads.append(head)
            done = max(done, ready)
        return min(heads), done

    def _hit(self, t1: int, number: int, write: bool) -> tuple[int, int]:
        self.counters["block_hits"] += 1
        self.blocks.move_to_end(number)
        block = self.blocks[number]
        block.dirty |= write
        return t1, block.ready_ps

    def _miss(self, t1: int, number: int, write: bool) -> tuple[int, int]:
        self.counters["block_misses"] += 1
        written = self._make_room(t1)
        head = ready = t1
        if not write:
            head, ready = self.dram.access(t1, number * self.spec.block_bytes, self.spec.block_bytes, False)
        self.blocks[number] = _Block(ready, write)
        return head, max(ready, written)

    def _make_room(self, t1: int) -> int:
        """Evict the least recent block if the cache is full; return when the bus has taken it, if it was dirty."""
        size, written = self.spec.block_bytes, 0
        while (len(self.blocks) + 1) * size > self.spec.capacity_bytes:
            number, block = self.blocks.popitem(last=False)
            if block.dirty:
                _, written = self.dram.access(t1, number * size, size, True)
        return written


class ReferenceMemory:
    """One memory; `counters` tells what the latest access did, under the names of `archsim.program.Counters`."""

    def __init__(self, spec: Memory) -> None:
        self.counters: Counter[str] = Counter()
        dram = _DramState(spec.dram, self.counters)
        self._front: _DramState | _CacheState = _CacheState(spec.cache, dram) if spec.cache else dram

    def access(self, t: int, address: int, nbytes: int, write: bool) -> tuple[int, int]:
        """Serve one access that arrives at `t` and return (head, done); calls come in order of arrival."""
        self.counters.clear()
        self.counters["bytes_requested"] = nbytes
        return self._front.access(t, address, nbytes, write)
