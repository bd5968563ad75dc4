"""`archsim network`: the fabric of a system and the collectives on it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from archsim.cli._common import console, emit_json, json_option, progress
from archsim.cli._results import figure_file, wrote

if TYPE_CHECKING:
    from archsim.network import CollectiveRun, Fabric

__all__ = ["network"]


@click.group()
def network() -> None:
    """Collectives on the fabric of a system: times, bandwidths, busy links."""


@network.command("bench")
@click.argument("system")
@click.option("--collective", "kind", default="all_reduce", show_default=True, help="What is done.")
@click.option(
    "--bytes", "span", default="1KiB:1GiB", show_default=True, help="One size, or from the smallest to the largest."
)
@click.option("--chips", type=click.IntRange(min=1), help="Chips of a group; by default all of the system.")
@click.option(
    "--stride", type=click.IntRange(min=1), default=1, show_default=True, help="Chips from one of a group to the next."
)
@click.option("--algorithm", default="auto", show_default=True, help="One algorithm instead of the library's choice.")
@click.option("--transport", help="One transport inside a node instead of the library's choice, e.g. direct.")
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Change a value of the system, or of its chip's links.",
)
@figure_file("--plot", "Draw time and bandwidth over the size")
@json_option
def bench(
    system: str, kind: str, span: str, chips: int | None, stride: int, algorithm: str, transport: str | None,
    overrides: tuple[str, ...], plot: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Time a collective over message sizes and print the table of nccl-tests.

    Size is nccl-tests' size; busbw is what a link of the ring would carry. `links` is how busy the busiest class of
    links is.

    \b
    Examples:
      archsim network bench hgx-h100
      archsim network bench h800-x32 --collective all_to_all --bytes 1MiB:64MiB
      archsim network bench tpu-v4-x64 --chips 64 --plot torus.png
      archsim network bench hgx-h100 --algorithm one_shot --transport pull --bytes 1KiB:256KiB
      archsim network bench hgx-h100 --set 'faults=[{chip: 3, network: scale_up, rate: 0.5}]'
    """
    from archsim.network import Group
    from archsim.network.bench import sizes, sweep

    fabric = _fabric(system, overrides)
    wanted = sizes(span)
    group = Group(chips or fabric.chips // stride, stride)
    runs: list[CollectiveRun] = []
    with progress(f"{kind} on {fabric.name}", len(wanted)) as update:
        for run in sweep(fabric, kind, group, wanted, algorithm, transport):  # type: ignore[arg-type]  # Collective checks
            runs.append(run)
            update(len(runs))
    if plot is not None:
        from archsim.report.network import bandwidth_figure

        title = f"{kind} over {group.size} chips of {fabric.name}"
        nbytes, times = [run.request.nbytes for run in runs], [run.time_ps * 1e-6 for run in runs]
        bandwidth_figure(nbytes, times, [run.busbw for run in runs], title, plot)
        wrote(plot)
    if as_json:
        emit_json(
            {
                "system": fabric.name, "collective": kind, "chips": group.size, "stride": group.stride,
                "rows": [_row(run) for run in runs],
            }
        )  # fmt: skip
        return
    _print(runs, f"{kind} over {group.size} of {fabric.chips} chips of {fabric.name}")


def _fabric(system: str, overrides: tuple[str, ...]) -> Fabric:
    from archsim.errors import InputError
    from archsim.hardware import load_chip, load_system
    from archsim.network import Fabric

    pairs = {}
    for text in overrides:
        key, equals, value = text.partition("=")
        if not equals:
            raise InputError(f"--set {text}: expected KEY=VALUE")
        pairs[key.strip()] = value.strip()
    name, plain = load_system(system), {"scale_up", "scale_out"}
    own = {link for link in plain if getattr(name, link) is not None}
    of_chip = {key: value for key, value in pairs.items() if key.partition(".")[0] in plain - own and "." in key}
    spec = load_system(system, {key: value for key, value in pairs.items() if key not in of_chip})
    return Fabric.of(spec, load_chip(spec.chip, of_chip))


def _row(run: CollectiveRun) -> dict[str, Any]:
    algorithm, inside, outside = run.choice
    return {
        "bytes": run.request.nbytes, "time_us": run.time_ps * 1e-6, "algbw_GBps": run.algbw * 1e-9,
        "busbw_GBps": run.busbw * 1e-9, "algorithm": algorithm, "transport": inside, "transport_out": outside,
        "bound_us": run.bound_ps * 1e-6, "busiest_links": max(run.busy.values(), default=0.0),
        "messages": run.messages, "folded": run.folded, "cores": run.cores,
    }  # fmt: skip


def _print(runs: list[CollectiveRun], title: str) -> None:
    from rich.table import Table

    table = Table(box=None, title=title, title_justify="left", header_style="bold")
    for name in ("size (B)", "time (us)", "algbw (GB/s)", "busbw (GB/s)"):
        table.add_column(name, justify="right")
    table.add_column("algorithm")
    table.add_column("links", justify="right")
    for run in runs:
        how = " ".join(str(part) for part in run.choice[:2] if part)
        busy = max(run.busy.values(), default=0.0)
        table.add_row(
            str(run.request.nbytes), f"{run.time_ps * 1e-6:,.2f}", f"{run.algbw * 1e-9:.2f}",
            f"{run.busbw * 1e-9:.2f}", how, f"{busy:.0%}",
        )  # fmt: skip
    console().print(table)
