"""Packets, the synthetic patterns that networks are measured with, and bulk transfers as lists of packets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from archsim.errors import InputError, did_you_mean
from archsim.noc.routing import Routes

__all__ = ["PATTERNS", "Packets", "Pattern", "hotspot", "pattern_for", "random_packets", "read_packets",
           "write_packets"]  # fmt: skip

Longs = NDArray[np.int64]

PATTERNS = ("uniform", "bitcomp", "transpose", "shuffle", "tornado", "neighbor")


@dataclass(frozen=True, eq=False)
class Packets:
    """Packets in the order in which their sources queue them, one entry each.

    `created`: cycle, ascending. `message_class`: its share of the virtual channels. `releases`: the packet that may go
    once this one has arrived (-1: none); `held`: until another packet has released it.
    """

    source: Longs
    destination: Longs
    flits: Longs
    created: Longs
    message_class: Longs
    releases: Longs
    held: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.source)


def write_packets(source: Longs, destination: Longs, flits: Longs, created: Longs | None = None) -> Packets:
    """Packets that depend on nothing."""
    zeros = np.zeros(len(source), dtype=np.int64)
    return Packets(source, destination, flits, zeros if created is None else created, zeros, zeros - 1, zeros > 0)


def read_packets(reader: Longs, memory: Longs, request_flits: Longs, reply_flits: int, window: int) -> Packets:
    """Requests of class 0 and replies of class 1; each reader has at most `window` requests out (0: no limit).

    Packet n + i answers packet i, n requests in all.
    """
    n = len(reader)
    releases = np.concatenate([np.arange(n, 2 * n), np.full(n, -1, dtype=np.int64)])
    held = np.concatenate([np.zeros(n, np.bool_), np.ones(n, np.bool_)])
    if window:
        for node in np.unique(reader):
            mine = np.flatnonzero(reader == node)
            releases[n + mine[:-window]] = mine[window:]
            held[mine[window:]] = True
    return Packets(
        np.concatenate([reader, memory]),
        np.concatenate([memory, reader]),
        np.concatenate([request_flits, np.full(n, reply_flits, dtype=np.int64)]),
        np.zeros(2 * n, dtype=np.int64),
        np.repeat(np.arange(2), n),
        releases,
        held,
    )


@dataclass(frozen=True, eq=False)
class Pattern:
    """Where each node sends to: one destination each, or one of `targets` at random."""

    name: str
    destination: Longs | None
    targets: Longs

    def draw(self, source: Longs, rng: np.random.Generator) -> Longs:
        """Destinations of packets from `source`."""
        if self.destination is not None:
            return self.destination[source]
        return self.targets[(rng.random(len(source)) * len(self.targets)).astype(np.int64)]

    def load(self, routes: Routes) -> NDArray[np.float64]:
        """Mean flits per cycle on each channel when every node injects one: the largest bounds the throughput."""
        nodes = routes.network.nodes
        first, hops = routes.first, routes.hops()
        weight = np.zeros(len(hops))
        for source in range(nodes):
            targets = self.targets if self.destination is None else self.destination[source : source + 1]
            for target in targets.tolist():
                pair = source * nodes + target
                weight[first[pair] : first[pair + 1]] += 1 / len(targets) / (first[pair + 1] - first[pair])
        loads = np.bincount(routes.channels, np.repeat(weight, hops), routes.network.links + nodes)
        return loads.astype(np.float64)


def hotspot(nodes: int, targets: Sequence[int]) -> Pattern:
    """All nodes send to a few, chosen at random."""
    if not targets or not all(0 <= target < nodes for target in targets):
        raise InputError(f"hotspot: the targets must be nodes between 0 and {nodes - 1}.")
    return Pattern(f"hotspot {','.join(map(str, targets))}", None, np.array(targets, dtype=np.int64))


def pattern_for(name: str, nodes: int) -> Pattern:
    """One of `PATTERNS`, or ``hotspot:0,7``.

    With x and y the two coordinates of a node on a square of side k, and b the bits of its number: bitcomp inverts b,
    transpose swaps x and y, shuffle rotates b left, tornado adds k/2 - 1 to x and y, neighbor adds 1 (Dally and Towles,
    Principles and Practices of Interconnection Networks, table 3.1).

    >>> pattern_for("bitcomp", 16).destination.tolist()[:3]
    [15, 14, 13]
    """
    if name.startswith("hotspot:"):
        try:
            return hotspot(nodes, [int(part) for part in name.removeprefix("hotspot:").split(",")])
        except ValueError:
            raise InputError(f"pattern '{name}': write the targets as numbers, for example hotspot:0,7.") from None
    everyone = np.arange(nodes, dtype=np.int64)
    if name == "uniform":
        return Pattern(name, None, everyone)
    if name not in PATTERNS:
        raise InputError(f"pattern '{name}' is unknown; legal are {', '.join(PATTERNS)} and hotspot:NODES"
                         f"{did_you_mean(name, PATTERNS)}.")  # fmt: skip
    bits = nodes.bit_length() - 1
    side = round(nodes**0.5)
    if name in ("bitcomp", "shuffle") and nodes != 1 << bits:
        raise InputError(f"pattern '{name}' needs a power of two nodes, but the network has {nodes}.")
    if name in ("transpose", "tornado", "neighbor") and nodes != side * side:
        raise InputError(f"pattern '{name}' needs a square number of nodes, but the network has {nodes}.")
    x, y = everyone % side, everyone // side
    step = side // 2 - 1 if name == "tornado" else 1
    destination = {
        "bitcomp": nodes - 1 - everyone,
        "transpose": x * side + y,
        "shuffle": (2 * everyone) % nodes + (2 * everyone) // nodes,
        "tornado": (y + step) % side * side + (x + step) % side,
        "neighbor": (y + step) % side * side + (x + step) % side,
    }[name]
    return Pattern(name, destination, everyone)


def random_packets(
    pattern: Pattern, nodes: int, load: float, flits: int, begin: int, cycles: int, rng: np.random.Generator
) -> Packets:
    """Bernoulli injection: in every cycle every node creates a packet with probability load / flits."""
    when, source = np.nonzero(rng.random((cycles, nodes)) < load / flits)
    return write_packets(source, pattern.draw(source, rng), np.full(len(source), flits, dtype=np.int64), begin + when)
