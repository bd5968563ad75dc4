"""A schedule: what every chip of a group sends, to whom, after what it has received.

All chips do the same, relative to where they stand ("single program, multiple data"), so a schedule holds the messages
of one. A *move* is a shift within one part of the group: +1 is the next chip, -1 the one before; with ``swap`` the
partner is the chip whose index differs in those bits. Message m "after k" goes when the message k that is addressed to
its sender has come in.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from math import ceil, exp

from archsim.hardware import LinkSpec
from archsim.hardware.link import TransportName, TransportSpec
from archsim.network.fabric import Dim, Fabric, Part

__all__ = ["Hops", "Message", "Move", "Schedule"]

#: classes of resources on a way, each with the moves from the sender to the chip whose member is meant
Hops = tuple[tuple[int, tuple["Move", ...]], ...]

#: transports that stream: they know the ramp of a link
STREAMING = ("simple", "p2p", "in_switch", None)


@dataclass(frozen=True)
class Move:
    """From a chip to its partner: `shift` places along part number `part`, or the chip at index XOR `shift`.

    along: the shift counts chips of the dimension, not of the group.
    """

    part: int
    shift: int
    swap: bool = False
    along: bool = False


@dataclass(frozen=True)
class Message:
    """One message of every chip: where to, what, and through which classes of resources.

    hops: classes of resources, each with the moves from the sender to the chip whose member is used.
    wrapped: the hops of senders whose partner lies behind the end of a line, which a part of a ring is.
    payload: bytes; 0 for what is no message (a copy, a join). wire_bytes: with framing and ramp.
    issue_ps: time that the sender spends on the message beyond its bytes.
    senders: (part, index) that a chip must have to send it; none: all chips do.
    """

    moves: tuple[Move, ...]
    hops: Hops
    wrapped: Hops | None
    payload: int
    wire_bytes: int
    issue_ps: int
    after: tuple[int, ...]
    senders: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class _Way:
    """The dimension that a message is sent over, its transport if the link knows it, and its hops."""

    dim: Dim
    transport: TransportName | None
    hops: Hops
    wrapped: Hops | None


@dataclass
class Schedule:
    """Messages in the order in which they were added; a message waits only for earlier ones."""

    fabric: Fabric
    parts: tuple[Part, ...]
    messages: list[Message] = field(default_factory=list)
    launch_s: float = 0.0
    cores: int = 0
    _sent: dict[str, float] = field(default_factory=dict)
    _ways: dict[tuple[tuple[Move, ...], TransportName | None, int], _Way] = field(default_factory=dict)

    def send(
        self, moves: Sequence[Move], nbytes: int, after: Iterable[int] = (), transport: TransportName | None = None,
        plane: int = 0, senders: tuple[tuple[int, int], ...] = (), rows: float = 0.0,
    ) -> int:  # fmt: skip
        """Every chip, or those of `senders`, sends `nbytes` to its partner; returns the number of the message.

        rows: in which they are sent, in the mean, where that takes time of its own.
        """
        moves = tuple(moves)
        key = (moves, transport, plane)
        if key not in self._ways:
            self._ways[key] = self._way(moves, transport, plane)
        way = self._ways[key]
        wire, link = self.wire(nbytes, way.dim, way.transport), way.dim.link
        spec = self._transport(link, way.transport)
        issue_s = spec.issue_s(nbytes, link.cores_of(spec), rows) if spec else link.message_overhead
        issue_ps = max(round(issue_s * 1e12), int(spec is not None and spec.issues))  # a unit that is visited has work
        return self._add(Message(moves, way.hops, way.wrapped, nbytes, wire, issue_ps, tuple(after), senders))

    def local(self, ports: Sequence[str], nbytes: int, after: Iterable[int] = ()) -> int:
        """Every chip moves `nbytes` through resources of its own (a copy, its traffic with a reducing switch)."""
        hops = tuple((self.fabric.number[name], ()) for name in ports)
        return self._add(Message((), hops, None, 0, max(1, nbytes), 0, tuple(after)))

    def join(self, after: Iterable[int]) -> int:
        """Wait for several messages at once."""
        return self._add(Message((), (), None, 0, 0, 0, tuple(after)))

    def copy(self, part: int, nbytes: int, after: Iterable[int], transport: TransportName | None) -> None:
        """Every chip copies a block into its place, if the transport does so."""
        name = f"{self.at(part)}.copy.{transport}"
        if name in self.fabric.number:
            self.local([name], nbytes, after)

    def launched_by(self, transport: TransportName | None, part: int = 0) -> None:
        """The collective is a kernel of this transport, with its launch cost and the cores that it occupies."""
        link = self.parts[part].dim.link
        spec = self._transport(link, transport)
        self.launch_s = max(self.launch_s, spec.launch if spec else 0.0)
        self.cores = max(self.cores, link.cores_of(spec))

    def at(self, part: int) -> str:
        """How the resource classes of a part are called."""
        return f"dim{self.fabric.dims.index(self.parts[part].dim)}"

    def framed(self, nbytes: int, dim: Dim, transport: TransportName | None) -> int:
        """Bytes on the wire of a message by itself."""
        spec = self._transport(dim.link, transport)
        return ceil(nbytes / (spec.efficiency if spec else dim.link.efficiency))

    def wire(self, nbytes: int, dim: Dim, transport: TransportName | None) -> int:
        """Bytes on the wire, the port's coming up to speed included."""
        payload = float(nbytes)
        if dim.link.ramp is not None and transport in STREAMING:
            before = self._sent.get(dim.network, 0.0)
            self._sent[dim.network] = after = before + nbytes
            payload += dim.link.ramp * (exp(-before / dim.link.ramp) - exp(-after / dim.link.ramp))
        return max(1, self.framed(ceil(payload), dim, transport))

    @staticmethod
    def _transport(link: LinkSpec, name: TransportName | None) -> TransportSpec | None:
        return link.transports.get(name) if name is not None else None

    def _add(self, message: Message) -> int:
        self.messages.append(message)
        return len(self.messages) - 1

    def _way(self, moves: tuple[Move, ...], transport: TransportName | None, plane: int) -> _Way:
        """What is the same for all messages of the same moves."""
        dims = [self.parts[move.part].dim for move in moves]
        dim = next((each for each in dims if each.network == "scale_out"), dims[-1])
        spec, plane = self._transport(dim.link, transport), plane % dim.link.planes
        known = transport if spec else None
        line = dim.kind == "ring" and not self.parts[moves[-1].part].whole
        wrapped = self._hops(moves, dim, known, plane, wrapped=True) if line else None
        return _Way(dim, known, self._hops(moves, dim, known, plane), wrapped)

    def _leaving(self, move: Move) -> int:
        """Of the chips under a leaf switch, how many reach their partner over the second level.

        All messages of a move are delayed by the mean, which is exact for what goes round all chips of a leaf.
        """
        part = self.parts[move.part]
        leaf, places = part.dim.link.leaf, abs(move.shift) * part.step
        if leaf is None or part.size * part.step <= leaf:
            return 0
        if move.swap:
            return leaf if places >= leaf else 0
        return min(places, part.size * part.step - places, leaf)

    def _hops(
        self, moves: tuple[Move, ...], outer: Dim, transport: TransportName | None, plane: int, wrapped: bool = False
    ) -> Hops:
        """The way of a message. Between nodes only the network cards are passed, whatever the places inside."""
        number = self.fabric.number
        hops: list[tuple[int, tuple[Move, ...]]] = []
        name = f"dim{self.fabric.dims.index(outer)}"
        if f"{name}.issue.{transport}" in number:
            hops.append((number[f"{name}.issue.{transport}"], ()))
        if transport is not None and f"{name}.lane.{transport}.1" in number:
            lane = abs(moves[-1].shift) % outer.size
            hops.append((number[f"{name}.lane.{transport}.{lane}"], ()))
        if outer.kind == "switch":
            hops.append((number[f"{name}.out{plane}"], ()))
            if f"{name}.up{plane}" in number:
                hops.append((number[f"{name}.up{plane}"], ()))
            if (leaving := self._leaving(moves[-1])) > 0:
                hops.append((number[f"{name}.delay.spine{leaving}"], ()))
        gone: list[Move] = []
        for move in moves if outer.kind != "switch" else ():
            part = self.parts[move.part]
            at = self.at(move.part)
            if part.dim.kind == "mesh":
                hops.append((number[f"{at}.to{(move.shift * part.step) % part.dim.size}"], tuple(gone)))
            else:
                forward, places = move.shift > 0, abs(move.shift)
                if wrapped:  # back along the line
                    forward, places = not forward, part.size - places
                port = number[f"{at}.{'plus' if forward else 'minus'}"]
                links = range(places * part.step)
                hops += [(port, (*gone, Move(move.part, i if forward else -i, along=True))) for i in links]
            gone.append(move)
        if transport is not None:
            hops.append((number[f"{name}.delay.{transport}"], ()))
        if outer.kind == "switch":
            hops.append((number[f"{name}.in{plane}"], moves))
        return tuple(hops)
