"""Energy of the events that a simulation counts, on one chip at one clock.

Equation::

    E = sum of events x energy  +  t (P_memory + P_leak + P_clock (s + (1 - s) u))

======== ==================================================================== ======
symbol   meaning                                                              unit
======== ==================================================================== ======
P_memory refresh and standby of the memory                                    W
P_leak   leakage of logic and SRAM at the voltage of the clock                W
P_clock  clock tree, control and glitches with every unit busy                W
s        share of it that idle logic takes (clock_idle_share)                 1
u        how busy the busiest compute unit is                                 1
======== ==================================================================== ======

Energies on the dies scale with (V / V_nominal)^2, leakage with its cube; those of memory and links do not. A wire's
length is the mean distance between two points of the compute die, 2/3 of its edge; spare cores take nothing. What a
die is stated to measure beyond its described blocks (the fabric of an I/O die, engines for media) counts as logic.
I/O dies stay at the nominal voltage of their node, whatever the clock of the cores.

Assumptions: every bit pattern is random. The energies of memory are those of its standard (configs/memory). Valid at
85 C.
Not modelled: sparse or zero operands, power gating of idle cores, the losses of voltage regulators.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from itertools import pairwise
from math import log2, sqrt

from archsim.hardware import ChipSpec, Dtype, SystolicArray, TechnologySpec
from archsim.hardware.memory import MemorySpec
from archsim.physical.area import ChipArea, chip_area
from archsim.physical.die_links import die_link_pj_per_bit
from archsim.physical.silicon import Silicon
from archsim.physical.voltage import dynamic_scale, leakage_scale, nominal_clock

__all__ = ["ELEMENT_BYTES", "Energy", "Events", "UnitEnergy", "energy_of", "operand_bytes", "tile_edge", "unit_energy"]

ELEMENT_BYTES: dict[str, float] = {
    "fp32": 4, "tf32": 4, "bf16": 2, "fp16": 2, "fp8": 1, "int8": 1, "fp4": 0.5, "int4": 0.5,
}  # fmt: skip
ACCUMULATOR_BYTES = 4
MEAN_DISTANCE = 2 / 3
"""Of two random points in a square, measured along its sides, over its edge."""


@dataclass(frozen=True)
class Events:
    """What happened, summed over the chip. Rates per second serve as well: then the energies are powers."""

    macs: float = 0.0
    lane_ops: float = 0.0
    register_bytes: float = 0.0
    scratchpad_bytes: float = 0.0
    network_bytes: float = 0.0
    """Across the on-chip network; what several cores receive at once counts once."""
    cache_bytes: float = 0.0
    read_bytes: float = 0.0
    """From the memory."""
    write_bytes: float = 0.0
    activates: float = 0.0
    """Rows opened in the memory."""
    link_bytes: float = 0.0
    die_bytes: float = 0.0
    """Between the dies of a package."""


@dataclass(frozen=True)
class UnitEnergy:
    """Energy of one event (pJ), and the power of a chip that is on (W)."""

    mac_pj: dict[str, float]
    lane_pj: float
    register_pj_per_byte: float
    scratchpad_pj_per_byte: float
    network_pj_per_byte: float
    cache_pj_per_byte: float
    read_pj_per_byte: float
    write_pj_per_byte: float
    io_pj_per_byte: float
    """Interface of the memory, both ends."""
    activate_pj: float
    link_pj_per_byte: float
    refresh_w: float
    background_w: float
    """Of the memory, with a row open."""
    leakage_w: float
    clock_w: float
    clock_idle_share: float
    die_pj_per_byte: float = 0.0

    @property
    def memory_w(self) -> float:
        """Of a memory that moves nothing."""
        return self.refresh_w + self.background_w

    def idle_w(self) -> float:
        """A clocked chip that does nothing."""
        return self.memory_w + self.leakage_w + self.clock_w * self.clock_idle_share


@dataclass(frozen=True)
class Energy:
    """Energy by unit, in the unit that the events were given per (pJ, or pJ/s)."""

    matrix: float
    vector: float
    sram: float
    noc: float
    memory: float
    link: float

    @property
    def total(self) -> float:
        """Sum over the units."""
        return float(sum(getattr(self, field.name) for field in fields(self)))


def memory_energy(events: Events, unit: UnitEnergy, seconds: float = 0.0) -> dict[str, float]:
    """Energy of the memory by command, and of its refreshes and background power over some time, in pJ.

    >>> one = UnitEnergy({"bf16": 0.5}, 3, 0.1, 1, 10, 2, 28, 31, 2, 900, 40, 1, 5, 90, 100, 0.5)
    >>> [round(pj) for pj in memory_energy(Events(read_bytes=4, activates=1), one, seconds=1e-9).values()]
    [900, 112, 0, 8, 1000, 5000]
    """
    return {
        "activate": events.activates * unit.activate_pj,
        "read": events.read_bytes * unit.read_pj_per_byte,
        "write": events.write_bytes * unit.write_pj_per_byte,
        "io": (events.read_bytes + events.write_bytes) * unit.io_pj_per_byte,
        "refresh": unit.refresh_w * seconds * 1e12,
        "background": unit.background_w * seconds * 1e12,
    }


def energy_of(events: Events, dtype: str, unit: UnitEnergy) -> Energy:
    """Energy of `events`; `dtype` is the type of their multiply-accumulates.

    >>> one = UnitEnergy({"bf16": 0.5}, 3, 0.1, 1, 10, 2, 28, 31, 2, 900, 40, 1, 5, 90, 100, 0.5)
    >>> energy_of(Events(macs=10, network_bytes=2, read_bytes=4, activates=1), "bf16", one)
    Energy(matrix=5.0, vector=0.0, sram=0.0, noc=20.0, memory=1020.0, link=0.0)
    """
    return Energy(
        matrix=events.macs * unit.mac_pj[dtype] + events.register_bytes * unit.register_pj_per_byte,
        vector=events.lane_ops * unit.lane_pj,
        sram=events.scratchpad_bytes * unit.scratchpad_pj_per_byte + events.cache_bytes * unit.cache_pj_per_byte,
        noc=events.network_bytes * unit.network_pj_per_byte + events.die_bytes * unit.die_pj_per_byte,
        memory=sum(memory_energy(events, unit).values()),
        link=events.link_bytes * unit.link_pj_per_byte,
    )


def unit_energy(made: Silicon, clock_hz: float, area: ChipArea | None = None) -> UnitEnergy:
    """Energies and powers of a chip whose units run at `clock_hz`."""
    area = area or chip_area(made)
    node, chip, parts = made.node, made.chip, made.parts
    volt2 = dynamic_scale(node, clock_hz)
    edge_mm = sqrt(area.compute.mm2)
    standard = chip.memory.standard
    dram, timings = standard.energy, standard.timings
    refresh_w = dram.refresh_pj * 1e-12 / timings.trefi if timings.trefi else 0.0
    leakage = clock = 0.0
    for die, table, stated in zip(area.dies, (node, made.io_node), stated_mm2(chip), strict=False):
        is_compute = die is area.compute
        at_hz = clock_hz if is_compute else nominal_clock(table)
        logic = _active(made, die.logic_mm2, area) if is_compute else die.logic_mm2
        logic += max((stated or 0.0) - die.mm2, 0.0)
        leak = logic * table.logic_leakage_w_per_mm2 + die.sram_mm2 * table.sram_leakage_w_per_mm2
        leakage += die.count * leak * leakage_scale(table, at_hz)
        clock += die.count * logic * table.clock_pj_per_mm2 * 1e-12 * at_hz * dynamic_scale(table, at_hz)
    return UnitEnergy(
        mac_pj={dtype: pj * volt2 for dtype, pj in node.mac_pj.items()},
        lane_pj=node.lane_pj * volt2,
        register_pj_per_byte=node.register_pj_per_byte * volt2,
        scratchpad_pj_per_byte=_sram_pj(node, int(chip.core.scratchpad.capacity)) * volt2,
        network_pj_per_byte=8 * node.wire_pj_per_bit_mm * edge_mm * MEAN_DISTANCE * volt2,
        cache_pj_per_byte=node.sram[-1].pj_per_byte * volt2 if made.cache_bytes else 0.0,
        read_pj_per_byte=8 * dram.read_pj_per_bit,
        write_pj_per_byte=8 * dram.write_pj_per_bit,
        io_pj_per_byte=8 * dram.io_pj_per_bit,
        activate_pj=dram.activate_pj,
        link_pj_per_byte=8 * parts.fabric.link_pj_per_bit,
        refresh_w=chip.memory.channels * refresh_w,
        background_w=chip.memory.channels * dram.active_mw * 1e-3,
        leakage_w=leakage,
        clock_w=clock,
        clock_idle_share=node.clock_idle_share,
        die_pj_per_byte=8 * die_link_pj_per_bit(made),
    )


def refresh_share(memory: MemorySpec) -> float:
    """Share of the time in which a bank is refreshed: all banks at once, or one after the other."""
    timings, standard = memory.standard.timings, memory.standard
    if memory.controller.refresh == "none":
        return 0.0
    if memory.controller.refresh == "all_bank":
        return timings.trfc / timings.trefi if timings.trefi else 0.0
    banks = standard.stack_ids * standard.bank_groups * standard.banks_per_group
    return timings.trfc_bank / (banks * timings.trefi_bank)


def stated_mm2(chip: ChipSpec) -> tuple[float | None, float | None]:
    """Area in mm2 that the chip states for one compute die and one I/O die."""
    physical = chip.physical
    areas = physical.die_area, physical.io_dies.die_area if physical.io_dies else None
    return areas[0], areas[1]


def operand_bytes(made: Silicon, dtype: Dtype) -> tuple[float, float]:
    """Bytes of one multiply-accumulate from and to registers, and from the scratchpad.

    A tensor core reads an m x k and a k x n operand from registers for each m x n x k step, and reads and writes its
    m x n sums; they come from the scratchpad once for a quarter (one of four warps) of the tile that fills the
    accumulators. In a systolic array every streamed operand serves a row or column of elements, and sums leave it
    after a column.
    """
    unit, size = made.chip.core.matrix, ELEMENT_BYTES[dtype]
    tile = tile_edge(made)
    if isinstance(unit, SystolicArray):
        return 2 * ACCUMULATOR_BYTES / unit.rows, size / unit.cols + size / tile
    deep = unit.k * max(2 / size, 1.0)
    return size / unit.m + size / unit.n + 2 * ACCUMULATOR_BYTES / deep, 4 * size / tile


def tile_edge(made: Silicon) -> float:
    """Edge of the square tile whose fp32 sums fill the accumulators of a core."""
    return sqrt(int(made.chip.core.accumulator.capacity) / ACCUMULATOR_BYTES)


def _active(made: Silicon, logic_mm2: float, area: ChipArea) -> float:
    """Logic of a compute die without its spare cores."""
    cores = sum(b.logic_mm2 for b in area.compute.blocks if b.name in ("matrix units", "vector units and control"))
    return logic_mm2 - cores * (1 - made.chip.cores / made.cores)


def _sram_pj(node: TechnologySpec, capacity: int) -> float:
    """Energy per byte of a macro of `capacity` bytes, interpolated over its logarithm and held at both ends."""
    points = node.sram
    if capacity <= points[0].capacity:
        return points[0].pj_per_byte
    for low, high in pairwise(points):
        if capacity <= high.capacity:
            share = log2(capacity / low.capacity) / log2(high.capacity / low.capacity)
            return low.pj_per_byte + (high.pj_per_byte - low.pj_per_byte) * share
    return points[-1].pj_per_byte
