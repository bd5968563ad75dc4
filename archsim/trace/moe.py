"""How many tokens each expert of a mixture-of-experts layer receives."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from archsim.errors import InputError

__all__ = ["expert_counts"]

# A layer's counts are averaged over this many draws (see `expert_counts`).
_DRAWS = 16
_MAX_EXPERTS = 65536
# Up to here every token draws its experts; beyond, the joint Gaussian limit of the counts is drawn instead.
_EXACT_TOKENS = 1024


@lru_cache(maxsize=256)
def expert_counts(tokens: int, experts: int, top_k: int, kind: str = "uniform", seed: int = 0) -> NDArray[np.int64]:
    """Rows that each expert of a typical layer receives when `tokens` tokens choose `top_k` different experts each.

    ``uniform``: every set of `top_k` experts is equally likely. In one draw each token ranks the experts by random keys
    and takes the first `top_k` (Gumbel top-k with equal logits). One block of a trace stands for many layers, and a
    single draw may have a busiest expert 30 % off the usual, so the result is the mean of 16 sorted draws (the
    expected order statistics), rounded to keep the sum, in a random order. Beyond 1024 tokens the counts come from
    their Gaussian limit with the same mean and covariance: with p = top_k/experts, ``var = tokens p (1 - p)`` and
    ``cov = -var/(experts - 1)``.
    ``balanced``: as even as integers allow.

    About ``experts (1 - (1 - p)^tokens)`` experts receive any row, and random routing is far from balanced in decode:

    >>> counts = expert_counts(64, 256, 8)
    >>> int(counts.sum()), int((counts > 0).sum()), round(float(counts.max() / counts.mean()), 1)
    (512, 223, 3.5)

    Deterministic for a seed (PCG64). The array is shared between callers and read-only.
    """
    if tokens < 0 or not 1 <= top_k <= experts <= _MAX_EXPERTS:
        raise InputError(f"routing {tokens} tokens to {top_k} of {experts} experts is impossible")
    if kind == "balanced":
        counts = _round(np.full(experts, tokens * top_k / experts), tokens * top_k)
    elif kind == "uniform":
        generator = np.random.Generator(np.random.PCG64(seed))
        draw = _draw if tokens <= _EXACT_TOKENS else _draw_limit
        mean = np.mean([np.sort(draw(generator, tokens, experts, top_k)) for _ in range(_DRAWS)], axis=0)
        mean *= tokens * top_k / max(float(mean.sum()), 1.0)
        counts = generator.permutation(_round(mean, tokens * top_k))
    else:
        raise InputError(f"unknown expert routing '{kind}': it is 'uniform' or 'balanced'")
    counts.flags.writeable = False
    return counts


def _draw(generator: np.random.Generator, tokens: int, experts: int, top_k: int) -> NDArray[np.float64]:
    keys = generator.random((tokens, experts))
    chosen = np.argpartition(keys, top_k - 1, axis=1)[:, :top_k]
    return np.bincount(chosen.ravel(), minlength=experts).astype(np.float64)


def _draw_limit(generator: np.random.Generator, tokens: int, experts: int, top_k: int) -> NDArray[np.float64]:
    share = top_k / experts
    normal = generator.standard_normal(experts)
    # Centred draws have variance (1 - 1/experts) and covariance -1/experts: scaled, exactly the counts' covariance.
    spread = np.sqrt(tokens * share * (1 - share) * experts / max(experts - 1, 1)) * (normal - normal.mean())
    limited: NDArray[np.float64] = np.clip(tokens * share + spread, 0.0, tokens)
    return limited


def _round(counts: NDArray[np.float64], total: int) -> NDArray[np.int64]:
    """Integers that sum to `total`, each next to its real: the largest remainders are rounded up."""
    whole = np.floor(counts).astype(np.int64)
    order = np.argsort(whole - counts, kind="stable")
    whole[order[: total - int(whole.sum())]] += 1
    return whole
