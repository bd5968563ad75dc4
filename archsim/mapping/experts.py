"""Which chip holds which experts, and how many rows the busiest chip receives."""

from __future__ import annotations

import heapq
from collections.abc import Sequence

__all__ = ["busiest_chip"]


def busiest_chip(counts: Sequence[int], chips: int, redundant: int = 0) -> tuple[int, ...]:
    """Rows of each expert of the busiest chip (most rows, then most active experts, then first).

    Without redundant experts the chips hold equal runs of the experts as they are numbered. With them each of the
    ``E + R`` slots goes where it balances the load, as DeepSeek's EPLB does: R times the expert whose copies have most
    rows gets one more copy, which share its rows; then the copies, the largest first, go to the chip with fewest rows
    that has a free slot. The counts are those of the step itself: a balancer that knows the loads, so a bound.

    Reference: DeepSeek-V3 technical report, section 3.4; deepseek-ai/EPLB (replicate, then pack).

    >>> busiest_chip([8, 1, 1, 2], chips=2)
    (8, 1)
    >>> busiest_chip([8, 1, 1, 2], chips=2, redundant=2)
    (3, 2, 1)
    """
    if not redundant:
        held = len(counts) // chips
        runs = [tuple(int(n) for n in counts[c * held : (c + 1) * held]) for c in range(chips)]
        return max(runs, key=lambda rows: (sum(rows), sum(n > 0 for n in rows)))
    copies = [1] * len(counts)
    fullest = [(-float(n), i) for i, n in enumerate(counts)]
    heapq.heapify(fullest)
    for _ in range(redundant):
        _, i = fullest[0]
        copies[i] += 1
        heapq.heapreplace(fullest, (-(int(counts[i]) / copies[i]), i))
    slots = sorted(
        (int(n) // k + (j < int(n) % k) for n, k in zip(counts, copies, strict=True) for j in range(k)), reverse=True
    )
    room = len(slots) // chips
    open_chips = [(0, c) for c in range(chips)]
    placed: list[list[int]] = [[] for _ in range(chips)]
    for rows in slots:
        load, chip = heapq.heappop(open_chips)
        placed[chip].append(rows)
        if len(placed[chip]) < room:
            heapq.heappush(open_chips, (load + rows, chip))
    return max((tuple(rows) for rows in placed), key=lambda rows: (sum(rows), sum(n > 0 for n in rows)))
