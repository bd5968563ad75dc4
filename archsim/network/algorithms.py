"""Algorithms: how a collective is put together from phases, for each kind and each shape of fabric."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import ceil

from archsim.errors import InputError
from archsim.hardware.link import TransportName
from archsim.network import phases, spread
from archsim.network.fabric import Fabric, Part
from archsim.network.phases import Phase, Ready
from archsim.network.request import Algorithm, Collective
from archsim.network.schedule import Move, Schedule

__all__ = ["Choice", "build"]

#: bytes of a block that travel together, and most chunks of one. A library's protocol passes on what all its channels
#: hold: NCCL's buffers of 4 MiB in 8 slots, two of them a slice, times 8 channels or more
CHUNK_BYTES, CHANNEL_BYTES, MOST_CHUNKS = 2**18, 2**23, 8
#: chunks under way through a switch that computes: one is being reduced while one is handed back, and more where they
#: go round the nodes in between
UNDER_WAY, UNDER_WAY_OVER_NODES = 2, 4

#: an algorithm with the transport inside nodes and the one between them
Choice = tuple[Algorithm, TransportName | None, TransportName | None]


def build(fabric: Fabric, request: Collective, choice: Choice) -> Schedule:
    """The schedule of a request by one algorithm; InputError where the algorithm does not fit the group."""
    schedule = Schedule(fabric, fabric.parts(request.group))
    if not schedule.parts:  # a group of one has nothing to do
        return schedule
    algorithm, inside, outside = choice
    transports = [inside if part.dim.network == "scale_up" else outside for part in schedule.parts]
    for part, transport in enumerate(transports):
        schedule.launched_by(transport, part)
    _BUILDERS[request.kind](schedule, request, algorithm, transports)
    return schedule


def chunks(s: Schedule, r: Collective, nbytes: float, transport: TransportName | None) -> Ready:
    """So many chunks, none of which waits for anything, as a block of `nbytes` is cut into."""
    if r.chunks:
        return [()] * r.chunks
    whole = transport is not None and len(s.parts) == 1
    count = ceil(nbytes / (CHANNEL_BYTES if whole else CHUNK_BYTES))
    return [()] * min(max(count, 1), MOST_CHUNKS)


def _phase(s: Schedule, algorithm: Algorithm, part: int) -> Phase:
    """The phase by which an algorithm scatters and gathers along a part."""
    kind = s.parts[part].dim.kind
    across = s.parts[part].dim.network == "scale_out"
    if algorithm == "halving_doubling" or (algorithm == "hierarchical" and across):  # few steps over slow cards
        return phases.halving_doubling
    if algorithm in ("direct", "two_shot") or (algorithm == "hierarchical" and kind == "mesh"):
        return phases.direct
    return phases.ring


def _all_reduce(s: Schedule, r: Collective, algorithm: Algorithm, transports: Sequence[TransportName | None]) -> None:
    size = r.group.size
    first = transports[0]
    if algorithm == "one_shot":
        sent = [s.send([Move(0, shift)], r.nbytes, (), first) for shift in range(1, _only(s, algorithm).size)]
        s.join(sent)
    elif algorithm == "tree":
        spread.tree(s, r.nbytes, chunks(s, r, r.nbytes / 4, first), first)
    elif algorithm == "in_switch":
        _in_switch(s, r.nbytes, transports)
    elif algorithm == "ring" and len(s.parts) > 1 and not _torus(s.parts):
        ready = _ring_over_nodes(s, r.nbytes, transports, laps=2)
        s.copy(0, ceil(r.nbytes / size), _all(ready), first)
    else:
        _scatter_gather(s, r, algorithm, transports, scatter=True, gather=True)


def _half(s: Schedule, r: Collective, algorithm: Algorithm, transports: Sequence[TransportName | None]) -> None:
    """Reduce-scatter or all-gather."""
    if algorithm == "in_switch":
        _in_switch_half(s, r.nbytes, transports[0], gather=r.kind == "all_gather")
    elif algorithm == "ring" and len(s.parts) > 1 and not _torus(s.parts):
        ready = _ring_over_nodes(s, r.nbytes, transports, laps=1)
        s.copy(0, ceil(r.nbytes / r.group.size), _all(ready), transports[0])
    else:
        gather = r.kind == "all_gather"
        _scatter_gather(s, r, algorithm, transports, scatter=not gather, gather=gather)


def _scatter_gather(
    s: Schedule, r: Collective, algorithm: Algorithm, transports: Sequence[TransportName | None], *, scatter: bool,
    gather: bool,
) -> None:  # fmt: skip
    """Scatter along the parts from the inside, gather back; on a torus a share goes each way round in each order."""
    size = r.group.size
    inner = [number for number, part in enumerate(s.parts) if part.dim.kind == "ring"]
    rest = [number for number, part in enumerate(s.parts) if part.dim.kind != "ring"]
    flows = [(inner[i:] + inner[:i] + rest, way) for i in range(len(inner)) for way in (1, -1)] or [(rest, 1)]
    ends: list[int] = []
    for order, way in flows:
        share = r.nbytes / len(flows)
        ready = chunks(s, r, share / s.parts[order[0]].size, transports[order[0]])
        if scatter:
            left = share
            for part in order:
                ready = _run(s, algorithm, part, left, ready, transports[part], way, gather=False)
                left /= s.parts[part].size
        if gather:
            left = share / size
            for part in reversed(order):
                left *= s.parts[part].size
                ready = _run(s, algorithm, part, left, ready, transports[part], way, gather=True)
        ends += _all(ready)
    s.copy(0, ceil(r.nbytes / size), ends, transports[0])


def _run(
    s: Schedule, algorithm: Algorithm, part: int, nbytes: float, ready: Ready, transport: TransportName | None,
    way: int, *, gather: bool,
) -> Ready:  # fmt: skip
    phase = _phase(s, algorithm, part)
    extra = {"direction": way} if phase is phases.ring else {}
    return phase(s, part, nbytes, ready, transport, gather=gather, **extra)


def _in_switch(s: Schedule, nbytes: float, transports: Sequence[TransportName | None]) -> None:
    """The switch of the node reduces; what is left goes round the nodes; the switch hands it back."""
    if s.parts[0].dim.kind != "switch":
        raise InputError(f"in_switch: {s.parts[0].dim.link.name} has no switch that could reduce")
    count, size = min(max(ceil(nbytes / CHUNK_BYTES), 1), 4 * MOST_CHUNKS), s.parts[0].size
    chunk = nbytes / count
    window = UNDER_WAY_OVER_NODES if len(s.parts) > 1 else UNDER_WAY
    handed: list[int] = []
    for _ in range(count):  # a few chunks are under way at a time, so that reading and handing back take turns
        _, inside = phases.in_switch(s, 0, chunk, handed[-window : 1 - window], transports[0], gather=False)
        ready: Ready = [(inside,)]
        for part in range(1, len(s.parts)):
            ready = phases.ring(s, part, chunk / size, ready, transports[part])
        for part in reversed(range(1, len(s.parts))):
            ready = phases.ring(s, part, chunk / size, ready, transports[part], gather=True)
        out, _ = phases.in_switch(s, 0, chunk, _all(ready), transports[0], gather=True)
        handed.append(out)


def _in_switch_half(s: Schedule, nbytes: float, transport: TransportName | None, *, gather: bool) -> None:
    """The switch multicasts the block of every chip to all, or reads all and hands each chip the sum of its block."""
    if _only(s, "in_switch").dim.kind != "switch":
        raise InputError(f"in_switch: {s.parts[0].dim.link.name} has no switch that could multicast or reduce")
    count = min(max(ceil(nbytes / CHUNK_BYTES), 1), 4 * MOST_CHUNKS)
    handed: list[int] = []
    for _ in range(count):
        before = handed[-UNDER_WAY : 1 - UNDER_WAY]
        handed.append(phases.in_switch(s, 0, nbytes / count, before, transport, gather=gather)[0])


def _ring_over_nodes(s: Schedule, nbytes: float, transports: Sequence[TransportName | None], *, laps: int) -> Ready:
    """As many rings over all chips as a node has chips; each leaves the node by another one, so all cards are used.

    Chip i sends the block of ring i + 1 over its card, and those of the others to its neighbour.
    """
    if len(s.parts) != 2:
        raise InputError(f"ring: a group in {len(s.parts)} dimensions needs the algorithm hierarchical")
    inner, nodes = s.parts[0].size, s.parts[1].size
    block = max(1, ceil(nbytes / (inner * nodes) / inner))
    inside, across = [Move(0, 1)], [Move(0, 1), Move(1, 1)]
    last: list[tuple[int, ...]] = [()] * inner
    for _ in range(laps * (inner * nodes - 1)):
        last = [
            (s.send(across if c == 1 % inner else inside, block, last[(c + 1) % inner], transports[c == 1 % inner]),)
            for c in range(inner)
        ]
    return last


def _all_to_all(s: Schedule, r: Collective, algorithm: Algorithm, transports: Sequence[TransportName | None]) -> None:
    nbytes = r.nbytes * r.imbalance
    if algorithm == "hierarchical" and len(s.parts) == 2:
        limit = min(r.node_limit or s.parts[1].size, s.parts[1].size)
        spread.by_node(s, nbytes, transports, r.top_k, limit, combine=r.kind == "combine")
    else:
        spread.direct(s, nbytes, transports, r.rows * r.imbalance)
    s.copy(0, ceil(nbytes / r.group.size), range(len(s.messages)), transports[0])


def _broadcast(s: Schedule, r: Collective, algorithm: Algorithm, transports: Sequence[TransportName | None]) -> None:
    if algorithm == "two_shot":
        size = _only(s, algorithm).size
        spread.scatter_gather(s, r.nbytes, chunks(s, r, r.nbytes / size, transports[0]), transports[0])
    else:
        spread.chain(s, r.nbytes, transports)


def _send_recv(s: Schedule, r: Collective, algorithm: Algorithm, transports: Sequence[TransportName | None]) -> None:
    """The first chip of the group to the second."""
    origin = tuple((part, 0) for part in range(len(s.parts)))
    count = len(chunks(s, r, r.nbytes / 4, transports[0]))
    for plane in range(count):
        s.send([Move(0, 1)], ceil(r.nbytes / count), (), transports[0], plane, origin)


def _only(s: Schedule, algorithm: Algorithm) -> Part:
    if len(s.parts) > 1:
        raise InputError(f"{algorithm}: works inside one dimension of a fabric, and this group spans {len(s.parts)}")
    return s.parts[0]


def _torus(parts: Sequence[Part]) -> bool:
    return all(part.dim.kind == "ring" for part in parts)


def _all(ready: Ready) -> list[int]:
    return [message for each in ready for message in each]


_BUILDERS: dict[str, Callable[[Schedule, Collective, Algorithm, Sequence[TransportName | None]], None]] = {
    "all_reduce": _all_reduce, "all_gather": _half, "reduce_scatter": _half, "all_to_all": _all_to_all,
    "dispatch": _all_to_all, "combine": _all_to_all, "broadcast": _broadcast, "send_recv": _send_recv,
}  # fmt: skip
