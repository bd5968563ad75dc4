"""Power of a dense matrix product, and the clock that a power limit leaves.

The product keeps every matrix unit busy. Of each multiply-accumulate, a core fetches 2 / t of an operand element over
the network, with t the edge of the tile that fills its accumulators (less where neighbours share a fetch), and the
memory 2 / T, with T that of the tile that fills half of the shared cache.

Power grows with f V(f)^2, so the sustained clock is where it meets the limit; found by bisection to 1 MHz. A product
that keeps the matrix units busy for a share u of the time draws less, and its clock is higher, up to the quoted one::

    u f V(f)^2 = f_1 V(f_1)^2       f_1: clock that a product with all units busy all the time sustains

Kernels that stream from memory draw less than products: a limit below the TDP lowers the clock of the cores, their
ports, the network and the cache only where such a kernel would exceed it too, and that of products further.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from math import sqrt

import numpy as np
from numpy.typing import NDArray

from archsim.errors import InputError
from archsim.hardware import ChipSpec, Crossbar, Dtype, PartsSpec
from archsim.physical.area import chip_area
from archsim.physical.energy import ELEMENT_BYTES, Events, energy_of, operand_bytes, tile_edge, unit_energy
from archsim.physical.silicon import Silicon, silicon, sizing_dtype
from archsim.physical.voltage import dynamic_scale

__all__ = ["busy_clocks", "capped", "gemm_events", "gemm_power", "loaded_clock", "sustained_clock"]

STEP_HZ = 1e6
CLOCKS = 17
"""Clocks between the one under full load and the quoted one at which the power is worked out."""


def gemm_events(made: Silicon, dtype: Dtype, clock_hz: float) -> Events:
    """Events per second of a dense product of `dtype` operands with every matrix unit busy."""
    chip, size = made.chip, ELEMENT_BYTES[dtype]
    macs = chip.cores * chip.core.matrix.rates[dtype] * clock_hz
    registers, scratchpad = operand_bytes(made, dtype)
    fetched = 2 * size / tile_edge(made)
    shared = 1 + 1 / chip.noc.multicast if isinstance(chip.noc, Crossbar) else 2.0
    cached = int(chip.cache.capacity) if chip.cache else chip.cores * int(chip.core.scratchpad.capacity)
    missed = 2 * size / sqrt(cached / 2 / size)
    return Events(
        macs=macs,
        register_bytes=macs * registers,
        scratchpad_bytes=macs * (scratchpad + fetched),
        network_bytes=macs * fetched * shared / 2,
        cache_bytes=macs * fetched * shared / 2 if chip.cache else 0.0,
        read_bytes=macs * missed,
        activates=macs * missed / chip.memory.standard.row_bytes,
    )


def gemm_power(made: Silicon, dtype: Dtype, clock_hz: float) -> dict[str, float]:
    """Watts by unit of the product at `clock_hz`."""
    unit = unit_energy(made, clock_hz, chip_area(made))
    dynamic = energy_of(gemm_events(made, dtype, clock_hz), dtype, unit)
    watts = {name: pj * 1e-12 for name, pj in asdict(dynamic).items()}
    watts["memory"] += unit.memory_w
    return {**watts, "clock": unit.clock_w, "leakage": unit.leakage_w}


def stream_w(made: Silicon, clock_hz: float) -> float:
    """Watts of a kernel that reads 16-bit elements as fast as memory and ports allow, with an operation on each."""
    chip = made.chip
    rate = min(chip.memory.bandwidth, chip.cores * chip.core.port.read_bytes_per_cycle * clock_hz)
    events = Events(
        lane_ops=rate / 2, scratchpad_bytes=rate, network_bytes=rate, cache_bytes=rate if chip.cache else 0.0,
        read_bytes=rate, activates=rate / chip.memory.standard.row_bytes,
    )  # fmt: skip
    unit = unit_energy(made, clock_hz, chip_area(made))
    busy = min(rate / 2 / (chip.cores * chip.core.vector.lanes * clock_hz), 1.0)
    clock_w = unit.clock_w * (unit.clock_idle_share + (1 - unit.clock_idle_share) * busy)
    return energy_of(events, made.dtype, unit).total * 1e-12 + unit.memory_w + unit.leakage_w + clock_w


def capped(chip: ChipSpec, cap_w: float | None) -> ChipSpec:
    """The chip under a lower power limit: its clocks, and what runs at them.

    >>> from archsim.hardware import load_chip
    >>> h100 = load_chip("h100")
    >>> [round(capped(h100, watts).clock / 1e9, 2) for watts in (700, 200)]
    [1.83, 0.88]
    """
    if cap_w is None:
        return chip
    made = silicon(chip)
    domain = _held(made, cap_w, lambda hz: stream_w(made, hz))
    matrix = min(loaded_clock(chip, cap_w), domain)
    stated = chip.load_clocks.items()
    loads = {dtype: min(clock, sustained_clock(chip, dtype, cap_w), domain) for dtype, clock in stated}
    slower = domain / chip.clock
    cache = chip.cache and chip.cache.model_copy(
        update={"bandwidth": chip.cache.bandwidth * slower, "latency": chip.cache.latency / slower}
    )
    noc = chip.noc.model_copy(update={"hop_latency": chip.noc.hop_latency / slower})
    clocks = {"clock": domain, "clock_under_load": matrix, "load_clocks": loads}
    return chip.model_copy(update={**clocks, "cache": cache, "noc": noc})


def sustained_clock(chip: ChipSpec, dtype: Dtype, cap_w: float | None = None, parts: PartsSpec | None = None) -> float:
    """Clock in Hz, at most `chip.clock`, at which a dense product of `dtype` stays within `cap_w` (the TDP by default).

    A chip without a limit, or without a technology to compute with, keeps its clock.

    >>> from archsim.hardware import load_chip
    >>> 1.4e9 < sustained_clock(load_chip("h100"), "bf16") < 1.75e9
    True
    """
    limit = cap_w if cap_w is not None else chip.physical.tdp
    if limit is None or (chip.physical.technology is None and cap_w is None):
        return chip.clock
    made = silicon(chip, parts)
    return _held(made, limit, lambda hz: total_w(made, dtype, hz))


def loaded_clock(chip: ChipSpec, cap_w: float | None = None, dtype: Dtype | None = None) -> float:
    """Clock of busy matrix units: what the chip states for full load, or else what its power limit leaves.

    A lower limit `cap_w` lowers it. `dtype` is the 16-bit type by default, which draws as much as any.
    """
    dtype = dtype or sizing_dtype(chip)
    if cap_w is not None:
        return min(chip.clock_under_load or chip.clock, sustained_clock(chip, dtype, cap_w))
    return chip.clock_under_load or sustained_clock(chip, dtype)


def busy_clocks(chip: ChipSpec, loaded_hz: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Shares of the time that the matrix units may be busy, rising, and the clock in Hz that each leaves them.

    `loaded_hz` is the clock when they never rest. What the memory draws meanwhile, and leakage, are left out.

    >>> from archsim.hardware import load_chip
    >>> busy, clock = busy_clocks(load_chip("b200"), 1.43e9)
    >>> float(busy[-1]), float(clock[-1]) / 1e9, float(clock[0]) / 1e9, bool(0.4 < busy[0] < 0.8)
    (1.0, 1.43, 1.85, True)
    """
    clocks = np.linspace(max(chip.clock, loaded_hz), loaded_hz, CLOCKS)
    if chip.physical.technology is None:  # the voltage is taken to follow the clock
        drawn = clocks**3
    else:
        node = silicon(chip).node
        drawn = np.array([clock * dynamic_scale(node, clock) for clock in clocks])
    return drawn[-1] / drawn, clocks


def _held(made: Silicon, limit: float, watts: Callable[[float], float]) -> float:
    """The highest clock up to the quoted one at which the power stays within the limit."""
    clock = made.chip.clock
    if watts(clock) <= limit:
        return clock
    least = watts(STEP_HZ)
    if least > limit:
        raise InputError(
            f"{made.chip.name}: a power cap of {limit:g} W is below the {least:.0f} W that the chip takes at rest"
        )
    low, high = 1, int(clock / STEP_HZ) + 1  # holds at low, not at high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if watts(middle * STEP_HZ) <= limit else (low, middle)
    return low * STEP_HZ


def total_w(made: Silicon, dtype: Dtype, clock_hz: float) -> float:
    """Watts of the product at `clock_hz`."""
    return sum(gemm_power(made, dtype, clock_hz).values())
