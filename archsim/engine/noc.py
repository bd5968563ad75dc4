"""Networks under load: the latency-load curve, and bulk transfers against the bound of the busiest channel."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from archsim.errors import InputError
from archsim.kernels.noc_cycle import CycleNetwork, Delivery
from archsim.kernels.noc_tile import tile_run, tree_run
from archsim.noc import Packets, Pattern, Router, Routes, Trees, random_packets

__all__ = ["BulkRun", "LoadPoint", "Protocol", "busiest_channel", "load_curve", "measure_load", "run_bulk",
           "run_trees"]  # fmt: skip


@dataclass(frozen=True)
class Protocol:
    """How a steady state is found: samples of `sample_cycles`, as in Dally and Towles, section 24.4.

    The network is warm once latency and throughput of a sample differ by less than `change` from those before; then
    samples go on until three in a row differ as little. A mean latency beyond `unstable_cycles` ends the search.
    """

    sample_cycles: int = 1000
    change: float = 0.05
    unstable_cycles: float = 500.0
    most_samples: int = 10


@dataclass(frozen=True)
class LoadPoint:
    """What a network did at one load, in flits per node and cycle, and cycles from creation to the tail's arrival."""

    load: float
    offered: float
    accepted: float
    latency: float
    p99_latency: float
    zero_load_latency: float
    stable: bool
    cycles: int
    flit_hops: int
    busiest_load: float
    """Share of the cycles in which the busiest channel carried a flit."""


def measure_load(
    routes: Routes,
    router: Router,
    pattern: Pattern,
    load: float,
    flits: int,
    *,
    seed: int = 1,
    protocol: Protocol = Protocol(),
) -> LoadPoint:
    """Offer random traffic until the network is steady, then measure the packets of the steady samples."""
    if not 0 < load <= 1:
        raise InputError(f"load: {load} flits per node and cycle, but must be above 0 and at most 1.")
    network = CycleNetwork(routes, router, seed=seed)
    nodes = routes.network.nodes
    rng = np.random.default_rng(seed)
    begin = accepted_before = 0
    running, steady, clear = False, 0, False
    latency = accepted = previous_latency = previous_accepted = 0.0
    stable = True

    def sample() -> Delivery:
        packets = random_packets(pattern, nodes, load, flits, network.now, protocol.sample_cycles, rng)
        network.send(packets)
        return network.advance(network.now + protocol.sample_cycles)

    for number in range(protocol.most_samples):
        if clear or (not running and number % 2 == 0):
            begin, accepted_before, clear = network.now, int(network.flits()[1].sum()), False
        delivery = sample()
        latency, in_flight = _latencies(delivery, begin, network.now, running, flits)
        accepted = (int(network.flits()[1].sum()) - accepted_before) / (network.now - begin) / nodes
        if in_flight > protocol.unstable_cycles:
            stable = False
            break
        calm = abs(latency - previous_latency) < protocol.change * latency
        calm &= abs(accepted - previous_accepted) < protocol.change * accepted
        previous_latency, previous_accepted = latency, accepted
        if running:
            steady = steady + 1 if calm else 0
            if steady == 3:
                break
        elif calm:
            running = clear = True
    end = network.now
    carried = network.flits()[0]
    ours = (delivery.created >= begin) & (delivery.created < end)
    while stable and (delivery.arrived[: len(ours)][ours] < 0).any():
        delivery = sample()
        stable = _latencies(delivery, begin, network.now, running, flits)[1] <= protocol.unstable_cycles
    done = ours & (delivery.arrived[: len(ours)] >= 0)
    times = (delivery.arrived - delivery.created)[: len(ours)][done]
    return LoadPoint(
        load=load,
        offered=float(ours.sum()) * flits / (end - begin) / nodes,
        accepted=accepted,
        latency=float(times.mean()) if len(times) else float("nan"),
        p99_latency=float(np.percentile(times, 99)) if len(times) else float("nan"),
        zero_load_latency=zero_load_latency(routes, router, pattern, flits),
        stable=stable,
        cycles=network.now,
        flit_hops=network.flit_hops,
        busiest_load=float(carried.max()) / end,
    )


