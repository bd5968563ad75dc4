"""Random traffic: latency below saturation, and what is accepted beyond it."""

from __future__ import annotations

import math
from functools import lru_cache

from archsim.engine.noc import Protocol, measure_load
from archsim.errors import InputError
from archsim.noc import Pattern, Router, Routes
from archsim.validation.noc.networks import compare_each, pattern_of, router_of, routes_of, why_not
from archsim.validation.report import Row
from archsim.validation.suite import Outcome, Plan, Reference
from archsim.validation.table import Record, Table

__all__ = ["LATENCY", "NEAR", "SATURATION", "SWEEP"]

LATENCY = "latency below 80 % of saturation, cycle"
NEAR = "latency near saturation, cycle"
SATURATION = "saturation throughput, cycle"

#: a load below this share of the saturation throughput is steady enough for two runs to agree
STEADY = 0.8
#: packets a sample that make the mean of a light load as sure as that of a heavy one
SAMPLE_PACKETS = 1000
MOST_SAMPLE_CYCLES = 25_000
#: a longer packet, or a load that cannot be, is refused
MOST_FLITS = 4096


def compare(table: Table) -> Outcome:
    """Simulate every row: its latency if the reference was stable, what was accepted if not."""
    return compare_each(table, lambda record: [_row(record)])


def _row(record: Record) -> Row:
    routes, router = routes_of(record), router_of(record)
    nodes = routes.network.nodes
    pattern = pattern_of(record.text("traffic"), nodes)
    flits = record.integer("packet_size_flits")
    load = record.number("injection_rate_flits_per_node_cycle")
    if not 0 < load <= 1 or flits > MOST_FLITS:
        raise InputError(f"a load must be above 0 and at most 1, and a packet have at most {MOST_FLITS} flits")
    case = f"{record.text('topology')}{record.integer('k')} V{router.vcs} B{router.buffer_flits} S{flits} "
    case += f"{record.text('routing')} {pattern.name} {load:g}"
    if record.text("saturated") == "True":
        accepted = measure_load(routes, router, pattern, load, flits).accepted
        return Row(case, record.number("accepted_rate_flits"), accepted, SATURATION)
    steady = load <= STEADY * _saturation(routes, router, pattern, flits)
    protocol = Protocol()
    if steady:
        cycles = math.ceil(SAMPLE_PACKETS * flits / load / nodes)
        protocol = Protocol(sample_cycles=min(max(protocol.sample_cycles, cycles), MOST_SAMPLE_CYCLES))
    point = measure_load(routes, router, pattern, load, flits, protocol=protocol)
    return Row(case, record.number("avg_packet_latency_cycles"), point.latency, LATENCY if steady else NEAR)


@lru_cache(maxsize=256)
def _saturation(routes: Routes, router: Router, pattern: Pattern, flits: int) -> float:
    """The most that our network accepts at 60, 80 and 100 % of what its busiest channel could carry."""
    ideal = min(1.0, 1 / float(pattern.load(routes).max()))
    return max(measure_load(routes, router, pattern, share * ideal, flits).accepted for share in (0.6, 0.8, 1.0))


def plan(table: Table) -> list[Plan]:
    """Stable and unstable rows of each topology; large networks are heavy."""
    plans = []
    for record in table.records():
        group = "" if why_not(record) else f"{record.text('topology')} {record.text('saturated')}"
        plans.append(Plan(group, heavy=record.integer("k") > 8 and record.text("topology") in ("mesh", "torus")))
    return plans


SWEEP = Reference(
    file="booksim_golden.csv",
    columns=frozenset(
        {"topology", "k", "n", "c", "routing", "vcs", "buf", "packet_size_flits", "traffic", "saturated",
         "injection_rate_flits_per_node_cycle", "avg_packet_latency_cycles", "accepted_rate_flits"}
    ),
    compare=compare,
    plan=plan,
)  # fmt: skip
