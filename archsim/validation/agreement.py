"""The picture of suites: every case, what was simulated against the reference."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from archsim._figure import new_figure, save_figure
from archsim.errors import InputError
from archsim.report.palette import OTHER, SERIES
from archsim.validation.report import Report, Row

__all__ = ["draw_agreement"]

NEAR = 1.2
"""The band around agreement that is shaded: 20 %."""


def draw_agreement(reports: Sequence[Report], path: Path) -> None:
    """A panel for each suite that has cases, both axes logarithmic in the suite's own units.

    Cases are coloured by the first word of their group, a chip or a kind; those with the fewest cases share a colour.
    """
    shown = [report for report in reports if any(row.expected > 0 and row.got > 0 for row in report.rows)]
    if not shown:
        raise InputError(f"{path}: there is no case to draw")
    across = min(len(shown), 3)
    down = -(-len(shown) // across)
    figure = new_figure(1.5 + 5.0 * across, 4.6 * down)
    panels = figure.subplots(down, across, squeeze=False).ravel()
    for ax, report in zip(panels, shown, strict=False):
        rows = [row for row in report.rows if row.expected > 0 and row.got > 0]
        ends = np.array([min(row.expected for row in rows), max(row.expected for row in rows)]) * (0.8, 1.25)
        ax.plot(ends, ends, color=OTHER, linewidth=0.8)
        ax.fill_between(ends, ends / NEAR, ends * NEAR, color=OTHER, alpha=0.15, linewidth=0)
        for (name, cases), colour in zip(_families(rows).items(), (*SERIES, OTHER), strict=False):
            error = np.mean([abs(row.error_pct) for row in cases])
            ax.scatter([row.expected for row in cases], [row.got for row in cases], s=9, alpha=0.6, color=colour,
                       edgecolors="none", label=f"{name} {error:.1f} %".strip())  # fmt: skip
        ax.set(xscale="log", yscale="log", xlabel="reference", ylabel="simulated")
        ax.set_title(f"{report.suite}: {len(rows):,} cases; shaded: within {100 * (NEAR - 1):.0f} %", fontsize="medium",
                     loc="left")  # fmt: skip
        ax.spines[["top", "right"]].set_visible(False)
        ax.legend(title="mean error", alignment="left", frameon=False, fontsize="small", loc="upper left")
    for ax in panels[len(shown) :]:
        ax.set_axis_off()
    save_figure(figure, path)


def _families(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Rows by the first word of their group that is no number, the largest first; beyond the palette they are one."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        family = next((word for word in row.group.split() if not word.isdigit()), "")
        found.setdefault(family, []).append(row)
    by_size = sorted(found.items(), key=lambda item: (-len(item[1]), item[0]))
    named = dict(by_size[: len(SERIES)])
    others = [row for _, more in by_size[len(SERIES) :] for row in more]
    return {**named, "others": others} if others else named
