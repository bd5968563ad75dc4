"""The on-chip network between cores, cache and memory, and the shared cache on it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from archsim.hardware.spec import Count, Rate, Spec
from archsim.units import Bandwidth, Size, Time

__all__ = ["CacheSpec", "Crossbar", "Mesh", "NocSpec"]


class Crossbar(Spec):
    """Every core reaches every memory port in one traversal; only the ports limit bandwidth."""

    kind: Literal["crossbar"]
    hop_latency: Time
    """One traversal."""
    memory_ports: Count
    """Ports on the memory side (memory controllers or cache slices)."""
    multicast: Count = 1
    """Neighbouring cores that one fetch can be delivered to (thread-block clusters of Hopper and later)."""


class Mesh(Spec):
    """A rows x cols grid with one core per router and dimension-ordered routing."""

    kind: Literal["mesh"]
    rows: Count
    cols: Count
    link_bytes_per_cycle: Rate
    """One link, one direction."""
    hop_latency: Time
    """One router and one link."""
    memory_ports: Count
    """Memory ports, spread evenly over the west and east edges."""


NocSpec = Annotated[Crossbar | Mesh, Field(discriminator="kind")]


class CacheSpec(Spec):
    """A cache shared by all cores, in front of the memory."""

    capacity: Size
    bandwidth: Bandwidth
    """Sum over all slices."""
    latency: Time
    """Look-up and data access at the slice, beyond the network."""
    block: Size = 4096
    """Allocation unit of the model: larger than a real line, because requests come as tiles."""
