"""Lower bounds on the time of collectives: what no algorithm can beat, from the bytes that a chip must move.

Equation::  T >= alpha + V / beta

| symbol | meaning | unit |
| --- | --- | --- |
| S | the buffer, as nccl-tests counts | bytes |
| p | chips | |
| V | bytes that each chip must send, or receive: see each function | bytes |
| alpha | least time of a collective of one byte on this level | s |
| beta | most bytes that one chip sends, or receives, per second on this level | bytes/s |

Assumptions: chips start together; a chip has one port per level, both run side by side.
Valid for any algorithm and any contention; `archsim.network` simulates what really happens.
Reference: Patarasuk, Yuan, "Bandwidth optimal all-reduce algorithms for clusters of workstations", 2009, section 3.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Level", "all_gather", "all_reduce", "all_to_all", "nodes_of_a_token", "over_nodes", "reduce_scatter"]


@dataclass(frozen=True)
class Level:
    """One level of the fabric as one chip sees it.

    latency_s: least time of a collective. bytes_per_s: the most, one direction, one chip. reduces: its switch can add.
    """

    latency_s: float
    bytes_per_s: float
    reduces: bool = False


def reduce_scatter(nbytes: float, ranks: int, level: Level) -> float:
    """``V = S (p-1)/p``: each chip sends all blocks but its own.

    >>> round(reduce_scatter(8e6, 8, Level(1e-6, 100e9)) * 1e6, 3)
    71.0
    """
    if ranks == 1:
        return 0.0
    return level.latency_s + nbytes * (ranks - 1) / ranks / level.bytes_per_s


def all_gather(nbytes: float, ranks: int, level: Level) -> float:
    """``V = S (p-1)/p``: each chip receives all blocks but its own; S is the full gathered buffer."""
    return reduce_scatter(nbytes, ranks, level)


def all_reduce(nbytes: float, ranks: int, level: Level) -> float:
    """``V = 2 S (p-1)/p``, or ``S`` where the switch adds.

    >>> round(all_reduce(8e6, 8, Level(1e-6, 100e9)) * 1e6), round(all_reduce(8e6, 8, Level(1e-6, 100e9, True)) * 1e6)
    (141, 81)
    """
    if ranks == 1:
        return 0.0
    volume = nbytes if level.reduces else 2 * nbytes * (ranks - 1) / ranks
    return level.latency_s + volume / level.bytes_per_s


def over_nodes(
    bound: Callable[[float, int, Level], float], nbytes: float, ranks: int, ranks_per_node: int, inside: Level,
    outside: Level | None,
) -> float:  # fmt: skip
    """``bound`` for a group that may span nodes: each chip has two ports then, and each node those of its chips.

    >>> inside, outside = Level(1e-6, 160e9), Level(4e-6, 50e9)
    >>> round(over_nodes(all_gather, 64e6, 16, 8, inside, outside) * 1e6)  # 32 MB through the eight ports of a node: 80
    290
    """
    if ranks <= ranks_per_node or outside is None:
        return bound(nbytes, ranks, inside)
    both = Level(outside.latency_s, inside.bytes_per_s + outside.bytes_per_s, inside.reduces)
    node = Level(outside.latency_s, ranks_per_node * outside.bytes_per_s)
    return max(bound(nbytes, ranks, both), bound(nbytes, ranks // ranks_per_node, node))


def nodes_of_a_token(nodes: int, top_k: int) -> float:
    """Nodes that a token's experts lie on, in the mean, when each is on any of `nodes`: ``D (1 - (1 - 1/D)^k)``.

    >>> round(nodes_of_a_token(4, 8), 2)
    3.6
    """
    return nodes * (1 - (1 - 1 / nodes) ** top_k)


def all_to_all(
    nbytes: float, ranks: int, ranks_per_node: int, inside: Level, outside: Level | None, *, across: float = 1.0
) -> float:
    """Direct exchange: each chip sends ``S (p-1)/p``, the part for its node on the inner level, the rest on the outer.

    Equation::  max(alpha_in + S (q-1)/p / beta_in,  alpha_out + a S (p-q)/p / beta_out),  q = min(p, ranks_per_node)

    across (a): share of what other nodes get that has to cross, below 1 where copies are made there. The two levels
    have ports of their own and run side by side. ``outside`` is needed when the group spans nodes.

    >>> all_to_all(64e6, 16, 8, Level(1e-6, 160e9), Level(4e-6, 50e9)) == 4e-6 + 32e6 / 50e9
    True
    """
    if ranks == 1:
        return 0.0
    local = min(ranks, ranks_per_node)
    time = inside.latency_s + nbytes * (local - 1) / ranks / inside.bytes_per_s if local > 1 else 0.0
    if ranks > local:
        if outside is None:
            raise ValueError(
                f"a group of {ranks} chips spans nodes of {ranks_per_node}, but there is no scale-out link"
            )
        time = max(time, outside.latency_s + across * nbytes * (ranks - local) / ranks / outside.bytes_per_s)
    return time
