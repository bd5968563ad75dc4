"""How many tokens each expert of a mixture-of-experts layer receives."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from archsim.errors import InputError, did_you_mean

__all__ = ["ROUTINGS", "expert_counts", "whole_rows"]

#: kinds of routing, as an operator's attribute ``routing`` names them (see `expert_counts`)
ROUTINGS = ("uniform", "balanced", "zipf", "measured")

Floats = NDArray[np.float64]

# A layer's counts are averaged over this many draws (see `expert_counts`).
_DRAWS = 16
_MAX_EXPERTS = 65536
_MAX_EXPONENT = 10.0
# Up to here every token draws its experts; beyond, the joint Gaussian limit of the counts is drawn instead.
_EXACT_TOKENS = 1024
# A weight of zero would divide by zero; an expert this unpopular is chosen only where there is no other.
_LEAST_WEIGHT = 1e-30


@lru_cache(maxsize=256)
def expert_counts(
    tokens: int, experts: int, top_k: int, routing: str = "uniform", seed: int = 0, always: int = 0
) -> NDArray[np.int64]:
    """Rows that each expert of a typical layer receives when `tokens` tokens choose `top_k` different experts each.

    ``uniform``: every set of `top_k` experts is equally likely.
    ``zipf:s``: the i-th most popular expert has the weight ``i^-s`` in each of a token's choices.
    ``measured:c1 c2 ...``: the experts are as popular as these counts say (`archsim.trace.routed` makes them from a
    file). For as many tokens as were measured they are the answer, for others tokens are drawn.
    ``balanced``: as even as integers allow, over ranks of experts too.
    always: the last so many experts are among the `top_k` of every token (`archsim.trace.shared`).

    A token's choice is a race: expert i finishes after a time that is exponential with rate ``w_i``, and the first
    `top_k` are taken (the same as Gumbel top-k with logits ``log w_i``). One block of a trace stands for many layers,
    and a single draw may have a busiest expert 30 % off the usual, so the result is the mean of 16 sorted draws (the
    expected order statistics), rounded to keep the sum, in a random order. Beyond 1024 tokens the counts come from
    their Gaussian limit: with ``p_i`` the share of tokens that choose expert i, ``var_i = tokens p_i (1 - p_i)`` and a
    sum that is fixed. ``p_i = 1 - exp(-w_i t)`` with t such that they add up to `top_k` (Rosén 1972; within 2 %), and
    measured shares become weights by its inverse.

    Uniformly, about ``experts (1 - (1 - p)^tokens)`` experts receive any row, far from balanced in decode:

    >>> counts = expert_counts(64, 256, 8)
    >>> int(counts.sum()), int((counts > 0).sum()), round(float(counts.max() / counts.mean()), 1)
    (512, 223, 3.5)

    Deterministic for a seed (PCG64). The array is shared between callers and read-only.
    """
    if tokens < 0 or not 1 <= top_k <= experts <= _MAX_EXPERTS or not 0 <= always < top_k:
        raise InputError(f"routing {tokens} tokens to {top_k} of {experts} experts is impossible")
    if always:
        chosen = expert_counts(tokens, experts - always, top_k - always, routing, seed)
        counts = np.concatenate((chosen, np.full(always, tokens, np.int64)))
        counts.flags.writeable = False
        return counts
    kind, _, detail = routing.partition(":")
    total = tokens * top_k
    generator = np.random.Generator(np.random.PCG64(seed))
    if kind == "balanced":
        counts = np.diff(np.arange(experts + 1) * total // experts)
    elif kind == "measured":
        known = _measured(detail, experts, top_k)
        if int(known.sum()) == total:
            counts = generator.permutation(known)
        else:
            share = known / max(int(known.sum()) / top_k, 1.0)
            weights = np.maximum(-np.log1p(-np.minimum(share, 1 - 1e-6)), _LEAST_WEIGHT)
            counts = _typical(generator, tokens, top_k, share, weights)
    elif kind == "zipf":
        weights = np.arange(1, experts + 1, dtype=np.float64) ** -_exponent(detail)
        counts = _typical(generator, tokens, top_k, _shares(weights, top_k), weights)
    elif kind == "uniform":
        counts = _typical(generator, tokens, top_k, np.full(experts, top_k / experts), None)
    else:
        hint = did_you_mean(kind, ROUTINGS)
        raise InputError(f"unknown expert routing '{kind}'{hint}; it is one of {', '.join(ROUTINGS)}")
    counts.flags.writeable = False
    return counts


def whole_rows(counts: Floats, total: int) -> NDArray[np.int64]:
    """Integers that sum to `total`, each next to its real: the largest remainders are rounded up."""
    whole = np.floor(counts).astype(np.int64)
    order = np.argsort(whole - counts, kind="stable")
    whole[order[: total - int(whole.sum())]] += 1
    return whole


def _typical(
    generator: np.random.Generator, tokens: int, top_k: int, share: Floats, weights: Floats | None
) -> NDArray[np.int64]:
    """The mean of sorted draws in a random order; `weights` None stands for equal ones."""
    total = tokens * top_k
    draws = []
    for _ in range(_DRAWS):
        if tokens <= _EXACT_TOKENS:
            draws.append(_draw(generator, tokens, len(share), top_k, weights))
        else:
            draws.append(_draw_limit(generator, tokens, share))
    mean = np.mean(np.sort(draws, axis=1), axis=0)
    mean *= total / max(float(mean.sum()), 1.0)
    for _ in range(_DRAWS):  # an expert receives a token once at most: what is beyond goes to the others
        if mean.max() <= tokens:
            break
        mean = np.minimum(mean, tokens)
        mean *= total / float(mean.sum())
    return generator.permutation(whole_rows(np.minimum(mean, tokens), total))


def _draw(generator: np.random.Generator, tokens: int, experts: int, top_k: int, weights: Floats | None) -> Floats:
    keys = generator.random((tokens, experts))
    if weights is not None:
        keys = -np.log1p(-keys) / weights
    chosen = np.argpartition(keys, top_k - 1, axis=1)[:, :top_k]
    return np.bincount(chosen.ravel(), minlength=experts).astype(np.float64)


def _draw_limit(generator: np.random.Generator, tokens: int, share: Floats) -> Floats:
    experts = len(share)
    variance = tokens * share * (1 - share)
    # Taking each expert's part of the surplus from it fixes the sum and scales variances by about 1 - 1/experts.
    spread = np.sqrt(variance * experts / max(experts - 1, 1)) * generator.standard_normal(experts)
    spread -= spread.sum() * variance / max(float(variance.sum()), 1e-300)
    limited: Floats = np.clip(tokens * share + spread, 0.0, tokens)
    return limited


def _shares(weights: Floats, top_k: int) -> Floats:
    """Share of the tokens that choose each expert: ``1 - exp(-w t)``, with t by bisection."""
    low, high = 0.0, 1.0
    while -np.expm1(-weights * high).sum() < top_k * (1 - 1e-12) and high < 1e300:
        high *= 2
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if -np.expm1(-weights * middle).sum() < top_k else (low, middle)
    share: Floats = -np.expm1(-weights * high)
    return share


def _exponent(text: str) -> float:
    try:
        exponent = float(text)
    except ValueError:
        raise InputError(f"expert routing zipf needs an exponent, as in zipf:0.5, not '{text[:20]}'") from None
    if not 0 <= exponent <= _MAX_EXPONENT:
        raise InputError(f"expert routing zipf:{text[:20]}: the exponent must be from 0 to {_MAX_EXPONENT:g}")
    return exponent


def _measured(text: str, experts: int, top_k: int) -> NDArray[np.int64]:
    words = text.split()
    if not all(word.isdecimal() and len(word) <= 15 for word in words):
        raise InputError("expert routing measured: its counts are not all whole numbers")
    counts = np.array([int(word) for word in words], dtype=np.int64)
    if len(counts) != experts:
        raise InputError(f"expert routing measured: it has counts of {len(counts)} experts, the operator {experts}")
    total = int(counts.sum())
    if total == 0 or total % top_k or int(counts.max()) > total // top_k:
        raise InputError(f"expert routing measured: no tokens with {top_k} different experts each give its counts")
    return counts
