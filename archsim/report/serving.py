"""Throughput against interactivity, the picture by which servers are compared."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from archsim._figure import new_figure
from archsim.report.palette import SERIES

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["interactivity"]


class State(Protocol):
    """What is drawn of an operating point."""

    @property
    def batch(self) -> int: ...
    @property
    def per_chip(self) -> float: ...
    @property
    def interactivity(self) -> float: ...


def interactivity(states: Sequence[State], title: str) -> Figure:
    """Output tokens a second of a chip against those of a user; each point says how many sequences share the system."""
    figure = new_figure(6.0, 4.0)
    ax = figure.subplots()
    ax.plot([s.interactivity for s in states], [s.per_chip for s in states], "o-", color=SERIES[0], markersize=5)
    for state in states:
        ax.annotate(f"{state.batch:,}", (state.interactivity, state.per_chip), (5, 5), textcoords="offset points",
                    fontsize="small")  # fmt: skip
    ax.set_xlabel("output tokens per second and user")
    ax.set_ylabel("output tokens per second and chip")
    ax.set_title(title, loc="left", fontsize="medium")
    ax.margins(0.12)
    ax.set_ylim(bottom=0)
    ax.set_xlim(left=0)
    ax.spines[["top", "right"]].set_visible(False)
    return figure
