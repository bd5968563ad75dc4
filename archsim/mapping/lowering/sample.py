"""What of a long product is simulated, and how the rest is carried forward.

The chunks of a tile do equal work on other data, and so do the waves of tiles, and the heads of attention. Once things
have settled, a window of them stands for the others::

    head | window of S that stands for R, about R / S each | tail            head + R + tail = all of them

What is left out takes (R / S - 1) times as long as the window did, from the end of the head to its own. A member of the
window stands for a whole number of them, its weight. Steps in the window of chunks and in that of waves count as often
as both weights say; what a weighted chunk brings into the cache takes the room of as many.

Assumptions: a window of chunks is long enough for what comes and goes in it (slots that rotate, refreshes), and its
weighted blocks leave the cache enough room for cores that do not keep step; half of a period of the raster order is
like the other. A product for which no such window saves a quarter is walked chunk by chunk, wave by wave.
Reference: Wunderlich et al., "SMARTS: accelerating microarchitecture simulation via rigorous statistical sampling",
ISCA 2003; Waldspurger et al., "Efficient MRC construction with SHARDS", FAST 2015 (weighted samples in a cache).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

import numpy as np
from numpy.typing import NDArray

from archsim.mapping.target import Target
from archsim.mapping.tiling import MatmulShape, Tiling
from archsim.program import Carry

__all__ = [
    "Edges", "Sample", "carry", "chunk_count", "chunk_edges", "head_edges", "sample_chunks", "sample_heads",
    "sample_waves", "tile_count", "wave_edges", "whole_waves",
]  # fmt: skip

Ints = NDArray[np.int64]
Edges = list[tuple[Ints, float]]
"""Groups of steps that end together, and how much their end counts."""

#: chunks before and after the window, and the fewest in it
HEAD, TAIL, WINDOW = 4, 2, 8
#: where memory takes more than this share of the time, a window of chunks lasts for so many refreshes
MEMORY_SHARE, REFRESHES = 0.5, 4
#: the largest weight of a chunk where more than the matrix unit is waited for, in few waves of tiles and in many, so
#: many at least; the fewest waves in a window
WEIGHT, WEIGHT_OF_MANY, MANY, WAVES = 12, 16, 3, 3
#: items of attention on every lane before a window of heads, and in it
ROUNDS = 4
#: programs of fewer steps are walked whole; a window of waves has so many, if they are there, unless nothing but the
#: matrix unit is waited for, and a window of heads
WHOLE_STEPS, WINDOW_STEPS, HEADS_STEPS = 10_000, 20_000, 30_000


@dataclass(frozen=True, eq=False)
class Sample:
    """What is simulated of a sequence, in order: which members, and how many each stands for."""

    kept: Ints
    weight: Ints

    def __len__(self) -> int:
        return len(self.kept)

    def places(self, member: Ints) -> Ints:
        """Position of each, which is kept or comes after all, among those that are kept."""
        return np.searchsorted(self.kept, member)

    def keeps(self, member: Ints) -> NDArray[np.bool_]:
        """Which of these are kept; what comes after all of the sequence is."""
        after: NDArray[np.bool_] = member >= int(self.weight.sum())
        return np.isin(member, self.kept) | after

    def weights(self, member: Ints) -> Ints:
        """How many each of these stands for, which are kept or come after all."""
        return np.append(self.weight, 1)[np.minimum(self.places(member), len(self))]

    @property
    def window(self) -> tuple[int, int]:
        """First position of the window and the first behind it; equal where there is none."""
        inside = np.flatnonzero(self.weight > 1)
        return (int(inside[0]), int(inside[-1]) + 1) if len(inside) else (0, 0)

    @property
    def left_out(self) -> float:
        """What is left out, counted in windows."""
        begin, end = self.window
        return (int(self.weight.sum()) - len(self)) / max(end - begin, 1)


def _whole(count: int) -> Sample:
    return Sample(np.arange(count), np.ones(count, dtype=np.int64))


def _sampled(count: int, head: int, window: int, tail: int, *, alike: bool, saving: float = 0.75) -> Sample:
    """A window of at least so many after a head of at least so many, or all if more than ``saving`` is left.

    alike: the members of the window may stand for one more or less; else, where one fetches what others share, for
    equally many, and what that leaves lengthens the window or the head.

    >>> sample = _sampled(20, head=2, window=4, tail=1, alike=True)
    >>> sample.kept.tolist(), sample.weight.tolist()
    ([0, 1, 2, 3, 4, 5, 19], [1, 1, 4, 4, 4, 5, 1])
    >>> _sampled(20, head=2, window=4, tail=1, alike=False).weight.tolist()
    [1, 1, 1, 4, 4, 4, 4, 1]
    """
    rest = count - head - tail
    if not alike:
        window = min(range(window, window + window // 2 + 1), key=lambda each: each + rest % each)
        head, rest = head + rest % window, rest - rest % window
    kept = head + window + tail
    if rest < 2 * window or kept > saving * count:
        return _whole(count)
    weights = np.ones(kept, dtype=np.int64)
    weights[head : head + window] = np.diff(np.arange(window + 1) * rest // window)
    return Sample(np.r_[0 : head + window, count - tail : count], weights)


def chunk_count(shape: MatmulShape, tiling: Tiling) -> int:
    """Chunks of the reduction that one part of a tile walks over."""
    return -(-(-(-shape.k // tiling.tk)) // tiling.split_k)


def tile_count(shape: MatmulShape, tiling: Tiling) -> int:
    """Output tiles over all products of the group; whole pairs."""
    return sum(-(-m // (tiling.tm * tiling.pair)) * tiling.pair for m in shape.m) * -(-shape.n // tiling.tn)


def whole_waves(target: Target, shape: MatmulShape, tiling: Tiling) -> int:
    """Waves in which each core computes whole tiles, or parts of split-K; with stream-K all but the last whole one."""
    waves = tile_count(shape, tiling) // max(target.cores // tiling.split_k, 1)
    return max(waves - 1, 0) if tiling.stream_k else waves


def sample_chunks(target: Target, shape: MatmulShape, tiling: Tiling, *, exact: bool = False) -> Sample:
    """Chunks of a tile: a window that stands for most of them, or all where they are few, or on demand.

    >>> from archsim.hardware import load_chip
    >>> from archsim.mapping import make_target
    >>> shape = MatmulShape((4096,), 12288, 12288, "bf16", 2, 2, 2)
    >>> sample = sample_chunks(make_target(load_chip("a100")), shape, Tiling(128, 192, 128, 2, 1, 11, 1, 0.0, ""))
    >>> len(sample), sample.left_out, int(sample.weight.sum())
    (14, 10.25, 96)
    """
    count, slots, tiles = chunk_count(shape, tiling), tiling.slots, tile_count(shape, tiling)
    empty = count * tiling.split_k + shape.k // -tiling.tk  # chunks that the last part of a split lacks
    if exact or empty > TAIL or 3 * tiles * tiling.split_k * count < WHOLE_STEPS:
        return _whole(count)
    head = max(HEAD, 2 * slots)
    most = WEIGHT if tiles < MANY * target.cores else WEIGHT_OF_MANY
    weight = min(_largest_weight(target, shape, tiling), count if tiling.steady else most)
    window = max(WINDOW, (count - head - TAIL) / weight, _refreshed(target, shape, tiling, tiles * count))
    if window > count / 2:
        return _whole(count)
    return _sampled(count, head, -(-ceil(window) // slots) * slots, TAIL, alike=True)


def sample_waves(
    target: Target, shape: MatmulShape, tiling: Tiling, chunks: int, waves: int, *, exact: bool = False
) -> Sample:
    """Whole waves of tiles, of which so many ``chunks`` are simulated: a window of half a period of the raster order,
    in which the same rows of A are used. Where B passes by once, in one row of tiles, all waves are alike.

    Parts of a split are not left out: they meet at a barrier.
    """
    wave = 3 * chunks * target.cores  # steps
    if exact or tiling.split_k > 1 or waves * wave < WHOLE_STEPS:
        return _whole(waves)
    if len(shape.m) == 1 and shape.m[0] <= tiling.group_m * tiling.tm:
        return _sampled(waves, 1, -(-WHOLE_STEPS // wave), 0, alike=False)
    period = -(-tiling.group_m * -(-shape.n // tiling.tn) // target.cores)
    b_bytes = shape.k * (shape.n * shape.b_bytes + tiling.group_m * tiling.tm * shape.a_bytes)
    first = period if b_bytes <= target.cache_bytes else 1  # its B stays in the cache for the periods that follow
    window = max(WAVES, -(-period // 2), 0 if tiling.steady else WINDOW_STEPS // wave)
    return _sampled(waves, max(first, window // 2), window, 0, alike=False)


def sample_heads(
    sections: int, items: int, steps: int, lanes: int, share: float = 0.0, *, exact: bool = False
) -> Sample:
    """Sections of heads, of so many ``items`` of attention and their ``steps``: a window of rounds of items over all
    lanes, behind others, before one round.

    share: of the cache, that a section reads and writes. It is full before the window, so that what comes drives out
    what has been written, and lanes have fallen out of step.

    >>> sample_heads(64, items=64, steps=20_000, lanes=128, share=0.1).weight.tolist()
    [1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 6, 7, 6, 7, 6, 7, 6, 7, 1, 1]
    """
    if exact or sections * steps < WHOLE_STEPS:
        return _whole(sections)
    round_ = lanes / items
    fill = 1 / share if share else 0.0
    head, window = max(ROUNDS * round_, fill), max(ROUNDS * round_, fill / 2, HEADS_STEPS / steps)
    return _sampled(sections, ceil(head), ceil(window), ceil(round_), alike=True)


def _largest_weight(target: Target, shape: MatmulShape, tiling: Tiling) -> float:
    """So that the chunks in flight, weighted, fill no more than half of the cache."""
    if not target.cache_bytes:
        return np.inf
    across = max(target.cores // tiling.split_k, 1)
    columns = -(-across // tiling.group_m)
    step = tiling.tk * (tiling.group_m * tiling.tm * shape.a_bytes + columns * tiling.tn * shape.b_bytes)
    return max(target.cache_bytes / (2 * tiling.slots * tiling.split_k * step), 1.0)


def _refreshed(target: Target, shape: MatmulShape, tiling: Tiling, chunks: int) -> float:
    """Chunks of one core that last for ``REFRESHES`` intervals of refresh, where memory is what is waited for."""
    dram = target.memory.dram
    interval_s = max(dram.refi_ps, dram.refi_bank_ps * dram.banks) * 1e-12
    rounds = max(chunks * tiling.split_k / target.cores, 1.0)
    cycles = target.multiply_cycles(
        np.array(tiling.tm), np.array(tiling.tn), np.array(tiling.tk),
        shape.dtype, shape.a_bytes, shape.b_held, tiling.pair, sparsity=shape.sparsity,
    )  # fmt: skip
    matrix_s = int(cycles) / target.sustained_clock(shape.dtype)
    nbytes = shape.m_sum * (shape.k * shape.a_bytes + shape.n * shape.c_bytes)
    nbytes += sum(m > 0 for m in shape.m) * shape.n * shape.k * shape.b_bytes
    memory_s = nbytes / target.dram_bytes_per_s / rounds
    if memory_s < MEMORY_SHARE * matrix_s:
        return 0.0
    return REFRESHES * interval_s / max(matrix_s, memory_s)


def wave_edges(waves: Sample, turn: Ints, finish: Ints) -> Edges:
    """What is left out of waves: ``turn`` is the kept wave of each part, the unfinished one last, ``finish`` its last
    step."""
    begin, end = waves.window
    if not end:
        return []
    more = waves.left_out
    return [(finish[turn == end - 1], more), (finish[turn == begin - 1], -more)]


def chunk_edges(chunks: Sample, slots: int, multiply: Ints, times: int = 1) -> Edges:
    """What is left out of the chunks of parts that run at once, ``times`` over; ``multiply`` has their products, a row
    a part."""
    begin, end = chunks.window
    if not end:
        return []
    more = chunks.left_out * times / slots  # the mean over chunks that share out the slots
    edges: Edges = []
    for back in range(1, slots + 1):
        edges += [(multiply[:, end - back], more), (multiply[:, begin - back], -more)]
    return edges


def head_edges(sections: Sample, section: Ints, lane: Ints, end: Ints) -> Edges:
    """What is left out of sections of heads: the ``section`` and the ``lane`` of each item that is kept, in the order
    in which they begin, and its last step."""
    begin, behind = sections.window
    place = sections.places(section)
    edges: Edges = []
    for position, weight in ((behind, sections.left_out), (begin, -sections.left_out)) if behind else ():
        first = int(np.searchsorted(place, position))
        last = np.full(int(lane.max()) + 1, -1)
        np.maximum.at(last, lane[:first], np.arange(first))
        edges.append((end[last[last >= 0]], weight))
    return edges


def carry(edges: Edges, *, alike: bool) -> Carry:
    """The time left out, by the finish times of steps.

    alike: no core is further from memory than another, so that a wave takes the mean of its cores; else it takes as
    long as the slowest.
    """
    if not edges:
        return Carry.nothing()
    steps = np.concatenate([each for each, _ in edges])
    sizes = np.array([len(each) for each, _ in edges])
    weights = np.array([weight for _, weight in edges])
    if alike:
        return Carry(np.arange(len(steps) + 1), steps, np.repeat(weights / sizes, sizes))
    return Carry(np.r_[0, np.cumsum(sizes)], steps, weights)
