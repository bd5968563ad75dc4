"""A memory inside the reference interpreter whose DRAM issues every command: the `cycle` fidelity of a step.

The controllers of `archsim.kernels.dram_cycle` reorder what waits, so a transfer's end is not known when it arrives.
They run behind the simulated time, never ahead of it, and look at it once in a column latency: the data of a read
comes no sooner than that after its command, so that no read is reported late. The end of a write, which is its last
command, may be seen by one look later.

A transfer goes on to the next resource with its first burst, and ends no sooner than its last. Bursts beyond what the
queues hold wait in front of them, in order of arrival in each channel.

Assumptions: no cache in front; transfers begin and end at bursts. Not modelled: latencies other than those of the
memory resource and the DRAM itself.
"""

from __future__ import annotations

from collections.abc import Generator

import numpy as np
from numpy.typing import NDArray
from simpy import Environment, Event

from archsim.engine.reference import Arbiter, Request, Service
from archsim.kernels.dram_cycle import cycle_kernel
from archsim.program import Memory
from archsim.program.dram import DramChannels

__all__ = ["CycleMemory", "cycle_memory"]


def cycle_memory(dram: DramChannels) -> type[CycleMemory]:
    """The arbiter of a memory made of these channels, for `SimpyInterpreter(models={"memory": ...})`."""
    return type("CycleMemory", (CycleMemory,), {"dram": dram})


class CycleMemory(Arbiter):
    """Hands bursts to the controllers, and hears from them when they are done."""

    dram: DramChannels

    def __init__(self, env: Environment, spec: Memory) -> None:
        super().__init__(env, spec)
        self.kernel = cycle_kernel(self.dram)
        self.tick_ps = self.dram.timing.tick_ps
        self.look_ps = max(1, int(self.dram.timing.cl * self.tick_ps))
        self.burst_bytes = self.dram.map.organisation.burst_bytes
        self.open: dict[int, tuple[Request, int]] = {}
        self.offered = 0
        self.activates = 0
        self._awake = env.event()
        env.process(self._watch())

    def _arbitrate(self) -> Generator[Event, None, None]:
        while True:
            for request in (yield from self._arrivals()):
                self._offer(request)
            if not self._awake.triggered:
                self._awake.succeed()

    def _offer(self, request: Request) -> None:
        addresses = self._bursts(request)
        request.late = self.env.event()
        self.kernel.offer(self.offered, addresses, request.write, -int(-self.env.now // self.tick_ps))
        self.open[self.offered] = (request, len(addresses))
        self.offered += 1

    def _bursts(self, request: Request) -> NDArray[np.int64]:
        """Addresses of the bursts of a transfer, run after run."""
        size = self.burst_bytes
        starts = request.address + np.array(request.runs, dtype=np.int64)
        first, end = starts // size, -(-(starts + request.nbytes // len(starts)) // size)
        each = end - first
        within = np.arange(each.sum()) - np.repeat(np.cumsum(each) - each, each)
        addresses: NDArray[np.int64] = (np.repeat(first, each) + within) * size % self.dram.map.capacity_bytes
        return addresses

    def _watch(self) -> Generator[Event, None, None]:
        """Let the controllers catch up, look after look, while transfers are under way."""
        while True:
            if not self.open:
                self._awake = self.env.event()
                yield self._awake
            yield self.env.timeout(self.look_ps)
            heads, ends = self.kernel.advance(int(self.env.now // self.tick_ps))
            for tag, tick in heads:
                request, bursts = self.open[tag]
                busy = round(bursts * self.dram.timing.bl * self.tick_ps)
                self._later(request.granted, tick, Service(int(self.env.now), self._ps(tick), self._ps(tick), busy))
            for tag, tick in ends:
                request, bursts = self.open.pop(tag)
                self._count(request, bursts)
                assert request.late is not None
                self._later(request.late, tick, self._ps(tick))

    def _ps(self, tick: int) -> int:
        return max(round(tick * self.tick_ps), int(self.env.now))

    def _later(self, event: Event, tick: int, value: object) -> None:
        def wait() -> Generator[Event, None, None]:
            yield self.env.timeout(self._ps(tick) - self.env.now)
            event.succeed(value)

        self.env.process(wait())

    def _count(self, request: Request, bursts: int) -> None:
        """Rows that were opened since the last transfer ended count as this one's."""
        activates = self.kernel.activates()
        moved, commands = ("bytes_written", "write_bursts") if request.write else ("bytes_read", "read_bursts")
        counts = {
            "bytes_requested": request.nbytes, moved: bursts * self.burst_bytes, commands: bursts,
            "activates": activates - self.activates, "dram_busy_ps": round(bursts * self.dram.timing.bl * self.tick_ps),
        }  # fmt: skip
        request.counters.update({name: request.weight * count for name, count in counts.items()})
        self.activates = activates
