"""Bulk assembly of a Program: whole columns of steps at a time, edges as (before, after) pairs.

Lowering makes 10^4 to 10^6 steps for an operator; a Python statement for each would cost more than simulating
it. A ``StepTable`` is sized once, filled by fancy indexing, and turns its edges into the predecessor CSR with
one stable sort.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from archsim.mapping.target import Target
from archsim.program import NO_GATHER, NO_REGION, Carry, Program, Region
from archsim.program.program import extents
from archsim.sparsity import Sparsity

__all__ = ["WORKSPACE", "Lowered", "StepTable"]

Ints = NDArray[np.int64]

#: addresses are spread over the memory ports. A transfer of many stripes goes through one port as a whole, but those
#: that follow it go through others, evenly for any distance between them (Weyl's sequence)
GOLDEN = (5**0.5 - 1) / 2

#: columns of a step, and what a join has there that stands for the step
COLUMNS = {
    "route": 0, "work_ps": 0, "nbytes": 0, "region": NO_REGION, "offset": 0, "write": False, "core": None,
    "weight": None, "room": None, "runs": 1, "stride": 0, "gather": NO_GATHER, "priority": None,
}  # fmt: skip
#: stands for scratch memory of the kernel itself in ``Lowered.tensors``
WORKSPACE = -1


@dataclass(frozen=True, eq=False)
class Lowered:
    """A kernel as a Program. ``tensors[r]`` is the graph tensor behind region ``r`` (or ``WORKSPACE``)."""

    program: Program
    tensors: tuple[int, ...]
    mapping: str


class StepTable:
    """Columns of ``n`` steps on ``target``; a row that is never written is a join."""

    def __init__(self, target: Target, n: int) -> None:
        self.target = target
        self.n = n
        self.route = np.zeros(n, dtype=np.int32)  # route 0 is the empty one
        self.work_ps = np.zeros(n, dtype=np.int64)
        self.nbytes = np.zeros(n, dtype=np.int64)
        self.region = np.full(n, NO_REGION, dtype=np.int32)
        self.offset = np.zeros(n, dtype=np.int64)
        self.write = np.zeros(n, dtype=np.bool_)
        self.core = np.full(n, -1, dtype=np.int32)
        self.weight = np.ones(n, dtype=np.int32)
        self.room = np.ones(n, dtype=np.int32)
        self.priority = np.zeros(n, dtype=np.int32)
        self.runs = np.ones(n, dtype=np.int32)
        self.stride = np.zeros(n, dtype=np.int64)
        self.gather = np.full(n, NO_GATHER, dtype=np.int64)
        self.gather_offsets = np.zeros(0, dtype=np.int64)
        self._before: list[Ints] = []
        self._after: list[Ints] = []

    def load(
        self, at: Ints, core: Ints, region: ArrayLike, offset: ArrayLike, nbytes: ArrayLike, runs: ArrayLike = 1,
        stride: ArrayLike = 0, gather: ArrayLike = NO_GATHER,
    ) -> None:  # fmt: skip
        """Transfers memory -> core. A transfer of no bytes becomes a join. In the memory its bytes lie in `runs`
        runs, every `stride` bytes or where `gather_offsets` says from `gather` on."""
        self._transfer(at, core, region, offset, nbytes, self.target.read_routes)
        self._scatter(at, runs, stride, gather)

    def store(
        self, at: Ints, core: Ints, region: ArrayLike, offset: ArrayLike, nbytes: ArrayLike, runs: ArrayLike = 1,
        stride: ArrayLike = 0, gather: ArrayLike = NO_GATHER,
    ) -> None:  # fmt: skip
        """Transfers core -> memory."""
        self._transfer(at, core, region, offset, nbytes, self.target.write_routes)
        self._scatter(at, runs, stride, gather)
        self.write[at] = self.nbytes[at] > 0

    def _scatter(self, at: Ints, runs: ArrayLike, stride: ArrayLike, gather: ArrayLike) -> None:
        """Where nothing moves there are no runs either."""
        if np.all(np.asarray(runs) == 1) and not np.any(stride) and np.all(np.asarray(gather) == NO_GATHER):
            return  # as every row is from the start
        moved = self.nbytes[at] > 0
        self.runs[at] = np.where(moved, runs, 1)
        self.stride[at] = np.where(moved, stride, 0)
        self.gather[at] = np.where(moved, gather, NO_GATHER)

    def gather_list(self, places: Ints) -> int:
        """Register places of runs; the steps name them by what this returns plus their index."""
        first = len(self.gather_offsets)
        self.gather_offsets = np.concatenate([self.gather_offsets, places])
        return first

    def receive(self, at: Ints, core: Ints) -> None:
        """Turn loads into deliveries of what another core has fetched: only the core's own port is used."""
        moved = self.nbytes[at] > 0
        self.route[at] = np.where(moved, self.target.port_routes[core], 0)
        self.region[at], self.offset[at] = NO_REGION, 0
        self.runs[at], self.stride[at], self.gather[at] = 1, 0, NO_GATHER

    def add_up(self, at: Ints, last: Ints, count: int, nbytes: Ints) -> None:
        """What ``count`` neighbouring cores hold, added by the routers on its way to the ``last`` of them."""
        self.route[at] = np.where(nbytes > 0, self.target.sum_routes[count][last // count], 0)
        self.nbytes[at] = nbytes
        self.core[at] = last

    def _transfer(
        self, at: Ints, core: Ints, region: ArrayLike, offset: ArrayLike, nbytes: ArrayLike, routes: Ints
    ) -> None:
        whole = np.asarray(nbytes)
        whole = whole if whole.dtype == np.int64 else np.ceil(whole).astype(np.int64)
        size = np.broadcast_to(whole, at.shape)
        place = np.broadcast_to(np.asarray(offset).astype(np.int64, copy=False), at.shape)
        ports, port = routes.shape[1], np.zeros(1, dtype=np.int64)
        if ports > 1:
            unit = np.maximum(size, self.target.port_stripe_bytes)
            port = ((place // unit * GOLDEN + core / ports) % 1.0 * ports).astype(np.int64)
        moved = size > 0
        self.route[at] = np.where(moved, routes[core, port], 0)
        self.nbytes[at] = size
        self.region[at] = np.where(moved, region, NO_REGION)
        self.offset[at] = np.where(moved, place, 0)
        self.core[at] = core

    def multiply(
        self, at: Ints, core: Ints, m: ArrayLike, n: ArrayLike, k: ArrayLike, dtype: str, *,
        widths: tuple[float, float, int] | None = None, busy: float = 1.0, warp: tuple[int, int] | None = None,
        unpacked: Ints | int = 0, expand: float = 1.0, sparsity: Sparsity | None = None,
    ) -> None:  # fmt: skip
        """Tile products on the matrix units; an empty one becomes a join.

        widths: feeding the operands counts, of so many bytes an element, the second shared by so many cores. busy:
        share of the time that the units multiply; their clock depends on it. warp, expand, sparsity: as in
        ``MatmulShape``.
        unpacked: as in :meth:`Target.multiply_cycles`.
        """
        m, n, k = np.broadcast_arrays(np.asarray(m), np.asarray(n), np.asarray(k))
        least = np.maximum(m, 1), np.maximum(n, 1), np.maximum(k, 1)
        if widths is None:
            cycles = self.target.matrix_cycles(*least, dtype)
        else:
            cycles = self.target.multiply_cycles(*least, dtype, *widths, warp, unpacked, expand, sparsity)
        cycles = np.where((m > 0) & (n > 0) & (k > 0), cycles, 0)
        self._work(at, core, self.target.matrix_routes, cycles, self.target.sustained_clock(dtype, busy))

    def matrix(self, at: Ints, core: Ints, cycles: Ints, dtype: str, *, busy: float = 1.0) -> None:
        """Work of given cycles on the matrix units; busy: as in :meth:`multiply`."""
        self._work(at, core, self.target.matrix_routes, cycles, self.target.sustained_clock(dtype, busy))

    def vector(self, at: Ints, core: Ints, cycles: ArrayLike, *, clock: float | None = None) -> None:
        """Work of given cycles on the vector units; none makes a join. clock: of cores whose matrix units are busy."""
        cycles = np.broadcast_to(np.asarray(cycles), at.shape)
        self._work(at, core, self.target.vector_routes, cycles, clock or self.target.clock)

    def barrier(self, at: int, before: Ints) -> None:
        """One step at which all cores wait for the steps ``before``: what waits for it sees all that they wrote."""
        self.route[at], self.work_ps[at] = self.target.barrier_route, 1
        self.after(np.full(len(before), at), before)

    def _work(self, at: Ints, core: Ints, routes: Ints, cycles: Ints, clock: float) -> None:
        self.route[at] = np.where(cycles > 0, routes[core], 0)
        self.work_ps[at] = np.ceil(cycles * (1e12 / clock)).astype(np.int64)
        self.core[at] = core

    def after(self, step: Ints, before: ArrayLike) -> None:
        """Each ``step`` waits for its ``before``; a negative ``before`` is no edge."""
        wanted = np.broadcast_to(np.asarray(before, dtype=np.int64), step.shape)
        real = wanted >= 0
        self._before.append(wanted[real])
        self._after.append(step[real])

    def _cut(self, most: int, before: Ints, after: Ints, carry: Carry | None) -> tuple[Ints, Ints, Carry | None]:
        """Cut every read of more than ``most`` bytes into parts, which a join gathers; return the edges and the carry.

        What is outstanding is then counted in parts, and the next takes the room that one leaves. Runs stay whole.
        """
        scattered = self.runs > 1
        unit = np.where(scattered, self.nbytes // self.runs, 1)
        units = np.where(scattered, self.runs, self.nbytes)
        held = np.maximum(most // np.maximum(unit, 1), 1)  # units of a part
        parts = np.where(np.isin(self.route, self.target.read_routes), -(-units // held), 1)
        copies = np.where(parts > 1, parts + 1, 1)
        last = np.cumsum(copies) - 1  # the step itself, or the join in its place
        origin = np.repeat(np.arange(self.n), copies)
        for column in COLUMNS:
            setattr(self, column, getattr(self, column)[origin])
        self.n = len(origin)
        joins = np.zeros(self.n, dtype=np.bool_)
        joins[last[parts > 1]] = True
        cut = np.flatnonzero((copies[origin] > 1) & ~joins)
        which = origin[cut]
        skipped = (cut - (last - parts)[which]) * held[which]
        here = np.minimum(units[which] - skipped, held[which])
        self.nbytes[cut] = here * unit[which]
        self.runs[cut] = np.where(scattered[which], here, 1)
        listed = self.gather[cut] >= 0
        self.gather[cut] += np.where(listed, skipped, 0)
        self.offset[cut] += np.where(listed, 0, skipped * np.where(scattered[which], self.stride[cut], 1))
        for column, nothing in COLUMNS.items():
            if nothing is not None:
                getattr(self, column)[joins] = nothing
        # each part waits for what the read waited for, and the join for the parts
        times = parts[after]
        first = np.repeat((last - np.where(parts > 1, parts, 0))[after], times)
        turn = np.arange(len(first)) - np.repeat(np.cumsum(times) - times, times)
        return (
            np.concatenate([np.repeat(last[before], times), cut]),
            np.concatenate([first + turn, last[which]]),
            carry and replace(carry, steps=last[carry.steps]),
        )

    def build(
        self, name: str, regions: list[str], tensors: list[int], mapping: str, *, carry: Carry | None = None
    ) -> Lowered:
        """Check and freeze."""
        before = np.concatenate([np.zeros(0, np.int64), *self._before])
        after = np.concatenate([np.zeros(0, np.int64), *self._after])
        if self.target.part_bytes is not None:
            before, after, carry = self._cut(self.target.part_bytes, before, after, carry)
        pred_start = np.zeros(self.n + 1, dtype=np.int64)
        np.cumsum(np.bincount(after, minlength=self.n), out=pred_start[1:])
        for column in COLUMNS:
            getattr(self, column).setflags(write=False)
        routes = self.target.routes
        end = self.offset + extents(self.nbytes, self.runs, self.stride, self.gather, self.gather_offsets)
        program = Program(
            machine=self.target.machine,
            name=name,
            route_start=routes.start,
            route_resources=routes.resources,
            route=self.route,
            work_ps=self.work_ps,
            nbytes=self.nbytes,
            region=self.region,
            offset=self.offset,
            write=self.write,
            priority=self.priority,
            tag=self.core,
            pred_start=pred_start,
            preds=before[np.argsort(after, kind="stable")].astype(np.int32),
            regions=tuple(Region(text, int(end[self.region == r].max(initial=1))) for r, text in enumerate(regions)),
            weight=self.weight,
            room=self.room,
            partition=self.target.partition(np.maximum(self.core, 0)).astype(np.int8),
            runs=self.runs,
            stride=self.stride,
            gather=self.gather,
            gather_offsets=self.gather_offsets,
            carry=carry or Carry.nothing(),
        )
        return Lowered(program, tuple(tensors), mapping)
