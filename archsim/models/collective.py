"""Closed-form times of collectives over a two-level fabric (alpha-beta models).

Every function returns seconds for ``nbytes`` of data per chip. ``alpha`` is the latency of one message, ``beta`` the
sustained bytes/s that one chip sends in one direction; NIC serialisation is included (a chip has one port per level).

Assumptions: chips start together; no other traffic on the links; messages are cut into chunks, so hops pipeline.
Not modelled: contention between collectives, protocol switches, cores taken by communication kernels.
Reference: Thakur, Rabenseifner, Gropp, "Optimization of Collective Communication Operations in MPICH", 2005, section 4.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Level", "all_gather", "all_reduce", "all_to_all", "reduce_scatter"]


@dataclass(frozen=True)
class Level:
    """One level of the fabric as one chip sees it.

    latency_s: time of an empty message. bytes_per_s: sustained, one direction, one chip.
    """

    latency_s: float
    bytes_per_s: float


def reduce_scatter(nbytes: float, ranks: int, level: Level) -> float:
    """Ring: ``(p-1) (alpha + S / (p beta))``; S is the full buffer of one chip.

    >>> round(reduce_scatter(8e6, 8, Level(1e-6, 100e9)) * 1e6, 3)
    77.0
    """
    if ranks == 1:
        return 0.0
    return (ranks - 1) * (level.latency_s + nbytes / ranks / level.bytes_per_s)


def all_gather(nbytes: float, ranks: int, level: Level) -> float:
    """Ring, the mirror image of :func:`reduce_scatter`; S is the full gathered buffer."""
    return reduce_scatter(nbytes, ranks, level)


def all_reduce(nbytes: float, ranks: int, level: Level) -> float:
    """The faster of the ring, ``2 (p-1) (alpha + S / (p beta))``, and one shot, ``alpha + (p-1) S / beta``.

    One shot: every chip sends its whole buffer to every other and reduces locally, the choice for small messages.
    """
    if ranks == 1:
        return 0.0
    ring = 2 * reduce_scatter(nbytes, ranks, level)
    one_shot = level.latency_s + (ranks - 1) * nbytes / level.bytes_per_s
    return min(ring, one_shot)


def all_to_all(nbytes: float, ranks: int, ranks_per_node: int, inside: Level, outside: Level | None) -> float:
    """Direct exchange: each chip sends ``S (p-1)/p``, the part for its node on the inner level, the rest on the outer.

    Equation::  max(alpha_in + S (q-1)/p / beta_in,  alpha_out + S (p-q)/p / beta_out),  q = min(p, ranks_per_node)

    The two levels have ports of their own and run side by side. ``outside`` is needed when the group spans nodes.

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
        time = max(time, outside.latency_s + nbytes * (ranks - local) / ranks / outside.bytes_per_s)
    return time
