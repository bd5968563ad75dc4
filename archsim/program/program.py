"""A program: flat typed arrays that say which steps a machine performs, after which others, on which bytes."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from archsim.errors import InputError, did_you_mean
from archsim.program.carry import Carry
from archsim.program.machine import Kind, Machine

__all__ = ["MAX_PRIORITY", "MAX_STEPS", "NO_GATHER", "NO_REGION", "Program", "Region", "extents"]

NO_REGION = -1
NO_GATHER = -1
MAX_PRIORITY = 2**12 - 1  # bits of the compiled interpreter's heap key
MAX_STEPS = 2**31 - 1
MAX_TIME = 2**63 - 1

_COLUMNS: dict[str, type[np.generic]] = {
    "route": np.int32, "work_ps": np.int64, "nbytes": np.int64, "region": np.int32, "offset": np.int64,
    "write": np.bool_, "priority": np.int32, "tag": np.int32, "weight": np.int32,
    "room": np.int32, "partition": np.int8, "runs": np.int32, "stride": np.int64, "gather": np.int64,
}  # fmt: skip
#: columns that may be left out, with what they hold then
_DEFAULTS = {"weight": 1, "room": 1, "partition": 0, "runs": 1, "stride": 0, "gather": NO_GATHER}
_LISTS: dict[str, type[np.generic]] = {
    "route_start": np.int32, "route_resources": np.int32, "pred_start": np.int64, "preds": np.int32, "marks": np.int32,
    "gather_offsets": np.int64,
}  # fmt: skip


@dataclass(frozen=True)
class Region:
    """A buffer of the program; its base address is given when the program runs."""

    name: str
    nbytes: int


@dataclass(frozen=True, eq=False)
class Program:
    """Steps in topological order, one entry of each column per step (usually made by a `ProgramBuilder`).

    | column      | meaning                                                                                |
    | ----------- | -------------------------------------------------------------------------------------- |
    | `route`     | which route the step takes; route r visits                                             |
    |             | `route_resources[route_start[r]:route_start[r + 1]]` in turn; an empty route is a join |
    | `work_ps`   | time on each UNIT of the route                                                         |
    | `nbytes`    | bytes through each LINK and MEMORY of the route, and in each WINDOW, which come first   |
    | `region`, `offset` | where a MEMORY finds them: base address of the region + offset (-1: no region)  |
    | `write`     | whether a MEMORY is written                                                            |
    | `priority`  | who goes first among arrivals of one instant, 0 before 4095                            |
    | `tag`       | a small integer for reports (which core, which operand); the engine does not read it   |
    | `weight`    | how many equal steps it stands for in what is counted (bytes, busy times)               |
    | `room`      | how many blocks each block that it brings into a cache stands for there                |
    | `partition` | of a cache in several, modulo their number: the one that the reader is beside           |
    | `runs`      | in a MEMORY the bytes lie in so many runs of nbytes / runs each (1: contiguous)        |
    | `stride`    | from the beginning of one run to that of the next                                      |
    | `gather`    | run i begins at `gather_offsets[gather + i]` beyond `offset` (-1: at i * stride)        |

    Step s waits for `preds[pred_start[s]:pred_start[s + 1]]`, all smaller than s. `marks` are steps worth looking
    at afterwards, such as the join at the end of a wave; `carry` is the time of what was left out, which a launch
    adds. All columns are read-only: copies, unless they were read-only when given.
    """

    machine: Machine
    name: str
    route_start: NDArray[np.int32]
    route_resources: NDArray[np.int32]
    route: NDArray[np.int32]
    work_ps: NDArray[np.int64]
    nbytes: NDArray[np.int64]
    region: NDArray[np.int32]
    offset: NDArray[np.int64]
    write: NDArray[np.bool_]
    priority: NDArray[np.int32]
    tag: NDArray[np.int32]
    pred_start: NDArray[np.int64]
    preds: NDArray[np.int32]
    regions: tuple[Region, ...] = ()
    marks: NDArray[np.int32] = field(default_factory=lambda: np.empty(0, np.int32))
    weight: NDArray[np.int32] = field(default_factory=lambda: np.empty(0, np.int32))
    room: NDArray[np.int32] = field(default_factory=lambda: np.empty(0, np.int32))
    partition: NDArray[np.int8] = field(default_factory=lambda: np.empty(0, np.int8))
    runs: NDArray[np.int32] = field(default_factory=lambda: np.empty(0, np.int32))
    stride: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    gather: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    gather_offsets: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    carry: Carry = field(default_factory=Carry.nothing)

    def __post_init__(self) -> None:
        for column, value in _DEFAULTS.items():
            if not len(getattr(self, column)):
                object.__setattr__(self, column, np.full(len(self.route), value))
        for column, dtype in (_COLUMNS | _LISTS).items():
            given = getattr(self, column)
            kept = isinstance(given, np.ndarray) and not given.flags.writeable  # nobody writes to it
            array = (np.asarray if kept else np.array)(given, dtype=dtype, order="C")
            array.setflags(write=False)
            object.__setattr__(self, column, array)
        _check_shape(self)
        _check_routes(self)
        _check_order(self)
        _check_runs(self)
        _check_work(self)

    def __len__(self) -> int:
        return len(self.route)

    @cached_property
    def successors(self) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """Who waits for each step, as (starts, ids): the transpose of `pred_start`, `preds`."""
        counts = np.bincount(self.preds, minlength=len(self))
        starts = np.concatenate(([0], np.cumsum(counts))).astype(np.int64)
        waiting = np.repeat(np.arange(len(self), dtype=np.int32), np.diff(self.pred_start))
        return starts, waiting[np.argsort(self.preds, kind="stable")]

    @cached_property
    def digest(self) -> str:
        """Digest of all that the time of a run depends on, but the machine and where the regions lie."""
        columns = [getattr(self, name) for name in (_COLUMNS | _LISTS) if name not in ("tag", "marks")]
        digest = hashlib.blake2b(repr([region.nbytes for region in self.regions]).encode(), digest_size=16)
        for array in (*columns, self.carry.starts, self.carry.steps, self.carry.weights):
            digest.update(len(array).to_bytes(8, "little") + array.tobytes())
        return digest.hexdigest()

    def renamed(self, name: str) -> Program:
        """The same steps under another name; columns, and what has been derived from them, are shared."""
        other = copy(self)
        object.__setattr__(other, "name", name)
        return other

    def route_of(self, step: int) -> NDArray[np.int32]:
        """The resources that a step visits, in order."""
        route = self.route[step]
        return self.route_resources[self.route_start[route] : self.route_start[route + 1]]

    def preds_of(self, step: int) -> NDArray[np.int32]:
        """The steps that a step waits for."""
        return self.preds[self.pred_start[step] : self.pred_start[step + 1]]

    def runs_of(self, step: int) -> NDArray[np.int64]:
        """Where the runs of a step's bytes begin, counted from its address."""
        runs, gather = self.runs[step], self.gather[step]
        if gather != NO_GATHER:
            return self.gather_offsets[gather : gather + runs]
        return np.arange(runs, dtype=np.int64) * int(self.stride[step])

    def addresses(self, bases: Sequence[int] | Mapping[str, int] = ()) -> NDArray[np.int64]:
        """The address of every step's bytes (0 where it has none), given the base of each region, listed or by name."""
        names = [region.name for region in self.regions]
        if isinstance(bases, Mapping):
            for name in bases:
                if name not in names:
                    raise InputError(f"program {self.name}: no region is called '{name}'{did_you_mean(name, names)}.")
            for name in names:
                if name not in bases:
                    raise InputError(f"program {self.name}: the base address of region '{name}' is missing.")
            bases = [bases[name] for name in names]
        if len(bases) != len(names):
            raise InputError(f"program {self.name}: {len(bases)} base addresses were given for {len(names)} regions.")
        for region, base in zip(self.regions, bases, strict=True):
            if not 0 <= base <= MAX_TIME - region.nbytes:
                raise InputError(f"program {self.name}: region '{region.name}' cannot lie at address {base}.")
        base_of = np.array([*bases, 0], dtype=np.int64)  # NO_REGION = -1 finds the last entry
        return np.where(self.region >= 0, base_of[self.region] + self.offset, 0)

    def describe(self, limit: int = 40) -> str:
        """A readable listing: regions, then one line a step (the first `limit` of them)."""
        lines = [f"program {self.name}: {len(self)} steps on {len(self.machine)} resources"]
        lines += [f"region {number} {region.name}: {region.nbytes} bytes" for number, region in enumerate(self.regions)]
        lines += [self._describe_step(step) for step in range(min(limit, len(self)))]
        if len(self) > limit:
            lines.append(f"... and {len(self) - limit} more steps")
        return "\n".join(lines)

    def _describe_step(self, step: int) -> str:
        kinds = {self.machine[resource].kind for resource in self.route_of(step)}
        words = [
            f"{step:6d} ",
            " > ".join(self.machine[resource].name for resource in self.route_of(step)) or "join",
        ]
        if Kind.UNIT in kinds:
            words.append(f"{self.work_ps[step]} ps")
        if kinds & {Kind.LINK, Kind.MEMORY, Kind.WINDOW}:
            words.append(f"{self.nbytes[step]} bytes")
        if Kind.MEMORY in kinds:
            verb = "write" if self.write[step] else "read"
            words.append(f"{verb} {self.regions[self.region[step]].name}+{self.offset[step]}")
            if self.runs[step] > 1:
                way = f"every {self.stride[step]}" if self.gather[step] == NO_GATHER else f"at {self.gather[step]}..."
                words.append(f"in {self.runs[step]} runs {way}")
        if self.priority[step]:
            words.append(f"priority {self.priority[step]}")
        if len(self.preds_of(step)):
            words.append("after " + ",".join(str(before) for before in self.preds_of(step)))
        if step in self.marks:
            words.append("[mark]")
        return "  ".join(words)


