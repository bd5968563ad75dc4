"""How many rows each expert of one rank receives in the measured loops over MoE layers.

As aiconfigurator's collector makes them (``balanced_logits`` and ``power_law_logits_v3`` of its ``helper.py``), which
drew them in another way (``unbounded``) when it measured TensorRT-LLM 1.0.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

__all__ = ["balanced", "power_law", "rank_rows"]

Ints = NDArray[np.int64]

#: draws of which the most usual one is taken; the source times five of its own and takes the mean
DRAWS = 31
#: groups of experts of DeepSeek-V3's gate, and those of them that a token may choose from
GROUPS, KEPT_GROUPS = 8, 4


@cache
def rank_rows(
    tokens: int, experts: int, top_k: int, ranks: int, distribution: str,
    *, limited: bool = False, unbounded: bool = False,
) -> tuple[int, ...] | None:  # fmt: skip
    """Rows of each expert of the timed rank, or None for a distribution that is not known.

    ``balanced``: see :func:`balanced`. ``power_law_A``: see :func:`power_law`. The first rank is timed, to which the
    source moves the busiest one. limited: a router that considers the experts of a few groups then has the last word.
    unbounded: drawn as the source did at first.

    >>> rank_rows(64, 8, 2, 4, "balanced"), rank_rows(2, 8, 2, 4, "balanced")
    ((16, 16), (1, 0))
    """
    if distribution == "balanced":
        counts = balanced(tokens, experts, top_k)
    elif distribution.startswith("power_law_"):
        alpha = float(distribution.removeprefix("power_law_"))
        counts = power_law(tokens, experts, top_k, ranks, alpha, unbounded=unbounded)
    else:
        return None
    if limited and experts % GROUPS == 0:
        counts = group_limited(counts, tokens, top_k)
    return tuple(counts[: experts // ranks].tolist())


def group_limited(counts: Ints, tokens: int, top_k: int) -> Ints:
    """Counts where each token keeps of its wanted experts those in its best groups, and takes the first others there.

    DeepSeek-V3's gate: a group is as good as its two best experts; ties go to the first.

    >>> group_limited(np.ones(16, dtype=np.int64), 2, 8).tolist()  # every group is wanted once: four of them stay
    [2, 2, 2, 2, 2, 2, 2, 2, 0, 0, 0, 0, 0, 0, 0, 0]
    """
    scores, times = _wanted(counts, tokens, top_k)
    by_group = scores.reshape(len(scores), GROUPS, -1)
    best = np.sort(by_group, axis=2)[..., -2:].sum(axis=2)
    kept = np.argsort(-best, axis=1, kind="stable")[:, :KEPT_GROUPS]
    outside = np.ones_like(by_group)
    np.put_along_axis(outside, kept[:, :, None], 0.0, axis=1)
    chosen = np.argsort(2 * outside.reshape(scores.shape) - scores, axis=1, kind="stable")[:, :top_k]
    return _counted(chosen, times, len(counts))


def balanced(tokens: int, experts: int, top_k: int) -> Ints:
    """Counts where the choices of a token lie ``experts / top_k`` apart, and those of the next one behind them.

    >>> balanced(2, 8, 2).tolist(), balanced(6, 8, 2).tolist()
    ([1, 0, 1, 0, 1, 0, 1, 0], [2, 2, 1, 1, 2, 2, 1, 1])
    """
    stride = -(-experts // top_k)
    first = np.arange(tokens) * (1 if tokens >= stride else stride / tokens)
    chosen = (first[:, None] + np.arange(top_k) * stride) % experts
    return np.bincount(chosen.astype(np.int64).ravel(), minlength=experts)


def power_law(tokens: int, experts: int, top_k: int, ranks: int, alpha: float, *, unbounded: bool = False) -> Ints:
    """Counts whose sizes follow ``p(x) ~ x^-alpha`` between 1 and 0.8 of the tokens (0.01 and 2 when they are few), the
    busiest rank first.

    Of several draws the one whose busiest rank has nearest to the mean of rows, and of experts with any.
    """
    least, most = (1.0, 0.8 * tokens) if tokens * top_k > experts else (0.01, 2.0)
    u, e = np.random.Generator(np.random.PCG64(0)).random((DRAWS, experts)), 1.0 - alpha
    sizes = ((most**e - least**e) * u + least**e) ** (1 / e)
    wanted = np.rint(tokens * top_k * sizes / sizes.sum(axis=1, keepdims=True)).astype(np.int64)
    if unbounded:
        counts = np.stack([_summing(each, tokens * top_k) for each in wanted]).reshape(DRAWS, ranks, -1)
    else:
        counts = _bounded(wanted.reshape(DRAWS, ranks, -1), tokens, top_k)
    busiest = counts.sum(axis=2).argmax(axis=1)
    draw = np.arange(DRAWS)
    counts[draw, 0], counts[draw, busiest] = counts[draw, busiest], counts[draw, 0]
    draws = counts.reshape(DRAWS, experts)
    if unbounded:
        draws = np.stack([_distinct(each, tokens, top_k) for each in draws])
    first = draws[:, : experts // ranks]
    seen = np.stack([first.sum(axis=1), (first > 0).sum(axis=1)])
    far = np.abs(seen / seen.mean(axis=1, keepdims=True) - 1).sum(axis=0)
    return np.asarray(draws[far.argmin()])


def _bounded(wanted: Ints, tokens: int, top_k: int) -> Ints:
    """Counts of which none exceeds the tokens: what is missing goes to the least of each rank, a surplus off the most.

    All shaped ``(draws, ranks, experts of each)``.

    >>> _bounded(np.array([[[9, 0], [0, 0]], [[2, 2], [2, 2]]]), 4, 2).tolist()
    [[[4, 2], [1, 1]], [[2, 2], [2, 2]]]
    """
    counts = np.minimum(wanted, tokens)
    while (left := tokens * top_k - counts.sum(axis=(1, 2))).any():
        missing, sign = np.abs(left)[:, None], np.sign(left)[:, None, None]
        room = np.where(sign > 0, tokens - counts, counts).sum(axis=2)
        asked = np.minimum(-(-missing // np.count_nonzero(room, axis=1, keepdims=True)), room)
        taken = np.clip(missing - (np.cumsum(asked, axis=1) - asked), 0, asked)  # the first ranks first
        counts = np.where(sign, sign * _raised(sign * counts, taken), counts)
    return counts


def _summing(wanted: Ints, total: int) -> Ints:
    """Counts with their sum made right at the largest when rows are missing, at the smallest when there are too many.

    One row each in their order, over and over; the largest gives for those that have none.

    >>> _summing(np.array([0, 0, 0, 0]), 2).tolist(), _summing(np.array([1, 4, 0, 2]), 5).tolist()
    ([1, 1, 0, 0], [0, 3, 0, 2])
    """
    counts: Ints = wanted.copy()
    order = np.argsort(-counts, kind="stable")
    missing = total - int(counts.sum())
    for step in range(abs(missing)):
        at = order[step % len(order)] if missing > 0 else order[-1 - step % len(order)]
        counts[at if missing > 0 or counts[at] else counts.argmax()] += 1 if missing > 0 else -1
    return counts


def _distinct(counts: Ints, tokens: int, top_k: int) -> Ints:
    """Counts once no token has an expert twice: in its stead it takes the first that it does not have.

    >>> _distinct(np.array([0, 5, 1, 0]), 3, 2).tolist()  # tokens 0 and 1 have two of expert 1
    [2, 3, 1, 0]
    """
    if counts.max() <= tokens:
        return counts
    scores, times = _wanted(counts, tokens, top_k)
    return _counted(np.argsort(-scores, axis=1, kind="stable")[:, :top_k], times, len(counts))


def _counted(chosen: Ints, times: Ints, experts: int) -> Ints:
    """Rows of each expert, where row i of ``chosen`` stands for ``times[i]`` tokens."""
    rows: Ints = np.bincount(chosen.ravel(), np.repeat(times, chosen.shape[1]), experts).astype(np.int64)
    return rows


def _wanted(counts: Ints, tokens: int, top_k: int) -> tuple[NDArray[np.float64], Ints]:
    """Which experts (1.0) the tokens want, one row for all alike in a run of them, and how many those are.

    The choices of a token follow from the counts as in the source: experts in order of size, column after column.
    """
    order = np.argsort(-counts, kind="stable")
    ends = np.cumsum(counts[order])  # of each expert, in all columns
    first = np.unique(ends % tokens)  # tokens where a column goes on to its next expert; the ends of columns are 0
    wanted = order[np.searchsorted(ends, first[:, None] + tokens * np.arange(top_k), side="right")]
    scores = np.zeros((len(wanted), len(counts)))
    np.put_along_axis(scores, wanted, 1.0, axis=1)
    return scores, np.diff(first, append=tokens)


def _raised(counts: Ints, amounts: Ints) -> Ints:
    """The smallest counts along the last axis raised by so much together, to one level.

    >>> _raised(np.array([[5, 0, 1], [2, 2, 2]]), np.array([4, 0])).tolist()
    [[5, 3, 2], [2, 2, 2]]
    """
    order = np.argsort(counts, axis=-1, kind="stable")
    ranked = np.take_along_axis(counts, order, axis=-1)
    sums, places, amount = np.cumsum(ranked, axis=-1), np.arange(counts.shape[-1]), amounts[..., None]
    room = ranked * (places + 1) - sums  # to bring all before it up to each
    filled = (room <= amount).sum(axis=-1, keepdims=True)
    level, rest = np.divmod(np.take_along_axis(sums, filled - 1, axis=-1) + amount, filled)
    raised = np.empty_like(counts)
    np.put_along_axis(raised, order, np.where(places < filled, level + (places < rest), ranked), axis=-1)
    return raised
