"""Rows of a suite that are compared in processes of their own."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor

from archsim.validation.report import Row
from archsim.validation.table import Table

__all__ = ["compare_side_by_side"]

#: name of the suite, number of its reference, rows to compare
Part = tuple[str, int, Table]


def compare_side_by_side(parts: Sequence[Part], processes: int) -> Iterator[tuple[list[Row], list[str]]]:
    """What each part comes to, in their order; a suite is found by its name, since its functions do not travel."""
    with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(_compare, parts)


def _compare(part: Part) -> tuple[list[Row], list[str]]:
    from archsim.validation import SUITES

    suite, number, table = part
    return SUITES[suite].references[number].compare(table)
