"""Results as HTML: a fragment for notebooks and a page that needs nothing but itself.

Every text is escaped. Colours derive from that of the text around, so light and dark pages both work.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from functools import lru_cache
from html import escape
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from archsim.errors import write_atomically
from archsim.report.breakdown import Part, operators, top_operators
from archsim.report.headline import costs, facts, headline, title
from archsim.report.numbers import percent, si
from archsim.report.palette import BOUND, ENERGY, ENERGY_NAMES, OTHER, SERIES

if TYPE_CHECKING:
    from archsim.results import Result

__all__ = ["bar", "document", "fragment", "page", "table", "write_page"]


def fragment(result: Result, top: int = 10) -> str:
    """The result as one HTML element with its style, for notebooks."""
    return wrap(_overview(result, top))


def page(result: Result) -> str:
    """The result as a whole HTML document: every operator, the chip and how the result was made as well."""
    meta = {key: value for key, value in result.meta.items() if key not in ("chip_yaml", "notes")}
    details = (
        f"<details><summary>All operators</summary>{_operator_table(operators(result))}</details>"
        f"<details><summary>The chip</summary><pre>{escape(result.meta['chip_yaml'])}</pre></details>"
        f"<details><summary>How this was made</summary><pre>{escape(json.dumps(meta, indent=2))}</pre></details>"
    )
    return document(title(result)[0], _overview(result, 12) + details)


def write_page(result: Result, path: Path) -> None:
    """Write `page` to `path`, whole or not at all."""
    data = page(result).encode()

    def write(beside: Path) -> None:
        beside.write_bytes(data)

    write_atomically(path, write)


def wrap(body: str) -> str:
    """`body` in the element that the style sheet speaks about."""
    return f'<div class="archsim"><style>{_style()}</style>{body}</div>'


def document(name: str, body: str) -> str:
    """A whole document around `body`."""
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(name)}</title><style>:root {{ color-scheme: light dark; }} "
        "body { margin: 2rem auto; max-width: 60rem; padding: 0 1rem; }</style></head>\n"
        f"<body>{wrap(body)}</body></html>\n"
    )


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of cells that are HTML already; a column named ">name" stands to the right."""
    right = [' class="r"' if column.startswith(">") else "" for column in columns]
    heads = "".join(f"<th{r}>{escape(c.removeprefix('>'))}</th>" for c, r in zip(columns, right, strict=True))
    lines = ("".join(f"<td{r}>{cell}</td>" for cell, r in zip(row, right, strict=True)) for row in rows)
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    return f'<div class="scroll"><table><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table></div>'


def bar(share: float, colour: str) -> str:
    """A bar of `share` (0 to 1) of the width of its cell."""
    return f'<div class="bar"><i style="width:{min(share, 1.0) * 100:.2f}%;background:{colour}"></i></div>'


@lru_cache(maxsize=1)
def _style() -> str:
    return resources.files("archsim.report").joinpath("style.css").read_text("utf-8")


def _overview(result: Result, top: int) -> str:
    what, where = title(result)
    numbers = "".join(
        f'<div><b>{escape(value)}</b><span class="quiet">{escape(label)}</span></div>'
        for value, label in headline(result)
    )
    notes = "".join(f'<p class="quiet">{escape(str(note))}</p>' for note in result.meta["notes"])
    notes = notes and f"<h2>Notes</h2>{notes}"
    return (
        f'<h1>{escape(what)}</h1><p class="quiet">on {escape(where)}, {escape(result.meta["fidelity"])} fidelity</p>'
        f'<div class="numbers">{numbers}</div>'
        f"<h2>Where the time goes</h2>{_stacked(top_operators(result, len(SERIES)))}"
        f"<h2>Operators</h2>{_operator_table(top_operators(result, top))}"
        f'<div class="columns">{_units(result)}{_memory(result)}{_work(result)}</div>{_costs(result)}{notes}'
    )


def _stacked(parts: Sequence[Part]) -> str:
    """One bar of all operator time, the longest operator first, with a legend."""
    spans, legend, left = [], [], 0.0
    for part, colour in zip(parts, (*SERIES, OTHER), strict=False):
        label = escape(f"{part.name}: {si(part.time_s, 's')}, {percent(part.share)}")
        width = part.share * 100
        spans.append(
            f'<rect x="{left:.3f}" width="{width:.3f}" height="10" fill="{colour}"><title>{label}</title></rect>'
        )
        legend.append(f'<li><span class="dot" style="background:{colour}"></span>{label}</li>')
        left += width
    return (
        '<svg viewBox="0 0 100 10" preserveAspectRatio="none" role="img" aria-label="time by operator">'
        f'{"".join(spans)}</svg><ul class="legend">{"".join(legend)}</ul>'
    )


def _operator_table(parts: Sequence[Part]) -> str:
    longest = max((part.share for part in parts), default=0.0) or 1.0
    rows = []
    for part in parts:
        colour = BOUND.get(part.bound, OTHER)
        bound = f'<span class="dot" style="background:{colour}"></span>{escape(part.bound)}' if part.bound else ""
        rows.append(
            (
                *(escape(part.name), f"{part.calls:,}", si(part.time_s, "s"), percent(part.share)),
                *(bar(part.share / longest, colour), bound),
                *(si(rate, unit) if rate else "" for rate, unit in part.rates),
            )
        )
    return table(("operator", ">calls", ">time", ">share", "", "bound", ">compute", ">traffic"), rows)


def _units(result: Result) -> str:
    units = sorted(result.units.items(), key=lambda item: -item[1])
    rows = ((escape(unit.replace("_", " ")), bar(busy, SERIES[0]), percent(busy)) for unit, busy in units)
    return f"<div><h2>How busy the units are</h2>{table(('unit', '', '>busy'), rows)}</div>"


def _memory(result: Result) -> str:
    entries = (*result.memory, ("used", result.memory_used), ("usable", result.memory_capacity))
    rows = ((escape(label), si(size, "B")) for label, size in entries)
    return f"<div><h2>Memory of a chip</h2>{table(('content', '>size'), rows)}</div>"


def _work(result: Result) -> str:
    rows = ((escape(name), escape(value)) for name, value in facts(result))
    return f"<div><h2>One chip in a step</h2>{table(('work', '>amount'), rows)}</div>"


def _costs(result: Result) -> str:
    """Energy by unit, power and money; nothing where no technology is stated."""
    if result.energy_j is None:
        return ""
    whole = result.energy_j or 1.0
    units = sorted(result.energy_by_unit.items(), key=lambda item: -item[1])
    energy = (
        (escape(ENERGY_NAMES.get(unit, unit)), bar(j / whole, ENERGY[unit]), percent(j / whole), si(j, "J"))
        for unit, j in units
        if j > 0
    )
    money = ((escape(name), escape(value)) for name, value in costs(result))
    return (
        '<div class="columns">'
        f"<div><h2>Energy of one chip</h2>{table(('unit', '', '>share', '>in a step'), energy)}</div>"
        f"<div><h2>Power and cost (estimates)</h2>{table(('figure', '>value'), money)}</div></div>"
    )
