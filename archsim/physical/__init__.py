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
from archsim.physical.energy import Energy, Events, UnitEnergy, energy_of, operand_bytes, unit_energy
from archsim.physical.power import gemm_events, gemm_power, sustained_clock
from archsim.physical.silicon import Silicon, silicon
from archsim.physical.voltage import voltage

__all__ = [
    "Block",
    "ChipArea",
    "DieArea",
    "Energy",
    "Events",
    "Silicon",
    "UnitEnergy",
    "chip_area",
    "energy_of",
    "gemm_events",
    "gemm_power",
    "operand_bytes",
    "silicon",
    "sustained_clock",
    "unit_energy",
    "voltage",
]
