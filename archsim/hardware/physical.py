"""What a chip is made of: process, dies, package, and what lies on the dies beyond what the timing needs to know."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from archsim.hardware.spec import Count, Spec
from archsim.units import Area, Bandwidth, Power, Size

__all__ = ["IoDies", "LayoutSpec", "PhysicalSpec"]

Lanes = Annotated[int, Field(strict=True, ge=0, lt=2**31)]


class LayoutSpec(Spec):
    """Counts of what lies on the dies of a chip, spares included; what is not stated follows from the chip itself."""

    cores: Count | None = None
    """On all dies; those beyond the chip's `cores` are spares."""
    lanes: Count | None = None
    """32-bit SIMD lanes of a core, where each does several of the operations that `core.vector.lanes` counts."""
    fp64_lanes: Lanes = 0
    """fp64 multiply-adds per cycle of a core."""
    core_sram: Size | None = None
    """All memory of a core: registers, scratchpad, accumulators, caches."""
    near_cache: Size | None = None
    """Caches between the cores and `cache` that the timing leaves out, over all dies."""
    cache: Size | None = None
    memory_phys: Lanes | None = None
    """PHYs of 1024 bits for stacked memory or of 32 bits for other memory, spares included."""
    link_lanes: Lanes | None = None
    """SerDes lanes of the fabrics that leave the package."""
    host_lanes: Lanes = 16
    die_link: Bandwidth | None = None
    """Between the dies of the package, for each compute die and direction."""


class IoDies(Spec):
    """Dies of their own for the shared cache, the memory interfaces and the links."""

    technology: str
    count: Count
    die_area: Area | None = None


class PhysicalSpec(Spec):
    """Facts about silicon and package."""

    process: str | None = None
    """As the vendor calls it."""
    technology: str | None = None
    """Name of a file in configs/technology, or a path: what area, power and cost are computed with."""
    dies: Count = 1
    """Compute dies in the package."""
    die_area: Area | None = None
    """One compute die."""
    io_dies: IoDies | None = None
    layout: LayoutSpec = LayoutSpec()
    package: str | None = None
    """Name of a package in the parts list (configs/parts); by default what the memory asks for."""
    tdp: Power | None = None
