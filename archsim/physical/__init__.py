"""What a design costs: area, energy, power and clock, money and export-control metrics, from visible tables.

Pure functions of a chip, the table of its process node (`configs/technology`), a list of parts (`configs/parts`) and
counted events. Constants belong to a node or a part, never to a chip.

>>> from archsim.hardware import load_chip
>>> from archsim.physical import chip_area, silicon, sustained_clock
>>> h100 = load_chip("h100")
>>> 700 < chip_area(silicon(h100)).mm2 < 900, 1.4e9 < sustained_clock(h100, "bf16") < 1.75e9
(True, True)
"""

from archsim.physical.area import Block, ChipArea, DieArea, chip_area
from archsim.physical.die_links import edge_warning
from archsim.physical.energy import (
    Energy,
    Events,
    UnitEnergy,
    energy_of,
    memory_energy,
    operand_bytes,
    refresh_share,
    unit_energy,
)
from archsim.physical.export_control import DISCLAIMER, ExportFigures, export_figures
from archsim.physical.floorplan import Rectangle, floorplan
from archsim.physical.money import Bill, bill, over_reticle
from archsim.physical.ownership import HourCost, hour_cost, usd_per_million_tokens
from archsim.physical.power import busy_clocks, capped, gemm_events, gemm_power, loaded_clock, sustained_clock
from archsim.physical.silicon import Silicon, silicon
from archsim.physical.thermal import chip_heat_warning, heat_warning, hot_mm2, junction_celsius
from archsim.physical.variant import load_variant
from archsim.physical.voltage import voltage
from archsim.physical.yields import YIELD_MODELS, dies_per_wafer

__all__ = [
    "DISCLAIMER",
    "YIELD_MODELS",
    "Bill",
    "Block",
    "ChipArea",
    "DieArea",
    "Energy",
    "Events",
    "ExportFigures",
    "HourCost",
    "Rectangle",
    "Silicon",
    "UnitEnergy",
    "bill",
    "busy_clocks",
    "capped",
    "chip_area",
    "chip_heat_warning",
    "dies_per_wafer",
    "edge_warning",
    "energy_of",
    "export_figures",
    "floorplan",
    "gemm_events",
    "gemm_power",
    "heat_warning",
    "hot_mm2",
    "hour_cost",
    "junction_celsius",
    "load_variant",
    "loaded_clock",
    "memory_energy",
    "operand_bytes",
    "over_reticle",
    "refresh_share",
    "silicon",
    "sustained_clock",
    "unit_energy",
    "usd_per_million_tokens",
    "voltage",
]
