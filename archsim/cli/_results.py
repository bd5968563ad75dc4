"""What commands share that write files and show results: outputs that are checked first, views, intervals."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from archsim._figure import check_figure
from archsim.cli._common import console, emit_json
from archsim.errors import InputError

if TYPE_CHECKING:
    from archsim.results import Result
    from archsim.simulation.uncertainty import Interval, Uncertain

__all__ = [
    "check_outputs", "figure_file", "output_file", "ranges_json", "show", "show_ranges", "top_option", "wrote",
]  # fmt: skip

top_option: Callable[[Callable[..., Any]], Callable[..., Any]] = click.option(
    "--top", type=click.IntRange(1), default=10, show_default=True, help="Operators to list."
)


def output_file(flag: str, help: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """An option that names a file to write."""
    return click.option(flag, type=click.Path(path_type=Path), metavar="FILE", help=help)


def figure_file(flag: str, help: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """An option that names a figure to write; refused before any work is done if it cannot be."""

    def check(_: click.Context, __: click.Parameter, path: Path | None) -> Path | None:
        if path is not None:
            check_figure(path)
            check_outputs(path)
        return path

    help = f"{help} (.png, .svg or .pdf)."
    return click.option(flag, type=click.Path(path_type=Path), metavar="FILE", callback=check, help=help)


def check_outputs(*paths: Path | None) -> None:
    """Raise InputError unless each of the files can be written, before any work is done for it."""
    wanted = [path for path in paths if path is not None]
    for path in wanted:
        try:
            if path.is_dir():
                raise InputError(f"{path}: is a directory, expected the name of a file")
            if path.exists() and not path.is_file():
                raise InputError(f"{path}: is a device or a pipe, expected the name of a file")
            if not path.parent.is_dir():
                raise InputError(f"{path}: the directory {path.parent} does not exist")
            with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}."):
                pass
        except OSError as error:
            raise InputError(f"{path}: cannot be written ({error.strerror or error})") from error
    if len({path.absolute() for path in wanted}) < len(wanted):
        raise InputError(f"{wanted[0]}: is named for two outputs")


def show(
    result: Result, *, as_json: bool, top: int, timeline: Path | None, html: Path | None,
    ranges: tuple[Mapping[str, Interval], Sequence[Uncertain]] | None = None,
) -> None:  # fmt: skip
    """Write the views that were asked for, then print the result, with its ``ranges`` of uncertainty if it has any."""
    if timeline is not None:
        result.to_perfetto(timeline)
        wrote(timeline, "open it at ui.perfetto.dev")
    if html is not None:
        from archsim.report.html import write_page

        write_page(result, html)
        wrote(html)
    if as_json:
        found: dict[str, object] = {}
        if ranges is not None:
            found["uncertainty"] = ranges_json(ranges)
        emit_json(result.to_dict() | found)
        return
    from archsim.report.text import result_view

    out = console()
    out.print(result_view(result, top, out.width))
    if ranges is not None:
        show_ranges(ranges)


def ranges_json(ranges: tuple[Mapping[str, Interval], Sequence[Uncertain]]) -> dict[str, object]:
    """Figures as intervals, and the values that were moved for them."""
    figures = {name: [each.low, each.nominal, each.high] for name, each in ranges[0].items()}
    moved = {value.path: {"value": value.text, "spread": value.spread} for value in ranges[1]}
    return {"figures": figures, "moved": moved}


def show_ranges(ranges: tuple[Mapping[str, Interval], Sequence[Uncertain]]) -> None:
    """The same as a table."""
    from archsim.report.table import table

    out = console()
    rows = [(name, *(f"{n:.4g}" for n in (at.low, at.nominal, at.high))) for name, at in ranges[0].items()]
    out.print(table(["figure", ">from", ">as described", ">to"], rows, out.width))
    spreads = sorted({value.spread for value in ranges[1]})
    widths = ", ".join(f"{sum(v.spread == s for v in ranges[1])} by {s:.0%}" for s in spreads)
    out.print(f"{len(ranges[1])} doubtful values of the chip moved together: {widths}", style="dim", soft_wrap=True)


def wrote(path: Path, hint: str = "") -> None:
    """Say on stderr that a file was written."""
    click.echo(f"wrote {path}" + (f" ({hint})" if hint else ""), err=True)
