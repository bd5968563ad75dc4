"""A published figure as something that can be simulated."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Case"]


@dataclass(frozen=True)
class Case:
    """One row: the published value, how ours is found, and what was assumed for it.

    group: the table that the row belongs to. heavy: takes more than about ten seconds.
    """

    name: str
    group: str
    expected: float
    got: Callable[[], float]
    assumption: str
    heavy: bool = False
