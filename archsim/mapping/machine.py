"""A chip as the machine that the engine runs: its table of resources, and the routes between cores and memory."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import numpy as np

from archsim.hardware import ChipSpec, Crossbar
from archsim.mapping import noc
from archsim.mapping.dram import chip_dram
from archsim.mapping.storage import Storage
from archsim.mapping.target import RouteTable, Target, matrix_depth
from archsim.physical import capped, loaded_clock
from archsim.program import Cache, Dram, Link, Machine, Memory, Resource, Unit, Window, attoseconds_per_byte

__all__ = ["make_target", "ps"]

#: latency of a busy memory over that of an idle one, for the scores of tilings only (the engine queues for real)
LOADED = 3.0
#: ways of a cache, of which one holds what waits to be written, and most bursts of it for each channel (an estimate:
#: copies then reach 86 % of the peak of A100 and H100; STREAM reaches 86 to 92 %, from memory, unverified)
WAYS, WRITE_BACK = 16, 1024


def ps(seconds: float) -> int:
    """Seconds as whole picoseconds."""
    return round(seconds * 1e12)


def _memory(chip: ChipSpec) -> Memory:
    """The DRAM channels, as one resource, behind the shared cache if there is one."""
    memory, dram = chip.memory, chip_dram(chip.memory)
    cache = None
    if chip.cache is not None:
        cache = Cache(
            capacity_bytes=int(chip.cache.capacity),
            block_bytes=int(chip.cache.block),
            as_per_byte=attoseconds_per_byte(chip.cache.sustained),
            hit_latency_ps=ps(chip.cache.latency),
            slices=chip.cache.slices or 1,
            interleave_bytes=int(chip.cache.interleave or 256),
            partitions=chip.cache.partitions,
        )
    # the controller's latency belongs to DRAM accesses only; behind a cache it joins the column latency
    if cache is not None:
        dram = replace(_written_back(dram, cache), cl_ps=dram.cl_ps + ps(memory.latency))
    # a crossbar is crossed by the request and by the data; the links of a mesh carry their own latency
    crossing = 2 * chip.noc.hop_latency if chip.noc.kind == "crossbar" else 0.0
    return Memory("memory", "memory", dram, cache, latency_ps=ps(crossing + (0.0 if cache else memory.latency)))


def _written_back(dram: Dram, cache: Cache) -> Dram:
    """Channels behind a cache, in which what is to be written waits as well: a way of it, up to `WRITE_BACK` bursts.

    Reference: Stuecheli et al., "The Virtual Write Queue", ISCA 2010: last-level caches write dirty blocks back row by
    row, so that the bus turns seldom.
    """
    held = min(int(cache.capacity_bytes / WAYS / (dram.channels * dram.burst_bytes)), WRITE_BACK)
    if held <= dram.write_queue:
        return dram
    longer = held / dram.write_queue
    return replace(
        dram, write_queue=held, drain_high=int(dram.drain_high * longer), drain_low=int(dram.drain_low * longer)
    )


def _windows(chip: ChipSpec, first: int) -> tuple[list[Window], list[tuple[int, ...]]]:
    """The limits of outstanding reads, numbered from ``first``, and which of them each core's reads pass."""
    windows: list[Window] = []
    passed: list[tuple[int, ...]] = [()] * chip.cores
    if chip.core.port.outstanding is not None:
        windows += [Window(f"core{c}.dma", "window", int(chip.core.port.outstanding)) for c in range(chip.cores)]
        passed = [(first + c,) for c in range(chip.cores)]
    if chip.memory.outstanding is not None:
        passed = [(*mine, first + len(windows)) for mine in passed]
        windows.append(Window("outstanding", "window", int(chip.memory.outstanding)))
    return windows, passed


def _summing_cores(chip: ChipSpec) -> list[tuple[int, range]]:
    """How many neighbouring cores the routers may add up, and for each count the last core of every such team."""
    most = 1 if isinstance(chip.noc, Crossbar) else chip.noc.reduction
    counts = [count for count in range(2, most + 1) if chip.cores % count == 0]
    return [(count, range(count - 1, chip.cores, count)) for count in counts]


def _sum_path(along: tuple[tuple[int, ...], ...], last: int, count: int, in_id: int, out_id: int) -> list[int]:
    """What a sum passes: each core but the last sends, its router adds, the links on to the last carry one tile."""
    path: list[int] = []
    for core in range(last - count + 1, last):
        path += [out_id + core, *along[core + 1]]
    return [*path, in_id + last]


