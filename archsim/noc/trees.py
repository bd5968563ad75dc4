"""Trees: one packet that routers copy on its way to many nodes, or packets that they add up on their way to one.

The routes of one source to many nodes share their beginnings, those of many nodes to one their ends, under routing
that draws nothing at random (`xy`, `yx`, `shortest`, tables). A tree is made of *segments*, one for each channel; where
routers copy or add, several go on from one, or one from several.

>>> from archsim.noc import mesh, routes_for
>>> routes = routes_for(mesh(4, 4), "xy")
>>> len(multicast(routes, 0, [1, 2, 3], flits=4).ways.channels)  # three links and three ways into nodes; alone 6 + 3
6
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from archsim.errors import InputError
from archsim.noc.routing import Routes
from archsim.noc.traffic import Packets

__all__ = ["Trees", "Ways", "multicast", "reduction"]


@dataclass(frozen=True, eq=False)
class Ways:
    """Where each packet goes: `length` channels from `start` on, and then its `nexts` go on.

    waits: packets that must have come before it goes on; 0: none. kinds: the virtual channels of each hop, as in
    :class:`~archsim.noc.Routes`.
    """

    channels: NDArray[np.int32]
    kinds: NDArray[np.int8]
    start: NDArray[np.int64]
    length: NDArray[np.int32]
    waits: NDArray[np.int32]
    next_start: NDArray[np.int32]
    nexts: NDArray[np.int32]

    @classmethod
    def of(cls, routes: Routes, route: NDArray[np.int64]) -> Ways:
        """Those of whole packets, each on a route of its own."""
        nothing = np.zeros(len(route) + 1, np.int32)
        length = (routes.start[route + 1] - routes.start[route]).astype(np.int32)
        return cls(routes.channels, routes.kinds, routes.start[route], length, nothing[1:], nothing, nothing[:0])


@dataclass(frozen=True, eq=False)
class Trees:
    """Packets that are segments of trees, and their ways. `leaves` are those that end in a node."""

    packets: Packets
    ways: Ways

    @property
    def leaves(self) -> NDArray[np.bool_]:
        """Segments that no other goes on from."""
        leaves: NDArray[np.bool_] = np.diff(self.ways.next_start) == 0
        return leaves


    @classmethod
    def together(cls, trees: Sequence[Trees]) -> Trees:
        """Several trees at once; a node sends its packets in their order."""
        sizes = np.cumsum([0, *(len(tree.packets) for tree in trees)])
        channels = np.cumsum([0, *(len(tree.ways.channels) for tree in trees)])
        nexts = np.cumsum([0, *(len(tree.ways.nexts) for tree in trees)])
        packets = Packets(*(np.concatenate([getattr(t.packets, f.name) for t in trees]) for f in fields(Packets)))
        ways = [tree.ways for tree in trees]
        return cls(packets, Ways(
            np.concatenate([way.channels for way in ways]), np.concatenate([way.kinds for way in ways]),
            np.concatenate([way.start + at for way, at in zip(ways, channels[:-1], strict=True)]),
            np.concatenate([way.length for way in ways]), np.concatenate([way.waits for way in ways]),
            np.concatenate([[0], *(way.next_start[1:] + at for way, at in zip(ways, nexts[:-1], strict=True))])
            .astype(np.int32),
            np.concatenate([way.nexts + at for way, at in zip(ways, sizes[:-1], strict=True)]).astype(np.int32),
        ))  # fmt: skip


#: one hop of a route: channel and kind
Hop = tuple[int, int]


def multicast(routes: Routes, source: int, destinations: Sequence[int], *, flits: int) -> Trees:
    """One packet from a node to several."""
    nodes = _distinct(routes, source, destinations)
    return _trees(routes, [_hops(routes, source, node) for node in nodes], [source], flits)


def reduction(routes: Routes, sources: Sequence[int], destination: int, *, flits: int) -> Trees:
    """A packet from each of several nodes, added up on the way to one."""
    nodes = _distinct(routes, destination, sources)
    return _trees(routes, [_hops(routes, node, destination) for node in nodes], nodes, flits)


def _distinct(routes: Routes, one: int, many: Sequence[int]) -> list[int]:
    nodes = routes.network.nodes
    if not many or len({*many}) < len(many) or not all(0 <= node < nodes for node in (one, *many)):
        raise InputError(f"tree: needs different nodes, all within 0..{nodes - 1}.")
    return list(many)


def _hops(routes: Routes, source: int, destination: int) -> list[Hop]:
    pair = source * routes.network.nodes + destination
    at = int(routes.first[pair])
    span = slice(int(routes.start[at]), int(routes.start[at + 1]))
    return list(zip(routes.channels[span].tolist(), routes.kinds[span].tolist(), strict=True))


def _trees(routes: Routes, ways: list[list[Hop]], sources: list[int], flits: int) -> Trees:
    """A segment for every source, which goes as far as its router, and for every channel that is passed."""
    number = {hop: len(sources) + i for i, hop in enumerate(dict.fromkeys(hop for way in ways for hop in way))}
    roots = range(len(sources)) if len(sources) > 1 else [0] * len(ways)
    pairs = {
        pair: None
        for root, way in zip(roots, ways, strict=True)
        for pair in pairwise([root, *(number[hop] for hop in way)])
    }
    count = len(sources) + len(number)
    before = np.bincount([b for _, b in pairs], minlength=count)
    after = np.bincount([a for a, _ in pairs], minlength=count)
    if (before if len(sources) == 1 else after).max() > 1:
        raise InputError(f"tree on {routes.network.name}: its routes part and meet again, so that they are no tree.")
    first = np.array(sources, np.int64)
    source = np.concatenate([first, np.full(len(number), first[0])])
    is_source = np.arange(count) < len(sources)
    nothing = np.zeros(count, np.int64)
    packets = Packets(source, source, np.full(count, flits), nothing, nothing, nothing - 1, ~is_source)
    nexts = sorted(pairs)
    hops = np.array(list(number), np.int64).reshape(-1, 2)
    ways_of = Ways(
        hops[:, 0].astype(np.int32), hops[:, 1].astype(np.int8),
        np.maximum(np.arange(count) - len(sources), 0), (~is_source).astype(np.int32), before.astype(np.int32),
        np.concatenate([[0], np.cumsum(after)]).astype(np.int32), np.array([b for _, b in nexts], np.int32),
    )  # fmt: skip
    return Trees(packets, ways_of)
