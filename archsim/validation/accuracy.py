"""The accuracy of the suites `model` and `op` as the documents show it: `python -m archsim.validation.accuracy`.

Every row is simulated, kept in ``archsim/validation/data/accuracy_model.json`` and summed up between the markers of the
README. `--only GROUP ...` simulates the rows of the groups that begin so, and keeps the others; rows of the same groups
that were not kept before, the long ones, are simulated with `--new`. A test holds the table against the kept rows, and
a sample of them against the simulator.

`--op TABLE` puts what `archsim validate op --per-group 32 --markdown` has printed into docs/accuracy.md and, in fewer
columns, into the README; a test holds the one against the other.
"""

from __future__ import annotations

import argparse
import functools
import json
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import TypedDict

import numpy as np

from archsim.errors import InputError, write_atomically
from archsim.reuse import ResultCache, reusing, user_folder
from archsim.validation.model import MODEL, read_row
from archsim.validation.model.case import Case
from archsim.validation.suite import DATA
from archsim.validation.table import Table

__all__ = ["KEPT", "MARKERS", "OP_MARKERS", "Kept", "brief", "read_kept", "summary"]

KEPT = DATA / "accuracy_model.json"
MARKERS = ("<!-- accuracy:model -->", "<!-- /accuracy:model -->")
OP_MARKERS = ("<!-- accuracy:op -->", "<!-- /accuracy:op -->")
#: columns of the table of operators that the README shows
BRIEF = ("group", "cases", "mean", "median", "bias", "held out")


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


def brief(table: str) -> str:
    """The first table of a Markdown text with the columns of the README only.

    >>> print(brief("| group | mean | worst |\\n| --- | --: | --: |\\n| x | 15.0 | 20.0 |\\n\\n| other |"))
    | group | mean |
    | --- | --: |
    | x | 15.0 |
    """
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.strip().split("\n\n")[0].splitlines()]
    kept = [i for i, name in enumerate(rows[0]) if name in BRIEF]
    return "\n".join("| " + " | ".join(row[i] for i in kept) + " |" for row in rows)


def cases(only: tuple[str, ...] = ("",)) -> list[Case]:
    """The rows that can be simulated, of the groups that begin with one of `only`."""
    records = [record for each in MODEL.references for record in Table.read(DATA / each.file).records()]
    found = [case for record in records if isinstance(case := read_row(record), Case)]
    return [case for case in found if case.group.startswith(only)]


@functools.cache
def _worker() -> tuple[dict[str, Case], ResultCache]:
    """What a process simulates from: rows hold functions, which do not travel between processes."""
    return {case.name: case for case in cases()}, ResultCache(user_folder() / "results")


def _simulated(name: str) -> float | str:
    """One row, or why it cannot be simulated."""
    known, cache = _worker()
    with reusing(cache):
        try:
            return known[name].got()
        except InputError as error:
            return str(error)


def main() -> None:
    """Simulate, keep, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", default=[""], metavar="GROUP", help="rows of the groups that begin so")
    parser.add_argument("--new", action="store_true", help="also rows that were never kept")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes that simulate")
    parser.add_argument("--readme", type=Path, default=Path("README.md"), help="where the table goes")
    parser.add_argument("--op", type=Path, metavar="TABLE", help="write the table of operators instead, from this file")
    arguments = parser.parse_args()
    if arguments.op is not None:
        table = arguments.op.read_text().strip()
        _replace(arguments.readme.parent / "docs" / "accuracy.md", OP_MARKERS, table)
        _replace(arguments.readme, OP_MARKERS, brief(table))
        return
    only, before = tuple(arguments.only), read_kept()
    chosen = {case.name: case for case in cases(only) if arguments.new or case.name in before}
    kept = {name: row for name, row in before.items() if name in chosen or not row["group"].startswith(only)}
    with ProcessPoolExecutor(arguments.jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        running = {pool.submit(_simulated, name): case for name, case in chosen.items()}
        for done, future in enumerate(as_completed(running)):
            case, got = running[future], future.result()
            if isinstance(got, str):
                print(f"{case.name}: {got}")
                continue
            kept[case.name] = Kept(group=case.group, expected=case.expected, got=got, assumption=case.assumption)
            count = f"{done + 1}/{len(chosen)}"
            print(f"{count} {case.name}: {case.expected:.5g} published, {got:.5g} simulated", flush=True)
            _keep(kept, arguments.readme)


def _keep(kept: dict[str, Kept], readme: Path) -> None:
    """Write both files, after every row: a run that is broken off leaves them in agreement."""
    _write(KEPT, json.dumps(dict(sorted(kept.items())), indent=1) + "\n")
    _replace(readme, MARKERS, summary(kept))


def _replace(path: Path, markers: tuple[str, str], text: str) -> None:
    """Put a text between the markers of a document."""
    before, rest = path.read_text().split(markers[0])
    _write(path, f"{before}{markers[0]}\n{text}\n{markers[1]}{rest.split(markers[1])[1]}")


def _write(path: Path, text: str) -> None:
    write_atomically(path, lambda beside: beside.write_text(text))


if __name__ == "__main__":
    main()