@lru_cache(maxsize=8)
def make_target(chip: ChipSpec, power_cap_w: float | None = None, storage: Storage | None = None) -> Target:
    """Build the machine and the routes of ``chip``, whose power limit may be lowered to ``power_cap_w``.

    storage: how tensors are stored; by default as is usual on such a chip.
    """
    chip = capped(chip, power_cap_w)
    core, cores = chip.core, range(chip.cores)
    unit = core.matrix
    matrix_clock = loaded_clock(chip)
    read_bytes_per_s = core.port.read_bytes_per_cycle * chip.clock
    write_bytes_per_s = core.port.write_bytes_per_cycle * chip.clock
    resources: list[Resource] = [_memory(chip)]
    resources += [Unit(f"core{c}.matrix", "matrix", ps(matrix_depth(unit) / matrix_clock)) for c in cores]
    resources += [Unit(f"core{c}.vector", "vector") for c in cores]
    resources += [Link(f"core{c}.in", "port_in", attoseconds_per_byte(read_bytes_per_s)) for c in cores]
    resources += [Link(f"core{c}.out", "port_out", attoseconds_per_byte(write_bytes_per_s)) for c in cores]
    matrix_id, vector_id, in_id, out_id = (1 + chip.cores * i for i in range(4))
    network = noc.lay_out(chip, first_resource=len(resources))
    resources += network.links
    barrier_id = len(resources)
    resources.append(Unit("barrier", "barrier", ps(chip.launch.barrier_time)))
    windows, outstanding = _windows(chip, len(resources))
    resources += windows

    paths: list[tuple[int, ...]] = [()]

    def route(*path: int) -> int:
        paths.append(path)
        return len(paths) - 1

    ports = range(network.ports)
    cache, timings = chip.cache, chip.memory.standard.timings
    idle_s = chip.memory.latency + timings.trcd + timings.tcl + 2 * chip.noc.hop_latency
    idle_s += cache.latency if cache else 0.0
    return Target(
        chip=chip,
        machine=Machine(tuple(resources)),
        matrix_routes=np.array([route(matrix_id + c) for c in cores]),
        vector_routes=np.array([route(vector_id + c) for c in cores]),
        read_routes=np.array(
            [[route(*outstanding[c], 0, *network.to_core[c][p], in_id + c) for p in ports] for c in cores]
        ),
        write_routes=np.array([[route(out_id + c, *network.from_core[c][p], 0) for p in ports] for c in cores]),
        port_routes=np.array([route(*network.along[c], in_id + c) for c in cores]),
        barrier_route=route(barrier_id),
        sum_routes={
            count: np.array([route(*_sum_path(network.along, last, count, in_id, out_id)) for last in lasts])
            for count, lasts in _summing_cores(chip)
        },
        port_stripe_bytes=network.stripe_bytes,
        routes=RouteTable(
            np.cumsum([0, *(len(path) for path in paths)], dtype=np.int32),
            np.array([resource for path in paths for resource in path], dtype=np.int32),
        ),
        multicast=chip.noc.multicast,
        pair=unit.pair if unit.kind == "tensor_core" and chip.cores % unit.pair == 0 else 1,
        name=chip.name,
        cores=chip.cores,
        clock=chip.clock,
        matrix_clock=matrix_clock,
        scratchpad_bytes=int(core.scratchpad.capacity),
        accumulator_bytes=int(core.accumulator.capacity),
        port_read_bytes_per_s=read_bytes_per_s,
        port_write_bytes_per_s=write_bytes_per_s,
        noc_bytes_per_s=network.read_bytes_per_s,
        dram_bytes_per_s=chip.memory.bandwidth,
        memory_latency_s=idle_s,
        loaded_latency_s=LOADED * idle_s,
        barrier_s=chip.launch.barrier_time,
        cache_bytes=int(cache.capacity) if cache else 0,
        cache_bytes_per_s=cache.sustained if cache else 0.0,
        block_bytes=int(cache.block) if cache else 4096,
        outstanding_bytes=min(
            core.port.outstanding or np.inf, chip.memory.outstanding / chip.cores if chip.memory.outstanding else np.inf
        ),
        storage=storage or Storage.usual(chip),
    )
