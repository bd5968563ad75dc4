"""A network flit by flit: wormhole routers with virtual channels and credits, in the timing of BookSim's `iq` router.

In each cycle, router by router:

1. flits that arrive join the buffer of their virtual channel; credits that arrive count;
2. a head at the front of a buffer asks for every free virtual channel that its route allows on its output (the kind of
   the hop within the class of the message); iSLIP with one iteration grants at most one;
3. a buffer that holds an output virtual channel, a flit and a credit asks for the switch: round robin among the virtual
   channels of an input, iSLIP with one iteration between inputs and outputs;
4. the winner leaves: it arrives `switch_cycles` + wire + 1 cycles later, its credit goes back at once. A tail gives the
   output virtual channel free for the next cycle (`tail_credit`: when all credits are back).

A node sends one flit a cycle, on the first free virtual channel past the last one that it used, and takes every flit
that arrives. A packet that another one releases is created when that one arrives, and may go a cycle later.

Only routers with something to do cost time, and a network in which nothing moves is left at once.

Valid for: single-cycle allocation, deterministic routes. Not modelled: adaptive routing, shared buffers, deeper
allocation pipelines, multicast. Reference: Dally and Towles, Principles and Practices of Interconnection Networks,
chapters 16 to 19; Jiang et al., "A detailed and flexible cycle-accurate network-on-chip simulator", ISPASS 2013.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from archsim.errors import InputError
from archsim.kernels._noc_cycle import NocCycleKernel
from archsim.noc import NODE_CYCLES, Packets, Router, Routes, check_deadlock_free

__all__ = ["CycleNetwork", "Delivery", "check_classes", "check_packets"]

FOREVER = 2**62
MAX_PACKETS = 2**29
MAX_FLITS = 2**16
MAX_BUFFER_FLITS = 2**28


@dataclass(frozen=True, eq=False)
class Delivery:
    """The cycle in which each packet was created, its head left the node, its tail arrived; -1: not yet."""

    created: NDArray[np.int64]
    injected: NDArray[np.int64]
    arrived: NDArray[np.int64]


class CycleNetwork:
    """One network and what is on its way in it.

    >>> from archsim.noc import mesh, routes_for, write_packets
    >>> network = CycleNetwork(routes_for(mesh(8, 8), "xy"), Router())
    >>> network.send(write_packets(*(np.array([x]) for x in (0, 63, 8))))
    >>> int(network.drain().arrived[0])
    69
    """

    def __init__(self, routes: Routes, router: Router, *, seed: int = 0) -> None:
        check_deadlock_free(routes)
        check_classes(routes, router)
        network = routes.network
        allowed = [sum(1 << vc for vc in range(low, high + 1)) for low, high in router.ranges(routes.halved)]
        out_rank, in_rank, node_rank = network.ranks
        slots = (network.links + network.nodes) * router.vcs * router.buffer_flits
        if slots > MAX_BUFFER_FLITS:
            raise InputError(f"network {network.name}: {slots:,} flits of buffers; at most {MAX_BUFFER_FLITS:,}.")
        self.routes, self.router = routes, router
        self._rng = np.random.default_rng(seed)
        self._packets = 0
        self._kernel = NocCycleKernel(
            router.vcs, router.buffer_flits, router.input_speedup,
            router.route_cycles, router.switch_cycles, router.credit_cycles, router.speculative, router.tail_credit,
            network.link_from, network.link_to, network.link_cycles, out_rank, in_rank,
            network.node_router, node_rank, network.ports, NODE_CYCLES,
            routes.channels, routes.kinds, np.array(allowed, dtype=np.uint64),
        )  # fmt: skip

    @property
    def now(self) -> int:
        """The next cycle to be simulated."""
        return int(self._kernel.now_cycle)

    @property
    def flit_hops(self) -> int:
        """Flits that have crossed a router, counted once for each."""
        return int(self._kernel.hops_done)

    @property
    def arrived(self) -> int:
        """Packets that have arrived."""
        return int(self._kernel.packets_done)

    def send(self, packets: Packets) -> None:
        """Queue packets at their sources; those not held come in order of their creation, none before `now`."""
        if not len(packets):
            return
        check_packets(packets, self.routes, self.router, self.now)
        if self._packets + len(packets) > MAX_PACKETS:
            raise InputError(f"packets: at most {MAX_PACKETS} are simulated in one run.")
        route = self.routes.pick(packets.source, packets.destination, self._rng, packets.message_class)
        self._kernel.add(
            packets.created.astype(np.int64),
            packets.source.astype(np.int32),
            packets.flits.astype(np.int32),
            self.routes.start[route],
            packets.message_class.astype(np.int32),
            np.where(packets.releases < 0, -1, packets.releases + self._packets).astype(np.int32),
            packets.held.astype(np.uint8),
        )
        self._packets += len(packets)

    def advance(self, until: int) -> Delivery:
        """Simulate all cycles before `until`."""
        return self._run(until, drain=False)

    def drain(self, until: int = FOREVER) -> Delivery:
        """Simulate until every packet has arrived."""
        delivery = self._run(until, drain=True)
        if until == FOREVER and self.arrived < self._packets:
            raise InputError(f"packets: {self._packets - self.arrived} are held by packets that never arrive.")
        return delivery

    def flits(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Flits that each channel has carried (links, then the way into each node), and that each node has accepted."""
        network = self.routes.network
        carried, accepted = np.empty(network.links + network.nodes, np.int64), np.empty(network.nodes, np.int64)
        self._kernel.counts(carried, accepted)
        return carried, accepted

    def _run(self, until: int, *, drain: bool) -> Delivery:
        moving = self._kernel.run(until, drain)
        if self._kernel.overflowed:
            raise AssertionError("a buffer overflowed: credits were miscounted")
        if not moving:
            raise InputError(f"network {self.routes.network.name}: locked in cycle {self.now}: no flit can move.")
        created, injected, arrived = (np.empty(self._packets, np.int64) for _ in range(3))
        self._kernel.times(created, injected, arrived)
        return Delivery(created, injected, arrived)


def check_classes(routes: Routes, router: Router) -> None:
    """Raise `InputError` if classes that have routes of their own would share virtual channels."""
    if routes.classes not in (1, router.classes):
        raise InputError(f"router: {router.classes} classes of messages, but routes for {routes.classes}.")


def check_packets(packets: Packets, routes: Routes, router: Router, now: int) -> None:
    """Raise `InputError` unless the packets fit the network and come in order of their creation."""
    nodes = routes.network.nodes
    for name, least, most in (
        ("source", 0, nodes - 1),
        ("destination", 0, nodes - 1),
        ("flits", 1, MAX_FLITS),
        ("message_class", 0, router.classes - 1),
        ("releases", -1, len(packets) - 1),
    ):
        values = getattr(packets, name)
        if values.min() < least or values.max() > most:
            raise InputError(f"packets: every {name} must be between {least} and {most}.")
    free = packets.created[~packets.held]
    if len(free) and (free[0] < now or (np.diff(free) < 0).any()):
        raise InputError(f"packets: must be in order of creation, from cycle {now} on.")
