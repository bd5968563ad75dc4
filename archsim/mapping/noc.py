"""The on-chip network as links between cores and memory, with a route for every pair.

Crossbar: the fabric inside is non-blocking; transfers contend at the cores' own ports and in the memory, and each
crossing costs one hop latency. Every other network has routers (`archsim.noc`), and every directed link between two of
them is a resource that transfers contend for, each booked as one packet. A read's request costs nothing there. Virtual
channels and credits are left to `archsim noc bench`.

Dies: behind a crossbar, a transfer to memory of another die passes the links between the dies on its way; of a mesh,
the links over the edge of a die share the bandwidth between the two.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from math import inf

from archsim.hardware import ChipSpec, Clusters, Crossbar, DiesSpec, Graph, Mesh, Ring, Routed
from archsim.noc import ROUTINGS, hierarchical, join, mesh, ring, torus
from archsim.noc import Network as Wires
from archsim.program import Link, attoseconds_per_byte

__all__ = ["Network", "lay_out"]

#: bytes of consecutive addresses behind one memory port of a network; a transfer goes through one port as a whole
STRIPE_BYTES = 4096

Way = tuple[int, ...]


@dataclass(frozen=True)
class Network:
    """``to_core[core][port]`` and ``from_core[core][port]`` list the resource ids of the links on the way.

    A port is a memory port, or all of a die's. ``along[core]`` are the links from the core before, which passes on what
    both want. first: resource id of the first link.
    """

    first: int
    links: tuple[Link, ...]
    stripe_bytes: int
    to_core: tuple[tuple[Way, ...], ...]
    from_core: tuple[tuple[Way, ...], ...]
    along: tuple[Way, ...]

    @property
    def ports(self) -> int:
        """Ways into the memory."""
        return len(self.to_core[0])

    @property
    def read_bytes_per_s(self) -> float:
        """What all cores together can read when every one reads as much from every port: the busiest link's limit."""
        if not self.links:
            return inf
        ways = [way for core in self.to_core for way in core]
        passed = Counter(link for way in ways for link in way)
        slowest = max((self.links[link - self.first].as_per_byte * count for link, count in passed.items()), default=0)
        return len(ways) * 1e18 / slowest if slowest else inf


def lay_out(chip: ChipSpec, first_resource: int) -> Network:
    """The links of ``chip``'s network, numbered from ``first_resource``, and its routes."""
    noc, dies = chip.noc, chip.dies
    if not isinstance(noc, Crossbar):
        return _routed(chip, noc, first_resource)
    if dies is not None and dies.numa == "interleaved":
        return _dies(chip.cores, dies, first_resource)
    nothing: Way = ()  # the switch is as wide as its ports, so it never binds
    routes = ((nothing,),) * chip.cores
    return Network(first_resource, (), STRIPE_BYTES, routes, routes, (nothing,) * chip.cores)


