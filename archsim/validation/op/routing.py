"""How many rows each expert of one rank receives in the measured loops over MoE layers."""

from __future__ import annotations

import numpy as np

from archsim.trace.moe import expert_counts

__all__ = ["power_law", "rank_rows"]


def rank_rows(tokens: int, experts: int, top_k: int, ranks: int, distribution: str) -> tuple[int, ...] | None:
    """Rows of each expert of the timed rank, or None for a distribution that is not known.

    ``balanced``: as even as integers allow. ``power_law_A``: see :func:`power_law`; the source times the busiest rank.

    >>> rank_rows(64, 8, 2, 4, "balanced")
    (16, 16)
    """
    if distribution == "balanced":
        counts = np.asarray(expert_counts(tokens, experts, top_k, "balanced"))
    elif distribution.startswith("power_law_"):
        counts = power_law(tokens, experts, top_k, float(distribution.removeprefix("power_law_")))
    else:
        return None
    by_rank = counts.reshape(ranks, -1)
    return tuple(int(rows) for rows in by_rank[int(by_rank.sum(axis=1).argmax())])


def power_law(tokens: int, experts: int, top_k: int, alpha: float) -> np.ndarray:
    """Counts whose sizes follow ``p(x) ~ x^-alpha`` between 1 and 0.8 of the tokens (0.01 and 2 when they are few).

    The source draws the sizes at random for every run; here they are the quantiles of that law, in a random order
    that is always the same, scaled to ``tokens top_k`` rows of which no expert gets more than ``tokens``.
    """
    least, most = (1.0, 0.8 * tokens) if tokens * top_k > experts else (0.01, 2.0)
    u, e = (np.arange(experts) + 0.5) / experts, 1.0 - alpha
    sizes = ((max(most, least) ** e - least**e) * u + least**e) ** (1 / e)
    wanted = tokens * top_k * sizes / sizes.sum()
    for _ in range(experts):  # what exceeds the tokens goes to the others
        surplus = np.clip(wanted - tokens, 0, None).sum()
        wanted = np.minimum(wanted, tokens)
        if surplus < 1e-9:
            break
        free = wanted < tokens
        wanted[free] += surplus * wanted[free] / wanted[free].sum()
    counts = np.floor(wanted).astype(np.int64)
    order = np.argsort(counts - wanted, kind="stable")
    counts[order[: tokens * top_k - int(counts.sum())]] += 1
    return np.random.Generator(np.random.PCG64(0)).permutation(counts)
