"""Routes: for every pair of nodes the channels on the way, and which virtual channels may be used on each.

A route is a list of channels: links, then the channel into the destination node (number links + node). Each hop has a
*kind*, a range of virtual channels:

* `ANY`: all of them; the last kind, and what a node injects with;
* `LOWER`, `UPPER`: the first or the second half. Two halves break the cycles that rings and mixed dimension orders
  close (Dally and Towles, Principles and Practices of Interconnection Networks, 14.2).

A pair may have several routes (O1TURN, ties on a torus, the ways up a tree); a packet takes one at random.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
from numpy.typing import NDArray

from archsim.errors import InputError
from archsim.noc.network import Network

__all__ = ["ANY", "LOWER", "ROUTINGS", "UPPER", "Routes", "routes_by_class", "routes_for", "routes_from_table"]

LOWER, UPPER, ANY = 0, 1, 2

#: one way through the network: the links, and the kind of each
Way = list[tuple[int, int]]


@dataclass(frozen=True, eq=False)
class Routes:
    """All routes as one CSR: those of the pair (source, destination) are `first[pair]..first[pair + 1]`.

    Route r visits the channels `channels[start[r]:start[r + 1]]`, of kinds `kinds[...]`. `classes` of messages have
    routes of their own; pair = (class * nodes + source) * nodes + destination.
    """

    network: Network
    routing: str
    first: NDArray[np.int64]
    start: NDArray[np.int64]
    channels: NDArray[np.int32]
    kinds: NDArray[np.int8]
    classes: int = 1

    @property
    def halved(self) -> bool:
        """Whether any hop is confined to one half of the virtual channels."""
        return bool((self.kinds != ANY).any())

    def pick(
        self,
        source: NDArray[np.int64],
        destination: NDArray[np.int64],
        rng: np.random.Generator,
        message_class: NDArray[np.int64] | int = 0,
    ) -> NDArray[np.int64]:
        """One route for each pair; drawn at random where a pair has several."""
        kind = message_class if self.classes > 1 else 0
        pair = (kind * self.network.nodes + source) * self.network.nodes + destination
        route: NDArray[np.int64] = self.first[pair]
        choice = self.first[pair + 1] - route
        if (choice > 1).any():
            route = route + (rng.random(len(pair)) * choice).astype(np.int64)
        return route

    def of(self, source: int, destination: int) -> list[list[int]]:
        """The routes of one pair as lists of channels."""
        pair = source * self.network.nodes + destination
        ways = range(int(self.first[pair]), int(self.first[pair + 1]))
        return [self.channels[self.start[r] : self.start[r + 1]].tolist() for r in ways]

    def hops(self) -> NDArray[np.int64]:
        """Routers that each route traverses."""
        return np.diff(self.start)


def routes_for(network: Network, routing: str, *, datelines: bool = True) -> Routes:
    """The routes of a network under one of `ROUTINGS`; without `datelines` all may use every virtual channel."""
    if routing not in ROUTINGS:
        raise InputError(f"routing '{routing}' is unknown; legal are {', '.join(ROUTINGS)} (and a table from a file).")
    routes = _collect(network, routing, ROUTINGS[routing](network))
    return routes if datelines else replace(routes, kinds=np.full_like(routes.kinds, ANY))


def routes_by_class(parts: Sequence[Routes]) -> Routes:
    """Routes of their own for each class of messages, for example XY for what is read and YX for what is written."""
    if len({id(part.network) for part in parts}) != 1 or any(part.classes != 1 for part in parts):
        raise InputError("routes by class: need one set of routes for each class, all of the same network.")
    first, start = [np.zeros(1, dtype=np.int64)], [np.zeros(1, dtype=np.int64)]
    for part in parts:
        first.append(part.first[1:] + first[-1][-1])
        start.append(part.start[1:] + start[-1][-1])
    return Routes(
        parts[0].network,
        " and ".join(part.routing for part in parts),
        np.concatenate(first),
        np.concatenate(start),
        np.concatenate([part.channels for part in parts]),
        np.concatenate([part.kinds for part in parts]),
        len(parts),
    )


def routes_from_table(network: Network, table: Mapping[tuple[int, int], int]) -> Routes:
    """The routes of a table (router, destination router) -> next router; a loop or a hole in it is an error."""

    def ways(source: int, destination: int) -> list[Way]:
        way: Way = []
        here, seen = source, {source}
        while here != destination:
            following = table.get((here, destination))
            if following is None:
                raise InputError(
                    f"routing table of {network.name}: router {here} has no entry for destination {destination}."
                )
            link = network.link_of.get((here, following))
            if link is None:
                raise InputError(
                    f"routing table of {network.name}: router {here} sends to {following} for destination "
                    f"{destination}, but no link joins them."
                )
            if following in seen:
                raise InputError(
                    f"routing table of {network.name}: the way from router {source} to {destination} comes back to "
                    f"router {following}: a loop."
                )
            way.append((link, ANY))
            seen.add(following)
            here = following
        return [way]

    return _collect(network, "table", ways)


def _collect(network: Network, routing: str, ways: Callable[[int, int], list[Way]]) -> Routes:
    between = [ways(a, b) for a, b in product(range(network.routers), repeat=2)]
    first, start = [0], [0]
    channels: list[int] = []
    kinds: list[int] = []
    homes = network.node_router.tolist()
    for source in homes:
        for node, home in enumerate(homes):
            for way in between[source * network.routers + home]:
                channels += [link for link, _ in way]
                channels.append(network.links + node)
                kinds += [kind for _, kind in way]
                kinds.append(ANY)
                start.append(len(channels))
            first.append(len(start) - 1)
    return Routes(
        network,
        routing,
        np.array(first, dtype=np.int64),
        np.array(start, dtype=np.int64),
        np.array(channels, dtype=np.int32),
        np.array(kinds, dtype=np.int8),
    )


# --- grids ----------------------------------------------------------------------------------------------------


def _walk(network: Network, source: int, destination: int, axes: tuple[int, int], kind: int) -> list[Way]:
    """All shortest walks along one axis, then along the other; on rings, a tie goes either way round."""
    columns, rows = network.shape
    ways: list[tuple[int, Way]] = [(source, [])]
    for axis in axes:
        size, stride = ((columns, 1), (rows, columns))[axis]
        longer: list[tuple[int, Way]] = []
        for here, way in ways:
            at, to = (place // stride % size for place in (here, destination))
            for step in _directions(at, to, size, network.wraps):
                longer.append(_along(network, here, way, (at, to, size, stride), step, kind))
        ways = longer
    return [way for _, way in ways]


def _directions(at: int, to: int, size: int, wraps: bool) -> list[int]:
    """Which ways along one axis are shortest: +1, -1, or both.

    >>> _directions(0, 2, 4, True), _directions(0, 3, 4, True), _directions(0, 3, 4, False)
    ([1, -1], [-1], [1])
    """
    if not wraps or at == to:
        return [1 if to >= at else -1]
    ahead = (to - at) % size
    return [step for step, distance in ((1, ahead), (-1, size - ahead)) if 2 * distance <= size]


def _along(
    network: Network, here: int, way: Way, line: tuple[int, int, int, int], step: int, kind: int
) -> tuple[int, Way]:
    """Walk from `at` to `to` on one line of the grid.

    On a ring the walks that start above their end keep to the upper half of the virtual channels and the others to the
    lower one, in either direction. In each half the walks of one direction leave a link of the ring unused, or never
    cross the edge, so that neither can close a cycle.
    """
    at, to, size, stride = line
    way = list(way)
    if network.wraps and kind == ANY:
        kind = UPPER if at > to else LOWER
    while at != to:
        following = (at + step) % size
        beyond = here + (following - at) * stride
        way.append((network.link_of[here, beyond], kind))
        here, at = beyond, following
    return here, way


def _grid_ways(order: str) -> Callable[[Network], Callable[[int, int], list[Way]]]:
    def build(network: Network) -> Callable[[int, int], list[Way]]:
        if not network.shape:
            raise InputError(f"routing {order} needs a grid, but {network.name} is none; use shortest or a table.")
        if order == "o1turn" and network.wraps:
            raise InputError("routing o1turn needs the halves of virtual channels that a torus needs for its rings.")

        def ways(source: int, destination: int) -> list[Way]:
            if order == "o1turn":
                xy = _walk(network, source, destination, (0, 1), LOWER)
                return xy + _walk(network, source, destination, (1, 0), UPPER)
            return _walk(network, source, destination, (0, 1) if order == "xy" else (1, 0), ANY)

        return ways

    return build


# --- graphs ---------------------------------------------------------------------------------------------------


def _neighbours(network: Network) -> list[list[tuple[int, int]]]:
    """(router, link) that each router leads to, links in order."""
    out: list[list[tuple[int, int]]] = [[] for _ in range(network.routers)]
    for link, (a, b) in enumerate(zip(network.link_from.tolist(), network.link_to.tolist(), strict=True)):
        out[a].append((b, link))
    return out


def _distances(network: Network, to: int) -> list[int]:
    """Links from every router to router `to`."""
    into: list[list[int]] = [[] for _ in range(network.routers)]
    for a, b in zip(network.link_from.tolist(), network.link_to.tolist(), strict=True):
        into[b].append(a)
    distance = [-1] * network.routers
    distance[to] = 0
    border = [to]
    while border:
        following = []
        for router in border:
            for near in into[router]:
                if distance[near] < 0:
                    distance[near] = distance[router] + 1
                    following.append(near)
        border = following
    return distance


def _shortest(network: Network, *, every: bool) -> Callable[[int, int], list[Way]]:
    """Shortest ways: the one over the lowest links, or all of them."""
    out = _neighbours(network)
    distances = [_distances(network, to) for to in range(network.routers)]

    def extend(here: int, destination: int) -> Iterator[Way]:
        if here == destination:
            yield []
            return
        distance = distances[destination]
        for near, link in out[here]:
            if distance[near] == distance[here] - 1:
                for rest in extend(near, destination):
                    yield [(link, ANY), *rest]
                if not every:
                    return

    return lambda source, destination: list(extend(source, destination))


ROUTINGS: dict[str, Callable[[Network], Callable[[int, int], list[Way]]]] = {
    "xy": _grid_ways("xy"),
    "yx": _grid_ways("yx"),
    "o1turn": _grid_ways("o1turn"),
    "shortest": lambda network: _shortest(network, every=False),
    "spread": lambda network: _shortest(network, every=True),
}
