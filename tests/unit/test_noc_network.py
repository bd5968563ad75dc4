"""Topologies, routes and patterns: do they have the shape that their formula says, and refuse what cannot work?"""

from __future__ import annotations

import numpy as np
import pytest

from archsim.engine.noc import run_bulk
from archsim.errors import InputError
from archsim.noc import (
    ANY,
    PATTERNS,
    Network,
    Router,
    Routes,
    check_deadlock_free,
    concentrated_mesh,
    crossbar,
    fat_tree,
    flattened_butterfly,
    hierarchical,
    join,
    mesh,
    pattern_for,
    ring,
    routes_by_class,
    routes_for,
    routes_from_table,
    torus,
    write_packets,
)


def mean_hops(network: Network, routing: str) -> float:
    return float(routes_for(network, routing).hops().mean())


def test_mean_hops_of_uniform_traffic() -> None:
    # routers traversed: 1 + the mean distance, (k^2 - 1) / 3k per dimension of a mesh,
    # (k^2 - 1) / 4k of a torus of odd k, 3/4 where every router of a row of 4 is one hop away
    assert mean_hops(mesh(8, 8), "xy") == pytest.approx(1 + 2 * 63 / 24)
    assert mean_hops(torus(7, 7), "xy") == pytest.approx(1 + 2 * 48 / 28)
    assert mean_hops(concentrated_mesh(4, 4), "xy") == pytest.approx(1 + 2 * 15 / 12)
    assert mean_hops(flattened_butterfly(4, 4), "shortest") == pytest.approx(1 + 2 * 3 / 4)
    assert mean_hops(crossbar(16), "shortest") == 1
    # 32 cores in clusters of 8 and a memory port on the crossbar: 1 hop in a cluster, 2 to or from the port, 3 beyond
    assert mean_hops(hierarchical(4, 8, 1), "shortest") == pytest.approx((32 * (8 + 24 * 3 + 2) + 32 * 2 + 1) / 33**2)


def test_a_fat_tree_has_one_way_down_and_many_up() -> None:
    routes = routes_for(fat_tree(4, 3), "spread")
    assert len(routes.of(0, 63)) == 16
    assert len(routes.of(0, 1)) == 1
    assert {len(way) for way in routes.of(0, 63)} == {5}


def test_xy_and_yx_turn_where_they_say() -> None:
    network = mesh(3, 3)
    for routing, corner in (("xy", 2), ("yx", 6)):
        links = routes_for(network, routing).of(0, 8)[0][:-1]
        assert corner in network.link_to[links].tolist()


def test_o1turn_takes_both_orders_on_separate_halves() -> None:
    routes = routes_for(mesh(3, 3), "o1turn")
    assert len(routes.of(0, 8)) == 2
    assert routes.halved
    check_deadlock_free(routes)


@pytest.mark.parametrize(
    ("network", "routing"),
    [
        (mesh(4, 4), "xy"), (mesh(4, 3), "yx"), (torus(5, 4), "xy"), (torus(4, 4), "yx"), (ring(7), "xy"),
        (fat_tree(2, 3), "spread"), (flattened_butterfly(4, 4), "shortest"), (hierarchical(3, 4, 2), "shortest"),
        (mesh(4, 4), "o1turn"),
    ],
)  # fmt: skip
def test_routes_are_free_of_deadlock(network: Network, routing: str) -> None:
    check_deadlock_free(routes_for(network, routing))


