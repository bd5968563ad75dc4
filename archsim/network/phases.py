"""Phases of collectives along one part of a group; algorithms are put together from them.

A buffer is cut into chunks that follow each other through all phases. ``ready[j]`` are the messages that chunk j waits
for, on entry and on return. `nbytes` is always the larger buffer: what goes into a reduce-scatter, what comes out of an
all-gather. With p chips in the part, rate b and latency l of a message:

| phase | one chip sends | time of one chunk |
| --- | --- | --- |
| `ring` | (p-1)/p S in p-1 steps | (p-1) (l + S / (p b)) |
| `halving_doubling` | (p-1)/p S in k = ceil(log2 p) steps | k l + (p-1)/p S / b |
| `direct` | (p-1)/p S, to all at once | l + (p-1)/p S / b (a mesh: l + S / (p b)) |
| `in_switch` | S to the switch, which returns S / p | l + (p+1)/p S / b |

Reference: Thakur, Rabenseifner, Gropp, "Optimization of Collective Communication Operations in MPICH", 2005.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import pairwise
from math import ceil

from archsim.hardware.link import TransportName
from archsim.network.schedule import Move, Schedule

__all__ = ["Phase", "Ready", "direct", "halving_doubling", "in_switch", "ring"]

Ready = list[tuple[int, ...]]
Phase = Callable[..., Ready]


def _block(nbytes: float, pieces: int) -> int:
    return max(1, ceil(nbytes / pieces))


def ring(
    s: Schedule, part: int, nbytes: float, ready: Ready, transport: TransportName | None, *, gather: bool = False,
    direction: int = 1,
) -> Ready:  # fmt: skip
    """Every block goes once round the ring, reduced on its way or copied; both ways are the same messages."""
    size = s.parts[part].size
    block = _block(nbytes, size * len(ready))
    last = ready
    for _ in range(size - 1):
        last = [
            (s.send([Move(part, direction)], block, {*before, *own}, transport, plane),)
            for plane, (before, own) in enumerate(zip(last, ready, strict=True))
        ]
    return last


def halving_doubling(
    s: Schedule, part: int, nbytes: float, ready: Ready, transport: TransportName | None, *, gather: bool = False
) -> Ready:
    """Exchange halves, quarters, eighths with ever nearer partners; a gather goes the other way.

    Among chips that are no power of two each sends to one and receives from another, so far on round the group as
    half of what is left, rounded up: in as many steps, and no byte more.
    Reference: Traeff, "Optimal, non-pipelined reduce-scatter and allreduce algorithms", 2024.
    """
    size = s.parts[part].size
    swap = size & (size - 1) == 0
    left = [size]
    while left[-1] > 1:
        left.append(-(-left[-1] // 2))
    steps = list(pairwise(left))
    last = ready
    for many, half in reversed(steps) if gather else steps:
        block = _block(nbytes * (many - half), size * len(ready))
        move = Move(part, -half if gather and not swap else half, swap=swap)
        last = [(*before, s.send([move], block, before, transport, plane)) for plane, before in enumerate(last)]
    return last


def direct(
    s: Schedule, part: int, nbytes: float, ready: Ready, transport: TransportName | None, *, gather: bool = False
) -> Ready:
    """Every chip sends a block of its own to every other."""
    size = s.parts[part].size
    block = _block(nbytes, size * len(ready))
    after: Ready = []
    for plane, before in enumerate(ready):
        sent = [s.send(_towards(s, part, shift), block, before, transport, plane) for shift in range(1, size)]
        after.append((s.join(sent),))
    return after


def _towards(s: Schedule, part: int, shift: int) -> list[Move]:
    """The shorter way round."""
    size, whole = s.parts[part].size, s.parts[part].whole
    backwards = s.parts[part].dim.kind == "ring" and whole and shift > size // 2
    return [Move(part, shift - size if backwards else shift)]


def in_switch(s: Schedule, part: int, nbytes: float, before: Iterable[int], transport: TransportName | None, *,
              gather: bool) -> tuple[int, int]:  # fmt: skip
    """One chunk through a switch that computes. It reads a block from all chips and hands the sum to one of them; or
    (gather) takes a block from its owner and hands it to all. Returns the message out of a chip and the one into it."""
    size, dim, at = s.parts[part].size, s.parts[part].dim, s.at(part)
    share = _block(nbytes, size)
    sent, received = (share, ceil(nbytes)) if gather else (ceil(nbytes), share)
    delay = [f"{at}.delay.{transport}"] if f"{at}.delay.{transport}" in s.fabric.number else []
    out = s.local([f"{at}.out0"], s.wire(sent, dim, transport), before)
    return out, s.local([*delay, f"{at}.in0"], s.framed(received, dim, transport), [out])