def _check_shape(program: Program) -> None:
    n = len(program)
    if n > MAX_STEPS:
        raise InputError(f"program {program.name}: {n} steps are more than the {MAX_STEPS} a program may have.")
    for column in _COLUMNS:
        if getattr(program, column).shape != (n,):
            raise InputError(f"program {program.name}: column {column} does not have one entry for each of {n} steps.")
    for starts, items in (("route_start", "route_resources"), ("pred_start", "preds")):
        start, length = getattr(program, starts), len(getattr(program, items))
        if not len(start) or start[0] != 0 or start[-1] != length or (np.diff(start) < 0).any():
            raise InputError(f"program {program.name}: {starts} does not rise from 0 to the length of {items}.")
    if len(program.pred_start) != n + 1:
        raise InputError(f"program {program.name}: pred_start does not have one entry more than the {n} steps.")


def _check_routes(program: Program) -> None:
    resources = program.route_resources
    for unknown in resources[(resources < 0) | (resources >= len(program.machine))]:
        raise InputError(
            f"program {program.name}: a route visits resource {unknown}, but the machine has {len(program.machine)}."
        )
    routes = len(program.route_start) - 1
    # windows come first and in one order, so that nobody who holds bytes of one waits for himself or in a circle
    owner = np.repeat(np.arange(routes), np.diff(program.route_start))
    window = (program.machine.kinds == Kind.WINDOW)[resources]
    late = window[1:] & (owner[1:] == owner[:-1]) & (~window[:-1] | (resources[1:] <= resources[:-1]))
    if late.any():
        raise InputError(
            f"program {program.name}: a route visits a window behind another resource; windows come first, in the "
            "order of the machine."
        )
    _refuse(
        program,
        (program.route < 0) | (program.route >= routes),
        "takes a route that the program does not have",
    )


