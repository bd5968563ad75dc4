"""The on-chip network between cores, cache and memory, and the shared cache on it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from archsim.hardware.spec import Count, Rate, Spec
from archsim.units import Bandwidth, Size, Time

__all__ = ["CacheSpec", "Clusters", "Crossbar", "DiesSpec", "Graph", "Mesh", "NocSpec", "Ring", "Routed"]

Index = Annotated[int, Field(strict=True, ge=0)]


class Crossbar(Spec):
    """Every core reaches every memory port in one traversal; only the ports limit bandwidth."""

    kind: Literal["crossbar"]
    hop_latency: Time
    """One traversal."""
    memory_ports: Count
    """Ports on the memory side (memory controllers or cache slices)."""
    multicast: Count = 1
    """Neighbouring cores that one fetch can be delivered to (thread-block clusters of Hopper and later)."""


class Routed(Spec):
    """Routers and links that transfers contend for."""

    link_bytes_per_cycle: Rate
    """One link, one direction."""
    hop_latency: Time
    """One router and one link."""
    memory_ports: Count
    """Ports on the memory side."""
    memory_routers: tuple[Index, ...] = ()
    """The router of each memory port; by default as the kind of network says."""
    multicast: Count = 1
    """Neighbouring cores that one fetch is passed along to, each from the router of the one before."""
    reduction: Count = 1
    """Neighbouring cores whose partial sums the routers add up on the way to the last of them (split-K)."""


class Mesh(Routed):
    """A rows x cols grid; memory ports spread evenly over the west and east edges. A torus joins opposite edges."""

    kind: Literal["mesh", "torus"]
    rows: Count
    cols: Count
    concentration: Count = 1
    """Consecutive cores on one router."""
    reads: Literal["xy", "yx"] = "xy"
    """Order of dimensions for data on their way to a core: along the row first."""
    writes: Literal["xy", "yx"] = "yx"
    """The same for what a core writes, so that both meet the busy edge columns as little as they can."""


class Ring(Routed):
    """A router for every core, in a circle; memory ports spread evenly."""

    kind: Literal["ring"]


class Clusters(Routed):
    """Clusters of cores behind a port each of a crossbar that the memory ports sit on, as in GPUs."""

    kind: Literal["clusters"]
    clusters: Count


class Graph(Routed):
    """Any network: which routers are joined, both ways, and what sits on them; shortest ways."""

    kind: Literal["graph"]
    routers: Count
    links: tuple[tuple[Index, Index], ...]
    core_routers: tuple[Index, ...]
    """The router of each core."""


NocSpec = Annotated[Crossbar | Mesh | Ring | Clusters | Graph, Field(discriminator="kind")]


class DiesSpec(Spec):
    """The dies of a package: each has an equal share of the cores and of the memory ports.

    Behind a crossbar dies are joined to their neighbours in a grid; the columns of a mesh are cut into dies.
    """

    count: Annotated[int, Field(strict=True, ge=2)]
    columns: Count | None = None
    """Dies in a row of the package; by default all."""
    bandwidth: Bandwidth
    """Between two neighbouring dies, one direction."""
    latency: Time
    """From one die to the next."""
    numa: Literal["interleaved", "local"] = "interleaved"
    """Whether addresses alternate between the dies, or every die works on its own memory and kernels do not cross."""
    interleave: Size = 4096
    """Consecutive addresses on one die."""
    reuse: Annotated[float, Field(strict=True, ge=1)] = 1.0
    """Requests of cores for each that leaves their die, where caches that are not described stand before the links."""
    interface: str = ""
    """Name of the interface in the parts file, for the energy of a bit."""


class CacheSpec(Spec):
    """A cache shared by all cores, in front of the memory."""

    capacity: Size
    bandwidth: Bandwidth
    """Sum over all slices."""
    efficiency: Annotated[float, Field(strict=True, gt=0, le=1)] = 1.0
    """Share of the bandwidth that many cores reach together: banks conflict, halves pass requests to each other."""
    slices: Count | None = None
    """Slices with an equal share of the bandwidth each, over which addresses are hashed; without it one port has it."""
    interleave: Size | None = None
    """Consecutive bytes on one slice; 256 if it is not given."""
    partitions: Annotated[Count, Field(le=16)] = 1
    """Parts, each beside an equal share of the cores and home to as many addresses as the others. What a core reads
    from beside another one than its home is held in both."""
    latency: Time
    """Look-up and data access at the slice, beyond the network."""
    block: Size = 4096
    """Allocation unit of the model: larger than a real line, because requests come as tiles."""

    @property
    def sustained(self) -> float:
        """Bytes/s that cores reach together."""
        return self.bandwidth * self.efficiency