def _latencies(delivery: Delivery, begin: int, now: int, running: bool, flits: int) -> tuple[float, float]:
    """Mean latency of the packets that arrived since `begin` (created since, if `running`); and with those in flight.

    A packet in flight counts as often as it has flits, so that a network that fills up is given up early.
    """
    done = delivery.arrived >= begin
    if running:
        done &= delivery.created >= begin
    times = (delivery.arrived - delivery.created)[done]
    waiting = now - delivery.created[(delivery.injected >= 0) & (delivery.arrived < 0)]
    count = len(times) + flits * len(waiting)
    mean = float(times.mean()) if len(times) else 0.0
    return mean, (float(times.sum()) + flits * float(waiting.sum())) / count if count else 0.0


def zero_load_latency(routes: Routes, router: Router, pattern: Pattern, flits: int) -> float:
    """Mean latency of a pattern in an empty network, for messages of the first class."""
    network = routes.network
    cycles = np.append(network.link_cycles, np.zeros(network.nodes, dtype=np.int32))
    wires = np.add.reduceat(cycles[routes.channels], routes.start[:-1])
    way = routes.hops() * router.pipeline_cycles + wires
    pairs = np.add.reduceat(way, routes.first[:-1]) / np.diff(routes.first)
    nodes = network.nodes
    if pattern.destination is None:
        mean = pairs[: nodes * nodes].reshape(nodes, nodes)[:, pattern.targets].mean()
    else:
        mean = pairs[np.arange(nodes) * nodes + pattern.destination].mean()
    return float(mean) + 3 + flits - 1


def load_curve(
    routes: Routes,
    router: Router,
    pattern: Pattern,
    loads: Iterable[float],
    flits: int,
    *,
    seed: int = 1,
    on_progress: Callable[[float, float | None], None] = lambda done, total: None,
) -> list[LoadPoint]:
    """Points of rising load, up to the first unstable one, whose accepted rate is the saturation throughput."""
    rising = sorted(loads)
    points = []
    for done, load in enumerate(rising):
        points.append(measure_load(routes, router, pattern, load, flits, seed=seed))
        on_progress(done + 1, len(rising))
        if not points[-1].stable:
            break
    return points


@dataclass(frozen=True, eq=False)
class BulkRun:
    """A list of packets sent through: its time in cycles and the time that the busiest channel alone would need."""

    cycles: int
    bound_cycles: int
    delivery: Delivery
    carried: NDArray[np.int64]
    """Flits on each channel: links, then the way into each node."""
    hops: int
    """Routers crossed, counted for every flit (`cycle`) or packet (`tile`)."""

    @property
    def ratio(self) -> float:
        """Time over bound; contention on the way makes it more than one."""
        return self.cycles / self.bound_cycles

    @property
    def utilisation(self) -> NDArray[np.float64]:
        """Share of the time in which each channel carried a flit."""
        return self.carried / self.cycles


def run_trees(routes: Routes, router: Router, trees: Trees) -> BulkRun:
    """Send multicasts and reductions through a network whose routers copy and add, packet by packet."""
    delivery, carried, hops = tree_run(routes, router, trees)
    roots = ~trees.packets.held
    sent = np.bincount(trees.packets.source[roots], trees.packets.flits[roots])
    return BulkRun(int(delivery.arrived.max()), int(max(sent.max(), carried.max())), delivery, carried, hops)


def run_bulk(
    routes: Routes, router: Router, packets: Packets, *, fidelity: Literal["tile", "cycle"] = "cycle", seed: int = 0
) -> BulkRun:
    """Send packets through a network until all have arrived: packet by packet (`tile`) or flit by flit (`cycle`)."""
    if not len(packets):
        raise InputError("packets: there are none to send.")
    if fidelity == "tile":
        delivery, carried, hops = tile_run(routes, router, packets, seed=seed)
        return BulkRun(int(delivery.arrived.max()), busiest_channel(packets, carried), delivery, carried, hops)
    network = CycleNetwork(routes, router, seed=seed)
    network.send(packets)
    delivery = network.drain()
    carried = network.flits()[0]
    return BulkRun(
        int(delivery.arrived.max()), busiest_channel(packets, carried), delivery, carried, network.flit_hops
    )


def busiest_channel(packets: Packets, carried: NDArray[np.int64]) -> int:
    """Flits of the busiest channel, the ways out of the nodes included: no schedule takes fewer cycles."""
    return int(max(carried.max(), np.bincount(packets.source, packets.flits).max()))
