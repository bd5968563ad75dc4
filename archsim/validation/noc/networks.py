"""Networks and routers as BookSim's options describe them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache

from archsim.errors import InputError
from archsim.noc import (
    Pattern,
    Router,
    Routes,
    concentrated_mesh,
    crossbar,
    fat_tree,
    flattened_butterfly,
    hotspot,
    mesh,
    pattern_for,
    routes_for,
    torus,
)
from archsim.validation.report import Row
from archsim.validation.suite import Outcome
from archsim.validation.table import Record, Table

__all__ = ["compare_each", "pattern_of", "router_of", "routes_of", "why_not"]

#: BookSim's routing functions, by topology, as ours; those of dim_order keep to datelines on a torus
ROUTINGS = {
    ("mesh", "dim_order"): "xy",
    ("mesh", "dor"): "xy",
    ("mesh", "xy_yx"): "o1turn",
    ("torus", "dim_order"): "xy",
    ("cmesh", "dor_no_express"): "xy",
    ("fly", "dest_tag"): "shortest",
    ("flatfly", "ran_min"): "shortest",
    ("fattree", "nca"): "spread",
}
#: a larger side would take longer than a table is worth
MOST_SIDE = 32


def compare_each(table: Table, compare: Callable[[Record], Iterable[Row]]) -> Outcome:
    """Compare every row of a table that can be expressed; a fault names its place."""
    rows: list[Row] = []
    reasons: list[str] = []
    for record in table.records():
        if reason := why_not(record):
            reasons.append(reason)
            continue
        try:
            rows += compare(record)
        except InputError as error:
            raise InputError(f"{record.place}: {error}") from error
    return rows, reasons


def why_not(record: Record) -> str:
    """Why a row cannot be expressed; "" if it can."""
    topology, routing = record.text("topology"), record.text("routing")
    if (topology, routing) not in ROUTINGS:
        return f"the routing {routing} on {topology} is adaptive or otherwise not modelled"
    if record.integer("k") > MOST_SIDE:
        return f"networks of more than {MOST_SIDE} routers a side take too long"
    if topology in ("mesh", "torus") and "n" in record.cells and record.integer("n") != 2:
        return f"a {topology} of other than two dimensions is not modelled"
    if topology == "fly" and record.integer("n") != 1:
        return "butterflies of several stages are not modelled"
    if topology in ("cmesh", "flatfly") and (record.integer("n"), record.integer("c")) != (2, 4):
        return f"a {topology} of other than two dimensions and four nodes a router is not modelled"
    if record.cells.get("in_out_internal_speedup", "1/1/1.0").split("/", 1)[1] != "1/1.0":
        return "output speedup and internal speedup are not modelled"
    return ""


def routes_of(record: Record) -> Routes:
    """The network of a row, with its routes."""
    latency = record.cells.get("use_noc_latency", "1") == "1"
    levels = record.integer("n") if "n" in record.cells else 2
    return _routes(record.text("topology"), record.integer("k"), levels, record.text("routing"), latency)


@lru_cache(maxsize=64)
def _routes(topology: str, k: int, n: int, routing: str, latency: bool) -> Routes:
    network = {
        "mesh": lambda: mesh(k, k),
        "torus": lambda: torus(k, k, link_cycles=2 if latency else 1),
        "cmesh": lambda: concentrated_mesh(k, k),
        "flatfly": lambda: flattened_butterfly(k, k),
        "fly": lambda: crossbar(k),
        "fattree": lambda: fat_tree(k, n),
    }[topology]()
    return routes_for(network, ROUTINGS[topology, routing])


def router_of(record: Record, *, classes: int = 1) -> Router:
    """The router of a row; options that the file does not have are BookSim's defaults for a network on chip."""

    def option(name: str, default: int) -> int:
        return record.integer(name, least=0) if name in record.cells else default

    return Router(
        vcs=record.integer("vcs"),
        buffer_flits=record.integer("buf"),
        route_cycles=option("routing_delay", 0),
        switch_cycles=option("st_final_delay", 1),
        credit_cycles=option("credit_delay", 1),
        speculative=bool(option("speculative", 0)),
        tail_credit=bool(option("wait_for_tail_credit", 0)),
        input_speedup=int(record.cells.get("in_out_internal_speedup", "1").split("/")[0]),
        classes=classes,
    )


@lru_cache(maxsize=64)
def pattern_of(name: str, nodes: int) -> Pattern:
    """The traffic of a row: the name of a pattern, or the targets of a hotspot listed in brackets."""
    if name.startswith("hotspot"):
        words = name.replace("(", " ").replace(")", " ").split()
        return hotspot(nodes, [int(word) for word in words if word.isdigit()])
    return pattern_for(name, nodes)
