"""The on-chip network as links between core ports and memory ports, with a route for every pair.

Crossbar: the fabric inside is non-blocking; transfers contend at the cores' own ports and in the memory, and
each crossing costs one hop latency. Mesh: cores sit row by row on a grid of routers, one each; memory ports sit
on the west and east edges. Data for a core travels along its row first and writes leave along the column first,
so that both meet the busy edge columns as little as they can. Every directed link between neighbouring routers
is a resource that transfers contend for. A read's request costs nothing on a mesh. Not modelled yet: virtual
channels, flits and credits, multicast on a mesh (behind a crossbar, lowering lets neighbouring cores share a fetch).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from archsim.hardware import ChipSpec
from archsim.program import Link, attoseconds_per_byte

__all__ = ["Network", "lay_out"]

Position = tuple[int, int]  # (row, column) of a router
#: bytes of consecutive addresses behind one memory port of a mesh; transfers are not split over ports
STRIPE_BYTES = 4096


@dataclass(frozen=True)
class Network:
    """``to_core[core][port]`` and ``from_core[core][port]`` list the resource ids of the links on the way."""

    links: tuple[Link, ...]
    ports: int
    stripe_bytes: int
    to_core: tuple[tuple[tuple[int, ...], ...], ...]
    from_core: tuple[tuple[tuple[int, ...], ...], ...]


def lay_out(chip: ChipSpec, first_resource: int) -> Network:
    """The links of ``chip``'s network, numbered from ``first_resource``, and its routes."""
    noc = chip.noc
    if noc.kind == "crossbar":
        # one switch traversal towards the cores; its bandwidth is that of the ports, so the link itself never binds
        return Network((), 1, STRIPE_BYTES, (((),),) * chip.cores, (((),),) * chip.cores)
    routers = [(row, col) for row in range(noc.rows) for col in range(noc.cols)]
    rate = attoseconds_per_byte(noc.link_bytes_per_cycle * chip.clock)
    hop_ps = round(noc.hop_latency * 1e12)
    number: dict[tuple[Position, Position], int] = {}
    links: list[Link] = []
    for row, col in routers:
        for near in ((row, col + 1), (row + 1, col)):
            if near in set(routers):
                for a, b in (((row, col), near), (near, (row, col))):
                    number[a, b] = first_resource + len(links)
                    links.append(Link(f"noc {a[0]},{a[1]}>{b[0]},{b[1]}", "noc", rate, hop_ps))
    ports = _edge_ports(noc.memory_ports, noc.rows, noc.cols)
    to_core = tuple(tuple(_links(number, _walk(port, core, row_first=True)) for port in ports) for core in routers)
    from_core = tuple(tuple(_links(number, _walk(core, port, row_first=False)) for port in ports) for core in routers)
    return Network(tuple(links), len(ports), STRIPE_BYTES, to_core, from_core)


def _edge_ports(count: int, rows: int, cols: int) -> list[Position]:
    """``count`` memory ports spread evenly over the west edge, then the east edge.

    >>> _edge_ports(4, 4, 8)
    [(0, 0), (2, 0), (0, 7), (2, 7)]
    """
    west = -(-count // 2)
    east = count - west
    return [(i * rows // west, 0) for i in range(west)] + [(i * rows // east, cols - 1) for i in range(east)]


def _walk(start: Position, end: Position, *, row_first: bool) -> list[Position]:
    """Routers from ``start`` to ``end``, both included: along the row then the column, or the other way round.

    >>> _walk((0, 0), (1, 2), row_first=True)
    [(0, 0), (0, 1), (0, 2), (1, 2)]
    """
    path = [start]
    for axis in (1, 0) if row_first else (0, 1):
        while path[-1][axis] != end[axis]:
            here = list(path[-1])
            here[axis] += 1 if end[axis] > here[axis] else -1
            path.append((here[0], here[1]))
    return path


def _links(number: dict[tuple[Position, Position], int], path: list[Position]) -> tuple[int, ...]:
    return tuple(number[pair] for pair in pairwise(path))
