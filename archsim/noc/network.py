"""A network as arrays: routers, the nodes on them, and the directed links between them."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from archsim.errors import InputError

__all__ = ["MAX_ROUTERS", "Network", "join"]

Ints = NDArray[np.int32]

#: more would not fit the tables of routes; a rack of chips is the business of the fabric models
MAX_ROUTERS = 4096


@dataclass(frozen=True, eq=False)
class Network:
    """Routers 0..routers-1, nodes that inject and accept traffic, and directed links.

    | array         | one entry a | meaning                                                                     |
    | ------------- | ----------- | --------------------------------------------------------------------------- |
    | `node_router` | node        | the router that it sits on                                                  |
    | `link_from`, `link_to` | link | the routers that it joins, one way                                         |
    | `link_cycles` | link        | cycles on the wire                                                          |

    `shape` is (columns, rows) of a grid, router r at column r % columns: empty for graphs that are no grid. `wraps`
    says whether opposite edges of the grid are joined.
    """

    name: str
    routers: int
    node_router: Ints
    link_from: Ints
    link_to: Ints
    link_cycles: Ints
    shape: tuple[int, ...] = ()
    wraps: bool = False
    link_of: dict[tuple[int, int], int] = field(default_factory=dict, repr=False)
    """The first link from one router to another."""

    @property
    def nodes(self) -> int:
        return len(self.node_router)

    @property
    def links(self) -> int:
        return len(self.link_from)

    @cached_property
    def ports(self) -> Ints:
        """Ports of each router: its outgoing links, or its incoming ones where they are more, and its nodes."""
        n = self.routers
        wide = np.maximum(np.bincount(self.link_from, minlength=n), np.bincount(self.link_to, minlength=n))
        return (wide + np.bincount(self.node_router, minlength=n)).astype(np.int32)

    @cached_property
    def ranks(self) -> tuple[Ints, Ints, Ints]:
        """The port of each outgoing link, of each incoming link and of each node at its router.

        Outgoing links come in order of their number, an incoming link beside the outgoing one to the same neighbour;
        nodes come last.
        """
        out_rank = _rank_within(self.link_from)
        in_rank = np.full(self.links, -1, dtype=np.int32)
        back: dict[tuple[int, int], deque[int]] = {}
        for link, ends in enumerate(zip(self.link_from.tolist(), self.link_to.tolist(), strict=True)):
            back.setdefault(ends, deque()).append(link)
        free = np.bincount(self.link_from, minlength=self.routers)
        for link, (a, b) in enumerate(zip(self.link_from.tolist(), self.link_to.tolist(), strict=True)):
            if twins := back.get((b, a)):
                in_rank[link] = out_rank[twins.popleft()]
            else:  # a one-way link has a port of its own
                in_rank[link] = free[b]
                free[b] += 1
        node_ports = np.bincount(self.node_router, minlength=self.routers)
        first = np.maximum(self.ports, free + node_ports) - node_ports
        return out_rank, in_rank, (first[self.node_router] + _rank_within(self.node_router)).astype(np.int32)

    def check_connected(self) -> None:
        """Raise `InputError` unless every router reaches every other one."""
        if self.routers == 0 or self.nodes == 0:
            raise InputError(f"network {self.name}: has no {'routers' if self.routers == 0 else 'nodes'}.")
        for along, far in ((self.link_from, self.link_to), (self.link_to, self.link_from)):
            reached = _reach(self.routers, along, far)
            if not reached.all():
                lost = int(np.flatnonzero(~reached)[0])
                ends = (0, lost) if along is self.link_from else (lost, 0)
                raise InputError(
                    f"network {self.name}: is not connected: no path leads from router {ends[0]} to router {ends[1]}."
                )


def join(
    name: str,
    routers: int,
    pairs: Iterable[tuple[int, int, int]],
    node_router: Sequence[int],
    *,
    shape: tuple[int, ...] = (),
    wraps: bool = False,
) -> Network:
    """The network of directed links (from, to, cycles).

    >>> line = join("line", 2, [(0, 1, 1), (1, 0, 1)], node_router=[0, 1])
    >>> line.nodes, line.links, line.ports.tolist()
    (2, 2, [2, 2])
    """
    links = np.array(list(pairs), dtype=np.int32).reshape(-1, 3)
    for column, what in ((links[:, 0], "link"), (links[:, 1], "link"), (np.asarray(node_router), "node")):
        if len(column) and not 0 <= column.min() <= column.max() < routers:
            raise InputError(f"network {name}: a {what} names a router outside 0..{routers - 1}.")
    if routers > MAX_ROUTERS:
        raise InputError(f"network {name}: has {routers} routers, but at most {MAX_ROUTERS} are simulated.")
    link_of: dict[tuple[int, int], int] = {}
    for number, (a, b) in enumerate(zip(links[:, 0].tolist(), links[:, 1].tolist(), strict=True)):
        link_of.setdefault((a, b), number)
    begin, end, cycles = np.ascontiguousarray(links.T)
    homes = np.array(node_router, dtype=np.int32)
    network = Network(name, routers, homes, begin, end, cycles, shape, wraps, link_of)
    network.check_connected()
    return network


def _rank_within(group: Ints) -> Ints:
    """The how-manieth of its group each entry is.

    >>> _rank_within(np.array([5, 3, 5, 5])).tolist()
    [0, 0, 1, 2]
    """
    seen: dict[int, int] = {}
    ranks = np.empty(len(group), dtype=np.int32)
    for index, value in enumerate(group.tolist()):
        ranks[index] = seen.get(value, 0)
        seen[value] = ranks[index] + 1
    return ranks


def _reach(routers: int, along: Ints, far: Ints) -> NDArray[np.bool_]:
    """Which routers a walk from router 0 reaches over the edges along -> far."""
    reached = np.zeros(routers, dtype=np.bool_)
    reached[0] = True
    while True:
        new = np.zeros_like(reached)
        new[far[reached[along]]] = True
        new &= ~reached
        if not new.any():
            return reached
        reached |= new
