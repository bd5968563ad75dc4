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

import numpy as np
from numpy.typing import NDArray

from archsim.errors import InputError, did_you_mean
from archsim.program.address_map import AddressMap

__all__ = ["Cache", "Dram", "Kind", "Link", "Machine", "Memory", "Resource", "Unit", "Window",
           "attoseconds_per_byte", "service_ps"]  # fmt: skip

AS_PER_PS = 10**6
#: entries that a queue of a memory has room for, of several bursts each
LOOK_AHEAD = 8
#: rows of a bank whose requests are remembered to have waited together
SESSIONS = 8
#: a sector of a cache block, and how many a block has at most
SECTOR_BYTES, SECTORS = 64, 64
#: partitions of a cache, whose holders of a block are bits of one word
MOST_PARTITIONS = 16
#: blocks that may be in a cache, partly filled, for each that has all of its sectors
SLOTS = 8
#: bursts of time on a data bus that are remembered, of them so many that have passed
BURSTS, PASSED = 256, 8
#: the oldest writes that wait at a channel, of which the next one is chosen: the window of a scheduler
OLDEST = 16


class Kind(IntEnum):
    """What a resource does with a step (the code that the kernels switch on)."""

    UNIT = 0
    LINK = 1
    MEMORY = 2
    WINDOW = 3


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

    | field | meaning |
    | --- | --- |
    | `channels` | channels; chunk c of the address space is on c % channels |
    | `interleave_bytes` | bytes in a row before the next channel |
    | `hashed` | each row of chunks is turned by a number of channels of its own: no stride falls on few |
    | `banks`, `bank_groups`, `row_bytes` | of a lane; without a map, row r of a channel is in bank r % banks |
    | `burst_bytes`, `burst_ps` | one burst on the data bus: its bytes and its time |
    | `ccd_ps` | column to column in one bank group, if it is more than a burst |
    | `ccd_stack_ps` | column to column in another stack of the map, if it is more than a burst |
    | `cl_ps` | column command to first data, with any fixed latency of the controller |
    | `rcd_ps`, `rcd_write_ps` | activate to read; to write (0: as to read) |
    | `rp_ps`, `rc_ps` | precharge; activate to activate of one bank |
    | `rtp_ps`, `wr_ps` | last read, last write command to precharge |
    | `act_ps` | least time between activates of one lane on average, max(tRRD, tFAW / 4) |
    | `row_bus_ps` | time that an activate and its precharge take on the row-command bus of a channel |
    | `refi_ps`, `rfc_ps` | all-bank refresh: every tREFI the lanes are gone for tRFC (0: no refresh) |
    | `refi_bank_ps`, `rfc_bank_ps` | per-bank refresh: every tREFIpb the next bank is gone for tRFCpb (0: none) |
    | `to_write_ps`, `to_read_ps` | idle time of the data bus at a turn to writes; back to reads |
    | `read_queue`, `write_queue` | bursts that a channel's controller holds (0: no limit, writes do not wait) |
    | `drain_high`, `drain_low` | bursts of waiting writes above which they are served, and down to which |
    | `map` | where addresses go within a channel; a lane is one of its pseudo-channels |
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
    row_bus_ps: int = 0
    to_write_ps: int = 0
    to_read_ps: int = 0
    bank_groups: int = 1
    ccd_ps: int = 0
    ccd_stack_ps: int = 0
    rcd_write_ps: int = 0
    rtp_ps: int = 0
    wr_ps: int = 0
    read_queue: int = 0
    write_queue: int = 0
    drain_high: int = 0
    drain_low: int = 0
    refi_bank_ps: int = 0
    rfc_bank_ps: int = 0
    hashed: bool = False
    map: AddressMap | None = None

    def __post_init__(self) -> None:
        counts = ("channels", "interleave_bytes", "banks", "row_bytes", "burst_bytes", "burst_ps", "bank_groups")
        timings = tuple(each.name for each in fields(self) if each.name not in (*counts, "map"))
        _require(self, positive=counts, not_negative=timings)
        if self.refi_ps and self.rfc_ps >= self.refi_ps:
            raise InputError(
                f"dram: refresh takes {self.rfc_ps} ps out of every {self.refi_ps} ps, so no time is left."
            )
        if self.refi_bank_ps and self.rfc_bank_ps >= self.banks * self.refi_bank_ps:
            raise InputError(f"dram: refreshing a bank takes {self.rfc_bank_ps} ps, longer than until its next turn.")
        if self.burst_bytes & (self.burst_bytes - 1):
            raise InputError(f"dram: a burst has {self.burst_bytes} bytes, but must have a power of two.")
        if self.banks % self.bank_groups:
            raise InputError(f"dram: {self.banks} banks cannot be split over {self.bank_groups} bank groups.")
        if self.map is not None:
            found = self.map.organisation
            lane = (found.banks // found.pseudo_channels, found.columns * found.burst_bytes, found.burst_bytes)
            if lane != (self.banks, self.row_bytes, self.burst_bytes):
                raise InputError(
                    f"dram: the map is of {lane[0]} banks with rows of {lane[1]} bytes and bursts of {lane[2]} bytes."
                )

    @property
    def lanes_per_channel(self) -> int:
        """Pseudo-channels that the map spreads a channel over."""
        return self.map.organisation.pseudo_channels if self.map else 1

    @property
    def run_bytes(self) -> int:
        """Bytes of consecutive addresses of a channel that are in one row of one bank."""
        return self.map.run_bytes if self.map else self.row_bytes

    @property
    def column_ps(self) -> int:
        """Column to column in one bank group."""
        return max(self.ccd_ps, self.burst_ps)

    @property
    def reach(self) -> int:
        """Bursts of time from one column of a bank group to the next, rounded."""
        return min((2 * self.column_ps + self.burst_ps - 1) // (2 * self.burst_ps), PASSED)

    @property
    def groups_of_stack(self) -> int:
        """Bank groups of one stack."""
        return self.bank_groups // self.map.organisation.stack_ids if self.map else self.bank_groups

    @property
    def share_of_stack(self) -> int:
        """What a read queue holds for one stack of a lane."""
        return max(1, self.read_queue * self.groups_of_stack // (self.lanes_per_channel * self.bank_groups))

    @property
    def switch_ps(self) -> int:
        """What the data bus idles between columns of two stacks."""
        return max(0, self.ccd_stack_ps - self.burst_ps)

    @property
    def live_ps(self) -> int:
        """Time between two all-bank refreshes (0: there are none)."""
        return self.refi_ps - self.rfc_ps if self.refi_ps else 0

    @property
    def awake(self) -> float:
        """Share of the time in which no refresh holds all banks."""
        return self.live_ps / self.refi_ps if self.refi_ps else 1.0


@dataclass(frozen=True)
class Cache:
    """A last-level block cache in front of a DRAM: fully associative, least recently used, write-back.

    A block has sectors of 64 bytes, or 64 larger ones. A read miss fetches the sectors that it touches and that are not
    there; a write miss allocates its sectors without a fetch. Sectors fill the capacity, as lines do; blocks only say
    which of them leave together. `as_per_byte` is the rate of all slices together, each of which has its share; chunks
    of `interleave_bytes` that follow each other lie on slices that do.

    Of several `partitions` each is beside some of the readers and the home of as many blocks as the others: a block
    that is read from beside another partition than its home is held in both, until it is written.
    """

    capacity_bytes: int
    block_bytes: int
    as_per_byte: int
    hit_latency_ps: int = 0
    slices: int = 1
    interleave_bytes: int = 256
    partitions: int = 1

    def __post_init__(self) -> None:
        positive = ("capacity_bytes", "block_bytes", "as_per_byte", "slices", "interleave_bytes", "partitions")
        _require(self, positive=positive, not_negative=("hit_latency_ps",))
        if self.capacity_bytes < self.block_bytes:
            raise InputError(
                f"cache: the capacity of {self.capacity_bytes} bytes is less than one block ({self.block_bytes} bytes)."
            )
        if self.partitions > MOST_PARTITIONS:
            raise InputError(f"cache: {self.partitions} partitions are more than {MOST_PARTITIONS}.")

    @property
    def sector_bytes(self) -> int:
        """The least that is fetched or written back."""
        return max(min(SECTOR_BYTES, self.block_bytes), -(-self.block_bytes // SECTORS))


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


@dataclass(frozen=True)
class Window:
    """How many bytes may be under way at once: the outstanding requests of a DMA engine, or of a whole chip.

    A step holds its bytes from here to its finish. One that finds no room waits, and all behind it: first come, first
    served. One of more than ``nbytes`` goes alone. A rate of at most nbytes / latency follows (Little's law).
    """

    kind: ClassVar[Kind] = Kind.WINDOW
    latency_ps: ClassVar[int] = 0
    name: str
    group: str
    nbytes: int

    def __post_init__(self) -> None:
        _require(self, positive=("nbytes",))


Resource = Unit | Link | Memory | Window


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

    @cached_property
    def kinds(self) -> NDArray[np.int8]:
        """The kind of each resource."""
        return np.array([resource.kind for resource in self.resources], dtype=np.int8)

    @cached_property
    def slowest_as_per_byte(self) -> int:
        """Attoseconds that a byte takes on the slowest link or cache; 0 where there is none."""
        links = (resource.as_per_byte for resource in self.resources if isinstance(resource, Link))
        memories = (resource.cache for resource in self.resources if isinstance(resource, Memory))
        return max((*links, *(cache.as_per_byte * cache.slices for cache in memories if cache is not None)), default=0)

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
