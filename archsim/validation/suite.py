"""Suites, and running one of them on the data that ships with archsim or on a file with the same columns."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from archsim.errors import InputError
from archsim.validation.report import Report, Row
from archsim.validation.table import Table

__all__ = ["Reference", "Suite", "run_suite", "suite_of"]

DATA = Path(__file__).parent / "data"

#: rows that were compared, and the reason of each row that cannot be
Outcome = tuple[list[Row], list[str]]


@dataclass(frozen=True)
class Reference:
    """One kind of reference file: the columns it is known by, the file that ships, and how to compare with it."""

    file: str
    columns: frozenset[str]
    compare: Callable[[Table], Outcome]


@dataclass(frozen=True)
class Suite:
    """A part of the simulator with the references that it is held against, and the errors it promises to stay under."""

    name: str
    title: str
    references: tuple[Reference, ...]
    band: Mapping[str, float] = field(default_factory=dict)

    def reference_for(self, table: Table) -> Reference | None:
        """The kind of reference file that `table` is, by its columns."""
        return next((each for each in self.references if each.columns <= table.columns.keys()), None)


def suite_of(path: Path, suites: Iterable[Suite]) -> Suite:
    """The suite that knows the columns of a reference file."""
    suites = list(suites)
    table = Table.read(path)
    for suite in suites:
        if suite.reference_for(table):
            return suite
    raise InputError(f"{path}: no suite knows its columns (suites: {', '.join(suite.name for suite in suites)})")


def run_suite(suite: Suite, reference: Path | None = None) -> Report:
    """Compare with every file that ships for `suite`, or with the one file `reference`."""
    paths = [DATA / each.file for each in suite.references] if reference is None else [reference]
    begin = time.perf_counter()
    rows: list[Row] = []
    skipped: Counter[str] = Counter()
    for path in paths:
        table = Table.read(path)
        kind = suite.reference_for(table)
        if kind is None:
            raise InputError(_missing_columns(suite, table))
        compared, reasons = kind.compare(table)
        rows += compared
        skipped.update(reasons)
    return Report(suite.name, tuple(rows), skipped, time.perf_counter() - begin, suite.band)


def _missing_columns(suite: Suite, table: Table) -> str:
    nearest = min((each.columns - table.columns.keys() for each in suite.references), key=len)
    return f"{table.path}: is no reference of the suite {suite.name}: it lacks the columns {', '.join(sorted(nearest))}"
