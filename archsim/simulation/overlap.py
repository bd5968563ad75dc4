"""Two micro-batches take turns on one chip: while one communicates, the other computes.

The batch of a chip is cut in half. On the compute stream the halves alternate, segment by segment, in an order that is
fixed beforehand; a segment ends where a kernel needs what a collective brings. The collectives of both stand in one
stream of their own. Two orders come into question, and the shorter by the least times of the kernels is taken:

* in step, ``A0 B0 A1 B1 ...``: a collective of one half runs beside the same segment of the other (DeepSeek's prefill);
* half a layer apart, with attention cut in two, ``A0 A1 B0 A2 B1 A3 ...``: where attention is long and the experts are
  short, each of the two halves of attention hides one exchange: the five stages of DeepSeek's decode.

Reference: DeepSeek-V3 technical report, section 3.4; DeepSeek open-infra-index, day 6.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest

__all__ = ["Turn", "collective_spans", "take_turns"]

#: layers after which the order is judged: the first fills the pipeline, the last drains it
JUDGED = 4


@dataclass(frozen=True)
class Turn:
    """One launch: a kernel of the block, of one half, in one layer. after: positions of the turns it waits for."""

    layer: int
    half: int
    kernel: int
    after: tuple[int, ...]


def take_turns(
    exchange: Sequence[bool], waits: Sequence[tuple[int, ...]], seconds: Sequence[float], layers: int
) -> list[Turn]:
    """The launches of both halves over ``layers`` layers of a block, in order.

    Args:
        exchange: for each kernel of the block, whether it is a collective.
        waits: the earlier kernels of the block that each waits for.
        seconds: about how long each takes.

    >>> exchange, waits = [False, True, False, True], [(), (0,), (1,), (2,)]
    >>> turns = take_turns(exchange, waits, [2.0, 1.0, 1.0, 1.0], 2)
    >>> " ".join(f"{'AB'[t.half]}{t.kernel}" for t in turns)
    'A0 A1 B0 B1 A2 A3 B2 B3 A0 A1 B0 B1 A2 A3 B2 B3'
    """
    cuts = [None, *(i for i, is_exchange in enumerate(exchange) if i and not is_exchange)]

    def period(cut: int | None) -> float:
        turns = _order(exchange, waits, JUDGED, cut)
        ends = collective_spans([exchange[t.kernel] for t in turns], [t.after for t in turns],
                                [seconds[t.kernel] for t in turns])  # fmt: skip
        return max(end for _, end in ends)

    best = min(cuts, key=lambda cut: (round(period(cut), 12), cut is not None)) if True in exchange else None
    return _order(exchange, waits, layers, best)


def collective_spans(
    exchange: Sequence[bool], waits: Sequence[tuple[int, ...]], seconds: Sequence[float]
) -> list[tuple[float, float]]:
    """When each launch runs if it takes its ``seconds``, with one stream for kernels and one for collectives."""
    free = {True: 0.0, False: 0.0}
    spans: list[tuple[float, float]] = []
    for position, stream in enumerate(exchange):
        start = max([free[stream], *(spans[before][1] for before in waits[position])])
        spans.append((start, start + float(seconds[position])))
        free[stream] = spans[-1][1]
    return spans


def _order(
    exchange: Sequence[bool], waits: Sequence[tuple[int, ...]], layers: int, cut: int | None
) -> list[Turn]:  # fmt: skip
    """Both halves by turns; with a cut of the layer at kernel ``cut`` the second half follows one segment behind."""
    segments = _segments(exchange, waits, layers, cut)
    lead = 0 if cut is None else 1
    ahead = [(segment, 0) for segment in segments]
    behind = [(segment, 1) for segment in segments]
    pairs = chain.from_iterable(zip_longest(ahead[lead:], behind))
    order = [*ahead[:lead], *(turn for turn in pairs if turn is not None)]
    at: dict[tuple[int, int, int], int] = {}
    turns: list[Turn] = []
    last = len(exchange) - 1
    for segment, half in order:
        for layer, kernel in segment:
            before = [at[layer, half, w] for w in waits[kernel]]
            if layer and not kernel:  # the layer before ends first; its collectives have readers in it
                before.append(at[layer - 1, half, last])
            at[layer, half, kernel] = len(turns)
            turns.append(Turn(layer, half, kernel, tuple(sorted(before))))
    return turns


def _segments(
    exchange: Sequence[bool], waits: Sequence[tuple[int, ...]], layers: int, cut: int | None
) -> list[list[tuple[int, int]]]:
    """(layer, kernel) of one half, cut where a kernel waits for a collective that its own segment issued."""
    segments: list[list[tuple[int, int]]] = [[]]
    issued: set[tuple[int, int]] = set()
    last = len(exchange) - 1
    for layer in range(layers):
        for kernel, is_exchange in enumerate(exchange):
            before = {(layer, w) for w in waits[kernel]} | ({(layer - 1, last)} if layer and not kernel else set())
            if not is_exchange and (kernel == cut or before & issued):
                segments.append([])
                issued = set()
            if is_exchange:
                issued.add((layer, kernel))
            segments[-1].append((layer, kernel))
    return [segment for segment in segments if segment]
