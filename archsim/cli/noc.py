"""`archsim noc`: the latency of an on-chip network under load."""

from __future__ import annotations

from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

import click

from archsim.cli._common import console, emit_json, json_option, progress, refuse
from archsim.cli._results import figure_file, wrote
from archsim.errors import InputError

if TYPE_CHECKING:
    from archsim.engine.noc import LoadPoint
    from archsim.noc import Network

__all__ = ["noc"]

TOPOLOGIES = ("mesh", "torus", "ring", "cmesh", "crossbar", "hierarchical", "flatfly", "fattree")
MOST_NODES = 1024
FILE = click.Path(path_type=Path, dir_okay=False)


@click.group()
def noc() -> None:
    """Measure on-chip networks."""


@noc.command()
@click.option("--topology", type=click.Choice(TOPOLOGIES), default="mesh", show_default=True)
@click.option("--size", default="8x8", show_default=True, metavar="AxB[xC]",
              help="columns x rows; nodes of a ring or crossbar; clusters x cores x ports; arity x levels of a tree.")
@click.option("--graph", type=FILE, help="A network of your own: lines 'from to [cycles]', one link each.")
@click.option("--routing", default=None,
              help="xy, yx, o1turn, shortest or spread.  [default: xy on grids, else shortest]")
@click.option("--table", type=FILE, help="Routing table: lines 'router destination next'.")
@click.option("--datelines/--no-datelines", default=True, help="Split the virtual channels on rings.  [default: on]")
@click.option("--pattern", default="uniform", show_default=True,
              help="uniform, bitcomp, transpose, shuffle, tornado, neighbor or hotspot:NODES.")
@click.option("--flits", type=click.IntRange(1, 4096), default=8, show_default=True, help="Flits of a packet.")
@click.option("--vcs", type=int, default=4, show_default=True, help="Virtual channels of a port.")
@click.option("--buffer", "buffer_flits", type=int, default=8, show_default=True, help="Flits of each virtual channel.")
@click.option("--loads", metavar="FROM:TO:STEP",
              help="Flits per node and cycle; the curve ends where the network saturates.  [default: steps of 5 % of "
              "what the busiest channel allows]")
@click.option("--seed", type=int, default=1, show_default=True)
@figure_file("--plot", "Draw the curve")
@json_option
def bench(topology: str, size: str, graph: Path | None, routing: str | None, table: Path | None, datelines: bool,
          pattern: str, flits: int, vcs: int, buffer_flits: int, loads: str | None, seed: int, plot: Path | None,
          as_json: bool) -> None:  # fmt: skip
    """Print the latency-load curve of a network, flit by flit, up to its saturation.

    \b
    Examples:
      archsim noc bench --size 8x8 --pattern transpose --plot transpose.svg
      archsim noc bench --topology torus --size 8x8 --flits 1 --loads 0.1:1:0.1
      archsim noc bench --topology hierarchical --size 8x16x8 --vcs 8
      archsim noc bench --graph links.txt --table routes.txt --json
    """
    if graph:
        refuse("is of a network that is built, --graph is one of your own", "topology", "size")
    if table:
        refuse("is not needed: --table holds all routes", "routing", "datelines")
    from dataclasses import asdict

    from archsim.engine.noc import load_curve
    from archsim.noc import Router, pattern_for, read_network, read_table, routes_for, routes_from_table

    network = read_network(graph) if graph else _network(topology, size)
    if table:
        entries = read_table(table)
        try:
            routes = routes_from_table(network, entries)
        except InputError as error:
            raise InputError(f"{table}: {error}") from None
    else:
        routes = routes_for(network, routing or ("xy" if network.shape else "shortest"), datelines=datelines)
    traffic = pattern_for(pattern, network.nodes)
    router = Router(vcs=vcs, buffer_flits=buffer_flits)
    bound = min(1.0, 1 / float(traffic.load(routes).max()))
    with progress("simulating") as update:
        wanted = _loads(loads) if loads else _up_to(bound)
        points = load_curve(routes, router, traffic, wanted, flits, seed=seed, on_progress=update)
    best = max(point.accepted for point in points)
    if plot:
        _draw(points, bound, plot, f"{network.name} {size if not graph else ''}, {routes.routing}, {traffic.name}")
        wrote(plot)
    if as_json:
        emit_json({
            "network": network.name, "nodes": network.nodes, "links": network.links, "routing": routes.routing,
            "pattern": traffic.name, "flits": flits, "vcs": vcs, "buffer_flits": buffer_flits,
            "zero_load_latency_cycles": points[0].zero_load_latency, "bound_flits_per_node_cycle": bound,
            "saturated": not points[-1].stable, "throughput_flits_per_node_cycle": best,
            "points": [_plain(asdict(point)) for point in points],
        })  # fmt: skip
        return
    _print(points, bound, best)