def _dies(cores: int, dies: DiesSpec, first: int) -> Network:
    """Crossbars on dies in a grid; a core's die is the one that its number falls on."""
    columns = dies.columns or dies.count
    walk = _Walk(mesh(columns, dies.count // columns), first)
    rate, latency_ps = attoseconds_per_byte(dies.bandwidth * dies.reuse), round(dies.latency * 1e12)
    links = tuple(Link(f"die {a}>{b}", "die", rate, latency_ps) for a, b in walk.ends)
    home = [core * dies.count // cores for core in range(cores)]
    ports = range(dies.count)
    return Network(
        first, links, int(dies.interleave),
        tuple(tuple(walk.way("xy", port, die) for port in ports) for die in home),
        tuple(tuple(walk.way("xy", die, port) for port in ports) for die in home),
        ((),) * cores,
    )  # fmt: skip


def _routed(chip: ChipSpec, noc: Routed, first: int) -> Network:
    """Links and routes of a network of routers."""
    wires, home, ports = _wires(chip)
    walk, ports = _Walk(wires, first), list(noc.memory_routers) or ports
    reads, writes = (noc.reads, noc.writes) if isinstance(noc, Mesh) else ("shortest", "shortest")
    rate, hop_ps = attoseconds_per_byte(noc.link_bytes_per_cycle * chip.clock), round(noc.hop_latency * 1e12)
    links = []
    for a, b in walk.ends:
        name = f"noc {_place(noc, a)}>{_place(noc, b)}"
        if chip.dies is not None and isinstance(noc, Mesh) and _die(chip.dies, noc, a) != _die(chip.dies, noc, b):
            share = attoseconds_per_byte(chip.dies.bandwidth / noc.rows)
            links.append(Link(name, "die", share, hop_ps + round(chip.dies.latency * 1e12)))
        else:
            links.append(Link(name, "noc", rate, hop_ps))
    return Network(
        first, tuple(links), STRIPE_BYTES,
        tuple(tuple(walk.way(reads, port, router) for port in ports) for router in home),
        tuple(tuple(walk.way(writes, router, port) for port in ports) for router in home),
        tuple(walk.way(reads, before, router) for before, router in pairwise([home[0], *home])),
    )  # fmt: skip


class _Walk:
    """The ways through a network, as resource ids of the links on them."""

    def __init__(self, wires: Wires, first: int) -> None:
        self.wires, self.first = wires, first
        self.ends = list(zip(wires.link_from.tolist(), wires.link_to.tolist(), strict=True))
        self._ways = {"shortest": ROUTINGS["shortest"](wires)}
        if wires.shape:
            self._ways |= {name: ROUTINGS[name](wires) for name in ("xy", "yx")}
        self._known: dict[tuple[str, int, int], Way] = {}

    def way(self, routing: str, start: int, end: int) -> Way:
        """The links from one router to another; of two ways round a ring that are as short, the first."""
        key = (routing, start, end)
        if key not in self._known:
            self._known[key] = tuple(self.first + link for link, _ in self._ways[routing](start, end)[0])
        return self._known[key]


def _wires(chip: ChipSpec) -> tuple[Wires, list[int], list[int]]:
    """The network, the router of each core, and where its memory ports are by default."""
    noc = chip.noc
    if isinstance(noc, Mesh):
        grid = (mesh if noc.kind == "mesh" else torus)(noc.cols, noc.rows)
        ports = [row * noc.cols + col for row, col in _edge_ports(noc.memory_ports, noc.rows, noc.cols)]
        return grid, [core // noc.concentration for core in range(chip.cores)], ports
    if isinstance(noc, Ring):
        ports = [i * chip.cores // noc.memory_ports for i in range(noc.memory_ports)]
        return ring(chip.cores), list(range(chip.cores)), ports
    if isinstance(noc, Clusters):
        wires = hierarchical(noc.clusters, chip.cores // noc.clusters, noc.memory_ports)
        return wires, wires.node_router[: chip.cores].tolist(), [0] * noc.memory_ports
    assert isinstance(noc, Graph), "a crossbar has no routers"
    pairs = [(a, b, 1) for x, y in noc.links for a, b in ((x, y), (y, x))]
    homes = list(noc.core_routers)
    return join(f"of {chip.name}", noc.routers, pairs, homes), homes, list(noc.memory_routers)


def _place(noc: Routed, router: int) -> str:
    """How a router is called: row and column in a grid, else its number."""
    return f"{router // noc.cols},{router % noc.cols}" if isinstance(noc, Mesh) else str(router)


def _die(dies: DiesSpec, noc: Mesh, router: int) -> int:
    """The die of a router: the columns are cut into as many equal parts."""
    return router % noc.cols * dies.count // noc.cols


def _edge_ports(count: int, rows: int, cols: int) -> list[tuple[int, int]]:
    """``count`` memory ports spread evenly over the west edge, then the east edge, as (row, column).

    >>> _edge_ports(4, 4, 8)
    [(0, 0), (2, 0), (0, 7), (2, 7)]
    """
    west = -(-count // 2)
    east = count - west
    return [(i * rows // west, 0) for i in range(west)] + [(i * rows // east, cols - 1) for i in range(east)]
