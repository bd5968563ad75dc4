"""Which algorithms and transports come into question for a request: what a collective library would try.

Like NCCL's tuner, the choice is the fastest by the model; unlike it, the model is the simulation itself.
"""

from __future__ import annotations

from collections.abc import Sequence

from archsim.errors import InputError
from archsim.hardware.link import TransportName
from archsim.network.algorithms import Choice
from archsim.network.fabric import Fabric, Part
from archsim.network.request import Algorithm, Collective

__all__ = ["candidates"]

LIBRARY: tuple[TransportName, ...] = ("ll", "ll128", "simple")
PAIRWISE: tuple[TransportName, ...] = ("p2p_ll", "p2p")

#: bytes to one partner above which NCCL does not send by `p2p_ll` (NCCL_P2P_LL_THRESHOLD in its source)
LL_PAIR_BYTES = 16384

#: chips behind one switch above which they stand in several machines, between which NCCL has trees too
LARGEST_BOARD = 16

#: above so many chips a ring in a switch is not tried: its steps alone take longer than anything else
LONGEST_RING = 4096


def candidates(fabric: Fabric, request: Collective) -> list[Choice]:
    """Algorithms with their transports, for the algorithm that the request names or for all; never empty."""
    parts = fabric.parts(request.group)
    if not parts:
        return [("ring", None, None)]
    found = [
        (algorithm, inside, _across(parts, inside))
        for algorithm in _algorithms(parts, request)
        for inside in _transports(parts[0], request, algorithm)
    ]
    if not found:
        raise InputError(f"{request.algorithm}: not possible for {request.kind} on '{fabric.name}'")
    return found


def _algorithms(parts: Sequence[Part], request: Collective) -> list[Algorithm]:
    if request.algorithm not in ("auto", "fastest"):
        return [request.algorithm]
    kinds = {part.dim.kind for part in parts}
    if request.kind == "broadcast":
        rings = len(parts) > 1 or kinds == {"ring"} or ("ll" in parts[0].dim.link.transports and kinds == {"switch"})
        return ["chain"] if rings else ["chain", "two_shot"]
    if request.kind == "send_recv":
        return ["direct"]
    if request.kind in ("all_to_all", "dispatch", "combine"):
        limited = len(parts) == 2 and (request.node_limit or request.top_k > 1)
        return ["hierarchical"] if limited else ["direct"]
    if len(parts) > 1:
        return _over_nodes(parts, request)
    if kinds == {"ring"}:
        return ["ring"]
    if kinds == {"mesh"}:
        shots: list[Algorithm] = ["one_shot", "two_shot"]
        return shots if request.kind == "all_reduce" else ["direct"]
    library: list[Algorithm] = ["ring"] if parts[0].size <= LONGEST_RING else []
    if "ll" not in parts[0].dim.link.transports:
        return [*library, *_plain(request)]
    if request.kind == "all_reduce":
        library += ["tree"] if parts[0].size > LARGEST_BOARD else []
        library += ["in_switch"] if "in_switch" in parts[0].dim.link.transports else []
        if request.algorithm == "fastest" and "direct" in parts[0].dim.link.transports:
            library += ["one_shot", "two_shot"]
    return library


def _plain(request: Collective) -> list[Algorithm]:
    """Of a switch whose library is not of NCCL's kind: the textbook's choice."""
    shots: list[Algorithm] = ["one_shot", "two_shot"] if request.kind == "all_reduce" else ["direct"]
    return [*shots, "halving_doubling"]


def _over_nodes(parts: Sequence[Part], request: Collective) -> list[Algorithm]:
    """Groups in several dimensions; on a torus the ring runs along each."""
    inner = parts[0].dim
    if all(part.dim.kind == "ring" for part in parts):
        return ["ring"]
    found: list[Algorithm] = ["hierarchical"]
    chips = 1
    for part in parts:
        chips *= part.size
    if len(parts) == 2 and inner.kind == "switch" and chips <= LONGEST_RING // 8:
        found.append("ring")
    if request.kind == "all_reduce" and inner.kind == "switch" and "in_switch" in inner.link.transports:
        found.append("in_switch")
    return found


def _transports(part: Part, request: Collective, algorithm: Algorithm) -> list[TransportName | None]:
    known = part.dim.link.transports
    if request.transport is not None:
        if request.transport not in known:
            legal = ", ".join(known) or "none"
            raise InputError(f"transport '{request.transport}': {part.dim.link.name} has {legal}")
        return [request.transport]
    if not known:
        return [None]
    wanted: tuple[TransportName, ...] = LIBRARY
    if request.kind in ("dispatch", "combine"):
        wanted = ("expert",) if algorithm == "direct" and "expert" in known else PAIRWISE
    elif request.kind in ("all_to_all", "send_recv"):
        pair = request.nbytes / (request.group.size if request.kind == "all_to_all" else 1)
        wanted = PAIRWISE if pair <= LL_PAIR_BYTES else PAIRWISE[1:]
    elif algorithm == "in_switch":
        wanted = ("in_switch",)
    elif algorithm in ("one_shot", "two_shot") and request.kind == "all_reduce":
        library = LIBRARY if part.dim.kind == "mesh" else ()
        wanted = library if request.algorithm == "auto" else (*library, "direct")
    found: list[TransportName | None] = [name for name in wanted if name in known]
    return found or [name for name in LIBRARY if name in known] or [next(iter(known))]


def _across(parts: Sequence[Part], inside: TransportName | None) -> TransportName | None:
    """Transport between nodes: the same protocol where the network knows it, else the one for large messages."""
    known = parts[-1].dim.link.transports
    return next((name for name in (inside, "simple") if name in known), None)