def _plain(point: dict[str, float]) -> dict[str, float | None]:
    return {name: None if value != value else value for name, value in point.items()}


def _network(topology: str, size: str) -> Network:
    from archsim import noc as build

    words = size.lower().split("x")
    if not all(word.isdecimal() and 0 < len(word) < 5 for word in words):
        raise InputError(f"--size '{size[:40]}': write whole numbers with an x between them, for example 8x8")
    numbers = [int(word) for word in words]
    makers = {
        "mesh": (2, build.mesh), "torus": (2, build.torus), "cmesh": (2, build.concentrated_mesh),
        "flatfly": (2, build.flattened_butterfly), "ring": (1, build.ring), "crossbar": (1, build.crossbar),
        "hierarchical": (3, build.hierarchical), "fattree": (2, build.fat_tree),
    }  # fmt: skip
    count, make = makers[topology]
    if topology in ("ring", "crossbar") and len(numbers) == 2:
        numbers = [numbers[0] * numbers[1]]
    if len(numbers) != count:
        example = "x".join("848"[:count])
        raise InputError(f"--size '{size}': a {topology} takes {count} number(s), for example {example}")
    if topology == "fattree":
        nodes = numbers[0] ** min(numbers[1], 11)
    else:
        nodes = prod(numbers) * (4 if topology in ("cmesh", "flatfly") else 1)
    if nodes > MOST_NODES:
        raise InputError(f"--size '{size}': too many nodes; at most {MOST_NODES} are simulated")
    return make(*numbers)  # type: ignore[operator, no-any-return]


def _loads(text: str) -> list[float]:
    try:
        begin, end, step = (float(part) for part in text.split(":"))
    except ValueError:
        raise InputError(f"--loads '{text[:40]}': write FROM:TO:STEP, for example 0.05:1:0.05") from None
    if not (0 < begin <= end <= 1 and step >= 0.001):
        raise InputError(f"--loads '{text}': needs 0 < FROM <= TO <= 1 and a STEP of at least 0.001")
    return [begin + i * step for i in range(int((end - begin) / step + 1e-9) + 1)]


def _up_to(bound: float) -> list[float]:
    """Loads in steps of a twentieth of what the busiest channel allows, and some beyond."""
    return [bound * step / 20 for step in range(1, 31) if bound * step / 20 <= 1]


def _print(points: list[LoadPoint], bound: float, best: float) -> None:
    from rich.table import Table

    table = Table(box=None)
    for title in ("load", "accepted", "latency", "99th percentile", "busiest channel", ""):
        table.add_column(title, justify="right")
    for point in points:
        times = (f"{point.latency:.1f}", f"{point.p99_latency:.0f}") if point.stable else ("grows", "")
        state = "" if point.stable else "saturated"
        table.add_row(f"{point.load:.3f}", f"{point.accepted:.3f}", *times, f"{100 * point.busiest_load:.0f} %", state)
    out = console()
    out.print(table)
    out.print("load and accepted: flits per node and cycle; latency: cycles from creation to the tail's arrival")
    out.print(f"empty network {points[0].zero_load_latency:.1f} cycles; the busiest channel is full at {bound:.3f}")
    out.print(f"{'highest accepted' if points[-1].stable else 'saturates at'} {best:.3f} flits per node and cycle")
    if best > bound:
        out.print("more than that: nodes whose packets do not pass the busiest channel go on sending")


def _draw(points: list[LoadPoint], bound: float, path: Path, title: str) -> None:
    from archsim._figure import new_figure, save_figure

    figure = new_figure(6, 4)
    from matplotlib.ticker import LogLocator, ScalarFormatter

    axes = figure.add_subplot()
    stable = [point for point in points if point.stable]
    axes.plot([point.load for point in stable], [point.latency for point in stable], "o-", label="mean")
    axes.plot([point.load for point in stable], [point.p99_latency for point in stable], ".--", label="99th percentile")
    axes.axhline(points[0].zero_load_latency, color="grey", linewidth=0.8, label="empty network")
    axes.axvline(bound, color="grey", linewidth=0.8, linestyle=":", label="busiest channel full")
    if not points[-1].stable:
        axes.axvline(max(point.accepted for point in points), color="tab:red", linewidth=0.8, label="saturation")
    axes.set(xlabel="load (flits per node and cycle)", ylabel="latency (cycles)", title=title)
    axes.set(xlim=(0, None), yscale="log")
    axes.yaxis.set_minor_locator(LogLocator(subs=(2, 5)))
    axes.yaxis.set_major_formatter(ScalarFormatter())
    axes.yaxis.set_minor_formatter(ScalarFormatter())
    axes.grid(alpha=0.3, which="both")
    axes.legend()
    save_figure(figure, path)
