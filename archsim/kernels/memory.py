"""A block cache in front of DRAM channels, stateful and integer, one access at a time.

An access arrives at `t` and returns `head` (first data) and `done` (last data), in ps. Its bytes lie in one or several
runs of equal size, which are served in order: tiles of a matrix (a run every `stride` bytes), pages (runs anywhere).

Cache (if there is one). Chunk c = address // interleave is on slice (c + hash(c // slices)) % slices; for each slice
with bytes of the access, s = service_ps(its bytes, rate / slices):

    start = max(t, slice_free);  slice_free = start + s
    t1 = the earliest start + hit_latency;  done = the latest start + s, + hit_latency
    each block touched, in the order of the runs (consecutive runs in one block touch it once), becomes the most recent:
      absent:  the least recent blocks leave until it fits; the dirty sectors of one are written back at t1,
               done = max(done, their end)
      read:    the sectors touched that are not there are fetched at t1, neighbours in one go
      write:   the sectors touched are there and dirty, without a fetch
      done = max(done, the end of the fetch that brought the sectors touched)       (a hit under a pending miss waits)
    head = t1, or, if a read found none of its blocks complete, the earliest head of the fetches

A block has up to 64 sectors; of its fetches the latest is remembered by itself, all others together. What fills the
cache are sectors, each as often as the step that touched its block last stands for others, and as it is held; eight
times as many blocks may be there, partly filled, as whole ones fit.

Partitions (if there are several, p of them): hash(block) % p is the home of a block. It is held there, and in every
partition beside which it was read since it was last written; a read that stands for others finds it held 2 - 1 / p
times at least, as one reader anywhere would. All copies are one entry of the order of age.

DRAM: chunk c = address // interleave is on channel c % channels, at local address (c // channels) * interleave +
address % interleave; in a hashed memory on channel (c + h(c // channels)) % channels, h being Fibonacci hashing. The
map of a channel says pseudo-channel (lane), bank and row (without a map: row = local // row_bytes, bank = row % banks).
A range is cut into runs of consecutive bytes in one row of one bank. All times are
live times, without those that all-bank refreshes take; these are put back at the end, and close all rows.

A run enters the read or the write queue of its channel in pieces of at most an eighth of the queue, in order: when
there is room, that is when enough of those in it have left. A piece of n bursts that is in the queue from `arrival` on:

    row     open: its next column. Closed for another row only after the bus would be idle for this piece, from its
            arrival and the next column of that time on: it goes then, for it waits beside those that the row is open
            for (FR-FCFS), and what the bank opens after it is put off. Else an activate, in the order of arrival but
            for what the bank itself has to wait for (`late`):
                turn = max(arrival, act_free, row_bus_free)  (+ rp if another row is open);  act_free += act
                act = max(turn, last act + rc, last column + rtp or wr + rp),  skipping the bank's own refresh; if that
                waits for the bank (act > turn), not within `act` of the last one of the lane that did
                next column = act + rcd
    group   group_free = max(group_free, arrival) + n * ccd, or the last column + ccd - late
    column  from max(arrival, next column, group_free before unless it goes with an earlier row) on, where the bus of
            the lane is idle: the bursts of bus time ahead, 240 at most, are remembered with their bank group, so that a
            piece that must wait for its bank holds up no other; a single burst keeps ccd from those of its own group
    last    column + (n - 1) * ccd, or later where the bus is not idle
    stacks  beside a burst of another stack of dies the bus idles for ccd_stack - burst (tCCD_R): a single burst at each
            such change if one of the stacks has but one group to go on with; else, as the queue serves what it holds of
            one stack first, at one of read_queue / lanes / stacks
    leaves  the queue with its activate, or half-way through its columns

A read ends with the data of its last column; head = column + cl, done = last + burst + cl. A write ends on the bus
(posted). While reads wait, writes do too: above `drain_high` bursts of them those are served whose column, or the
activate of whose bank, can come first, down to `drain_low`, or all when no read waits. The bus turns at the end of what
did not wait for a bank (`to_write`, `to_read`), and reads that come later have their columns after those writes; until
then such a write is said to end after all that is booked. Those that still wait when a program ends are served before
the next one reads. It ends with their bursts, without the turn and the activates that they may need: a controller
acknowledges a write when it takes it in, since later reads are answered from its queue.

Assumptions: requests come to a channel in the order of the accesses. Times of JEDEC names as in JESD235/JESD238. Valid
for runs of any size; within 3 % of the cycle model on average over the reference streams, 5 % over random standards,
maps, controllers and streams (docs/memory.md). Not modelled: tRRD_L, tWTR by bank group, refreshes put off,
finite miss registers of the cache.
"""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
from numpy.typing import ArrayLike, NDArray

