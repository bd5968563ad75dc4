"""Does every network keep what was sent: no flit lost, none ahead of light, none faster than the busiest channel?"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from archsim.engine.noc import measure_load, run_bulk
from archsim.errors import InputError
from archsim.kernels.noc_cycle import CycleNetwork
from archsim.noc import (
    Network,
    Router,
    concentrated_mesh,
    crossbar,
    fat_tree,
    flattened_butterfly,
    hierarchical,
    mesh,
    pattern_for,
    read_packets,
    ring,
    routes_for,
    torus,
    write_packets,
    zero_load_cycles,
)

EXAMPLES = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])

ROUTES = [
    routes_for(network, routing)
    for network, routing in (
        (mesh(4, 3), "xy"), (mesh(3, 3), "yx"), (mesh(3, 3), "o1turn"), (torus(4, 3), "xy"), (ring(5), "xy"),
        (concentrated_mesh(2, 2), "xy"), (crossbar(9), "shortest"), (hierarchical(3, 2, 2), "shortest"),
        (fat_tree(2, 3), "spread"), (flattened_butterfly(3, 3), "shortest"),
    )
]  # fmt: skip


@st.composite
def routers(draw: st.DrawFn) -> Router:
    speedup = draw(st.sampled_from([1, 1, 2]))
    return Router(
        vcs=draw(st.sampled_from([2, 4])),
        buffer_flits=draw(st.integers(1, 9)),
        route_cycles=draw(st.integers(0, 2)),
        switch_cycles=draw(st.integers(1, 2)),
        credit_cycles=draw(st.integers(0, 2)),
        speculative=draw(st.booleans()),
        tail_credit=draw(st.booleans()),
        input_speedup=speedup,
    )


@EXAMPLES
@given(st.sampled_from(ROUTES), routers(), st.data())
def test_what_is_sent_arrives_and_not_too_soon(routes, router: Router, data: st.DataObject) -> None:  # type: ignore[no-untyped-def]
    nodes = routes.network.nodes
    node = st.integers(0, nodes - 1)
    sent = data.draw(st.lists(st.tuples(node, node, st.integers(1, 20), st.integers(0, 60)), min_size=1, max_size=60))
    sent.sort(key=lambda packet: packet[3])
    source, destination, flits, created = (np.array(column) for column in zip(*sent, strict=True))
    run = run_bulk(routes, router, write_packets(source, destination, flits, created))
    assert (run.delivery.arrived >= 0).all()
    into = run.carried[routes.network.links :]
    assert (into == np.bincount(destination, flits, minlength=nodes)).all()  # every flit came to its node, once
    assert run.cycles >= run.bound_cycles
    cycles = np.append(routes.network.link_cycles, np.zeros(nodes, dtype=np.int32))
    for i in range(len(sent)):
        ways = routes.of(source[i], destination[i])
        least = min(zero_load_cycles(router, len(way), int(flits[i]), int(cycles[way].sum())) for way in ways)
        assert run.delivery.arrived[i] - created[i] >= least


@EXAMPLES
@given(st.sampled_from(ROUTES), routers(), st.data())
def test_packet_by_packet_nothing_is_lost_either(routes, router: Router, data: st.DataObject) -> None:  # type: ignore[no-untyped-def]
    nodes = routes.network.nodes
    node = st.integers(0, nodes - 1)
    sent = data.draw(st.lists(st.tuples(node, node, st.integers(1, 20)), min_size=1, max_size=80))
    source, destination, flits = (np.array(column) for column in zip(*sent, strict=True))
    run = run_bulk(routes, router, write_packets(source, destination, flits), fidelity="tile")
    assert (run.delivery.arrived >= 0).all()
    assert (run.carried[routes.network.links :] == np.bincount(destination, flits, minlength=nodes)).all()
    assert run.cycles >= run.bound_cycles
    assert run.hops >= len(sent)


@pytest.mark.parametrize("fields", [{}, {"route_cycles": 1}, {"speculative": True}, {"switch_cycles": 3}])
def test_alone_a_packet_takes_the_same_time_in_both(fields: dict[str, int]) -> None:
    routes, router = routes_for(torus(5, 5), "xy"), Router(**fields)
    for destination in (1, 4, 12, 24):
        packets = write_packets(*(np.array([x]) for x in (0, destination, 7)))
        assert run_bulk(routes, router, packets, fidelity="tile").cycles == run_bulk(routes, router, packets).cycles


@EXAMPLES
@given(st.sampled_from(ROUTES), st.integers(0, 3), st.data())
def test_every_read_is_answered(routes, window: int, data: st.DataObject) -> None:  # type: ignore[no-untyped-def]
    node = st.integers(0, routes.network.nodes - 1)
    reads = data.draw(st.lists(st.tuples(node, node), min_size=1, max_size=30))
    reader, memory = (np.array(column) for column in zip(*reads, strict=True))
    n = len(reads)
    packets = read_packets(reader, memory, np.ones(n, dtype=np.int64), 4, window)
    arrived = run_bulk(routes, Router(vcs=4, classes=2), packets).delivery.arrived
    assert (arrived[n:] > arrived[:n]).all()


def test_the_same_seed_gives_the_same_cycles() -> None:
    pattern = pattern_for("uniform", 9)
    points = [measure_load(ROUTES[2], Router(), pattern, 0.3, 4, seed=5) for _ in range(2)]
    assert points[0] == points[1]


def test_latency_rises_with_the_load_up_to_saturation() -> None:
    routes, pattern = routes_for(mesh(4, 4), "xy"), pattern_for("uniform", 16)
    points = [measure_load(routes, Router(), pattern, load, 4) for load in (0.1, 0.4, 0.6, 1.0)]
    latencies = [point.latency for point in points[:3]]
    assert latencies == sorted(latencies)
    assert all(point.latency >= 0.97 * point.zero_load_latency for point in points)
    assert [point.stable for point in points] == [True, True, True, False]
    assert points[3].accepted < 1.0  # half of the traffic crosses 8 links of the bisection


def test_a_network_that_could_lock_is_refused_and_a_torus_with_one_channel_too() -> None:
    with pytest.raises(InputError, match="can deadlock"):
        CycleNetwork(routes_for(torus(4, 4), "xy", datelines=False), Router())
    with pytest.raises(InputError, match="stay free of deadlock"):
        CycleNetwork(routes_for(torus(4, 4), "xy"), Router(vcs=1))


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [("destination", 16, "every destination"), ("flits", 0, "every flits"), ("source", -1, "every source")],
)
def test_packets_that_cannot_be_are_refused(field: str, value: int, message: str) -> None:
    columns = {"source": 0, "destination": 1, "flits": 1, field: value}
    network: Network = mesh(4, 4)
    simulated = CycleNetwork(routes_for(network, "xy"), Router())
    with pytest.raises(InputError, match=message):
        simulated.send(write_packets(*(np.array([columns[name]]) for name in ("source", "destination", "flits"))))
