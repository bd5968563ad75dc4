"""A process node: what its transistors, wires and memories cost in energy, area and money."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from archsim.hardware.spec import Dtype, ProvenanceMap, Rate, Spec
from archsim.units import Bandwidth, Frequency, Size

__all__ = ["OperatingPoint", "SramEnergy", "TechnologySpec"]

NotNegative = Annotated[float, Field(strict=True, ge=0, allow_inf_nan=False)]


class OperatingPoint(Spec):
    """One point of the voltage/frequency curve of a well-made data path."""

    clock: Frequency
    volt: Rate


class SramEnergy(Spec):
    """Energy of one access to an SRAM macro of some capacity."""

    capacity: Size
    pj_per_byte: Rate


class TechnologySpec(Spec):
    """One process node. Energies hold at `nominal_volt`, areas include the white space of placed and routed blocks."""

    name: str
    title: str
    nominal_volt: Rate
    curve: tuple[OperatingPoint, ...] = Field(min_length=2)
    """Clock that a voltage allows, lowest first; the first point is the lowest voltage that the node runs at."""

    mac_pj: dict[Dtype, Rate] = Field(min_length=1)
    """One multiply-accumulate with its share of the adder tree and of the latches around it."""
    lane_pj: Rate
    """One fp32 operation of a vector lane, with its registers."""
    register_pj_per_byte: Rate
    sram: tuple[SramEnergy, ...] = Field(min_length=1)
    """Smallest capacity first; between two points the energy is interpolated over the logarithm of the capacity."""
    wire_pj_per_bit_mm: Rate
    clock_pj_per_mm2: Rate
    """Clock tree, control and glitches of one mm2 of logic in one cycle."""
    clock_idle_share: Annotated[float, Field(strict=True, ge=0, le=1)]
    """Of `clock_pj_per_mm2`, what a clocked but idle mm2 still takes: the tree and what cannot be gated."""
    logic_leakage_w_per_mm2: NotNegative
    """At `nominal_volt` and 85 C."""
    sram_leakage_w_per_mm2: NotNegative

    mac_um2: Rate
    """One multiply-accumulate per cycle of 16-bit operands, with its registers."""
    lane_um2: Rate
    """One 32-bit SIMD lane with its ports, address path and share of the scheduler."""
    fp64_um2: Rate
    """One fp64 fused multiply-add."""
    sram_mm2_per_mb: Rate
    """Banks, periphery, ECC and wiring of 10^6 bytes."""
    cache_port_um2: Rate
    """Tags, queues and data path of a shared cache, for each byte per cycle."""
    noc_um2_per_mm: Rate
    """On-chip network: wires and repeaters for each byte per cycle at its ends and mm of die edge."""
    stack_phy_mm2: Rate
    """PHY of 1024 bits of stacked memory."""
    stack_controller_mm2: Rate
    device_phy_mm2: Rate
    """PHY of 32 bits of GDDR or LPDDR."""
    device_controller_mm2: Rate
    serdes_phy_mm2: Rate
    """One lane of a fabric or host link, both directions."""
    serdes_controller_mm2: Rate
    serdes_rate: Bandwidth
    """Of one lane and direction, where a chip does not state its lanes."""
    die_link_mm2_per_tbyte_s: Rate
    """Die-to-die PHY and controller inside a package, for 10^12 bytes/s in one direction."""
    system_mm2: Rate
    """What every die has once: front end, power management, fuses, test, sensors."""

    wafer_usd: Rate
    """One processed wafer of 300 mm."""
    defects_per_cm2: Rate
    mask_set_usd: Rate
    design_usd: Rate
    """Engineering cost of one new large die."""
    provenance: ProvenanceMap = Field(default_factory=dict)

    @model_validator(mode="after")
    def _rises(self) -> TechnologySpec:
        clocks = [point.clock for point in self.curve]
        volts = [point.volt for point in self.curve]
        sizes = [point.capacity for point in self.sram]
        for path, values in (("curve", clocks), ("curve", volts), ("sram", sizes)):
            if any(later <= earlier for earlier, later in pairwise(values)):
                text = "its points must rise from each to the next"
                raise PydanticCustomError("contradiction", "{text}", {"path": path, "text": text})
        return self
