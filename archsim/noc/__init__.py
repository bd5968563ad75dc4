"""On-chip networks as data: topologies, routes, routers and traffic. Nothing here simulates; `archsim.engine.noc` does.

>>> from archsim.noc import Router, mesh, routes_for, zero_load_cycles
>>> routes = routes_for(mesh(8, 8), "xy")
>>> hops = len(routes.of(0, 63)[0])
>>> hops, zero_load_cycles(Router(), hops, flits=1, link_cycles=hops - 1)
(15, 62)
"""

from archsim.noc.deadlock import check_deadlock_free, waiting_cycle
from archsim.noc.files import read_network, read_table
from archsim.noc.network import MAX_ROUTERS, Network, join
from archsim.noc.router import NODE_CYCLES, Router, zero_load_cycles
from archsim.noc.routing import ANY, LOWER, ROUTINGS, UPPER, Routes, routes_by_class, routes_for, routes_from_table
from archsim.noc.topologies import (
    concentrated_mesh,
    crossbar,
    fat_tree,
    flattened_butterfly,
    hierarchical,
    mesh,
    ring,
    torus,
)
from archsim.noc.traffic import (
    PATTERNS,
    Packets,
    Pattern,
    hotspot,
    pattern_for,
    random_packets,
    read_packets,
    write_packets,
)
from archsim.noc.trees import Trees, Ways, multicast, reduction

__all__ = [
    "ANY",
    "LOWER",
    "MAX_ROUTERS",
    "NODE_CYCLES",
    "PATTERNS",
    "ROUTINGS",
    "UPPER",
    "Network",
    "Packets",
    "Pattern",
    "Router",
    "Routes",
    "Trees",
    "Ways",
    "check_deadlock_free",
    "concentrated_mesh",
    "crossbar",
    "fat_tree",
    "flattened_butterfly",
    "hierarchical",
    "hotspot",
    "join",
    "mesh",
    "multicast",
    "pattern_for",
    "random_packets",
    "read_network",
    "read_packets",
    "read_table",
    "reduction",
    "ring",
    "routes_by_class",
    "routes_for",
    "routes_from_table",
    "torus",
    "waiting_cycle",
    "write_packets",
    "zero_load_cycles",
]