def _check_order(program: Program) -> None:
    n, preds = len(program), program.preds
    waiting = np.repeat(np.arange(n), np.diff(program.pred_start))
    for entry in np.flatnonzero((preds < 0) | (preds >= waiting))[:1]:
        raise InputError(
            f"program {program.name}: step {waiting[entry]} waits for step {preds[entry]}, which is not before it."
        )
    for mark in program.marks[(program.marks < 0) | (program.marks >= n)]:
        raise InputError(f"program {program.name}: mark {mark} is not one of its {n} steps.")


def _check_work(program: Program) -> None:
    visits = _visits(program)
    works, moves, addressed = visits[Kind.UNIT], visits[Kind.LINK] | visits[Kind.MEMORY], visits[Kind.MEMORY]
    moves = moves | visits[Kind.WINDOW]
    region, regions = program.region, len(program.regions)
    _refuse(program, works & (program.work_ps < 1), "visits a unit but has no work_ps")
    _refuse(program, moves & (program.nbytes < 1), "visits a link, a memory or a window but moves no bytes")
    _refuse(program, (region < NO_REGION) | (region >= regions), "names a region that the program does not have")
    _refuse(program, addressed & (region == NO_REGION), "visits a memory but has no region, hence no address")
    room = np.array([*(each.nbytes for each in program.regions), 0], dtype=np.int64)[region]
    reach = extents(program.nbytes, program.runs, program.stride, program.gather, program.gather_offsets)
    outside = (program.offset < 0) | (reach > room - program.offset)
    _refuse(program, (region >= 0) & outside, "reaches outside its region")
    _refuse(program, program.partition < 0, "has a negative partition")
    _refuse(
        program,
        (program.priority < 0) | (program.priority > MAX_PRIORITY),
        f"has a priority outside 0..{MAX_PRIORITY}",
    )
    most = int(program.nbytes.max(initial=0))
    if most * program.machine.slowest_as_per_byte > MAX_TIME - 10**6:
        raise InputError(f"program {program.name}: a step moves {most} bytes, too many to time in 64-bit attoseconds.")


