"""The accuracy of the suite `model` as the README shows it: `python -m archsim.validation.accuracy`.

Every row is simulated, kept in ``archsim/validation/data/accuracy_model.json`` and summed up between the markers of the
README. `--only GROUP ...` simulates the rows of the groups that begin so, and keeps the others. A test holds the table
against the kept rows, and a sample of them against the simulator.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TypedDict

import numpy as np

from archsim.errors import InputError, write_atomically
from archsim.reuse import ResultCache, reusing, user_folder
from archsim.validation.model import MODEL, read_row
from archsim.validation.model.case import Case
from archsim.validation.suite import DATA
from archsim.validation.table import Table

__all__ = ["KEPT", "MARKERS", "Kept", "read_kept", "summary"]

KEPT = DATA / "accuracy_model.json"
MARKERS = ("<!-- accuracy:model -->", "<!-- /accuracy:model -->")


class Kept(TypedDict):
    """One simulated row."""

    group: str
    expected: float
    got: float
    assumption: str


def read_kept() -> dict[str, Kept]:
    """The rows as they were simulated last, by their names."""
    rows: dict[str, Kept] = json.loads(KEPT.read_text()) if KEPT.exists() else {}
    return rows


def summary(rows: dict[str, Kept]) -> str:
    """The table of the README: errors of each group in percent.

    >>> print(summary({"a": Kept(group="x", expected=10, got=9, assumption="")}))
    | published figures | rows | mean error | bias | worst |
    | --- | --: | --: | --: | --: |
    | x | 1 | 10.0 % | -10.0 % | 10.0 % |
    """
    groups: dict[str, list[float]] = {}
    for row in rows.values():
        groups.setdefault(row["group"], []).append(100 * (row["got"] / row["expected"] - 1))
    lines = ["| published figures | rows | mean error | bias | worst |", "| --- | --: | --: | --: | --: |"]
    for group, found in sorted(groups.items()):
        errors = np.array(found)
        mean, worst = np.abs(errors).mean(), np.abs(errors).max()
        lines.append(f"| {group} | {len(errors)} | {mean:.1f} % | {errors.mean():+.1f} % | {worst:.1f} % |")
    return "\n".join(lines)


def cases(only: tuple[str, ...] = ("",)) -> list[Case]:
    """The rows that can be simulated, of the groups that begin with one of `only`."""
    records = [record for each in MODEL.references for record in Table.read(DATA / each.file).records()]
    found = [case for record in records if isinstance(case := read_row(record), Case)]
    return [case for case in found if case.group.startswith(only)]


def main() -> None:
    """Simulate, keep, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", default=[""], metavar="GROUP", help="rows of the groups that begin so")
    parser.add_argument("--readme", type=Path, default=Path("README.md"), help="where the table goes")
    arguments = parser.parse_args()
    only = tuple(arguments.only)
    chosen = cases(only)
    names = {case.name for case in chosen}
    kept = {n: row for n, row in read_kept().items() if n in names or not row["group"].startswith(only)}
    with reusing(ResultCache(user_folder() / "results")):
        for done, case in enumerate(chosen):
            try:
                got = case.got()
            except InputError as error:
                print(f"{case.name}: {error}")
                continue
            kept[case.name] = Kept(group=case.group, expected=case.expected, got=got, assumption=case.assumption)
            count = f"{done + 1}/{len(chosen)}"
            print(f"{count} {case.name}: {case.expected:.5g} published, {got:.5g} simulated", flush=True)
            _keep(kept, arguments.readme)


def _keep(kept: dict[str, Kept], readme: Path) -> None:
    """Write both files, after every row: a run that is broken off leaves them in agreement."""
    _write(KEPT, json.dumps(dict(sorted(kept.items())), indent=1) + "\n")
    before, rest = readme.read_text().split(MARKERS[0])
    after = rest.split(MARKERS[1])[1]
    _write(readme, f"{before}{MARKERS[0]}\n{summary(kept)}\n{MARKERS[1]}{after}")


def _write(path: Path, text: str) -> None:
    write_atomically(path, lambda beside: beside.write_text(text))


if __name__ == "__main__":
    main()
