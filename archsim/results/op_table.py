"""The operators of a step: what each did, how long it took and what held it back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["BOUNDS", "COLUMNS", "DRAM_ENERGIES", "ENERGIES", "FULL", "OPTIONAL", "OpTable"]

BOUNDS = ("compute", "vector", "memory", "noc", "collective", "launch", "latency")
"""What can hold an operator back: a busy unit, the gap before it, or waiting with every unit mostly idle."""

COLUMNS: dict[str, type] = {
    "block": str,
    "name": str,
    "kind": str,
    "repeat": int,
    "start_ps": int,
    "time_ps": int,
    "launch_ps": int,
    "flops": int,
    "bytes": int,
    "dram_bytes": int,
    "activates": int,
    "bursts": int,
    "bound": str,
    "matrix_busy": float,
    "vector_busy": float,
    "memory_busy": float,
    "matrix_pj": int,
    "vector_pj": int,
    "sram_pj": int,
    "noc_pj": int,
    "memory_pj": int,
    "link_pj": int,
    "static_pj": int,
    "dram_activate_pj": int,
    "dram_read_pj": int,
    "dram_write_pj": int,
    "dram_io_pj": int,
    "dram_refresh_pj": int,
    "dram_background_pj": int,
}
"""The columns of `OpTable` and what they hold."""

DRAM_ENERGIES = tuple(name for name in COLUMNS if name.startswith("dram_") and name.endswith("_pj"))
"""The columns that `memory_pj` is the sum of: commands of the memory, interface, refreshes, background power."""

ENERGIES = tuple(name for name in COLUMNS if name.endswith("_pj") and name not in DRAM_ENERGIES)
"""The columns that hold energies; 0 where no energy was computed."""

OPTIONAL = ("activates", "bursts", *ENERGIES, *DRAM_ENERGIES)
"""The columns that may be left out: 0 then."""

FULL = 1.01
"""The most that a busy fraction may be: its parts are rounded to whole picoseconds."""

_DTYPES: dict[type, Any] = {str: np.str_, int: np.int64, float: np.float64}


@dataclass(frozen=True, eq=False)
class OpTable:
    """One row per operator of each block; a block that repeats is listed once.

    `start_ps` is that of the first repeat; `time_ps`, `launch_ps` (part of it), `flops`, `bytes` (touched by the
    operator), `dram_bytes` (moved to and from the memory), `activates` and `bursts` (rows opened and bursts moved for
    that, 0 in a roofline) and the energies (`static_pj`: leakage and clock; `memory_pj`: the sum of the `dram_` ones)
    are those of one repeat on one chip; the busy columns are fractions of `time_ps`. Any sequences are taken and kept
    as read-only arrays of one length.
    """

    block: NDArray[np.str_]
    name: NDArray[np.str_]
    kind: NDArray[np.str_]
    repeat: NDArray[np.int64]
    start_ps: NDArray[np.int64]
    time_ps: NDArray[np.int64]
    launch_ps: NDArray[np.int64]
    flops: NDArray[np.int64]
    bytes: NDArray[np.int64]
    dram_bytes: NDArray[np.int64]
    activates: NDArray[np.int64]
    bursts: NDArray[np.int64]
    bound: NDArray[np.str_]
    matrix_busy: NDArray[np.float64]
    vector_busy: NDArray[np.float64]
    memory_busy: NDArray[np.float64]
    matrix_pj: NDArray[np.int64]
    vector_pj: NDArray[np.int64]
    sram_pj: NDArray[np.int64]
    noc_pj: NDArray[np.int64]
    memory_pj: NDArray[np.int64]
    link_pj: NDArray[np.int64]
    static_pj: NDArray[np.int64]
    dram_activate_pj: NDArray[np.int64]
    dram_read_pj: NDArray[np.int64]
    dram_write_pj: NDArray[np.int64]
    dram_io_pj: NDArray[np.int64]
    dram_refresh_pj: NDArray[np.int64]
    dram_background_pj: NDArray[np.int64]

    def __post_init__(self) -> None:
        for column, kind in COLUMNS.items():
            values: NDArray[Any] = np.array(getattr(self, column), dtype=_DTYPES[kind])
            if values.shape != (len(self.block),):
                raise ValueError(f"column {column} has shape {values.shape} instead of ({len(self.block)},)")
            if kind is int and (values < 0).any():
                raise ValueError(f"column {column} has a negative value")
            if kind is float and not ((values >= 0) & (values <= FULL)).all():
                raise ValueError(f"column {column} has a value outside 0 to 1")
            values.flags.writeable = False
            object.__setattr__(self, column, values)
        if unknown := set(self.bound.tolist()) - set(BOUNDS):
            raise ValueError(f"column bound has the unknown value '{min(unknown)}'")

    @classmethod
    def from_rows(cls, rows: Iterable[Mapping[str, Any]]) -> OpTable:
        """A table of dicts that each hold every column but the optional ones."""
        rows = [dict.fromkeys(OPTIONAL, 0) | dict(row) for row in rows]
        columns: dict[str, Any] = {column: [row[column] for row in rows] for column in COLUMNS}
        return cls(**columns)

    def __len__(self) -> int:
        return len(self.block)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, OpTable):
            return NotImplemented
        return all(np.array_equal(getattr(self, c), getattr(other, c)) for c in COLUMNS)

    @property
    def row_hit_rate(self) -> NDArray[np.float64]:
        """Share of the bursts of each operator that found their row open (0 where nothing moved)."""
        return np.where(self.bursts > 0, 1 - self.activates / np.maximum(self.bursts, 1), 0.0)

    def columns(self) -> dict[str, NDArray[Any]]:
        """The columns by name, in order."""
        return {column: getattr(self, column) for column in COLUMNS}

    def total(self, column: str) -> int:
        """Sum of an integer column over all operators and their repeats (exact, in Python integers)."""
        return sum(a * b for a, b in zip(getattr(self, column).tolist(), self.repeat.tolist(), strict=True))
