"""What is bought rather than designed (memory, packages, power, cooling): energies, limits and prices."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from archsim.hardware.spec import Count, ProvenanceMap, Rate, Spec
from archsim.units import Area, Bandwidth, Time

__all__ = ["Cooling", "Fabric", "MemoryPart", "Ownership", "PackageKind", "PartsSpec"]

Share = Annotated[float, Field(strict=True, gt=0, le=1)]
NotNegative = Annotated[float, Field(strict=True, ge=0, allow_inf_nan=False)]


class MemoryPart(Spec):
    """One DRAM standard."""

    usd_per_gb: Rate
    footprint: Area
    """One stack or device on the package."""


class Fabric(Spec):
    """Energy of one bit on the links of a chip, one end."""

    link_pj_per_bit: Rate
    host_pj_per_bit: Rate
    die_link_pj_per_bit: Rate
    """Of dies that name no interface."""


class DieInterface(Spec):
    """A way to join two dies in a package."""

    pj_per_bit: Rate
    bandwidth_per_mm: Bandwidth
    """Of a millimetre of the die's edge, both directions together."""


class PackageKind(Spec):
    """One way to put dies and memory together."""

    usd_per_mm2: Rate
    """Interposer or substrate with assembly, for each mm2 of it."""
    margin: Annotated[float, Field(strict=True, ge=1, le=10)]
    """Area of the interposer over that of the silicon and memory on it."""
    attach_yield: Share
    """Of one die or stack; a failure loses everything that it is attached to."""
    test_usd: Rate
    """Test, assembly and burn-in of one package."""


class Cooling(Spec):
    """A way to cool a package: a single thermal resistance and capacity between the junctions and the coolant."""

    limit_w_per_mm2: Rate
    """Mean over the compute dies that it removes."""
    resistance_k_mm2_per_w: Rate
    """Of one mm2 of die."""
    time_constant: Time
    coolant_celsius: NotNegative
    junction_celsius: Rate
    """At most."""


class Ownership(Spec):
    """What it takes to run a chip for its life."""

    usd_per_kwh: Rate
    power_factor: Annotated[float, Field(strict=True, ge=1, le=10)]
    """Power of the site over that of the chips: hosts, fans, network, conversion, cooling."""
    capital_factor: Annotated[float, Field(strict=True, ge=1, le=10)]
    """Price of the system over that of its chips: hosts, network, racks, site."""
    years: Rate
    utilisation: Share
    """Of the hours of those years, at the speed that was simulated."""
    gross_margin: Annotated[float, Field(strict=True, ge=0, lt=1)]
    """Of the chip's vendor, where no price is given."""


class PartsSpec(Spec):
    """Parts, packages and prices that every chip shares."""

    name: str
    title: str
    memory: dict[str, MemoryPart] = Field(min_length=1)
    """By the name of the DRAM standard."""
    fabric: Fabric
    die_links: dict[str, DieInterface]
    """Interfaces between dies (`dies.interface` of a chip)."""
    packages: dict[str, PackageKind] = Field(min_length=1)
    cooling: dict[str, Cooling] = Field(min_length=1)
    ownership: Ownership
    reticle: Area
    """The largest die that one exposure can print."""
    volume: Count
    """Packages over which masks and engineering are spread, where none is given."""
    clustering: Rate
    """Alpha of the negative binomial yield."""
    provenance: ProvenanceMap = Field(default_factory=dict)
