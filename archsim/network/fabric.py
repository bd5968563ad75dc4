"""The fabric of a system as dimensions of links, and as resources that the engine books.

A chip has a coordinate in every dimension. A *ring* dimension has a link to either neighbour (tori are several of
them), a *mesh* one to every other chip, a *switch* an outgoing and an incoming port. What a chip sends, and what it
receives, is serialised at these. Each resource class has one member per chip, so that symmetric chips fold into one.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from math import lcm, prod
from typing import Literal

from archsim.errors import InputError
from archsim.hardware import ChipSpec, LinkSpec, SystemSpec
from archsim.network.request import Group
from archsim.program import Link, Machine, Unit, attoseconds_per_byte

__all__ = ["Dim", "Fabric", "Part", "Port"]


@dataclass(frozen=True)
class Dim:
    """One dimension: `size` chips, `stride` apart, over `link`; each port runs at `bytes_per_s`."""

    network: Literal["scale_up", "scale_out"]
    kind: Literal["switch", "ring", "mesh"]
    size: int
    stride: int
    link: LinkSpec
    bytes_per_s: float


@dataclass(frozen=True)
class Part:
    """The chips of a group along one dimension: `size` of them, `step` apart."""

    dim: Dim
    size: int
    step: int

    @property
    def stride(self) -> int:
        """Difference of chip numbers from one to the next."""
        return self.dim.stride * self.step

    @property
    def whole(self) -> bool:
        """Whether the group closes the dimension."""
        return self.size == self.dim.size


@dataclass(frozen=True)
class Port:
    """A class of resources, one per chip: a link with its rate, or (rate 0) what takes each message some time."""

    name: str
    bytes_per_s: float
    latency_s: float = 0.0

    @property
    def group(self) -> str:
        """Links are the fabric; delays, lanes and copies are what software adds."""
        return "fabric" if len(self.name.split(".")) == 2 else "transport"

    def member(self, name: str, share: float = 1.0) -> Link | Unit:
        """The resource of one chip, at a `share` of its rate."""
        if not self.bytes_per_s:
            return Unit(name, self.group)
        rate = attoseconds_per_byte(self.bytes_per_s * share)
        return Link(name, self.group, rate, round(self.latency_s * 1e12))


@dataclass(frozen=True, eq=False)
class Fabric:
    """The links of a system; made by :meth:`of`. ``dims`` go from the innermost outwards.

    faults: (chip, network) -> share of the line rate that is left there. folds: one chip may stand for all.
    """

    name: str
    chips: int
    dims: tuple[Dim, ...]
    faults: tuple[tuple[int, str, float], ...] = ()
    folds: bool = True

    @classmethod
    def of(cls, system: SystemSpec, chip: ChipSpec) -> Fabric:
        """The fabric of `chip` in `system`; InputError where a link is missing or down."""
        scale_up, scale_out = system.links(chip)
        dims: list[Dim] = []
        if system.chips_per_node > 1 and scale_up is not None:
            dims += _inside(system, scale_up)
        if system.nodes > 1 and scale_out is not None:
            if scale_out.topology not in ("switch", "fat_tree"):
                raise InputError(
                    f"system '{system.name}': nodes are joined by a switch or a fat_tree, "
                    f"but {scale_out.name} is a {scale_out.topology}"
                )
            rate = scale_out.bandwidth / scale_out.planes
            dims.append(Dim("scale_out", "switch", system.nodes, system.chips_per_node, scale_out, rate))
        networks = {dim.network for dim in dims}
        for number, fault in enumerate(system.faults):
            if fault.network not in networks:
                raise InputError(f"system '{system.name}': faults.{number}: there is no {fault.network} network")
            if fault.rate == 0:
                raise InputError(
                    f"system '{system.name}': faults.{number}: chip {fault.chip} has no {fault.network} link left, "
                    "so that the fabric is disconnected; a slow link has a rate above 0"
                )
        return cls(system.name, system.chips, tuple(dims), tuple((f.chip, f.network, f.rate) for f in system.faults))

    def parts(self, group: Group) -> tuple[Part, ...]:
        """A group along each dimension that it spans; InputError when it does not divide the system."""
        size, stride = group.size, group.stride
        if self.chips % (size * stride):
            raise InputError(
                f"a group of {size} chips{f' {stride} apart' if stride > 1 else ''} does not divide the "
                f"{self.chips} chips of '{self.name}'"
            )
        parts: list[Part] = []
        for dim in self.dims:
            if stride > 1 and stride % dim.size == 0:
                stride //= dim.size
                continue
            room, left = divmod(dim.size, stride)
            taken = min(room, size)
            if left or taken == 0 or size % taken or room % taken:
                sides = " x ".join(str(each.size) for each in self.dims)
                raise InputError(
                    f"a group of {group.size} chips, {group.stride} apart, does not fit the {sides} chips of "
                    f"'{self.name}': it must divide a dimension, or fill it and go on in the next"
                )
            if taken > 1:
                parts.append(Part(dim, taken, stride))
            size, stride = size // taken, 1
        return tuple(parts)

    def fits(self, group: Group) -> bool:
        """Whether a group divides the system along its dimensions."""
        try:
            return bool(self.parts(group)) or group.size == 1
        except InputError:
            return False

    def alone(self, groups: Iterable[Group]) -> Fabric:
        """As many of the first chips as these groups fill, all of them simulated; the rest does the same beside them.

        No message of a group leaves the chips up to the end of its outermost part. Of a fabric with faults, the chips
        are those of the slowest block: each has the faults of all that it stands for.
        """
        chips = lcm(*(max((p.stride * p.size for p in self.parts(g)), default=1) for g in groups))
        left: dict[tuple[int, str], float] = {}
        for chip, network, rate in self.faults:
            left[chip % chips, network] = min(rate, left.get((chip % chips, network), 1.0))
        faults = tuple((chip, network, rate) for (chip, network), rate in left.items())
        return replace(self, chips=chips, faults=faults, folds=False)

    @cached_property
    def machine(self) -> Machine:
        """The resources that are simulated."""
        return self.folded if self.folds and not self.faults else self.unfolded

    @cached_property
    def ports(self) -> tuple[Port, ...]:
        """Every class of resources, in the order of their numbers."""
        found: dict[str, Port] = {}
        for number, dim in enumerate(self.dims):
            found |= {port.name: port for port in _ports(number, dim)}
        return tuple(found.values())

    @cached_property
    def number(self) -> dict[str, int]:
        """Position of a class of resources by name."""
        return {port.name: position for position, port in enumerate(self.ports)}

    @cached_property
    def folded(self) -> Machine:
        """One chip that stands for all."""
        return Machine(tuple(port.member(port.name) for port in self.ports))

    @cached_property
    def unfolded(self) -> Machine:
        """All chips: member r of class c is resource ``c * chips + r``."""
        left = {(chip, network): rate for chip, network, rate in self.faults}
        networks = [self.dims[int(port.name.split(".")[0][3:])].network for port in self.ports]
        return Machine(
            tuple(
                port.member(f"{port.name}.{chip}", left.get((chip, network), 1.0) if port.group == "fabric" else 1.0)
                for port, network in zip(self.ports, networks, strict=True)
                for chip in range(self.chips)
            )
        )


def _inside(system: SystemSpec, link: LinkSpec) -> list[Dim]:
    """The dimensions inside a node."""
    chips, rate = system.chips_per_node, link.bandwidth
    if link.topology == "torus":
        sides = [side for side in system.sides() if side > 1]
        strides = [prod(sides[:i]) for i in range(len(sides))]
        share = rate / (2 * len(sides))
        return [Dim("scale_up", "ring", side, at, link, share) for side, at in zip(sides, strides, strict=True)]
    if system.dims and len(system.dims) > 1:
        raise InputError(f"system '{system.name}': dims are the sides of a torus, but {link.name} is a {link.topology}")
    if link.topology == "ring":
        return [Dim("scale_up", "ring", chips, 1, link, rate / 2)]
    if link.topology in ("full_mesh", "point_to_point"):
        return [Dim("scale_up", "mesh", chips, 1, link, rate / max(1, link.domain - 1))]
    return [Dim("scale_up", "switch", chips, 1, link, rate / link.planes)]


def _ports(number: int, dim: Dim) -> list[Port]:
    """Resource classes of a dimension: its links, and what software adds to each message."""
    link, rate = dim.link, dim.bytes_per_s
    # a transport's latency holds that of the wire, but a ring has a wire for every hop
    latency = 0.0 if link.transports and dim.kind != "ring" else link.latency
    at = f"dim{number}"
    ports = []
    if dim.kind == "ring":
        ports += [Port(f"{at}.plus", rate, latency), Port(f"{at}.minus", rate, latency)]
    elif dim.kind == "mesh":
        ports += [Port(f"{at}.to{shift}", rate, latency) for shift in range(1, dim.size)]
    else:
        for plane in range(link.planes):
            ports.append(Port(f"{at}.out{plane}", rate, latency))
            if link.oversubscription > 1:  # a chip's share of the uplinks of its leaf
                ports.append(Port(f"{at}.up{plane}", rate / link.oversubscription))
            ports.append(Port(f"{at}.in{plane}", rate))
        for share in range(1, (link.leaf or 0) + 1):
            ports.append(Port(f"{at}.delay.spine{share}", 1e18, link.spine_latency * share / (link.leaf or 1)))
    if link.message_overhead:
        ports.append(Port(f"{at}.issue.None", 0.0))
    for name, transport in link.transports.items():
        ports.append(Port(f"{at}.delay.{name}", 1e18, transport.latency))
        if transport.issues:
            ports.append(Port(f"{at}.issue.{name}", 0.0))
        if transport.copy_bandwidth is not None:
            ports.append(Port(f"{at}.copy.{name}", transport.copy_bandwidth))
        if transport.lane is not None:  # on the wire, so that framing counts
            lane = transport.lane / transport.efficiency
            ports += [Port(f"{at}.lane.{name}.{shift}", lane) for shift in range(1, dim.size)]
    return ports