@pytest.mark.parametrize(
    ("routes", "network"),
    [
        (lambda: routes_for(torus(4, 4), "xy", datelines=False), "torus"),
        (lambda: routes_for(ring(5), "xy", datelines=False), "ring"),
        (lambda: both_orders_on_all_channels(), "mesh"),
    ],
)
def test_routes_that_can_lock_are_found(routes, network: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(InputError, match=rf"network {network}: routing .* can deadlock: packets on the links"):
        check_deadlock_free(routes())


def both_orders_on_all_channels() -> Routes:
    return routes_for(mesh(3, 3), "o1turn", datelines=False)


def test_a_graph_that_is_not_connected_is_refused() -> None:
    with pytest.raises(InputError, match=r"not connected: no path leads from router 0 to router 2"):
        join("pieces", 3, [(0, 1, 1), (1, 0, 1)], [0, 1, 2])
    with pytest.raises(InputError, match="no path leads from router 1 to router 0"):
        join("one way", 2, [(0, 1, 1)], [0, 1])
    with pytest.raises(InputError, match=r"outside 0..1"):
        join("astray", 2, [(0, 2, 1), (1, 0, 1)], [0, 1])


def test_tables_with_a_hole_or_a_loop_are_refused() -> None:
    line = join("line", 3, [(0, 1, 1), (1, 0, 1), (1, 2, 1), (2, 1, 1)], [0, 1, 2])
    good = {(0, 1): 1, (0, 2): 1, (1, 0): 0, (1, 2): 2, (2, 1): 1, (2, 0): 1}
    assert routes_from_table(line, good).of(0, 2)[0] == [0, 2, 6]
    with pytest.raises(InputError, match="router 1 has no entry for destination 2"):
        routes_from_table(line, {key: value for key, value in good.items() if key != (1, 2)})
    with pytest.raises(InputError, match=r"from router 0 to 2 comes back to router 0: a loop"):
        routes_from_table(line, good | {(1, 2): 0})
    with pytest.raises(InputError, match="sends to 2 for destination 2, but no link"):
        routes_from_table(line, good | {(0, 2): 2})


@pytest.mark.parametrize("name", PATTERNS)
def test_patterns_send_to_nodes_that_exist(name: str) -> None:
    pattern = pattern_for(name, 64)
    drawn = pattern.draw(np.arange(64), np.random.default_rng(1))
    assert drawn.min() >= 0
    assert drawn.max() < 64
    if name != "uniform":
        assert len(set(drawn.tolist())) == 64  # the others are permutations


@pytest.mark.parametrize(
    ("name", "nodes", "message"),
    [("bitcomp", 12, "power of two"), ("transpose", 8, "square"), ("unifrm", 16, "did you mean 'uniform'"),
     ("hotspot:a", 16, "hotspot:0,7"), ("hotspot:16", 16, "between 0 and 15")],
)  # fmt: skip
def test_patterns_that_do_not_fit_are_refused(name: str, nodes: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        pattern_for(name, nodes)


def test_the_load_of_the_busiest_channel_is_the_bisection_bound() -> None:
    load = pattern_for("uniform", 64).load(routes_for(mesh(8, 8), "xy"))
    assert load.max() == pytest.approx(2.0)  # so a node can offer half a flit a cycle
    assert load[-64:] == pytest.approx(1.0)  # what arrives is what is sent


@pytest.mark.parametrize(
    ("fields", "message"),
    [({"vcs": 0}, "vcs is 0"), ({"buffer_flits": 0}, "buffer_flits is 0"), ({"vcs": 3, "classes": 2}, "do not divide"),
     ({"vcs": 3, "input_speedup": 2}, "do not divide"), ({"credit_cycles": -1}, "credit_cycles is -1")],
)  # fmt: skip
def test_routers_that_cannot_be_are_refused(fields: dict[str, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Router(**fields)


def test_halves_need_two_virtual_channels() -> None:
    with pytest.raises(InputError, match="leave 1 for each"):
        Router(vcs=2, classes=2).ranges(halved=True)
    assert Router(vcs=4, classes=2).ranges(halved=True)[ANY] == (0, 1)


def test_classes_may_take_their_own_ways() -> None:
    network = mesh(4, 4)
    xy, yx = routes_for(network, "xy"), routes_for(network, "yx")
    both = routes_by_class([xy, yx])
    check_deadlock_free(both)  # on the same channels the two would lock
    node = np.array([0, 0]), np.array([15, 15])
    route = both.pick(*node, np.random.default_rng(1), np.array([0, 1]))
    ways = [both.channels[both.start[r] : both.start[r + 1]].tolist() for r in route]
    assert ways == [xy.of(0, 15)[0], yx.of(0, 15)[0]]
    with pytest.raises(InputError, match="all of the same network"):
        routes_by_class([xy, routes_for(mesh(3, 3), "xy")])


def test_writes_to_a_column_of_memories_go_faster_along_yx() -> None:
    # 56 cores write to all 8 memories of the west column: XY funnels everything into the column, YX does not
    source, destination = (np.repeat(np.arange(64), 8), np.tile(np.arange(0, 64, 8), 64))
    cores = source % 8 > 0
    packets = write_packets(source[cores], destination[cores], np.full(cores.sum(), 8))
    along_xy, along_yx = (run_bulk(routes_for(mesh(8, 8), r), Router(), packets).cycles for r in ("xy", "yx"))
    assert along_yx < 0.6 * along_xy
