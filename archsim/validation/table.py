"""A reference file as columns: read whole, and refused with its line when a cell is not what it must be."""

from __future__ import annotations

import csv
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from archsim.errors import InputError

__all__ = ["Table"]


@dataclass(frozen=True)
class Table:
    """The text cells of a CSV file with a header line."""

    path: Path
    columns: dict[str, list[str]]
    lines: list[int]

    @classmethod
    def read(cls, path: Path) -> Table:
        """Read a CSV file."""
        try:
            with path.open(encoding="utf-8-sig", newline="") as handle:
                reader = csv.reader(handle, strict=True)
                header = next(reader, [])
                rows = [(reader.line_num, row) for row in reader if row]
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
