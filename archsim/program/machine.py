"""The machine a program runs on: a tuple of resources, each a frozen handful of integers.

Times are integer picoseconds. Rates are attoseconds per byte (1 ps = 10^6 as), so that a transfer takes

    service_ps = max(1, ceil(nbytes * as_per_byte / 10^6))

without a float in sight: 20 TB/s is 50 000 as/byte, and the rounding is 0.002 % at worst.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from enum import IntEnum
from functools import cached_property
from typing import ClassVar

from archsim.errors import InputError, did_you_mean

__all__ = ["Cache", "Dram", "Kind", "Link", "Machine", "Memory", "Resource", "Unit",
           "attoseconds_per_byte", "service_ps"]  # fmt: skip

AS_PER_PS = 10**6


class Kind(IntEnum):
    """What a resource does with a step (the code that the kernels switch on)."""

    UNIT = 0
    LINK = 1
    MEMORY = 2


def attoseconds_per_byte(bytes_per_s: float) -> int:
    """Turn a bandwidth in bytes/s into the integer rate of a `Link` or a `Cache`.

    >>> attoseconds_per_byte(1e12)
    1000000
    """
    return max(1, round(1e18 / bytes_per_s))


def service_ps(nbytes: int, as_per_byte: int) -> int:
    """Time for `nbytes` to pass at `as_per_byte`, rounded up to a whole picosecond, at least one.

    >>> service_ps(4096, attoseconds_per_byte(3.0e12))
    1366
    """
    return max(1, -(-nbytes * as_per_byte // AS_PER_PS))


def _require(spec: object, *, positive: tuple[str, ...] = (), not_negative: tuple[str, ...] = ()) -> None:
    name = getattr(spec, "name", type(spec).__name__.lower())
    for field in (*positive, *not_negative):
        value, least = getattr(spec, field), int(field in positive)
        if value < least:
            raise InputError(f"{name}: {field} is {value}, but must be at least {least}.")


@dataclass(frozen=True)
class Unit:
    """A resource that works on one step at a time, for the step's own `work_ps`.

    `latency_ps` is the depth of the pipeline: the unit is free again before the result has come out.
    """

    kind: ClassVar[Kind] = Kind.UNIT
    name: str
    group: str
    latency_ps: int = 0

    def __post_init__(self) -> None:
        _require(self, not_negative=("latency_ps",))


@dataclass(frozen=True)
class Link:
    """A resource that carries one transfer at a time, at `as_per_byte`, and `latency_ps` to the far end."""

    kind: ClassVar[Kind] = Kind.LINK
    name: str
    group: str
    as_per_byte: int
    latency_ps: int = 0

    def __post_init__(self) -> None:
        _require(self, positive=("as_per_byte",), not_negative=("latency_ps",))


@dataclass(frozen=True)
class Dram:
    """DRAM channels behind one address space (organisation in bytes, JEDEC timings in picoseconds).

    | field              | meaning                                                                        |
    | ------------------ | ------------------------------------------------------------------------------ |
    | `channels`         | independent (pseudo-)channels; chunk c of the address space is on c % channels |
    | `interleave_bytes` | bytes in a row before the next channel                                         |
    | `banks`, `row_bytes` | row r of a channel is in bank r % banks                                      |
    | `burst_bytes`, `burst_ps` | one burst on the data bus: its bytes and its time                       |
    | `cl_ps`            | column command to first data, with any fixed latency of the controller          |
    | `rcd_ps`, `rp_ps`, `rc_ps` | activate to column; precharge; activate to activate of one bank        |
    | `act_ps`           | least time between activates of one channel, max(tRRD, tFAW / 4)                |
    | `refi_ps`, `rfc_ps` | all-bank refresh: every tREFI the channel is gone for tRFC (0: no refresh)      |
    | `turn_ps`          | bus time lost when the direction changes                                        |
    """

    channels: int
    interleave_bytes: int
    banks: int
    row_bytes: int
    burst_bytes: int
    burst_ps: int
    cl_ps: int = 0
    rcd_ps: int = 0
    rp_ps: int = 0
    rc_ps: int = 0
    act_ps: int = 0
    refi_ps: int = 0
    rfc_ps: int = 0
    turn_ps: int = 0

    def __post_init__(self) -> None:
        organisation = ("channels", "interleave_bytes", "banks", "row_bytes", "burst_bytes", "burst_ps")
        timings = tuple(field.name for field in fields(self) if field.name not in organisation)
        _require(self, positive=organisation, not_negative=timings)
        if self.refi_ps and self.rfc_ps >= self.refi_ps:
            raise InputError(
                f"dram: refresh takes {self.rfc_ps} ps out of every {self.refi_ps} ps, so no time is left."
            )


@dataclass(frozen=True)
class Cache:
    """A last-level block cache in front of a DRAM: fully associative, least recently used, write-back.

    A read miss fetches the whole block; a write miss allocates its block without a fetch.
    """

    capacity_bytes: int
    block_bytes: int
    as_per_byte: int
    hit_latency_ps: int = 0

    def __post_init__(self) -> None:
        _require(self, positive=("capacity_bytes", "block_bytes", "as_per_byte"), not_negative=("hit_latency_ps",))
        if self.capacity_bytes < self.block_bytes:
            raise InputError(
                f"cache: the capacity of {self.capacity_bytes} bytes is less than one block ({self.block_bytes} bytes)."
            )


@dataclass(frozen=True)
class Memory:
    """A stateful resource that serves addressed reads and writes; the model is in `archsim.kernels.memory`.

    `latency_ps` is added to every access, hit or miss: the way through the resource itself.
    """

    kind: ClassVar[Kind] = Kind.MEMORY
    name: str
    group: str
    dram: Dram
    cache: Cache | None = None
    latency_ps: int = 0

    def __post_init__(self) -> None:
        _require(self, not_negative=("latency_ps",))


Resource = Unit | Link | Memory


@dataclass(frozen=True)
class Machine:
    """The resources of a chip; a program names them by position."""

    resources: tuple[Resource, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "resources", tuple(self.resources))
        if len(self._index) < len(self.resources):
            names = [resource.name for resource in self.resources]
            twice = next(name for name in names if names.count(name) > 1)
            raise InputError(f"machine: the resource name '{twice}' appears twice.")

    @cached_property
    def _index(self) -> dict[str, int]:
        return {resource.name: position for position, resource in enumerate(self.resources)}

    def __len__(self) -> int:
        return len(self.resources)

    def __iter__(self) -> Iterator[Resource]:
        return iter(self.resources)

    def __getitem__(self, position: int) -> Resource:
        return self.resources[position]

    def index(self, name: str) -> int:
        """Return the position of the resource called `name`."""
        try:
            return self._index[name]
        except KeyError:
            raise InputError(f"machine: no resource is called '{name}'{did_you_mean(name, self._index)}.") from None
