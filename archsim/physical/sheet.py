"""Everything physical about one chip as plain data, for the command line and for `--json`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from archsim.errors import InputError
from archsim.hardware import ChipSpec, PartsSpec, load_rules
from archsim.physical.area import chip_area
from archsim.physical.energy import Events, memory_energy, unit_energy
from archsim.physical.export_control import DISCLAIMER, export_figures
from archsim.physical.money import bill, die_mm2, over_reticle, without_spares
from archsim.physical.ownership import hour_cost, usd_per_million_tokens
from archsim.physical.power import gemm_power, loaded_clock, sustained_clock
from archsim.physical.silicon import Silicon, silicon
from archsim.physical.thermal import chip_heat_warning, hot_mm2, junction_celsius
from archsim.physical.voltage import voltage

__all__ = ["cost_sheet", "memory_w", "physical_sheet"]


def physical_sheet(chip: ChipSpec, *, cap_w: float | None = None, parts: PartsSpec | None = None) -> dict[str, Any]:
    """Dies with their blocks, power and clock of a dense product by type, heat."""
    made = silicon(chip, parts)
    area = chip_area(made)
    stated = die_mm2(made, area)
    products = {dtype: _product(made, dtype, cap_w) for dtype in chip.dtypes}
    dies_mm2 = hot_mm2(made, area)
    hottest = max(
        p["sustained_w"] - p["sustained_w_by_unit"]["memory"] for p in products.values()
    )  # stacks and devices lie beside the dies
    warnings = over_reticle(made, area)
    heat = chip_heat_warning(made, area, hottest)
    return {
        "chip": chip.name,
        "technology": made.node.name,
        "dies": [
            {
                "name": die.name,
                "technology": die.technology,
                "count": die.count,
                "modelled_mm2": die.mm2,
                "stated_mm2": mm2 if given else None,
                "blocks_mm2": {block.name: block.mm2 for block in die.blocks},
            }
            for die, (mm2, given) in zip(area.dies, stated, strict=True)
        ],
        "silicon_mm2": area.mm2,
        "reticle_mm2": made.parts.reticle,
        "power_limit_w": cap_w or chip.physical.tdp,
        "loaded_clock_hz": loaded_clock(chip, cap_w),
        "sizing_dtype": made.dtype,
        "products": products,
        "memory_at_full_rate_w": memory_w(made),
        "power_density_w_per_mm2": hottest / dies_mm2,
        "junction_celsius": {
            name: junction_celsius(hottest, dies_mm2, cooling) for name, cooling in made.parts.cooling.items()
        },
        "warnings": [*warnings, *([heat] if heat else [])],
    }


def cost_sheet(
    chip: ChipSpec,
    *,
    parts: PartsSpec | None = None,
    yield_model: str = "negative",
    volume: int | None = None,
    price_usd: float | None = None,
    watts: float | None = None,
    tokens_per_s: float | None = None,
) -> dict[str, Any]:
    """Bill of materials, cost of an hour and of a million tokens, export figures; InputError for an impossible die."""
    made = silicon(chip, parts)
    for name, value in (("power", watts), ("tokens-per-s", tokens_per_s)):
        if value is not None and not value > 0:
            raise InputError(f"--{name} {value:g}: must be more than 0")
    impossible = over_reticle(made)
    if impossible:
        raise InputError(impossible[0] + "; use more dies (physical.dies) or a denser node (physical.technology)")
    found = bill(made, yield_model=yield_model, volume=volume)
    watts = watts if watts is not None else _working_w(made)
    hour = hour_cost(found.parts, watts, made.parts.ownership, price_usd)
    export = export_figures(chip, load_rules(), made)
    return {
        "chip": chip.name,
        "parts_list": made.parts.title,
        "yield_model": yield_model,
        "volume": volume or made.parts.volume,
        "dies": [asdict(die) for die in found.dies],
        "items_usd": found.items(),
        "parts_usd": found.parts,
        "warnings": without_spares(made, found),
        "chip_usd": hour.chip_usd,
        "chip_usd_given": price_usd is not None,
        "power_w": watts,
        "usd_per_hour": {"capital": hour.capital, "power": hour.power, "total": hour.total},
        "usd_per_million_tokens": usd_per_million_tokens(hour, 1, tokens_per_s) if tokens_per_s else None,
        "export": {
            "tpp": export.tpp,
            "tpp_dtype": export.tpp_dtype,
            "performance_density": export.density,
            "die_mm2": export.die_mm2,
            "links_gbyte_s": export.links_gbyte_s,
            "memory_gbyte_s": export.memory_gbyte_s,
            "rules": [rule.model_dump(include={"name", "since", "until", "effect", "citation"}) for rule in export.met],
            "disclaimer": DISCLAIMER,
        },
    }


def _product(made: Silicon, dtype: Any, cap_w: float | None) -> dict[str, Any]:
    """A dense product at the quoted clock, and at the one that the limit leaves."""
    chip = made.chip
    sustained = sustained_clock(chip, dtype, cap_w, made.parts)
    at_peak, at_sustained = (gemm_power(made, dtype, clock) for clock in (chip.clock, sustained))
    return {
        "peak_flops": chip.flops(dtype),
        "peak_w": sum(at_peak.values()),
        "sustained_clock_hz": sustained,
        "sustained_volt": voltage(made.node, sustained),
        "sustained_flops": chip.flops(dtype) * sustained / chip.clock,
        "sustained_w": sum(at_sustained.values()),
        "sustained_w_by_unit": at_sustained,
    }


def memory_w(made: Silicon) -> float:
    """The memory read at its full bandwidth, whole rows."""
    unit, memory = unit_energy(made, made.chip.clock), made.chip.memory
    rows = memory.bandwidth / memory.standard.row_bytes
    rate = Events(read_bytes=memory.bandwidth, activates=rows)
    return unit.memory_w + sum(memory_energy(rate, unit).values()) * 1e-12


def _working_w(made: Silicon) -> float:
    """The power that a chip is paid for where none is given: its TDP, or else a dense product."""
    return made.chip.physical.tdp or sum(gemm_power(made, made.dtype, made.chip.clock).values())
