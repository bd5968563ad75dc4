"""What a step costs: the energy of its kernels from what the engine counted, and the figures of the chip."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from math import sqrt
from typing import Any

from archsim.hardware import ChipSpec, load_rules
from archsim.mapping import Kernel, Target
from archsim.physical import (
    ChipArea,
    Events,
    HourCost,
    Silicon,
    UnitEnergy,
    bill,
    chip_area,
    chip_heat_warning,
    edge_warning,
    energy_of,
    export_figures,
    hot_mm2,
    hour_cost,
    junction_celsius,
    memory_energy,
    operand_bytes,
    over_reticle,
    refresh_share,
    silicon,
    unit_energy,
    usd_per_million_tokens,
)
from archsim.program import Link
from archsim.results.op_table import ENERGIES
from archsim.simulation.blocks import KernelRun
from archsim.simulation.options import Options

__all__ = ["PHYSICAL", "Counted", "Meter", "meter"]

PHYSICAL = {
    "technology": "table of the process node",
    "idle_j": "joules of one chip between its operators",
    "peak_power_w": "watts of one chip in its hungriest operator; None for bounds",
    "static_power_w": "watts of a clocked chip that does nothing",
    "power_limit_w": "TDP, or the cap that was given",
    "matrix_clock_hz": "clock of the busy matrix units",
    "die_mm2": "modelled area of one compute die",
    "silicon_mm2": "modelled area of all dies of a package",
    "refresh_share": "share of the time in which a bank of the memory is refreshed",
    "power_density_w_per_mm2": "mean power, that of the memory apart, over the compute dies",
    "junction_celsius": "settled temperature in air",
    "parts_usd": "cost of the parts of one packaged chip; None where it cannot be made",
    "chip_usd": "price of the chip",
    "usd_per_hour": "one chip for an hour of work",
    "usd_per_million_tokens": "all chips",
    "tpp": "total processing performance",
    "performance_density": "tpp over the die area",
    "export_rules": "names of the rules that speak of the chip",
}
"""The keys of `Result.physical`."""


MARGIN = 0.1
"""By which an operator may exceed the power limit without a warning: the clock was chosen by a plain dense product."""


@dataclass(frozen=True)
class Counted:
    """What a fidelity knows of one kernel: seconds, and what moved."""

    seconds: float
    matrix_busy: float
    vector_busy: float
    vector_seconds: float
    port_bytes: float
    requested_bytes: float
    read_bytes: float
    write_bytes: float
    activates: float
    die_bytes: float = 0.0


@dataclass(frozen=True, eq=False)
class Meter:
    """A chip whose kernels are measured; kernels of vector units run at the clock of the cores, products at theirs."""

    made: Silicon
    area: ChipArea
    target: Target
    at_clock: UnitEnergy
    at_load: UnitEnergy

    def row(self, kernel: Kernel, counted: Counted) -> dict[str, int]:
        """The energy columns of one kernel."""
        if kernel.kind == "handover":  # cores wait for cards, and pay for the time
            return _columns({}) | _memory_columns(memory_energy(Events(), self.at_clock))
        if kernel.kind == "collective":
            sent = sum(operand.nbytes for operand in kernel.inputs)
            rounds = 2 if kernel.op_kind == "all_reduce" else 1  # scattered once, gathered once
            unit = self.at_clock
            moved = Events(
                read_bytes=counted.read_bytes, write_bytes=counted.write_bytes, activates=counted.activates
            )
            link = {"link": sent * rounds * unit.link_pj_per_byte}
            return _columns(link) | _memory_columns(memory_energy(moved, unit))  # others run, and pay for the time
        multiplies = kernel.kind in ("product", "grouped", "attention")
        unit = self.at_load if multiplies else self.at_clock
        dtype = self.target.compute_dtype(kernel.tasks[0].dtype) if multiplies else self.made.dtype
        macs = kernel.flops / 2 if multiplies else 0.0
        registers, scratchpad = operand_bytes(self.made, dtype)
        chip = self.target.chip
        events = Events(
            macs=macs,
            lane_ops=counted.vector_seconds * chip.cores * chip.core.vector.lanes * chip.clock,
            register_bytes=macs * registers,
            scratchpad_bytes=macs * scratchpad + counted.port_bytes,
            network_bytes=counted.requested_bytes,
            cache_bytes=counted.requested_bytes,
            read_bytes=counted.read_bytes,
            write_bytes=counted.write_bytes,
            activates=counted.activates,
            die_bytes=counted.die_bytes,
        )
        busy = min(max(counted.matrix_busy, counted.vector_busy), 1.0)
        idle = unit.clock_idle_share
        static = (unit.leakage_w + unit.clock_w * (idle + (1 - idle) * busy)) * counted.seconds
        spent = asdict(energy_of(events, dtype, unit))
        memory = _memory_columns(memory_energy(events, unit, counted.seconds))
        return _columns({**spent, "static": static * 1e12}) | memory

    def run(self, run: KernelRun) -> dict[str, int]:
        """The energy columns of a kernel that was simulated."""
        busy, target, whole = run.busy_ps, self.target, max(run.time_ps, 1.0)
        inward = busy.get("port_in", 0.0) * target.port_read_bytes_per_s
        outward = busy.get("port_out", 0.0) * target.port_write_bytes_per_s
        matrix, vector = busy.get("matrix", 0.0), busy.get("vector", 0.0)
        return self.row(
            run.kernel,
            Counted(
                seconds=run.time_ps * 1e-12,
                matrix_busy=matrix / whole,
                vector_busy=vector / whole,
                vector_seconds=vector * 1e-12,
                port_bytes=(inward + outward) * target.cores * 1e-12,
                requested_bytes=run.requested_bytes,
                read_bytes=run.read_bursts * target.chip.memory.standard.burst_bytes,
                write_bytes=run.write_bursts * target.chip.memory.standard.burst_bytes,
                activates=run.activates,
                die_bytes=self._die_bytes(run),
            ),
        )

    def _die_bytes(self, run: KernelRun) -> float:
        """What a kernel moved over the links between dies."""
        dies, machine = self.target.chip.dies, self.target.machine
        if dies is None or "die" not in self.target.groups:
            return 0.0
        members = [machine[i] for i in self.target.groups["die"]]
        moved = [run.link_ps.get(link.name, 0.0) * 1e6 / link.as_per_byte for link in members if isinstance(link, Link)]
        return sum(moved) / dies.reuse

    def figures(
        self, total_s: float, rows: list[dict[str, Any]], *, tokens: int, options: Options, chips: int
    ) -> dict[str, Any]:
        """`Result.physical` of a step of `total_s` with the operators `rows`; bounds on times give no peak power."""
        chip = self.target.chip
        running = sum(row["time_ps"] * row["repeat"] for row in rows if row["static_pj"]) * 1e-12
        idle_j = max(total_s - running, 0.0) * self.at_clock.idle_w()
        spent = [sum(row[column] for column in ENERGIES) for row in rows]
        energy = idle_j + sum(pj * row["repeat"] for pj, row in zip(spent, rows, strict=True)) * 1e-12
        powers = [pj / row["time_ps"] for pj, row in zip(spent, rows, strict=True) if row["time_ps"]]
        watts = energy / total_s
        dies_mm2 = hot_mm2(self.made, self.area)
        memory = sum(row["memory_pj"] * row["repeat"] for row in rows) * 1e-12 / total_s
        export = export_figures(chip, _rules(), self.made)
        cost = self._hour(watts)
        return {
            "technology": self.made.node.name,
            "idle_j": idle_j,
            "peak_power_w": max(powers, default=0.0) if options.fidelity != "roofline" else None,
            "static_power_w": self.at_clock.idle_w(),
            "power_limit_w": options.power_cap or chip.physical.tdp,
            "matrix_clock_hz": self.target.matrix_clock,
            "die_mm2": self.area.compute.mm2,
            "silicon_mm2": self.area.mm2,
            "refresh_share": refresh_share(chip.memory),
            "power_density_w_per_mm2": (watts - memory) / dies_mm2,
            "junction_celsius": junction_celsius(watts - memory, dies_mm2, self.made.parts.cooling["air"]),
            "parts_usd": cost[0] if cost else None,
            "chip_usd": cost[1].chip_usd if cost else None,
            "usd_per_hour": cost[1].total if cost else None,
            "usd_per_million_tokens": usd_per_million_tokens(cost[1], chips, tokens / total_s) if cost else None,
            "tpp": export.tpp,
            "performance_density": export.density,
            "export_rules": [rule.name for rule in export.met],
        }

    def warnings(self, figures: Mapping[str, Any]) -> list[str]:
        """What a reader must know: dies that cannot be printed, heat that cannot be removed, power beyond the limit."""
        found = over_reticle(self.made, self.area)
        watts = figures["power_density_w_per_mm2"] * hot_mm2(self.made, self.area)
        heat = chip_heat_warning(self.made, self.area, watts)
        if heat:
            found.append(heat)
        if edge := edge_warning(self.made, sqrt(self.area.compute.mm2)):
            found.append(edge)
        limit, peak = figures["power_limit_w"], figures["peak_power_w"]
        if limit and peak and peak > (1 + MARGIN) * limit:
            found.append(f"the hungriest operator would draw {peak:.0f} W at this clock; the limit is {limit:g} W")
        return found

    def _hour(self, watts: float) -> tuple[float, HourCost] | None:
        if over_reticle(self.made, self.area):
            return None
        parts = bill(self.made, area=self.area).parts
        return parts, hour_cost(parts, watts, self.made.parts.ownership)


_rules = cache(load_rules)


def meter(chip: ChipSpec, target: Target) -> Meter | None:
    """The meter of a chip; None where it states no technology."""
    if chip.physical.technology is None:
        return None
    made = silicon(chip)
    area = chip_area(made)
    at_clock, at_load = (unit_energy(made, clock, area) for clock in (target.clock, target.matrix_clock))
    return Meter(made, area, target, at_clock, at_load)


def _columns(energies: Mapping[str, float]) -> dict[str, int]:
    return {f"{unit}_pj": round(pj) for unit, pj in energies.items()}


def _memory_columns(energies: Mapping[str, float]) -> dict[str, int]:
    """The parts, and their sum."""
    parts = _columns({f"dram_{command}": pj for command, pj in energies.items()})
    return {**parts, "memory_pj": sum(parts.values())}