from archsim.errors import InputError
from archsim.kernels._memory import MemoryKernel
from archsim.program import Counters, Memory

__all__ = ["MemoryModel", "memory_kernel"]


#: what the kernel takes from a `Dram` beside its fields
DERIVED = ("lanes_per_channel", "run_bytes", "live_ps", "reach", "groups_of_stack", "share_of_stack", "switch_ps")


def memory_kernel(memory: Memory) -> MemoryKernel:
    """The compiled state of a memory, for the model below and for the interpreter."""
    cache = memory.cache
    blocks = cache.capacity_bytes // cache.block_bytes if cache else 0
    dram = memory.dram
    derived = {name: getattr(dram, name) for name in DERIVED}
    effective = {"ccd_ps": dram.column_ps, "rcd_write_ps": dram.rcd_write_ps or dram.rcd_ps}
    tables = dram.map.tables if dram.map else None
    front = {**asdict(cache), "sector_bytes": cache.sector_bytes} if cache else {}
    return MemoryKernel({**vars(dram), **derived, **effective}, tables, blocks, front)


class MemoryModel:
    """One memory driven on its own, outside of any program.

    >>> from archsim.program import Dram
    >>> dram = Dram(channels=1, interleave_bytes=256, banks=4, row_bytes=1024, burst_bytes=32, burst_ps=1000,
    ...             cl_ps=10_000, rcd_ps=12_000, rp_ps=15_000, rc_ps=40_000)
    >>> model = MemoryModel(Memory("hbm", "memory", dram))
    >>> model.access(0, address=0, nbytes=64)          # closed bank: rcd + cl, then two bursts
    (22000, 24000)
    >>> model.access(100_000, address=64, nbytes=64)   # row hit: cl
    (110000, 112000)
    >>> model.access(200_000, address=4096, nbytes=64) # conflict in bank 0: rp + rcd + cl
    (237000, 239000)
    """

    def __init__(self, memory: Memory) -> None:
        self.memory = memory
        self._kernel = memory_kernel(memory)

    def access(
        self, t_ps: int, address: int, nbytes: int, write: bool = False, *, runs: int = 1, stride: int = 0
    ) -> tuple[int, int]:
        """Serve one access and return (head, done) in ps."""
        head, done = self.access_many([t_ps], [address], [nbytes], [write], runs=runs, stride=stride)
        return int(head[0]), int(done[0])

    def access_many(
        self, t_ps: ArrayLike, address: ArrayLike, nbytes: ArrayLike, write: ArrayLike = False, *,
        runs: ArrayLike = 1, stride: ArrayLike = 0,
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:  # fmt: skip
        """Serve accesses in the order given (arrays, or one value for all) and return arrays (head, done) in ps.

        An access of several runs has nbytes / runs of its bytes every `stride` bytes.
        """
        columns = np.broadcast_arrays(np.atleast_1d(t_ps), address, nbytes, runs, stride, write)
        t, where, size, several, way = (np.ascontiguousarray(column, np.int64) for column in columns[:5])
        named = (("time", t, 0), ("address", where, 0), ("size", size, 1), ("runs", several, 1), ("stride", way, 0))
        for what, column, least in named:
            if (column < least).any():
                raise InputError(f"{self.memory.name}: the {what} of an access must be at least {least}.")
        if (size % several).any():
            raise InputError(f"{self.memory.name}: the bytes of an access must be a multiple of its runs.")
        head, done = np.empty_like(t), np.empty_like(t)
        writes = np.ascontiguousarray(columns[5], np.bool_).view(np.uint8)
        self._kernel.access(t, where, size, writes, several, way, head, done)
        latency = self.memory.latency_ps
        return head + latency, done + latency

    def access_in_order(self, address: ArrayLike, nbytes: ArrayLike, write: ArrayLike = False) -> NDArray[np.int64]:
        """Serve accesses of which each is offered when the one before has been taken in; return when they are done."""
        columns = np.broadcast_arrays(address, nbytes, write)
        where, size = (np.ascontiguousarray(column, np.int64) for column in columns[:2])
        done = np.empty_like(where)
        self._kernel.access_in_order(where, size, np.ascontiguousarray(columns[2], np.bool_).view(np.uint8), done)
        return done + self.memory.latency_ps

    @property
    def counters(self) -> Counters:
        """What the memory has done since it was made or reset."""
        return Counters(**self._kernel.read_counters())

    def reset(self) -> None:
        """Forget everything: rows closed, cache empty, counters at zero."""
        self._kernel.reset()
