"""A reference file as columns: read whole, and refused with its line when a cell is not what it must be."""

from __future__ import annotations

import csv
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from archsim.errors import InputError

__all__ = ["Record", "Table"]


@dataclass(frozen=True)
class Record:
    """One row of a table; a cell that is not what it is asked for is an error with the file and the line."""

    place: str
    cells: dict[str, str]

    def text(self, name: str) -> str:
        return self.cells[name]

    def integer(self, name: str, *, least: int = 1) -> int:
        """A whole number, also when it is written ``128.0``."""
        number = self.number(name, least=least)
        if number != int(number):
            raise InputError(f"{self.place}: {name} is '{self.cells[name][:40]}', which is no whole number")
        return int(number)

    def number(self, name: str, *, least: float = 0.0) -> float:
        """A finite number."""
        try:
            value = float(self.cells[name])
        except ValueError:
            value = float("nan")
        if not isfinite(value) or abs(value) >= 2**63:
            raise InputError(f"{self.place}: {name} is '{self.cells[name][:40]}', which is no number")
        if value < least:
            raise InputError(f"{self.place}: {name} is {self.cells[name]}, but must be at least {least:g}")
        return value


@dataclass(frozen=True)
class Table:
    """The text cells of a CSV file with a header line; lines before it that start with ``#`` are comments."""

    path: Path
    columns: dict[str, list[str]]
    lines: list[int]

    @classmethod
    def read(cls, path: Path) -> Table:
        """Read a CSV file."""
        try:
            with path.open(encoding="utf-8-sig", newline="") as handle:
                lines = list(handle)
            comments = next((i for i, line in enumerate(lines) if not line.startswith("#")), len(lines))
            reader = csv.reader(lines[comments:], strict=True)
            header = next(reader, [])
            rows = [(comments + reader.line_num, row) for row in reader if row]
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error
        except (UnicodeDecodeError, csv.Error) as error:
            raise InputError(f"{path}: is not a CSV file ({error})") from error
        for line, row in rows:
            if len(row) != len(header):
                raise InputError(f"{path}:{line}: has {len(row)} cells where the header has {len(header)}")
        if not rows:
            raise InputError(f"{path}: holds no rows")
        cells = {name.strip(): [row[index].strip() for _, row in rows] for index, name in enumerate(header)}
        return cls(path, cells, [line for line, _ in rows])

    def __len__(self) -> int:
        return len(self.lines)

    def take(self, which: Sequence[int]) -> Table:
        """The table of some of the rows."""
        columns = {name: [cells[i] for i in which] for name, cells in self.columns.items()}
        return Table(self.path, columns, [self.lines[i] for i in which])

    def records(self) -> list[Record]:
        """The rows one by one."""
        return [
            Record(f"{self.path}:{line}", {name: cells[i] for name, cells in self.columns.items()})
            for i, line in enumerate(self.lines)
        ]

    def integers(self, name: str, *, least: int = 1) -> NDArray[np.int64]:
        """A column of integers, none below `least`."""
        values = np.empty(len(self), dtype=np.int64)
        for index, (line, cell) in enumerate(zip(self.lines, self.columns[name], strict=True)):
            try:
                values[index] = int(cell)
            except (ValueError, OverflowError) as error:
                raise InputError(f"{self.path}:{line}: {name} is '{cell[:40]}', which is no 64-bit integer") from error
            if values[index] < least:
                raise InputError(f"{self.path}:{line}: {name} is {cell}, but must be at least {least}")
        return values

    def choices(self, name: str, legal: Collection[str]) -> list[str]:
        """A column of words, each one of `legal`."""
        for line, cell in zip(self.lines, self.columns[name], strict=True):
            if cell not in legal:
                raise InputError(f"{self.path}:{line}: {name} is '{cell[:40]}', but must be one of {', '.join(legal)}")
        return self.columns[name]
