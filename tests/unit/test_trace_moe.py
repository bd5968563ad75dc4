"""Do tokens spread over experts as random routing spreads them?"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from archsim.errors import InputError
from archsim.trace.moe import expert_counts


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 3000), st.integers(1, 96), st.data(), st.sampled_from(["uniform", "balanced"]))
def test_every_token_reaches_top_k_experts(tokens: int, experts: int, data: st.DataObject, kind: str) -> None:
    top_k = data.draw(st.integers(1, experts))
    counts = expert_counts(tokens, experts, top_k, kind)
    assert counts.shape == (experts,)
    assert counts.sum() == tokens * top_k
    assert counts.min() >= 0
    assert counts.max() <= tokens


@pytest.mark.parametrize(
    ("tokens", "active", "busiest"), [(1, 8, 32.0), (8, 57.9, 9.0), (64, 223.1, 3.4), (256, 256, 2.2)]
)
def test_deepseek_routing(tokens: int, active: float, busiest: float) -> None:
    """Means of 20 draws of Gumbel top-k, 256 experts, top 8; the closed form of the first is E(1 - (1 - k/E)^T)."""
    counts = expert_counts(tokens, 256, 8)
    assert (counts > 0).sum() == pytest.approx(active, abs=1.5)
    assert counts.max() / counts.mean() == pytest.approx(busiest, rel=0.12)


def test_the_gaussian_limit_continues_the_exact_draw() -> None:
    exact, limit = expert_counts(1024, 256, 8), expert_counts(1025, 256, 8)
    assert np.std(limit) == pytest.approx(np.std(exact), rel=0.1)
    assert np.std(limit) == pytest.approx(np.sqrt(1025 * (8 / 256) * (1 - 8 / 256)), rel=0.1)


def test_deterministic_and_seeded() -> None:
    first = expert_counts(64, 256, 8, seed=1).copy()
    expert_counts.cache_clear()
    assert (expert_counts(64, 256, 8, seed=1) == first).all()
    assert (expert_counts(64, 256, 8, seed=2) != first).any()
    with pytest.raises(ValueError, match="read-only"):
        expert_counts(64, 256, 8)[0] = 1


def test_balanced() -> None:
    assert sorted(expert_counts(5, 4, 2, "balanced")) == [2, 2, 3, 3]


@pytest.mark.parametrize("bad", [(-1, 8, 2), (4, 8, 0), (4, 8, 9), (4, 10**6, 2)])
def test_impossible_routing(bad: tuple[int, int, int]) -> None:
    with pytest.raises(InputError, match="impossible"):
        expert_counts(*bad)


def test_unknown_routing() -> None:
    with pytest.raises(InputError, match="unknown expert routing 'zipf'"):
        expert_counts(4, 8, 2, "zipf")
