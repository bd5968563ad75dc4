"""A network packet by packet: every channel on the way is reserved for as many cycles as the packet has flits.

A packet whose head reaches a router at cycle a may take its next channel from `a + route_cycles + 1` on (one cycle less
with speculation), when the channel and its input port are free and the far end has room. Channels serve the input ports
in turn. Its head arrives `switch_cycles` + wire + 1 cycles after the grant g, its tail S - 1 cycles after its head, and

    channel free at        g + max(1, R / (V B)) S     (+ 1 if a class has a single virtual channel)
    input port free at     g + S
    room behind returns at g + wire + 1 + credit_cycles

| symbol | meaning                                                               | unit   |
| ------ | --------------------------------------------------------------------- | ------ |
| S      | flits of the packet                                                   | flits  |
| V, B   | virtual channels a share (class, half), and the buffer of each        | flits  |
| R      | credit loop of the channel                                            | cycles |
| room   | V max(B, longest packet), since a wormhole may lie in several routers | flits  |

A node sends packet after packet, as long as V B flits of its router are free.

Assumes that flits of a packet stay together, and that the channels of a share are one pool. Not modelled: interleaving
of packets on a channel, which virtual channel is taken. Exact without contention; against the cycle model the mean
error is about 2 % (`archsim validate noc`). Reference: Dally and Towles, chapter 13 (cut-through and wormhole).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from archsim.errors import InputError
from archsim.kernels._noc_tile import NocTileKernel
from archsim.kernels.noc_cycle import Delivery, check_classes, check_packets
from archsim.noc import NODE_CYCLES, Packets, Router, Routes, Trees, Ways, check_deadlock_free

__all__ = ["tile_run", "tree_run"]

ENDLESS = 2**40
BEAT = 1024


def tile_run(
    routes: Routes, router: Router, packets: Packets, *, seed: int = 0
) -> tuple[Delivery, NDArray[np.int64], int]:
    """Send packets until all have arrived: when, the flits of each channel, and the packet-hops simulated.

    >>> from archsim.noc import mesh, routes_for, write_packets
    >>> packets = write_packets(*(np.array([x]) for x in (0, 63, 8)))
    >>> int(tile_run(routes_for(mesh(8, 8), "xy"), Router(), packets)[0].arrived[0])
    69
    """
    check_packets(packets, routes, router, 0)
    route = routes.pick(packets.source, packets.destination, np.random.default_rng(seed), packets.message_class)
    return _run(routes, router, packets, Ways.of(routes, route))


def tree_run(routes: Routes, router: Router, trees: Trees) -> tuple[Delivery, NDArray[np.int64], int]:
    """The same for the segments of trees: copies leave a router together, what is added up leaves it once.

    A segment goes on where the one before ends, as soon as its head is there; what waits for others to be added is out
    of the way of what comes behind it.

    >>> from archsim.noc import mesh, multicast, routes_for
    >>> routes = routes_for(mesh(8, 8), "xy")
    >>> run = tree_run(routes, Router(), multicast(routes, 0, [7, 63], flits=8))
    >>> int(run[0].arrived.max()), int(run[1].max())
    (69, 8)
    """
    check_packets(trees.packets, routes, router, 0)
    return _run(routes, router, trees.packets, trees.ways)


def _run(
    routes: Routes, router: Router, packets: Packets, ways: Ways
) -> tuple[Delivery, NDArray[np.int64], int]:
    check_deadlock_free(routes)
    check_classes(routes, router)
    network, split = routes.network, 2 if routes.halved else 1
    router.ranges(routes.halved)  # refuses too few virtual channels
    links, nodes = network.links, network.nodes
    _, in_rank, node_rank = network.ranks
    share = router.vcs // router.classes // split
    longest = int(packets.flits.max())
    wires = np.concatenate([network.link_cycles, np.full(2 * nodes, NODE_CYCLES)])
    into_node = (np.arange(links + 2 * nodes) >= links) & (np.arange(links + 2 * nodes) < links + nodes)
    out_of_node = np.arange(links + 2 * nodes) >= links + nodes
    slots = share * router.buffer_flits
    room = np.where(into_node, ENDLESS, np.where(out_of_node, slots * split, share * max(router.buffer_flits, longest)))
    loop = router.switch_cycles + 2 * (wires + 1) + router.credit_cycles
    created = packets.created.astype(np.int64)
    injected, arrived = np.empty_like(created), np.empty_like(created)
    carried = np.zeros(links + 2 * nodes, dtype=np.int64)
    kernel = NocTileKernel()
    kernel.run(
        (wires + 1 + np.where(out_of_node, 0, router.switch_cycles)).astype(np.int32),
        (wires + 1 + np.where(out_of_node, 0, router.credit_cycles)).astype(np.int32),
        room.astype(np.int64),
        np.where(out_of_node, BEAT, np.maximum(BEAT, BEAT * loop // (slots * split))).astype(np.int64),
        np.concatenate([in_rank, np.zeros(nodes), node_rank]).astype(np.int32),
        np.concatenate(
            [network.ports[network.link_from], network.ports[network.node_router], np.ones(nodes)]
        ).astype(np.int32),
        links, nodes, router.classes * split, split,
        router.route_cycles + (0 if router.speculative else 1), int(share == 1),
        ways.channels, ways.kinds, packets.message_class.astype(np.int32),
        packets.source.astype(np.int32), packets.flits.astype(np.int32), ways.start,
        packets.releases.astype(np.int32), packets.held.astype(np.uint8), ways.length,
        ways.waits, ways.next_start, ways.nexts,
        created, injected, arrived, carried,
    )  # fmt: skip
    if (arrived < 0).any():
        raise InputError(f"network {network.name}: {int((arrived < 0).sum())} packets can never arrive.")
    return Delivery(created, injected, arrived), carried[: links + nodes], int(kernel.packet_hops)
