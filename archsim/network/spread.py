"""Phases that go beyond one part, or in which chips differ: all-to-all, trees and chains."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from math import ceil

from archsim.errors import InputError
from archsim.hardware.link import TransportName
from archsim.models.collective import nodes_of_a_token
from archsim.network.phases import Ready
from archsim.network.schedule import Move, Schedule

#: bytes that follow each other down a chain, most chunks of them, and most messages of all chips together
LINK_CHUNK_BYTES, MOST_LINK_CHUNKS, MOST_LINK_MESSAGES = 2**17, 1024, 2**16

__all__ = ["by_node", "chain", "direct", "scatter_gather", "tree"]


def direct(s: Schedule, nbytes: float, transports: Sequence[TransportName | None], rows: float = 0.0) -> None:
    """Every chip sends a block to every other, each along the shortest way; halfway round a ring, half each way.

    rows: that a chip sends in all, its own included.
    """
    sizes = [part.size for part in s.parts]
    total = 1
    for size in sizes:
        total *= size
    for shifts in product(*(range(size) for size in reversed(sizes))):
        ways = [_ways(s, part, shift) for part, shift in enumerate(reversed(shifts)) if shift]
        if not ways:
            continue
        share = nbytes / total
        for way in ways:
            share /= len(way)
        block, part = max(1, ceil(share)), rows * share / nbytes
        for moves in product(*ways):
            s.send(moves, block, (), transports[moves[-1].part], plane=sum(shifts), rows=part)


def _ways(s: Schedule, part: int, shift: int) -> list[Move]:
    """The shortest moves to the chip `shift` places on."""
    size = s.parts[part].size
    if s.parts[part].dim.kind != "ring" or not s.parts[part].whole or 2 * shift < size:
        return [Move(part, shift)]
    back = Move(part, shift - size)
    return [back] if 2 * shift > size else [Move(part, shift), back]


def by_node(
    s: Schedule, nbytes: float, transports: Sequence[TransportName | None], top_k: int, limit: int, *, combine: bool
) -> None:
    """Node-limited routing of DeepSeek-V3: one copy of a token to each node that needs it, passed on inside the node.

    A token goes to `top_k` experts on at most `limit` nodes, so a chip sends ``S / k x E[nodes]`` between nodes and
    ``S (q-1)/q`` inside; a combine goes the other way. Reference: DeepSeek-V3 technical report, section 3.2.2.
    """
    inner, nodes = s.parts[0].size, s.parts[1].size
    per_node = max(1, ceil(nbytes / top_k * nodes_of_a_token(limit, top_k) / nodes))
    per_chip = max(1, ceil(nbytes / nodes / inner))
    for node in range(nodes):
        before: list[int] = []
        if node and not combine:
            before = [s.send([Move(1, node)], per_node, (), transports[1])]
        inside = [s.send([Move(0, shift)], per_chip, before, transports[0]) for shift in range(1, inner)]
        if node and combine:
            s.send([Move(1, node)], per_node, inside, transports[1])


def tree(s: Schedule, nbytes: float, ready: Ready, transport: TransportName | None) -> None:
    """Two binary trees, each for half of the data, the leaves of one being the inner chips of the other: up, then down.

    Reference: Sanders, Speck, Traeff, "Two-tree algorithms for full bandwidth broadcast, reduction and scan", 2009.
    """
    if len(s.parts) > 1:
        raise InputError(f"tree: works inside one dimension of a fabric, and this group spans {len(s.parts)}")
    size = s.parts[0].size
    block = max(1, ceil(nbytes / 2 / len(ready)))
    for plane, _ in enumerate(ready):
        for mirrored in (False, True):
            at = [size - 1 - i if mirrored else i for i in range(size)]
            up: dict[int, int] = {}
            for node in range(size - 1, 0, -1):
                below = [up[child] for child in (2 * node + 1, 2 * node + 2) if child in up]
                move = Move(0, at[(node - 1) // 2] - at[node])
                up[node] = s.send([move], block, below, transport, plane, ((0, at[node]),))
            down: dict[int, list[int]] = {0: [up[child] for child in (1, 2) if child in up]}
            for node in range(1, size):
                parent = (node - 1) // 2
                move = Move(0, at[node] - at[parent])
                down[node] = [s.send([move], block, down[parent], transport, plane, ((0, at[parent]),))]


def scatter_gather(s: Schedule, nbytes: float, ready: Ready, transport: TransportName | None) -> None:
    """The first chip sends a block to each other one, and all send theirs to all: two steps, twice the bytes.

    Reference: van de Geijn, "On global combine operations", 1994.
    """
    size = s.parts[0].size
    block = max(1, ceil(nbytes / size / len(ready)))
    for plane, _ in enumerate(ready):
        sent = [s.send([Move(0, shift)], block, (), transport, plane, ((0, 0),)) for shift in range(1, size)]
        for shift in range(1, size):
            s.send([Move(0, shift)], block, sent, transport, plane)


def chain(s: Schedule, nbytes: float, transports: Sequence[TransportName | None]) -> None:
    """The first chip sends to the next, that one on, chunk after chunk; the outer parts before the inner."""
    hops = sum(part.size - 1 for part in s.parts)
    count = min(ceil(nbytes / LINK_CHUNK_BYTES), MOST_LINK_CHUNKS, max(MOST_LINK_MESSAGES // hops, 1))
    block = max(1, ceil(nbytes / count))
    for plane in range(count):
        before: list[int] = []
        for part in reversed(range(len(s.parts))):
            there = list(before)
            for place in range(s.parts[part].size - 1):
                at = (*((inner, 0) for inner in range(part)), (part, place))
                there = [s.send([Move(part, 1)], block, [*there], transports[part], plane, at)]
                before.append(there[0])
