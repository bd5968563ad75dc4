"""Suites, and running one of them on the data that ships with archsim or on a file with the same columns."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

import numpy as np

from archsim.errors import InputError
from archsim.validation.report import Report, Row
from archsim.validation.table import Table
from archsim.validation.workers import compare_side_by_side

__all__ = ["DATA", "FEW", "MANY", "WORTH_PROCESSES", "Plan", "Reference", "Suite", "run_suite", "suite_of"]

DATA = Path(__file__).parent / "data"

#: rows that take long, from which on they are worth starting processes
WORTH_PROCESSES = 16

#: rows of each group that are compared where comparing takes long: for a look at all suites, and at one of them
FEW, MANY = 1, 20

#: rows that were compared, and the reason of each row that cannot be
Outcome = tuple[list[Row], list[str]]


@dataclass(frozen=True)
class Plan:
    """What comparing one row means: the group that it stands for, "" if it cannot be compared; heavy rows are many
    times the work of others, and left to a run of everything. expected: the reference's value."""

    group: str
    heavy: bool = False
    expected: float = 0.0


@dataclass(frozen=True)
class Reference:
    """One kind of reference file: the columns it is known by, the file that ships, and how to compare with it.

    plan: where comparing takes long, the plan of every row; then rows are sampled evenly from every group.
    """

    file: str
    columns: frozenset[str]
    compare: Callable[[Table], Outcome]
    plan: Callable[[Table], Sequence[Plan]] | None = None


@dataclass(frozen=True)
class Suite:
    """A part of the simulator with the references that it is held against, and the errors it promises to stay under."""

    name: str
    title: str
    references: tuple[Reference, ...]
    band: Mapping[str, float] = field(default_factory=dict)
    group_bands: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """The same for the rows of one group."""
    transfer: Callable[[str], bool] | None = None
    """Whether the rows of a group informed no parameter, where the suite keeps half of its rows apart."""

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


def run_suite(
    suite: Suite,
    reference: Path | None = None,
    *,
    per_group: int | None = FEW,
    least: float = 0.0,
    processes: int = 1,
    on_progress: Callable[[float, float | None], None] = lambda done, total: None,
) -> Report:
    """Compare with every file that ships for `suite`, or with the one file `reference`.

    per_group: at most so many rows of each group and file, spread evenly, where comparing takes long; None: all.
    least: rows whose expected value is smaller are left out, with that as their reason, where comparing takes long.
    processes: that compare side by side where comparing takes long, if the suite is one of `SUITES`.
    """
    paths = [DATA / each.file for each in suite.references] if reference is None else [reference]
    begin = time.perf_counter()
    quick: list[tuple[int, Table]] = []
    slow: list[tuple[int, Table]] = []
    skipped: Counter[str] = Counter()
    possible = chosen = 0
    for path in paths:
        table = Table.read(path)
        kind = suite.reference_for(table)
        if kind is None:
            raise InputError(_missing_columns(suite, table))
        number = suite.references.index(kind)
        if kind.plan is None:
            quick.append((number, table))
            continue
        plans = kind.plan(table)
        small = [bool(plan.group) and plan.expected < least for plan in plans]
        if any(small):
            skipped[f"smaller than {least:g}"] += sum(small)
            table = table.take([i for i, each in enumerate(small) if not each])
            plans = [plan for plan, each in zip(plans, small, strict=True) if not each]
        which = _sample(plans, per_group)
        possible += sum(plan.group != "" for plan in plans)
        chosen += sum(plans[i].group != "" for i in which)
        quick.append((number, table.take([i for i in which if not plans[i].group])))
        slow += [(number, table.take([i])) for i in which if plans[i].group]
    here = quick if processes > 1 and len(slow) >= WORTH_PROCESSES else quick + slow
    outcomes: Iterable[Outcome] = (suite.references[number].compare(table) for number, table in here)
    if len(here) < len(quick) + len(slow):
        there = compare_side_by_side([(suite.name, *part) for part in slow], processes)
        outcomes = chain(outcomes, there)
    rows: list[Row] = []
    for done, (compared, reasons) in enumerate(outcomes):
        rows += compared
        skipped.update(reasons)
        on_progress(done + 1, len(quick) + len(slow))
    sampled_from = possible if chosen < possible else None
    wall_s = time.perf_counter() - begin
    return Report(suite.name, tuple(rows), skipped, wall_s, suite.band, sampled_from, suite.group_bands, suite.transfer)


def _sample(plans: Sequence[Plan], per_group: int | None) -> list[int]:
    """Rows to compare: from each group `per_group` light ones, evenly spaced in the file; and all that are refused.

    >>> _sample([Plan("a"), Plan(""), Plan("a"), Plan("a"), Plan("b", heavy=True)], 2)
    [0, 1, 3]
    """
    if per_group is None:
        return list(range(len(plans)))
    members: dict[str, list[int]] = {}
    for index, plan in enumerate(plans):
        if not plan.heavy or not plan.group:
            members.setdefault(plan.group, []).append(index)
    chosen = members.pop("", [])
    for rows in members.values():
        count = min(per_group, len(rows))
        chosen += [rows[round(i)] for i in np.linspace(0, len(rows) - 1, count)]
    return sorted(chosen)


def _missing_columns(suite: Suite, table: Table) -> str:
    nearest = min((each.columns - table.columns.keys() for each in suite.references), key=len)
    return f"{table.path}: is no reference of the suite {suite.name}: it lacks the columns {', '.join(sorted(nearest))}"
