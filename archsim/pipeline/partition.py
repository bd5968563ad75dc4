"""Which layers stand on which pipeline stage."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from itertools import accumulate

__all__ = ["balanced", "cut", "is_layer", "partition"]


def partition(layers: int, stages: int, first: float, last: float) -> list[int]:
    """Layers of each stage, in order.

    Equal where that goes; equal with the embedding and the head each in place of a layer where that goes (Megatron's
    ``account_for_embedding_in_pipeline_split``); else layer by layer to the stage that has least to do so far, with
    ``first`` and ``last`` the cost of the embedding and of the head in layers.

    >>> partition(80, 8, 0, 1.5), partition(126, 16, 0, 1)[:3], sum(partition(61, 16, 0, 1.6))
    ([10, 10, 10, 10, 10, 10, 10, 10], [7, 8, 8], 61)
    """
    if layers % stages == 0:
        return [layers // stages] * stages
    if (layers + 2) % stages == 0 and (layers + 2) // stages > 1:
        each = (layers + 2) // stages
        return [each - 1, *[each] * (stages - 2), each - 1]
    counts = [0] * stages
    loads = [(first if stage == 0 else last if stage == stages - 1 else 0.0, stage) for stage in range(stages)]
    heapq.heapify(loads)
    for _ in range(layers):
        load, stage = heapq.heappop(loads)
        counts[stage] += 1
        heapq.heappush(loads, (load + 1.0, stage))
    return counts


def balanced(costs: Sequence[float], stages: int) -> list[int]:
    """Layers of each stage, in order, with the least cost of the most loaded one, then the least sum of squares.

    costs: of each layer. Dynamic programming over where the last stage begins.

    >>> balanced([1.0] * 80, 8), balanced([1.0] * 7 + [3.5], 4), balanced([0.2, 0.2, 1, 1, 1.5], 2)
    ([10, 10, 10, 10, 10, 10, 10, 10], [2, 2, 3, 1], [4, 1])
    """
    sums = [0.0, *accumulate(costs)]
    best: dict[int, tuple[float, float, list[int]]] = {0: (0.0, 0.0, [])}  # by layers placed so far
    for stage in range(1, stages + 1):
        later = stages - stage
        best = {
            end: min(
                (max(most, sums[end] - sums[start]), squares + (sums[end] - sums[start]) ** 2, [*counts, end - start])
                for start, (most, squares, counts) in best.items() if start < end
            )
            for end in range(stage, len(costs) - later + 1)
        }  # fmt: skip
    return best[len(costs)][2]


def is_layer(name: str) -> bool:
    """Whether a block is one of the layers, which stages share."""
    return not name.startswith(("prologue", "epilogue")) and "." not in name


def cut(kinds: Sequence[str], counts: Sequence[int]) -> list[tuple[str, ...]]:
    """The kinds of the layers of each stage.

    >>> cut(["dense", "moe", "moe"], [1, 2])
    [('dense',), ('moe', 'moe')]
    """
    ends = [sum(counts[: i + 1]) for i in range(len(counts))]
    return [tuple(kinds[end - count : end]) for end, count in zip(ends, counts, strict=True)]
