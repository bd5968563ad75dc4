"""Figures of results with matplotlib, an optional extra. Each function draws on `ax` (or a new one) and returns it."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

from archsim import units
from archsim.errors import ArchsimError
from archsim.report.breakdown import operators, top_operators
from archsim.report.headline import title
from archsim.report.numbers import percent, si
from archsim.report.palette import BOUND, ENERGY, ENERGY_NAMES, OTHER, SERIES
from archsim.results.compare import chip_values
from archsim.results.op_table import ENERGIES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.legend import Legend

    from archsim.report.breakdown import Part
    from archsim.results import Result

__all__ = ["breakdown", "energy", "power", "roofline", "timeline"]

NAMED = 8  # operators that the roofline names
CARRIED = "#dddddd"  # repetitions that were carried forward


def breakdown(result: Result, ax: Axes | None = None, top: int = 12) -> Axes:
    """Time of the longest operators in a step, coloured by what holds them back."""
    parts = top_operators(result, top)
    ax = ax or _axes(7.5, 0.9 + 0.32 * len(parts))
    colours = [BOUND.get(part.bound, OTHER) for part in parts]
    bars = ax.barh([part.name for part in parts], [part.time_s * 1e3 for part in parts], color=colours)
    ax.bar_label(bars, [percent(part.share) for part in parts], padding=3, fontsize="small")
    ax.invert_yaxis()
    ax.margins(x=0.12)
    ax.set_xlabel("time per step (ms)")
    _finish(ax, result)
    _legend(ax, parts)
    return ax


def roofline(result: Result, ax: Axes | None = None) -> Axes:
    """The operators under the roofs of the chip: FLOP/s against FLOP per byte of memory traffic.

    The area of a mark is the operator's share of the time. Flat roofs are the peaks that the chip quotes.
    """
    parts = [part for part in operators(result) if part.flops and part.dram_bytes]
    ax = ax or _axes(7.0, 4.5)
    intensity = [part.flops / part.dram_bytes for part in parts]
    ax.scatter(
        intensity,
        [part.rates[0][0] / 1e12 for part in parts],
        s=[20 + 900 * part.share for part in parts],
        c=[BOUND.get(part.bound, OTHER) for part in parts],
        alpha=0.75,
        edgecolors="none",
    )
    values = chip_values(result.meta["chip_yaml"])
    bandwidth = units.parse(values["memory.bandwidth"], "bandwidth")
    roofs: dict[float, list[str]] = {}
    for path, value in values.items():
        if path.startswith("peak."):
            roofs.setdefault(units.parse(value, "compute rate"), []).append(path.removeprefix("peak."))
    high = max([*intensity, *(roof / bandwidth for roof in roofs)]) * 4
    low = min([*intensity, 1.0]) / 2
    top = max(roofs, default=high * bandwidth)
    ax.plot([low, top / bandwidth], [low * bandwidth / 1e12, top / 1e12], color=OTHER, lw=1)
    for roof, dtypes in roofs.items():
        ax.plot([roof / bandwidth, high], [roof / 1e12, roof / 1e12], color=OTHER, lw=1)
        label = f"{', '.join(dtypes)}: {si(roof, 'FLOP/s')}"
        ax.annotate(label, (high, roof / 1e12), xytext=(0, 3), textcoords="offset points", ha="right", fontsize="small")
    for x, y, numbers in _clusters(parts[:NAMED]):
        text = ", ".join(numbers)
        ax.annotate(text, (x, y), xytext=(9, -9), textcoords="offset points", fontsize="small", va="top")
    ax.set(xscale="log", yscale="log", xlim=(low, high))
    ax.set_xlabel("intensity (FLOP per byte of memory traffic)")
    ax.set_ylabel("compute (TFLOP/s)")
    _finish(ax, result)
    names = {f"{i}  {part.name}": BOUND.get(part.bound, OTHER) for i, part in enumerate(parts[:NAMED], start=1)}
    ax.add_artist(_key(ax, names, title="longest operators", loc="center left", bbox_to_anchor=(1.0, 0.5)))
    _legend(ax, parts)
    return ax


def timeline(result: Result, ax: Axes | None = None, start_s: float = 0.0, end_s: float | None = None) -> Axes:
    """What ran when on each lane, from `start_s` to `end_s` of the step (the whole step when omitted)."""
    lanes = list(dict.fromkeys(part.lane for part in result.timeline))
    ax = ax or _axes(9.0, 1.2 + 0.4 * len(lanes))
    end_s = result.time_s if end_s is None else end_s
    shown = [s for s in result.timeline if s.start_ps < end_s * 1e12 and s.start_ps + s.dur_ps > start_s * 1e12]
    names = [part.name for part in operators(result)]
    longest = [name for name in names if any(part.name == name for part in shown)][: len(SERIES)]
    colours = dict(zip(longest, SERIES, strict=False))
    for row, lane in enumerate(lanes):
        mine = [part for part in shown if part.lane == lane]
        spans = [(part.start_ps * 1e-9, part.dur_ps * 1e-9) for part in mine]
        ax.broken_barh(
            spans,
            (row - 0.4, 0.8),
            facecolors=[colours.get(part.name, OTHER if part.name in names else CARRIED) for part in mine],
        )
    ax.set_yticks(range(len(lanes)), lanes)
    ax.invert_yaxis()
    ax.set_xlim(start_s * 1e3, end_s * 1e3)
    ax.set_xlabel("time (ms)")
    _finish(ax, result)
    key = colours | ({"other": OTHER} if len(names) > len(colours) else {})
    _key(ax, key, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return ax


def energy(result: Result, ax: Axes | None = None, top: int = 12) -> Axes:
    """Energy of the hungriest operators in a step, each bar stacked by the unit that takes it."""
    table = result.op_table
    totals: dict[str, dict[str, float]] = {}
    for i, name in enumerate(table.name.tolist()):
        mine = totals.setdefault(name, dict.fromkeys(ENERGY, 0.0))
        for column in ENERGIES:
            mine[column.removesuffix("_pj")] += int(getattr(table, column)[i]) * int(table.repeat[i]) * 1e-12
    names = sorted(totals, key=lambda name: -sum(totals[name].values()))
    rows = {name: totals[name] for name in names[:top]}
    if len(names) > top:
        rest = [totals[name] for name in names[top:]]
        rows[f"({len(rest)} others)"] = {unit: sum(each[unit] for each in rest) for unit in ENERGY}
    ax = ax or _axes(8.5, 1.1 + 0.32 * len(rows))
    left = [0.0] * len(rows)
    shown = {}
    for unit, colour in ENERGY.items():
        widths = [row[unit] for row in rows.values()]
        if any(widths):
            ax.barh(list(rows), widths, left=left, color=colour)
            left = [a + b for a, b in zip(left, widths, strict=True)]
            shown[ENERGY_NAMES.get(unit, unit)] = colour
    ax.invert_yaxis()
    ax.set_xlabel("energy of one chip per step (J)")
    _finish(ax, result)
    _key(ax, shown, loc="lower right")
    return ax


def power(result: Result, ax: Axes | None = None) -> Axes:
    """Mean power of one chip over the step, operator by operator in the order of their starts.

    Repeats of a block are drawn as one span; the dashed line is the power limit.
    """
    table = result.op_table
    spent = sum((getattr(table, column) for column in ENERGIES[1:]), getattr(table, ENERGIES[0]))
    ax = ax or _axes(8.5, 3.2)
    block_ps: dict[str, int] = {}
    for block, time, repeat in zip(table.block.tolist(), table.time_ps.tolist(), table.repeat.tolist(), strict=True):
        block_ps[block] = block_ps.get(block, 0) + time * repeat
    at = dict.fromkeys(block_ps, 0.0)
    for block, before in zip(list(block_ps)[1:], itertools.accumulate(block_ps.values()), strict=False):
        at[block] = before * 1e-9
    for i, block in enumerate(table.block.tolist()):
        width = int(table.time_ps[i]) * int(table.repeat[i]) * 1e-9
        watts = int(spent[i]) / max(int(table.time_ps[i]), 1)
        ax.bar(at[block], watts, width, align="edge", color=BOUND.get(str(table.bound[i]), OTHER))
        at[block] += width
    limit = (result.physical or {}).get("power_limit_w")
    if limit:
        ax.axhline(limit, color=OTHER, linestyle="--", linewidth=1)
    ax.set_xlabel("time of all repeats of an operator, side by side (ms)")
    ax.set_ylabel("power of one chip (W)")
    _finish(ax, result)
    _legend(ax, operators(result), loc="upper left", bbox_to_anchor=(1.0, 1.0))  # bars reach down everywhere
    return ax


def _clusters(parts: Sequence[Part]) -> list[tuple[float, float, list[str]]]:
    """Marks of the roofline with their numbers, those that lie too close together as one."""
    clusters: list[tuple[float, float, list[str]]] = []
    for number, part in enumerate(parts, start=1):
        x, y = part.flops / part.dram_bytes, part.rates[0][0] / 1e12
        near = (names for at_x, at_y, names in clusters if 0.5 < x / at_x < 2 and 0.5 < y / at_y < 2)
        names = next(near, None)
        if names is None:
            clusters.append((x, y, [str(number)]))
        else:
            names.append(str(number))
    return clusters


def _axes(width: float, height: float) -> Axes:
    try:
        import matplotlib.pyplot as plt
    except ImportError:
        raise ArchsimError("figures need matplotlib, run: pip install archsim[plot]") from None
    return plt.subplots(figsize=(width, height), layout="constrained")[1]


def _finish(ax: Axes, result: Result) -> None:
    what, where = title(result)
    ax.set_title(f"{what}, on {where}", fontsize="medium", loc="left")
    ax.spines[["top", "right"]].set_visible(False)


def _legend(ax: Axes, parts: Sequence[Part], **place: Any) -> None:
    bounds = {part.bound for part in parts}
    colours = {bound: colour for bound, colour in BOUND.items() if bound in bounds}
    _key(ax, colours, title="bound by", **(place or {"loc": "lower right"}))


def _key(ax: Axes, colours: dict[str, str], **options: Any) -> Legend:
    from matplotlib.patches import Patch

    handles = [Patch(color=colour, label=label) for label, colour in colours.items()]
    return ax.legend(handles=handles, frameon=False, fontsize="small", alignment="left", **options)
