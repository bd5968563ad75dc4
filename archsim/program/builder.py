"""The builder of programs: one step at a time by hand, or arrays of steps at once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from archsim.errors import InputError
from archsim.program.machine import Machine
from archsim.program.program import _COLUMNS, NO_GATHER, NO_REGION, Program, Region

__all__ = ["ProgramBuilder"]

Csr = tuple[ArrayLike, ArrayLike]


class ProgramBuilder:
    """Collects steps for a machine and turns them into a checked, read-only `Program`."""

    def __init__(self, machine: Machine, name: str = "program") -> None:
        self.machine = machine
        self.name = name
        self._count = 0
        self._regions: list[Region] = []
        self._routes: dict[tuple[int, ...], int] = {}
        self._marks: list[int] = []
        self._chunks: list[dict[str, NDArray[np.generic]]] = []
        self._pred_counts: list[NDArray[np.int64]] = []
        self._preds: list[NDArray[np.int64]] = []
        self._gather: list[NDArray[np.int64]] = []

    def __len__(self) -> int:
        """Steps so far, which is the id that the next step will get."""
        return self._count

    def region(self, name: str, nbytes: int) -> int:
        """Declare a buffer and return its id."""
        if nbytes < 1 or any(region.name == name for region in self._regions):
            why = "needs at least one byte" if nbytes < 1 else "is declared twice"
            raise InputError(f"program {self.name}: region '{name}' {why}.")
        self._regions.append(Region(name, int(nbytes)))
        return len(self._regions) - 1

    def gather_list(self, offsets: ArrayLike) -> int:
        """Declare offsets at which runs begin and return the position of the first, for `gather` of a step."""
        first = sum(len(each) for each in self._gather)
        self._gather.append(np.asarray(offsets, np.int64))
        return first

    def route(self, *resources: str | int) -> int:
        """Return the id of the route through `resources` (names or positions); equal routes share one id."""
        path = tuple(self.machine.index(each) if isinstance(each, str) else int(each) for each in resources)
        return self._routes.setdefault(path, len(self._routes))

    def step(
        self,
        route: int | str | Sequence[str | int],
        *,
        work_ps: int = 0,
        nbytes: int = 0,
        region: int = NO_REGION,
        offset: int = 0,
        write: bool = False,
        priority: int = 0,
        tag: int = 0,
        weight: int = 1,
        room: int = 1,
        partition: int = 0,
        runs: int = 1,
        stride: int = 0,
        gather: int = NO_GATHER,
        after: Iterable[int] = (),
    ) -> int:
        """Add one step and return its id; `route` is a route id, the name of one resource, or a list of resources."""
        if isinstance(route, str):
            route = self.route(route)
        elif not isinstance(route, (int, np.integer)):
            route = self.route(*route)
        before = np.fromiter(after, dtype=np.int64)
        columns = {
            "route": route, "work_ps": work_ps, "nbytes": nbytes, "region": region, "offset": offset,
            "write": write, "priority": priority, "tag": tag, "weight": weight, "room": room,
            "partition": partition, "runs": runs, "stride": stride, "gather": gather,
        }  # fmt: skip
        self._add({name: np.array([value], _COLUMNS[name]) for name, value in columns.items()})
        self._wait(np.array([len(before)]), before)
        return self._count - 1

    def join(self, after: Iterable[int], *, mark: bool = False, tag: int = 0) -> int:
        """Add a step that does nothing but wait for `after`; `mark` it to find it again in the finished program."""
        step = self.step((), after=after, tag=tag)
        if mark:
            self._marks.append(step)
        return step

    def steps(
        self,
        route: ArrayLike,
        *,
        work_ps: ArrayLike = 0,
        nbytes: ArrayLike = 0,
        region: ArrayLike = NO_REGION,
        offset: ArrayLike = 0,
        write: ArrayLike = False,
        priority: ArrayLike = 0,
        tag: ArrayLike = 0,
        weight: ArrayLike = 1,
        room: ArrayLike = 1,
        partition: ArrayLike = 0,
        runs: ArrayLike = 1,
        stride: ArrayLike = 0,
        gather: ArrayLike = NO_GATHER,
        after: ArrayLike | Csr | None = None,
        count: int | None = None,
    ) -> NDArray[np.int64]:
        """Add many steps at once and return their ids, which follow on from `len(self)`.

        Every column is an array of n entries or one value for all. `after` is an (n, k) array of step ids padded
        with -1, an (n,) array of one predecessor each (-1: none), or a CSR pair (starts, ids) with n + 1 starts.
        `count` gives n where no array does. The steps may wait for one another.
        """
        columns = {
            "route": route, "work_ps": work_ps, "nbytes": nbytes, "region": region, "offset": offset,
            "write": write, "priority": priority, "tag": tag, "weight": weight, "room": room,
            "partition": partition, "runs": runs, "stride": stride, "gather": gather,
        }  # fmt: skip
        arrays = {name: np.asarray(value) for name, value in columns.items()}
        sizes = {len(array) for array in arrays.values() if array.ndim} | ({count} if count is not None else set())
        starts, ids = _csr(after)
        if starts is not None:
            sizes.add(len(starts) - 1)
        if len(sizes) != 1:
            found = ", ".join(str(size) for size in sorted(sizes)) or "none"
            raise InputError(f"program {self.name}: the columns of the new steps have different lengths ({found}).")
        n = sizes.pop()
        first = self._count
        self._add({name: np.broadcast_to(array, n).astype(_COLUMNS[name]) for name, array in arrays.items()})
        self._wait(np.zeros(n, np.int64) if starts is None else np.diff(starts), ids)
        return np.arange(first, self._count, dtype=np.int64)

    def mark(self, step: int) -> None:
        """Remember a step among the program's `marks`."""
        self._marks.append(int(step))

    def build(self) -> Program:
        """Return the program, checked."""
        routes = list(self._routes)
        columns: dict[str, Any] = {
            name: np.concatenate([np.empty(0, dtype), *(chunk[name] for chunk in self._chunks)])
            for name, dtype in _COLUMNS.items()
        }
        return Program(
            machine=self.machine,
            name=self.name,
            route_start=np.cumsum([0, *(len(route) for route in routes)], dtype=np.int32),
            route_resources=np.array([resource for route in routes for resource in route], dtype=np.int32),
            pred_start=np.concatenate(([0], np.cumsum(np.concatenate([np.empty(0, np.int64), *self._pred_counts])))),
            preds=np.concatenate([np.empty(0, np.int64), *self._preds]),
            regions=tuple(self._regions),
            marks=np.array(self._marks, dtype=np.int32),
            gather_offsets=np.concatenate([np.empty(0, np.int64), *self._gather]),
            **columns,
        )

    def _add(self, columns: dict[str, NDArray[np.generic]]) -> None:
        self._chunks.append(columns)
        self._count += len(columns["route"])

    def _wait(self, counts: NDArray[np.int64], ids: NDArray[np.int64]) -> None:
        self._pred_counts.append(counts)
        self._preds.append(ids)


def _csr(after: ArrayLike | Csr | None) -> tuple[NDArray[np.int64] | None, NDArray[np.int64]]:
    """Bring the three ways of naming predecessors to (starts, ids); no starts: nobody waits."""
    if after is None:
        return None, np.empty(0, np.int64)
    if isinstance(after, tuple):
        return np.asarray(after[0], np.int64), np.asarray(after[1], np.int64)
    padded = np.asarray(after, np.int64)
    padded = padded[:, None] if padded.ndim == 1 else padded
    present = padded >= 0
    return np.concatenate(([0], np.cumsum(present.sum(axis=1)))), padded[present]
