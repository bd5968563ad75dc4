"""What a suite found: the rows that it compared, the rows that it could not, and the errors over all of them."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["ERRORS", "HALVES", "Report", "Row", "markdown_table"]

#: the errors that a report names, each a function of the signed percentage errors of the rows
ERRORS: dict[str, Callable[[NDArray[np.float64]], float]] = {
    "mape_pct": lambda errors: float(np.mean(np.abs(errors))),
    "median_ape_pct": lambda errors: float(np.median(np.abs(errors))),
    "p95_ape_pct": lambda errors: float(np.percentile(np.abs(errors), 95)),
    "max_ape_pct": lambda errors: float(np.max(np.abs(errors))),
    "bias_pct": lambda errors: float(np.mean(errors)),
}


HALVES = ("development", "held_out")
COLUMNS = ("cases", "mean", "median", "p95", "worst", "bias")


@dataclass(frozen=True)
class Row:
    """One case: the reference's value (not zero) and ours; `group` is what its error is reported with.

    assumption: what was assumed for this row, where the reference does not say it all.

    >>> Row("a", expected=200, got=190).error_pct
    -5.0
    """

    case: str
    expected: float
    got: float
    group: str = ""
    assumption: str = ""

    @property
    def error_pct(self) -> float:
        """Signed error in percent of the expected value."""
        return 100.0 * (self.got - self.expected) / abs(self.expected)

    @property
    def held_out(self) -> bool:
        """Whether the row belongs to the half that nothing may be developed on: by a hash of its case."""
        return bool(zlib.crc32(self.case.encode()) & 1)


@dataclass(frozen=True)
class Report:
    """The outcome of one suite on one reference file.

    `skipped` counts, by reason, the reference rows that the suite cannot express. `sampled_from` is how many rows can
    be compared, where only some of them were. `band` bounds some of the errors, in percent, by name; `group_bands`
    those of the rows of one group. `transfer`: whether the rows of a group informed no parameter; with it, errors are
    also told of those rows together and of the two halves of all rows, one of which is held out.
    """

    suite: str
    rows: tuple[Row, ...]
    skipped: Mapping[str, int]
    wall_s: float
    band: Mapping[str, float] = field(default_factory=dict)
    sampled_from: int | None = None
    group_bands: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    transfer: Callable[[str], bool] | None = None

    @property
    def parts(self) -> dict[str, Report]:
        """The rows that were developed on, those held out, and those that informed no parameter."""
        transfer = self.transfer
        if transfer is None:
            return {}
        parts = {
            "development": [row for row in self.rows if not row.held_out],
            "held_out": [row for row in self.rows if row.held_out],
            "transfer": [row for row in self.rows if transfer(row.group)],
        }
        return {name: Report(name, tuple(rows), {}, 0.0) for name, rows in parts.items()}

    @property
    def groups(self) -> dict[str, Report]:
        """The rows of each group as a report of their own; nothing if the suite forms no groups."""
        members: dict[str, list[Row]] = {}
        for row in self.rows:
            members.setdefault(row.group, []).append(row)
        members.pop("", None)
        bands = self.group_bands
        return {
            name: Report(name, tuple(members[name]), {}, 0.0, bands.get(name, {}), transfer=self.transfer)
            for name in sorted(members)
        }

    @property
    def cases(self) -> int:
        """Rows that were compared."""
        return len(self.rows)

    @property
    def max_ape_pct(self) -> float | None:
        """The worst absolute percentage error."""
        return self.error("max_ape_pct")

    def error(self, name: str) -> float | None:
        """One of `ERRORS`, or None when no row was compared."""
        return ERRORS[name](np.array([row.error_pct for row in self.rows])) if self.rows else None

    def percents(self) -> dict[str, float]:
        """Each of `ERRORS`, where rows were compared."""
        return {name: value for name in ERRORS if (value := self.error(name)) is not None}

    def errors(self) -> dict[str, float | int | None]:
        """How many cases, and each of `ERRORS`."""
        return {"cases": self.cases, **{error: self.error(error) for error in ERRORS}}

    @property
    def passed(self) -> bool:
        """Whether every error that has a band lies within it; a suite that compared nothing has shown nothing."""
        within = all(abs(self.error(name) or 0.0) <= limit for name, limit in self.band.items())
        return bool(self.rows) and within and all(group.passed for group in self.groups.values() if group.band)

    def as_dict(self, *, rows: bool = False) -> dict[str, Any]:
        """The JSON form."""
        result: dict[str, Any] = {
            "suite": self.suite,
            "cases": self.cases,
            "skipped": dict(self.skipped),
            **{name: self.error(name) for name in ERRORS},
            "wall_s": self.wall_s,
        }
        if self.sampled_from is not None:
            result["sampled_from"] = self.sampled_from
        for name, part in self.parts.items():
            result[name] = part.errors()
        if groups := self.groups:
            result["groups"] = {
                name: {
                    **group.errors(),
                    **{f"{half}_mape_pct": group.parts[half].error("mape_pct") for half in HALVES if group.parts},
                }
                for name, group in groups.items()
            }
        if rows:
            result["rows"] = [
                {"case": row.case, "expected": row.expected, "got": row.got, "error_pct": row.error_pct}
                | ({"assumption": row.assumption} if row.assumption else {})
                for row in self.rows
            ]
        return result


def markdown_table(report: Report) -> str:
    """The errors of each group, and of all rows, as a Markdown table in percent; then what was left out, and why.

    >>> print(markdown_table(Report("op", (Row("a", 10, 9, "x"), Row("b", 10, 12, "x")), {}, 0.0)))
    | group | cases | mean | median | p95 | worst | bias |
    | --- | --: | --: | --: | --: | --: | --: |
    | x | 2 | 15.0 | 15.0 | 19.5 | 20.0 | +5.0 |
    | all | 2 | 15.0 | 15.0 | 19.5 | 20.0 | +5.0 |
    """
    halves = HALVES if report.transfer else ()
    lines = ["".join(f"| {name} " for name in ("group", *COLUMNS, *(name.replace("_", " ") for name in halves))) + "|"]
    lines.append("| --- |" + " --: |" * (6 + len(halves)))
    for name, group in {**report.groups, "all": report, **report.parts}.items():
        if group.rows:
            cells = [f"{value:{'+' if error == 'bias_pct' else ''}.1f}" for error, value in group.percents().items()]
            found = [group.parts[half].error("mape_pct") for half in halves if group.parts]
            cells += ["" if error is None else f"{error:.1f}" for error in found]
            title = f"all: {name.replace('_', ' ')}" if name in report.parts else name
            lines.append(f"| {title} | {group.cases} | {' | '.join(cells)} |" + " |" * (len(halves) - len(found)))
    if report.skipped:
        lines += ["", "| rows left out | why |", "| --: | --- |"]
        lines += [f"| {count:,} | {reason} |" for reason, count in sorted(report.skipped.items(), key=lambda x: -x[1])]
    return "\n".join(lines)