def _check_runs(program: Program) -> None:
    runs, gather, offsets = program.runs.astype(np.int64), program.gather, program.gather_offsets
    _refuse(program, runs < 1, "has no run")
    _refuse(program, program.stride < 0, "has a negative stride")
    if not (runs == 1).all():
        _refuse(program, program.nbytes % np.maximum(runs, 1) != 0, "has bytes that its runs do not divide")
        most = (MAX_TIME - program.nbytes) // np.maximum(program.stride, 1)
        _refuse(program, runs - 1 > most, "has runs beyond any address")
    beyond = gather > len(offsets) - runs
    _refuse(program, (gather < NO_GATHER) | ((gather >= 0) & beyond), "has runs that are not in gather_offsets")
    for entry in np.flatnonzero(offsets < 0)[:1]:
        raise InputError(f"program {program.name}: entry {entry} of gather_offsets is {offsets[entry]}, below 0.")


def extents(
    nbytes: NDArray[np.int64], runs: NDArray[np.int32], stride: NDArray[np.int64], gather: NDArray[np.int64],
    gather_offsets: NDArray[np.int64],
) -> NDArray[np.int64]:  # fmt: skip
    """Bytes from the offset of each step to the end of its last run; the columns are those of a `Program`."""
    if (runs == 1).all() and (gather < 0).all():
        return nbytes
    last = (runs - np.int64(1)) * stride
    listed = np.flatnonzero(gather >= 0)
    listed = listed[np.argsort(gather[listed], kind="stable")]  # what lies between two slices is short then
    if len(listed):  # the greatest entry of each slice: every other piece of this cut is a slice
        cut = np.stack([gather[listed], gather[listed] + runs[listed]], axis=1).ravel()
        last[listed] = np.maximum.reduceat(np.append(gather_offsets, 0), cut)[::2]
    extent: NDArray[np.int64] = last + nbytes // runs
    return extent


def _visits(program: Program) -> dict[Kind, NDArray[np.bool_]]:
    """Which steps visit a resource of each kind."""
    kind_of = program.machine.kinds
    routes = len(program.route_start) - 1
    owner = np.repeat(np.arange(routes), np.diff(program.route_start))
    kinds = np.zeros(routes, dtype=np.uint8)  # of each route, as bits
    np.bitwise_or.at(kinds, owner, np.left_shift(1, kind_of[program.route_resources]).astype(np.uint8))
    visited = kinds[program.route]
    return {kind: (visited & (1 << kind)).astype(np.bool_) for kind in Kind}


def _refuse(program: Program, wrong: NDArray[np.bool_], what: str) -> None:
    for step in np.flatnonzero(wrong)[:1]:
        raise InputError(f"program {program.name}: step {step} {what}.")
