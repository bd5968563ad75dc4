"""Results on a terminal: rich renderables of 80 to 120 columns that also read well piped, without colour."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from archsim.report.breakdown import top_operators
from archsim.report.headline import costs, facts, headline, title
from archsim.report.numbers import percent, si
from archsim.report.palette import BOUND, ENERGY, ENERGY_NAMES, OTHER, SERIES
from archsim.report.table import Bar, Cell, table

if TYPE_CHECKING:
    from archsim.results import Result

__all__ = ["plain", "result_text", "result_view"]

_WIDE = 110  # columns from which there is room for rates


def result_view(result: Result, top: int = 10, width: int = 100) -> RenderableType:
    """All that `archsim run` prints about a result, on a console of `width` columns."""
    gap = 6 if width >= _WIDE else 2
    below = Table.grid(padding=(0, gap))
    third = (width - 2 * gap) // 3
    below.add_row(_units(result, third - 1), _memory(result, third + 2), _work(result, third - 1))
    parts = [_headline(result), Text(), _operators(result, top, width), Text(), below, Text()]
    if result.physical is not None:
        costs = Table.grid(padding=(0, gap))
        costs.add_row(_energy(result, width // 2), _cost(result, width - width // 2 - gap))
        parts += [costs, Text()]
    return Group(*parts, *_notes(result))


def result_text(result: Result, top: int = 10, width: int = 100) -> str:
    """`result_view` as plain text."""
    return plain(result_view(result, top, width), width)


def plain(view: RenderableType, width: int = 100) -> str:
    """What a console of `width` columns without colour shows of `view`."""
    out = io.StringIO()
    Console(file=out, width=width, color_system=None, highlight=False).print(view)
    return "".join(line.rstrip() + "\n" for line in out.getvalue().splitlines())


def _headline(result: Result) -> RenderableType:
    what, where = title(result)
    grid = Table.grid(padding=(0, 3))
    numbers = headline(result)
    grid.add_row(*(Text(value, style="bold") for value, _ in numbers))
    grid.add_row(*(Text(label, style="dim") for _, label in numbers))
    head, foot = Text(what, style="bold"), Text("on " + where)
    return Panel(grid, title=head, subtitle=foot, title_align="left", subtitle_align="left", expand=False)


def _operators(result: Result, top: int, width: int) -> RenderableType:
    wide = width >= _WIDE
    parts = top_operators(result, top)
    longest = max((part.share for part in parts), default=0.0) or 1.0
    rows: list[list[Cell]] = []
    for part in parts:
        style = BOUND.get(part.bound, OTHER)
        bar = Bar(part.share / longest, 16 if wide else 8, style)
        rows.append([part.name, f"{part.calls:,}", si(part.time_s, "s"), percent(part.share), bar])
        rows[-1].append(Text(part.bound, style))
        if wide:
            rows[-1] += [si(rate, unit) if rate else "" for rate, unit in part.rates]
    columns = ("operator", ">calls", ">time", ">share", "", "bound", ">compute", ">traffic")
    return table(columns if wide else columns[:6], rows, width)


def _units(result: Result, width: int) -> RenderableType:
    busiest = {"busiest link": result.busiest_link[1]} if result.busiest_link else {}
    units = sorted((result.units | busiest).items(), key=lambda item: -item[1])
    rows = [(unit.replace("_", " "), Bar(busy, 6, SERIES[0]), percent(busy)) for unit, busy in units]
    return table(("unit", "", ">busy"), rows, width)


def _memory(result: Result, width: int) -> RenderableType:
    rows = [(label, si(size, "B")) for label, size in result.memory]
    rows.append(("used", si(result.memory_used, "B")))
    rows.append(("usable", si(result.memory_capacity, "B")))
    return table(("memory of a chip", ">size"), rows, width)


def _work(result: Result, width: int) -> RenderableType:
    return table(("one chip", ">in a step"), facts(result), width)


def _energy(result: Result, width: int) -> RenderableType:
    whole = result.energy_j or 1.0
    units = sorted(result.energy_by_unit.items(), key=lambda item: -item[1])
    rows: list[list[Cell]] = [
        [ENERGY_NAMES.get(unit, unit), Bar(joules / whole, 8, ENERGY[unit]), percent(joules / whole), si(joules, "J")]
        for unit, joules in units
        if joules > 0
    ]
    return table(("energy", "", ">share", ">one chip"), rows, width)


def _cost(result: Result, width: int) -> RenderableType:
    return table(("estimates", ">power and cost"), costs(result), width)


def _notes(result: Result) -> list[RenderableType]:
    return [Text(f"note: {note}", style="dim") for note in result.meta["notes"]]
