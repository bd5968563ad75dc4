"""Plans: which degrees of parallelism are legal, which one is taken, and what an illegal one is told."""

from __future__ import annotations

import pytest

from archsim.errors import InputError
from archsim.mapping.plan import Plan, candidate_plans, make_plan, tensor_degrees


def plan(**changes: int | None) -> Plan:
    """A dense model of 32 heads on eight chips, tp 8, unless told otherwise."""
    options: dict[str, int | None] = {"chips": 8, "heads": 32, "experts": 0, "batch": 8, "tp": 8} | changes
    return make_plan(**options)  # type: ignore[arg-type]


def test_the_chips_that_tensor_parallelism_leaves_are_data_parallel() -> None:
    assert plan(tp=8) == Plan(tp=8, dp=1, ep=1)
    assert plan(tp=2) == Plan(tp=2, dp=4, ep=1)
    assert plan(tp=2).chips == 8


def test_experts_spread_over_all_chips_unless_told_otherwise() -> None:
    assert plan(chips=32, heads=128, experts=256, batch=32) == Plan(tp=8, dp=4, ep=32)
    assert plan(experts=256, tp=8, ep=1) == Plan(tp=8, dp=1, ep=1)


def test_a_plan_says_what_it_is() -> None:
    assert str(Plan(8, 4, 32)) == "TP8 x DP4, EP32"
    assert str(Plan(8, 1, 1)) == "TP8 x DP1"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tp": 3}, "--tp 3: must divide both the 8 chips and the 32 attention heads (1, 2, 4, 8)"),
        ({"tp": 16}, "--tp 16: must divide both the 8 chips and the 32 attention heads (1, 2, 4, 8)"),
        ({"chips": 6, "tp": 3}, "--tp 3: must divide both the 6 chips and the 32 attention heads (1, 2)"),
        (
            {"tp": 2, "batch": 6},
            "--batch 6: must be a multiple of 4, the data-parallel groups of 8 chips at TP2 (choose another --batch "
            "or --tp)",
        ),
        ({"ep": 8}, "--ep 8: the model has no experts"),
        ({"node_limit": 2}, "--node-limit 2: the model has no experts"),
        ({"experts": 256, "ep": 4}, "--ep 4: at TP8 the 256 experts can be spread over 1, 8 of 8 chips"),
        ({"experts": 256, "tp": 2, "ep": 1}, "--ep 1: at TP2 the 256 experts can be spread over 8 of 8 chips"),
        (
            {"experts": 250, "tp": 4},
            "--tp 4: the 250 experts do not divide over 8 chips, as data-parallel groups need (--redundant 6 would)",
        ),
    ],
)
def test_an_illegal_degree_is_told_the_legal_ones(changes: dict[str, int], message: str) -> None:
    with pytest.raises(InputError) as error:
        plan(**changes)
    assert str(error.value) == message


def test_degrees_of_tensor_parallelism_divide_chips_and_heads() -> None:
    assert tensor_degrees(8, 32) == [1, 2, 4, 8]
    assert tensor_degrees(12, 32) == [1, 2, 4]
    assert tensor_degrees(1, 128) == [1]


def test_candidates_keep_tensor_parallelism_inside_a_node_widest_first() -> None:
    plans = candidate_plans(chips=32, chips_per_node=8, heads=128, experts=256, batch=32)
    assert [p.tp for p in plans] == [8, 4, 2, 1]
    assert all(p.chips == p.ep == 32 for p in plans)


def test_candidates_that_the_batch_cannot_feed_are_left_out() -> None:
    plans = candidate_plans(chips=32, chips_per_node=8, heads=128, experts=256, batch=8)
    assert [(p.tp, p.dp) for p in plans] == [(8, 4), (4, 8)]
    with pytest.raises(InputError, match="--batch 2: must be a multiple of 4"):
        candidate_plans(chips=32, chips_per_node=8, heads=128, experts=256, batch=2)
