"""Whether the routes of a network can lock: a cycle in the graph of which channel waits for which.

A packet that holds a channel waits for the next one of its route. If these waits close no cycle, some packet can always
go on (Dally and Seitz, "Deadlock-free message routing in multiprocessor interconnection networks", 1987). Channels are
split into the two halves of their virtual channels; a hop that may take any of them stands for both.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from archsim.errors import InputError
from archsim.noc.routing import ANY, Routes

__all__ = ["check_deadlock_free", "waiting_cycle"]


def check_deadlock_free(routes: Routes) -> None:
    """Raise `InputError` with one of the cycles if the routes can lock."""
    cycle = waiting_cycle(routes)
    if cycle:
        network = routes.network
        ends = [f"{network.link_from[link]}>{network.link_to[link]}" for link in cycle[:8]]
        dots = ", ..." if len(cycle) > 8 else ""
        raise InputError(
            f"network {network.name}: routing {routes.routing} can deadlock: packets on the links "
            f"{', '.join(ends)}{dots} may each wait for the next; use dateline virtual channels or another routing."
        )


@lru_cache(maxsize=64)
def waiting_cycle(routes: Routes) -> list[int]:
    """The links of one cycle of waits; empty if there is none."""
    links = routes.network.links
    ends = np.zeros(len(routes.channels), dtype=np.bool_)
    ends[routes.start[1:] - 1] = True
    here = np.flatnonzero(~ends)
    here = here[~ends[here + 1]]  # the channel into a node waits for nothing
    # classes of messages have channels of their own
    ends_of_class = routes.start[routes.first[routes.network.nodes**2 :: routes.network.nodes**2]]
    own = 2 * links * np.searchsorted(ends_of_class, here, side="right")
    holds, wants = routes.channels[here] + own, routes.channels[here + 1] + own
    have, want = routes.kinds[here], routes.kinds[here + 1]
    edges = []
    for a in (0, 1):
        for b in (0, 1):
            both = ((have == ANY) | (have == a)) & ((want == ANY) | (want == b))
            edges.append(np.stack([holds[both] + a * links, wants[both] + b * links], axis=1))
    graph = np.unique(np.concatenate(edges), axis=0)
    left = _peel(graph, 2 * links * routes.classes)
    if not len(left):
        return []
    following = dict(zip(left[:, 0].tolist(), left[:, 1].tolist(), strict=True))
    walk = [int(left[0, 0])]
    while walk.count(walk[-1]) == 1:
        walk.append(following[walk[-1]])
    return [channel % links for channel in walk[walk.index(walk[-1]) : -1]]


def _peel(graph: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    """Take away edges into vertices that nothing leaves, until only cycles and ways between them are left."""
    while len(graph):
        leaves = np.bincount(graph[:, 0], minlength=size) > 0
        enters = np.bincount(graph[:, 1], minlength=size) > 0
        keep = leaves[graph[:, 1]] & enters[graph[:, 0]]
        if keep.all():
            break
        graph = graph[keep]
    return graph
