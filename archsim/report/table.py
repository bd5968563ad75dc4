"""Tables and bars for a terminal, in one style."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

__all__ = ["Bar", "Cell", "table"]

_EIGHTHS = " ▏▎▍▌▋▊▉"
_GAP = 2  # characters between columns
_NARROWEST = 8


@dataclass(frozen=True)
class Bar:
    """`share` (0 to 1) of `width` characters, down to an eighth of one; of # where the terminal knows ASCII only."""

    share: float
    width: int
    style: str

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        full, eighth = divmod(round(min(max(self.share, 0.0), 1.0) * self.width * 8), 8)
        bar = "#" * full if options.ascii_only else "█" * full + _EIGHTHS[eighth].strip()
        yield Text(bar.ljust(self.width), style=self.style)

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement(self.width, self.width)


Cell: TypeAlias = str | Text | Bar


def table(columns: Sequence[str], rows: Iterable[Sequence[Cell]], width: int) -> Table:
    """A table whose first column gives way, so that the others fit into `width` whole; ">name" stands to the right."""
    rows = list(rows)
    widths = [max(_width(cell) for cell in cells) for cells in zip(_heads(columns), *rows, strict=True)]
    widths[0] = max(min(widths[0], width - sum(widths[1:]) - _GAP * len(widths[1:])), _NARROWEST)
    rows = [(_shortened(first, widths[0]), *others) for first, *others in rows]
    view = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    for column, head, cells in zip(columns, _heads(columns), widths, strict=True):
        align: Literal["left", "right"] = "right" if column.startswith(">") else "left"
        view.add_column(head, justify=align, width=cells, no_wrap=True)
    for row in rows:
        view.add_row(*(Text(cell, no_wrap=True) if isinstance(cell, str) else cell for cell in row))
    return view


def _shortened(cell: Cell, width: int) -> Cell:
    """Text that does not fit ends in two dots, not in an ellipsis: not every terminal has one."""
    return cell[: width - 2] + ".." if isinstance(cell, str) and cell_len(cell) > width else cell


def _heads(columns: Sequence[str]) -> list[str]:
    return [column.removeprefix(">") for column in columns]


def _width(cell: Cell) -> int:
    if isinstance(cell, Bar):
        return cell.width
    return cell_len(cell) if isinstance(cell, str) else cell.cell_len
