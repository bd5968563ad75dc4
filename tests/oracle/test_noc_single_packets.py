"""Single packets and streams in an empty network: the cycles that BookSim 2 gave, one run each."""

from __future__ import annotations

import numpy as np
import pytest

from archsim.engine.noc import run_bulk, zero_load_latency
from archsim.kernels.noc_cycle import CycleNetwork
from archsim.noc import (
    NODE_CYCLES,
    Network,
    Router,
    crossbar,
    mesh,
    pattern_for,
    read_packets,
    routes_for,
    torus,
    write_packets,
    zero_load_cycles,
)

LINE = routes_for(mesh(16, 1), "xy")
RING = routes_for(torus(16, 1), "xy")
SHORT = routes_for(torus(16, 1, link_cycles=1), "xy")


def latency(routes, router: Router, hops: int, flits: int = 1) -> int:  # type: ignore[no-untyped-def]
    packets = write_packets(*(np.array([x]) for x in (0, hops - 1, flits)))
    return run_bulk(routes, router, packets).cycles


@pytest.mark.parametrize(("hops", "cycles"), [(1, 6), (2, 10), (3, 14), (4, 18), (8, 34), (15, 62)])
def test_one_flit(hops: int, cycles: int) -> None:
    assert latency(LINE, Router(), hops) == cycles == zero_load_cycles(Router(), hops, 1, hops - 1)


@pytest.mark.parametrize(
    ("flits", "cycles"), [(1, 34), (2, 35), (4, 37), (8, 41), (9, 42), (16, 49), (20, 53), (64, 97)]
)
def test_packets_over_eight_routers(flits: int, cycles: int) -> None:
    assert latency(LINE, Router(), 8, flits) == cycles == zero_load_cycles(Router(), 8, flits, 7)


@pytest.mark.parametrize(("hops", "cycles"), [(1, 7), (2, 12), (8, 42)])
def test_a_cycle_for_routing(hops: int, cycles: int) -> None:
    assert latency(LINE, Router(route_cycles=1), hops) == cycles


@pytest.mark.parametrize(("hops", "cycles"), [(1, 5), (2, 8), (8, 26)])
def test_speculation_saves_a_cycle_a_router(hops: int, cycles: int) -> None:
    assert latency(LINE, Router(speculative=True), hops) == cycles


@pytest.mark.parametrize(("hops", "folded", "short"), [(2, 11, 10), (5, 26, 22)])
def test_a_folded_torus_has_longer_wires(hops: int, folded: int, short: int) -> None:
    assert latency(RING, Router(), hops) == folded
    assert latency(SHORT, Router(), hops) == short


@pytest.mark.parametrize(
    ("buffer_flits", "cycles"), [(2, (190, 221, 252)), (4, (112, 127, 142)), (8, (97, 97, 97)), (16, (97, 97, 97))]
)
def test_a_shallow_buffer_waits_for_its_credits(buffer_flits: int, cycles: tuple[int, int, int]) -> None:
    for credit_cycles, expected in enumerate(cycles):
        router = Router(vcs=1, buffer_flits=buffer_flits, credit_cycles=credit_cycles)
        assert latency(LINE, router, 8, 64) == expected


@pytest.mark.parametrize(("vcs", "buffer_flits", "period"), [(1, 8, 9), (2, 8, 8), (2, 4, 11), (1, 4, 14)])
def test_packet_after_packet(vcs: int, buffer_flits: int, period: int) -> None:
    n = 200
    packets = write_packets(*(np.full(n, x) for x in (0, 7, 8)))
    arrived = run_bulk(LINE, Router(vcs=vcs, buffer_flits=buffer_flits), packets).delivery.arrived
    assert (arrived[-1] - arrived[n // 2]) / (n - 1 - n // 2) == pytest.approx(period, abs=0.3)


def test_the_credit_loop_is_what_limits_a_stream() -> None:
    # 64 flits over 8 routers with two slots a loop of 6 cycles: 97 cycles and two thirds of 62 waits of 6 / 2 - 1
    assert Router().credit_loop(1) == 6
    assert latency(LINE, Router(vcs=1, buffer_flits=2), 8, 64) == 97 + 62 * (6 / 2 - 1)


def test_a_read_is_two_crossings_and_two_cycles() -> None:
    # 1 request flit over 2 routers: 10; answered a cycle later, 8 flits back: 17; the next request a cycle later
    packets = read_packets(np.array([1, 1]), np.array([0, 0]), np.array([1, 1]), 8, window=1)
    arrived = run_bulk(LINE, Router(classes=2), packets).delivery.arrived
    assert arrived.tolist() == [10, 39, 28, 57]


@pytest.mark.parametrize("network", [mesh(4, 4), torus(4, 4), crossbar(6)])
def test_the_mean_of_an_empty_network(network: Network) -> None:
    routes = routes_for(network, "xy" if network.shape else "shortest")
    router = Router(route_cycles=2, switch_cycles=3)
    alone = []
    for source in range(network.nodes):
        for destination in range(network.nodes):
            simulated = CycleNetwork(routes, router)
            simulated.send(write_packets(*(np.array([x]) for x in (source, destination, 5))))
            alone.append(int(simulated.drain().arrived[0]))
    pattern = pattern_for("uniform", network.nodes)
    assert NODE_CYCLES == 1
    assert zero_load_latency(routes, router, pattern, 5) == pytest.approx(np.mean(alone))
