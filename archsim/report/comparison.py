"""Two results side by side, for a terminal and for a notebook."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.text import Text

from archsim.report import html
from archsim.report.numbers import count, percent, si
from archsim.report.table import table
from archsim.report.text import plain

if TYPE_CHECKING:
    from archsim.results.compare import Change, Comparison

__all__ = ["comparison_fragment", "comparison_text", "comparison_view"]

_COLUMNS = (">A", ">B", ">B / A")
_METRICS = {
    "time_s": ("time", "s"),
    "tokens_per_s": ("tokens/s", ""),
    "tokens_per_s_per_chip": ("tokens/s/chip", ""),
    "flops": ("work of a chip", "FLOP"),
    "flop_per_s": ("compute", "FLOP/s"),
    "bytes": ("operands", "B"),
    "dram_bytes": ("traffic", "B"),
    "dram_bytes_per_s": ("traffic rate", "B/s"),
    "launch_s": ("launch gaps", "s"),
    "memory_used_bytes": ("memory used", "B"),
}


def comparison_view(comparison: Comparison, top: int = 12, width: int = 100) -> RenderableType:
    """What `archsim compare` prints on a console of `width` columns."""
    parts: list[RenderableType] = [Text(_verdict(comparison), style="bold"), Text()]
    for heading, rows in _sections(comparison, top):
        columns = (heading, *_COLUMNS[: len(rows[0]) - 1])
        parts += [table(columns, rows, width), Text()]
    return Group(*parts)


def comparison_text(comparison: Comparison, top: int = 12, width: int = 100) -> str:
    """`comparison_view` as plain text."""
    return plain(comparison_view(comparison, top, width), width)


def comparison_fragment(comparison: Comparison, top: int = 12) -> str:
    """The comparison as one HTML element, for notebooks."""
    body = f"<h1>{escape(_verdict(comparison))}</h1>"
    for heading, rows in _sections(comparison, top):
        columns = (heading, *_COLUMNS[: len(rows[0]) - 1])
        body += "<br>" + html.table(columns, [[escape(cell) for cell in row] for row in rows])
    return html.wrap(body)


def _verdict(comparison: Comparison) -> str:
    ratio = comparison.speedup
    if ratio == 1:
        verdict = "A and B take the same time"
    elif ratio > 1:
        verdict = f"B is {ratio:.3g} times as fast as A"
    else:
        verdict = f"B takes {1 / ratio:.3g} times as long as A"
    return f"A: {comparison.a}, B: {comparison.b}. {verdict}."


def _sections(comparison: Comparison, top: int) -> list[tuple[str, Sequence[tuple[str, ...]]]]:
    """Headings with their rows of text; sections without rows are left out."""
    options = [(name, _option(a), _option(b)) for name, (a, b) in comparison.options.items()]
    numbers = [(_METRICS[change.name][0], *_cells(change, _METRICS[change.name][1])) for change in comparison.metrics]
    units = [(f"{change.name.replace('_', ' ')} busy", *_cells(change, "%")) for change in comparison.units]
    ops = [(change.name, *_cells(change, "s")) for change in comparison.ops[:top]]
    sections: list[tuple[str, Sequence[tuple[str, ...]]]] = [
        ("option", options),
        ("number", numbers + units),
        ("operator, by change of time", ops),
    ]
    return [(heading, rows) for heading, rows in sections if rows]


def _cells(change: Change, unit: str) -> tuple[str, str, str]:
    ratio = "" if change.ratio is None else f"{change.ratio:.3f}"
    return _number(change.a, unit), _number(change.b, unit), ratio


def _number(value: float | None, unit: str) -> str:
    if value is None:
        return "-"
    return percent(value) if unit == "%" else si(value, unit) if unit else count(value)


def _option(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {number}" for key, number in value.items())
    return "-" if value is None else str(value)
