"""The memory of `archsim.kernels.memory` in plain Python: readable, and the oracle of the compiled one."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import groupby
from operator import or_

from archsim.engine.reference_dram import ReferenceDram, scatter
from archsim.program import Cache, Memory, service_ps
from archsim.program.machine import SECTORS, SLOTS

__all__ = ["ReferenceMemory"]


@dataclass
class _Block:
    """A block of the cache: its sectors as bits."""

    ready_ps: int = 0  # the sectors that were fetched last
    earlier_ps: int = 0  # all others
    valid: int = 0
    fresh: int = 0
    dirty: int = 0
    room: int = 0
    holders: frozenset[int] = frozenset()  # partitions
    copies: int = 1  # how often it is held, times the number of partitions
    held: int = 0  # sectors, each as often as it stands for others and has copies


class _CacheState:
    """A write-back block cache in front of a DRAM; the dictionary is ordered from least to most recent."""

    def __init__(self, spec: Cache, dram: ReferenceDram) -> None:
        self.spec, self.dram, self.counters = spec, dram, dram.counters
        self.blocks: OrderedDict[int, _Block] = OrderedDict()
        self.free_ps = [0] * spec.slices
        self.held = 0

    def access(
        self, t: int, ranges: Sequence[tuple[int, int]], write: bool, room: int, partition: int
    ) -> tuple[int, int]:
        cache = self.spec
        room = min(room, cache.capacity_bytes // cache.block_bytes)
        starts, ends = zip(*self._pass(t, ranges), strict=True)
        self.counters["cache_busy_ps"] += (sum(ends) - sum(starts)) // cache.slices
        t1, done = min(starts) + cache.hit_latency_ps, max(ends) + cache.hit_latency_ps
        heads = []
        for number, mask in self._touched(ranges):
            head, ready = self._touch(t1, number, mask, write, room, partition)
            heads.append(head)
            done = max(done, ready)
        return min(heads), done

    def _pass(self, t: int, ranges: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int]]:
        """Yield when each slice with a share of the ranges begins and ends to pass it."""
        cache, load = self.spec, Counter[int]()
        for address, nbytes in ranges:
            for chunk in range(address // cache.interleave_bytes, (address + nbytes - 1) // cache.interleave_bytes + 1):
                begin, end = chunk * cache.interleave_bytes, (chunk + 1) * cache.interleave_bytes
                which = (chunk + scatter(chunk // cache.slices)) % cache.slices
                load[which] += min(end, address + nbytes) - max(begin, address)
        for which, nbytes in load.items():
            start = max(t, self.free_ps[which])
            self.free_ps[which] = start + service_ps(nbytes, cache.as_per_byte * cache.slices)
            yield start, self.free_ps[which]

    def _touched(self, ranges: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int]]:
        """Yield the blocks with their sectors, as bits; consecutive ranges in one block touch it once."""
        size, sector = self.spec.block_bytes, self.spec.sector_bytes
        touches = [
            (number, (max(begin - number * size, 0), min(begin + nbytes - 1 - number * size, size - 1)))
            for begin, nbytes in ranges
            for number in range(begin // size, (begin + nbytes - 1) // size + 1)
        ]
        for number, spans in groupby(touches, key=lambda touch: touch[0]):
            bits = [(2 << last // sector) - (1 << first // sector) for _, (first, last) in spans]
            yield number, reduce(or_, bits)

    def _touch(
        self, t1: int, number: int, mask: int, write: bool, room: int, partition: int
    ) -> tuple[int, int]:
        """First and last data of some sectors of a block, which becomes the most recent."""
        present, written = number in self.blocks, 0
        block, head = self.blocks.pop(number, _Block()), t1
        self._copy(block, number, write, room, partition)
        more = room * block.copies * (block.valid | mask).bit_count() - block.held
        if more > 0:
            written = self._make_room(t1, more, 0 if present else 1, room)
        self.blocks[number] = block
        missing = 0 if write else mask & ~block.valid
        self.counters["block_hits" if present and not missing else "block_misses"] += 1
        if missing:
            head, fetched = self._move(t1, number, missing, False)
            block.earlier_ps, block.ready_ps, block.fresh = max(block.earlier_ps, block.ready_ps), fetched, missing
        ready = max(block.ready_ps if mask & block.fresh else 0, block.earlier_ps if mask & ~block.fresh else 0)
        block.valid |= mask
        block.dirty |= mask if write else 0
        self.held += more
        block.held += more
        block.room = room
        return head, max(ready, written)

    def _copy(self, block: _Block, number: int, write: bool, room: int, partition: int) -> None:
        """Note which partitions hold a block: its home, and those that have read it since it was written."""
        several = self.spec.partitions
        if several == 1:
            return
        home = frozenset({scatter(number) % several})
        if write:
            block.holders, block.copies = home, several
        else:
            block.holders |= home | {partition % several}
            read = several * len(block.holders) if room == 1 else 2 * several - 1
            block.copies = max(block.copies, read)

    def _move(self, t: int, number: int, mask: int, write: bool) -> tuple[int, int]:
        """Fetch sectors of a block, or write them back: neighbours as one access."""
        size, sector = self.spec.block_bytes, self.spec.sector_bytes
        heads, done = [], 0
        for inside, bits in groupby(range(SECTORS), key=lambda bit: mask >> bit & 1):
            span = list(bits)
            if inside:
                begin, end = span[0] * sector, min((span[-1] + 1) * sector, size)
                head, last = self.dram.access(t, [(number * size + begin, end - begin)], write)
                heads.append(head)
                done = max(done, last)
        return min(heads), done

    def _make_room(self, t1: int, sectors: int, new: int, room: int) -> int:
        """Evict the least recent blocks until so many sectors fit; return when the bus has taken those that were
        dirty, of which one in `room` is written back."""
        cache, written = self.spec, 0
        most = cache.capacity_bytes // cache.block_bytes
        capacity = most * -(-cache.block_bytes // cache.sector_bytes) * cache.partitions
        present = len(self.blocks) + 1 - new  # the block itself is not among them now
        while self.blocks and (self.held + sectors > capacity or present + new > SLOTS * most):
            number, block = self.blocks.popitem(last=False)
            present -= 1
            self.held -= block.held
            if block.dirty and scatter(number) % room < block.room:
                written = max(written, self._move(t1, number, block.dirty, True)[1])
        return written


class ReferenceMemory:
    """One memory; `counters` tells what the latest access did, under the names of `archsim.program.Counters`."""

    def __init__(self, spec: Memory) -> None:
        self.counters: Counter[str] = Counter()
        dram = ReferenceDram(spec.dram, self.counters)
        self._dram = dram
        self._cache = _CacheState(spec.cache, dram) if spec.cache else None

    def access(
        self, t: int, address: int, nbytes: int, write: bool, room: int = 1, runs: Sequence[int] = (0,),
        partition: int = 0,
    ) -> tuple[int, int]:  # fmt: skip
        """Serve one access that arrives at `t` and return (head, done); calls come in order of arrival. Its bytes lie
        in runs of equal size that begin at address + runs[i]."""
        self.counters.clear()
        self.counters["bytes_requested"] = nbytes
        ranges = [(address + begin, nbytes // len(runs)) for begin in runs]
        if self._cache is None:
            return self._dram.access(t, ranges, write)
        return self._cache.access(t, ranges, write, room, partition)
