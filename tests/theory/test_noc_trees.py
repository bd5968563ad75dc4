"""Do routers that copy and add take every flit where it belongs, over each link once, and as fast as it could go?"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from archsim.engine.noc import run_bulk, run_trees
from archsim.errors import InputError
from archsim.noc import (
    Router,
    Trees,
    hierarchical,
    join,
    mesh,
    multicast,
    reduction,
    ring,
    routes_for,
    routes_from_table,
    torus,
    write_packets,
)

pytestmark = pytest.mark.theory

NETWORKS = [
    routes_for(mesh(5, 4), "xy"), routes_for(mesh(4, 4), "yx"), routes_for(ring(7), "xy"),
    routes_for(torus(5, 5), "xy"), routes_for(hierarchical(3, 3, 2), "shortest"),
]  # fmt: skip


@given(st.sampled_from(NETWORKS), st.data(), st.integers(1, 20), st.booleans())
@settings(max_examples=60, deadline=None)
def test_alone_a_tree_is_as_fast_as_its_longest_way(routes, data, flits, adds) -> None:  # type: ignore[no-untyped-def]
    """Each node gets (or gives) its packet in the time that it would take alone, and no channel carries it twice."""
    nodes = routes.network.nodes
    ends = data.draw(st.lists(st.integers(1, nodes - 1), min_size=1, max_size=nodes - 1, unique=True))
    router = Router(vcs=4, buffer_flits=8)

    def alone(end: int) -> int:
        packet = (end, 0, flits) if adds else (0, end, flits)
        return run_bulk(routes, router, write_packets(*(np.array([x]) for x in packet)), fidelity="tile").cycles

    times = [alone(end) for end in ends]
    tree = reduction(routes, ends, 0, flits=flits) if adds else multicast(routes, 0, ends, flits=flits)
    run = run_trees(routes, router, tree)
    done = run.delivery.arrived[tree.leaves]
    assert sorted(done.tolist()) == ([max(times)] if adds else sorted(times))
    assert set(run.carried.tolist()) <= {0, flits}
    assert run.bound_cycles == flits


@given(st.lists(st.tuples(st.integers(0, 15), st.booleans()), min_size=1, max_size=12), st.integers(1, 9))
@settings(max_examples=40, deadline=None)
def test_many_trees_at_once_lose_nothing_and_stay_above_the_bound(kinds: list[tuple[int, bool]], flits: int) -> None:
    routes = NETWORKS[1]
    others = [[node for node in range(16) if node != one] for one in range(16)]
    trees = [(reduction(routes, others[n], n, flits=flits) if adds else multicast(routes, n, others[n], flits=flits))
             for n, adds in kinds]  # fmt: skip
    run = run_trees(routes, Router(vcs=4, buffer_flits=8), Trees.together(trees))
    assert (run.delivery.arrived >= 0).all()
    assert run.carried.sum() == flits * sum(len(tree.ways.channels) for tree in trees)
    assert run.cycles > run.bound_cycles
    assert sum(int(tree.leaves.sum()) for tree in trees) == sum(1 if adds else 15 for _, adds in kinds)


def test_a_broadcast_takes_the_time_of_one_packet_not_of_fifteen() -> None:
    routes, router = NETWORKS[1], Router()
    packets = write_packets(np.zeros(15, int), np.arange(1, 16), np.full(15, 8))
    alone = run_bulk(routes, router, packets, fidelity="tile")
    tree = run_trees(routes, router, multicast(routes, 0, range(1, 16), flits=8))
    assert tree.cycles < alone.cycles / 2.5
    assert tree.carried.sum() == 8 * 30  # 15 links and 15 ways into nodes


def test_a_tree_needs_nodes_and_routes_that_make_one() -> None:
    routes = NETWORKS[0]
    for ends in ([], [1, 1], [20]):
        with pytest.raises(InputError, match=r"different nodes, all within 0..19"):
            multicast(routes, 0, ends, flits=1)
    pairs = [(0, 1, 1), (0, 2, 1), (1, 3, 1), (2, 3, 1), (3, 4, 1), (4, 5, 1), (5, 0, 1)]
    onwards = {0: 1, 1: 3, 2: 3, 3: 4, 4: 5, 5: 0}
    table = {(here, there): onwards[here] for here in range(6) for there in range(6)}
    table |= {(0, 2): 2, (0, 5): 2}  # to 4 by 1, to 5 by 2: both pass from 3 to 4
    diamond = routes_from_table(join("diamond", 6, pairs, range(6)), table)
    with pytest.raises(InputError, match="part and meet again"):
        multicast(diamond, 0, [4, 5], flits=1)
