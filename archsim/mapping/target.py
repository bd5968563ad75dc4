"""What lowering needs to know of a chip: numbers read off the spec once, and the machine that the engine runs.

A ``Target`` is the bridge between the chip description and the Program; `machine.py` makes it. It owns the table of
resources (a matrix unit, a vector unit and two ports for each core, the links of the NoC, the memory system, the
barrier at which cores wait for each other), the routes between each core and the memory, and the rates that tilings are
scored with.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from archsim.errors import InputError
from archsim.hardware import ChipSpec, Dtype
from archsim.hardware.core import MatrixUnit
from archsim.mapping.storage import Storage
from archsim.mapping.task import TaskBlock
from archsim.models import matrix
from archsim.models.attention import feed_cycles, rows_of_a_warp
from archsim.models.systolic import compressed
from archsim.models.vector import COSTS, NarrowLoads, VectorCost, vector_cycles
from archsim.physical import busy_clocks
from archsim.program import Machine, Memory
from archsim.sparsity import Sparsity
from archsim.trace.graph import DTYPE_BITS

__all__ = ["RouteTable", "Target", "matrix_depth", "require_sparsity"]

Ints = NDArray[np.int64]

#: what a unit without the dtype computes in instead: the next wider type, as compilers do
WIDER = {
    "fp4": "fp8", "int4": "int8", "fp8": "bf16", "int8": "bf16", "fp16": "bf16", "bf16": "fp16", "tf32": "bf16",
    "fp32": "tf32",
}  # fmt: skip
#: parts that a transfer is cut into where a limit of outstanding bytes holds it up, of so many bytes at least: the room
#: that one leaves is taken by the next
PARTS, LEAST_PART = 8, 256
#: latency of a cache that all threads read over that of an idle one: one constant, chosen among four by half of the
#: vector kernels with narrow loads on A100, H100 and A40 that their caches hold
BUSY_CACHE = 4.0
#: parts of a chip description that no simulated time depends on, or only through what is resolved from them
TIMELESS = {
    "name", "title", "vendor", "year", "status", "estimated", "provenance", "peak", "physical", "clock_under_load",
    "load_clocks", "scale_up", "scale_out",
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class RouteTable:
    """The routes of a machine as a CSR; entry 0 is the empty route of joins."""

    start: NDArray[np.int32]
    resources: NDArray[np.int32]


@dataclass(frozen=True, eq=False, repr=False)
class Target:
    """One chip, ready to be lowered for; made by :func:`make_target`. Rates in bytes/s, sizes in bytes, times in s.

    clock: of vector units and ports, in Hz. matrix_clock: what the matrix units sustain.

    The route arrays hold route ids: ``matrix_routes[core]``, ``read_routes[core, memory port]`` and so on.
    """

    chip: ChipSpec
    machine: Machine
    routes: RouteTable
    matrix_routes: Ints
    vector_routes: Ints
    read_routes: Ints
    write_routes: Ints
    port_routes: Ints
    barrier_route: int
    sum_routes: dict[int, Ints]
    port_stripe_bytes: int
    multicast: int
    pair: int

    name: str
    cores: int
    clock: float
    matrix_clock: float
    scratchpad_bytes: int
    accumulator_bytes: int
    port_read_bytes_per_s: float
    port_write_bytes_per_s: float
    noc_bytes_per_s: float
    dram_bytes_per_s: float
    memory_latency_s: float
    loaded_latency_s: float
    barrier_s: float
    cache_bytes: int
    cache_bytes_per_s: float
    block_bytes: int
    outstanding_bytes: float
    storage: Storage

    def __repr__(self) -> str:
        return f"Target({self.name}, {self.cores} cores)"

    @cached_property
    def groups(self) -> dict[str, Ints]:
        """Resource ids of each group that utilisation is reported for; barrier and windows only delay."""
        names = [resource.group for resource in self.machine]
        reported = dict.fromkeys(name for name in names if name not in ("barrier", "window"))
        return {name: np.flatnonzero([n == name for n in names]) for name in reported}

    @cached_property
    def digest(self) -> str:
        """Digest of all that a simulated time depends on: of the chip, what has to do with names or money is left out.

        Clocks that follow from power are in it as they come out.
        """
        chip = self.chip.model_dump(mode="json", exclude=TIMELESS)
        del chip["memory"]["capacity"]
        for label in ("name", "title", "provenance", "energy"):
            chip["memory"]["standard"].pop(label)
        clocks = [self.sustained_clock(dtype, busy) for dtype in self.chip.dtypes for busy in (0.5, 1.0)]
        content = json.dumps([chip, clocks, self.matrix_clock, self.cores], sort_keys=True)
        content += repr((self.machine, self.storage))
        return hashlib.blake2b(content.encode(), digest_size=16).hexdigest()

    def adds(self, split: Ints | int) -> NDArray[np.bool_]:
        """Whether the network adds up the partial sums of so many neighbouring cores."""
        return np.isin(split, list(self.sum_routes))

    @cached_property
    def machine_digest(self) -> str:
        """Digest of the machine, less the capacity of its cache."""
        cache = self.memory.cache and replace(self.memory.cache, capacity_bytes=self.memory.cache.block_bytes)
        content = repr((replace(self.memory, cache=cache), list(self.machine)[1:]))
        return hashlib.blake2b(content.encode(), digest_size=16).hexdigest()

    def partition(self, core: Ints) -> Ints:
        """The partition of the cache that a core is beside: neighbours alternate, those that pair up stay together.

        Blocks of threads go round the clusters of cores, so that those which follow each other lie apart. (Links
        between dies that addresses alternate over carry the same whichever cores are where, and count them by halves.)
        """
        return core // self.pair % self.partitions

    @property
    def partitions(self) -> int:
        """Partitions of the cache."""
        return self.chip.cache.partitions if self.chip.cache else 1

    @property
    def alike(self) -> bool:
        """Whether all cores are equally far from memory."""
        return self.cores == 1 or self.chip.noc.kind == "crossbar"

    def launch_s(self, *, vector: bool) -> float:
        """The gap before a kernel, in seconds; ``vector``: it multiplies nothing."""
        launch = self.chip.launch
        return launch.vector_latency if vector and launch.vector_latency is not None else launch.latency

    @property
    def memory(self) -> Memory:
        """The memory as the engine has it."""
        memory = self.machine[0]
        assert isinstance(memory, Memory)
        return memory

    @property
    def streamed_bytes_per_s(self) -> float:
        """What memory can give to a long stream, between refreshes."""
        return self.dram_bytes_per_s * self.memory.dram.awake

    @property
    def in_flight_bytes(self) -> float:
        """Bytes that a core must have on their way to draw its share of a busy memory's bandwidth (Little's law)."""
        return self.dram_bytes_per_s / self.cores * self.loaded_latency_s

    @property
    def part_bytes(self) -> int | None:
        """Bytes of the parts that a read is cut into, where a limit of outstanding bytes holds it up."""
        return max(int(self.outstanding_bytes) // PARTS, LEAST_PART) if self.outstanding_bytes < np.inf else None

    def compute_dtype(self, dtype: str) -> Dtype:
        """The type that the matrix unit really multiplies ``dtype`` in: itself, or the nearest one that can hold it.

        fp32 operands run as tf32 or bf16 where the unit has nothing wider, as inference engines allow.
        """
        rates = self.chip.core.matrix.rates
        candidate: str | None = dtype
        tried: set[str] = set()
        while candidate is not None and candidate not in tried:
            for offered in rates:
                if offered == candidate:
                    return offered
            tried.add(candidate)
            candidate = WIDER.get(candidate)
        raise InputError(f"{self.name} cannot multiply {dtype}: its matrix unit has {', '.join(rates)}")

    def matrix_cycles(
        self, m: Ints, n: Ints, k: Ints, dtype: str, share: int = 1, sparsity: Sparsity | None = None
    ) -> Ints:
        """Occupancy in cycles of one core's matrix unit by tiles of ``m x n x k``.

        share: neighbouring cores that share the rows of an instruction, each with a tile of its own. sparsity: of the
        second operand, the weights, whose zeros are skipped.
        """
        unit = self.chip.core.matrix
        offered = self.compute_dtype(dtype)
        m, n, k = (np.asarray(x, dtype=np.int64) for x in (m, n, k))
        if sparsity:
            k = compressed(k, sparsity.n, sparsity.m)
        if unit.kind == "systolic":
            return matrix.systolic_occupancy(
                m,
                n,
                k,
                rows=unit.rows,
                cols=unit.cols,
                count=unit.count,
                dataflow=unit.dataflow,
                rate=unit.dtypes[offered],
                bubble=unit.load_bubble_cycles,
            )
        rate = unit.rates[offered]
        # the instruction's k grows with the rate: 16 for bf16 is 32 for fp8
        wide = max(1, round(rate / unit.rates.get("bf16", rate)))
        if sparsity:  # only the first operand of an instruction may be sparse: its rows are columns of the output
            m, n = n, m
        return matrix.tensor_core_occupancy(
            m, n, k, step_m=unit.m // share, step_n=unit.n, step_k=unit.k * wide, macs_per_cycle=rate,
            swaps=sparsity is None,
        )  # fmt: skip

    @property
    def instruction_rows(self) -> int:
        """Rows of an instruction of a tensor core; one for systolic arrays, which take any number."""
        return self.chip.core.matrix.m if self.chip.core.matrix.kind == "tensor_core" else 1

    @cached_property
    def matrix_latency_s(self) -> float:
        """From the end of a matrix unit's work on a tile to the last of its results."""
        return matrix_depth(self.chip.core.matrix) / self.matrix_clock

    @property
    def asynchronous(self) -> bool:
        """Whether the matrix unit runs beside the vector unit of the same warps."""
        unit = self.chip.core.matrix
        return unit.kind == "systolic" or not unit.synchronous

    @property
    def tensor_memory(self) -> bool:
        """Whether the matrix unit has a memory for matrices and a sequencer of its own, so that all warps are free for
        other work, as units have whose instructions pair cores (tcgen05)."""
        unit = self.chip.core.matrix
        return unit.kind == "tensor_core" and unit.pair > 1

    @property
    def apart(self) -> bool:
        """Whether matrix and vector units hand results to each other through the cache."""
        return self.chip.core.apart

    @property
    def through_registers(self) -> bool:
        """Whether the threads that multiply also carry what arrives to the scratchpad, in turn with their products."""
        unit = self.chip.core.matrix
        return unit.kind == "tensor_core" and unit.synchronous and unit.through_registers

    @cached_property
    def synchronous(self) -> Target:
        """The chip as kernels of synchronous instructions see it (mma.sync, m16n8k16), as it is without any others."""
        unit = self.chip.core.matrix
        if unit.kind != "tensor_core" or unit.synchronous or unit.synchronous_share is None:
            return self
        rates = {dtype: rate * unit.synchronous_share for dtype, rate in unit.macs_per_cycle.items()}
        older = unit.model_copy(update={"m": 16, "n": 8, "k": 16, "macs_per_cycle": rates, "synchronous": True})
        core = self.chip.core.model_copy(update={"matrix": older})
        return replace(self, chip=self.chip.model_copy(update={"core": core}))

    def fed_cycles(
        self, m: Ints, n: Ints, k: Ints, dtype: str, *, read_ahead: bool = False, share: int = 1, stored: bool = False
    ) -> Ints:
        """Cycles of tile products with ``m`` rows at hand and the other operand read from the scratchpad.

        read_ahead: warps of a synchronous unit hold the operands of two steps. share: as in `matrix_cycles`. stored:
        the rows are in the scratchpad as well, where an asynchronous unit reads them.
        """
        unit, per_cycle = self.chip.core.matrix, self.chip.core.scratchpad.read_bytes_per_cycle
        busy = self.matrix_cycles(m, n, k, dtype, share)
        if unit.kind == "systolic" or per_cycle is None:
            return busy
        m, n, k = (np.asarray(x, dtype=np.int64) for x in (m, n, k))
        width = DTYPE_BITS[self.compute_dtype(dtype)] / 8
        together = rows_of_a_warp(m, unit.m) if unit.synchronous else unit.m
        own = np.where(m <= unit.m // share, -(-n // share), n)  # each core delivers its part to all that share a row
        feed = feed_cycles(
            m, own, k, step_m=together, element_bytes=width, bytes_per_cycle=per_cycle,
            stored=stored and not unit.synchronous,
        )  # fmt: skip
        return busy + feed if unit.synchronous and not read_ahead else np.maximum(busy, feed)

    def multiply_cycles(
        self, m: Ints, n: Ints, k: Ints, dtype: str, a_bytes: float, b_bytes: float, pair: Ints | int = 1,
        warp: tuple[int, int] | None = None, unpacked: Ints | int = 0, expand: float = 1.0,
        sparsity: Sparsity | None = None,
    ) -> Ints:  # fmt: skip
        """:meth:`matrix_cycles`, or those in which the scratchpad feeds the unit where they are more.

        warp: output tile of a warp that loads and multiplies in turn where the unit is synchronous. unpacked: elements
        that the warps which multiply convert first, in turn with the products. expand, sparsity: as in
        ``MatmulShape``.
        """
        cycles, unit = self.matrix_cycles(m, n, k, dtype, sparsity=sparsity), self.chip.core.matrix
        if np.any(unpacked):
            cycles = cycles + self.vector_cycles(unpacked, COSTS["unpack"])
        rate = self.chip.core.scratchpad.read_bytes_per_cycle
        if unit.kind != "tensor_core" or unit.reuse_m is None or unit.reuse_n is None or rate is None:
            return cycles
        reuse: tuple[Ints | int, Ints | int] = (unit.reuse_m, unit.reuse_n)
        if unit.synchronous:
            reuse = matrix.warp_tile(m, n, unit.reuse_m, unit.reuse_n)
        elif sparsity:  # the instruction's rows are columns of the output; a pair has as many of both for each core
            reuse = (np.where(pair == 1, *reuse[::-1]), np.where(pair == 1, *reuse))
        feed = matrix.operand_feed(
            m, n, k, a_bytes=a_bytes, b_bytes=b_bytes, pair=pair, reuse_m=reuse[0], reuse_n=reuse[1],
            bytes_per_cycle=rate, expand=expand,
        )  # fmt: skip
        if warp and unit.synchronous:
            return cycles + matrix.operand_reads(
                m, n, k, a_bytes=a_bytes * expand, b_bytes=b_bytes, warp=warp, bytes_per_cycle=rate
            )  # fmt: skip
        return cycles + feed if self.through_registers else np.maximum(cycles, feed)

    def require_sparsity(self, sparsity: Sparsity, dtype: str, operator: str) -> None:
        """InputError unless the matrix unit skips the zeros of such weights in products of ``dtype``."""
        unit, used = self.chip.core.matrix, self.compute_dtype(dtype)
        if used in unit.sparsity.get(str(sparsity), ()):
            return
        legal = "; ".join(f"{pattern} in {', '.join(dtypes)}" for pattern, dtypes in unit.sparsity.items())
        what = {"systolic": "systolic array", "tensor_core": "tensor core"}[unit.kind]
        raise InputError(
            f"operator {operator}: the {what} of {self.name} cannot skip the zeros of {sparsity} sparse weights in "
            f"{used}; it has {legal or 'no sparsity'}"
        )

    @property
    def step(self) -> tuple[int, int]:
        """Rows and columns of the unit's instruction on one core, the least that a tile holds either way round.

        Where cores may pair up, an instruction may have a core's share of the rows alone, at half the rate (tcgen05
        with M = 64 on one core, or 128 on two).
        """
        unit = self.chip.core.matrix
        return (unit.m // unit.pair, unit.n) if unit.kind == "tensor_core" else (1, 1)

    @property
    def whole_tiles(self) -> bool:
        """Whether a tile at the edge of the output takes as long as any other, as in tensor-core kernels."""
        return self.chip.core.matrix.kind == "tensor_core"

    def sustained_clock(self, dtype: str, busy: float = 1.0) -> float:
        """The clock that the matrix units hold when they multiply ``dtype`` for a share ``busy`` of the time, in Hz."""
        return float(self.sustained_clocks(dtype, np.array(busy)))

    def sustained_clocks(self, dtype: str, busy: NDArray[np.float64]) -> NDArray[np.float64]:
        """:meth:`sustained_clock` of many shares."""
        share, clock = self._clocks(self.compute_dtype(dtype))
        found: NDArray[np.float64] = np.interp(busy, share, clock)
        return found

    def _clocks(self, dtype: Dtype) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        if dtype not in self._clock_curves:
            self._clock_curves[dtype] = busy_clocks(self.chip, self.chip.load_clocks.get(dtype, self.matrix_clock))
        return self._clock_curves[dtype]

    @cached_property
    def _clock_curves(self) -> dict[Dtype, tuple[NDArray[np.float64], NDArray[np.float64]]]:
        return {}

    def macs_per_cycle(self, dtype: str) -> float:
        """Multiply-accumulates of one core's matrix unit per cycle."""
        return self.chip.core.matrix.rates[self.compute_dtype(dtype)]

    def promotion(self, dtype: str) -> int:
        """Terms after which the vector unit takes over the partial sums of block-scaled ``dtype``; 0: never."""
        unit = self.chip.core.matrix
        return unit.promotion.get(self.compute_dtype(dtype), 0) if unit.kind == "tensor_core" else 0

    def peak_flops(self, dtype: str) -> float:
        """Dense peak of the chip in FLOP/s at its quoted clock, which power may not allow to hold."""
        return self.chip.flops(self.compute_dtype(dtype))

    def vector_cycles(self, elements: Ints | int, cost: VectorCost, *, in_turn: bool = False) -> Ints:
        """Cycles of one core's vector unit; ``in_turn``: its two pipes wait for each other."""
        unit, access = self.chip.core.vector, self.chip.core.scratchpad.read_bytes_per_cycle or np.inf
        return vector_cycles(
            elements, cost, lanes=unit.lanes, special=unit.special_lanes, access=access, issue=unit.issue,
            in_turn=in_turn,
        )

    def row_seconds(self, loads: NarrowLoads, cols: int, rows: int, *, cached: bool) -> float:
        """Seconds that one core waits for each of ``rows`` rows beyond one load of it; 0 where nothing is known.

        With fewer blocks than a core holds the latency lies between that of an idle memory and of a busy one; what the
        cache holds takes the way to it, idle or busy.
        """
        unit, memory = self.chip.core.vector, self.chip.memory
        most = self.resident_rows(loads, cols)
        if unit.round_trip is None or not most:
            return 0.0
        blocks = min(-(-rows // self.cores), most)
        idle, busy = self.memory_latency_s, unit.round_trip
        if cached:
            idle -= memory.latency + memory.standard.timings.trcd + memory.standard.timings.tcl
            busy = min(BUSY_CACHE * idle, busy)
        return max(loads.trips(cols) - 1, 0.0) * (idle + max(busy - idle, 0.0) * blocks / most) / blocks

    def resident_rows(self, loads: NarrowLoads, cols: int) -> int:
        """Blocks of threads, a row each, that a core holds at a time; 0 where nothing is known."""
        threads = self.chip.core.vector.threads
        return max(min(threads // loads.block(cols), loads.most), 1) if threads else 0

    def tile_floor(self) -> tuple[int, int, int]:
        """Smallest (m, n, k) worth a tile: the unit's natural step."""
        unit = self.chip.core.matrix
        if unit.kind == "systolic" and unit.dataflow != "output_stationary":
            return 16, unit.cols, unit.rows
        if unit.kind == "systolic":
            return min(16, unit.rows), unit.cols, 64
        return 16, 16, 64


def matrix_depth(unit: MatrixUnit) -> int:
    """Cycles from the last operand to the last result."""
    return matrix.systolic_latency(unit.rows, unit.cols) if unit.kind == "systolic" else unit.latency_cycles


def require_sparsity(blocks: Sequence[TaskBlock], target: Target) -> None:
    """InputError, naming the operator, where weights are sparse in a way that the matrix unit cannot use."""
    for block in blocks:
        for task in block.tasks:
            if task.sparsity:
                target.require_sparsity(task.sparsity, task.dtype, task.name)
