"""The closed-form models against numbers worked by hand, and that they grow where they must."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from archsim.models.collective import Level, all_gather, all_reduce, all_to_all, over_nodes, reduce_scatter
from archsim.models.matrix import systolic_latency, systolic_occupancy, tensor_core_occupancy
from archsim.models.vector import COSTS, VectorCost, vector_cycles

Collective = Callable[[float, int, Level], float]
RINGS: list[Collective] = [reduce_scatter, all_gather, all_reduce]
NODE, OUTSIDE = Level(1e-6, 100e9), Level(4e-6, 25e9)

ranks = st.sampled_from([1, 2, 4, 8, 16, 64])
sizes = st.floats(0, 1e10)


# collectives --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("collective", RINGS)
@given(sizes)
def test_one_chip_needs_no_collective(collective: Collective, nbytes: float) -> None:
    assert collective(nbytes, 1, NODE) == 0.0
    assert all_to_all(nbytes, 1, 8, NODE, OUTSIDE) == 0.0


@pytest.mark.parametrize("collective", RINGS)
@given(ranks, sizes, sizes)
def test_more_bytes_never_take_less_time(collective: Collective, p: int, one: float, other: float) -> None:
    few, many = sorted((one, other))
    assert collective(few, p, NODE) <= collective(many, p, NODE)
    assert all_to_all(few, p, 8, NODE, OUTSIDE) <= all_to_all(many, p, 8, NODE, OUTSIDE)


@pytest.mark.parametrize("collective", RINGS)
@given(st.integers(2, 100), sizes)
def test_more_chips_never_take_less_time(collective: Collective, p: int, nbytes: float) -> None:
    assert collective(nbytes, p, NODE) <= collective(nbytes, p + 1, NODE) * (1 + 1e-12)


@pytest.mark.parametrize("collective", RINGS)
@given(ranks, sizes)
def test_a_faster_or_nearer_link_never_takes_more_time(collective: Collective, p: int, nbytes: float) -> None:
    slow = collective(nbytes, p, NODE)
    assert collective(nbytes, p, Level(NODE.latency_s, 2 * NODE.bytes_per_s)) <= slow
    assert collective(nbytes, p, Level(NODE.latency_s / 2, NODE.bytes_per_s)) <= slow


def test_a_gather_by_hand() -> None:
    """8 MB on 8 chips: each receives 7 MB at 100 GB/s."""
    assert all_gather(8e6, 8, NODE) == pytest.approx(1e-6 + 70e-6)
    assert reduce_scatter(8e6, 8, NODE) == all_gather(8e6, 8, NODE)


def test_a_switch_that_adds_halves_an_all_reduce() -> None:
    assert all_reduce(8e6, 8, NODE) == pytest.approx(1e-6 + 140e-6)
    assert all_reduce(8e6, 8, Level(1e-6, 100e9, reduces=True)) == pytest.approx(1e-6 + 80e-6)


def test_a_group_over_nodes_has_all_their_ports() -> None:
    """16 MB on two nodes of 8: a node receives 8 MB through eight ports, a chip 15 MB through both of its."""
    assert over_nodes(all_gather, 16e6, 16, 8, NODE, OUTSIDE) == pytest.approx(4e-6 + 15e6 / 125e9)
    assert over_nodes(all_gather, 16e6, 16, 8, NODE, Level(4e-6, 1e9)) == pytest.approx(4e-6 + 8e6 / 8e9)
    assert over_nodes(all_gather, 16e6, 8, 8, NODE, OUTSIDE) == all_gather(16e6, 8, NODE)


def test_an_exchange_across_nodes_is_as_slow_as_its_slower_level() -> None:
    """16 MB on 16 chips, 8 a node: 7/16 stay inside, 8/16 leave the node."""
    inside, outside = 1e-6 + 7e6 / 100e9, 4e-6 + 8e6 / 25e9
    assert all_to_all(16e6, 16, 8, NODE, OUTSIDE) == pytest.approx(max(inside, outside))
    assert all_to_all(16e6, 8, 8, NODE, None) == pytest.approx(1e-6 + 14e6 / 100e9)
    assert all_to_all(16e6, 4, 1, NODE, OUTSIDE) == pytest.approx(4e-6 + 12e6 / 25e9)


def test_an_exchange_that_leaves_the_node_needs_a_link_out_of_it() -> None:
    with pytest.raises(ValueError, match="a group of 16 chips spans nodes of 8, but there is no scale-out link"):
        all_to_all(1e6, 16, 8, NODE, None)


# matrix units -------------------------------------------------------------------------------------------------


def tensor_core(m: int, n: int, k: int) -> int:
    cycles = tensor_core_occupancy(
        np.array([m]), np.array([n]), np.array([k]), step_m=64, step_n=8, step_k=16, macs_per_cycle=2048
    )
    return int(cycles[0])


def systolic(m: int, n: int, k: int, *, count: int = 1, dataflow: str = "weight_stationary", rate: float = 1.0) -> int:
    cycles = systolic_occupancy(
        np.array([m]), np.array([n]), np.array([k]), rows=128, cols=128, count=count, dataflow=dataflow, rate=rate
    )
    return int(cycles[0])


@pytest.mark.parametrize(
    ("m", "n", "k", "cycles"),
    [
        (64, 256, 16, 128),  # one wgmma: 64 x 256 x 16 / 2048
        (64, 256, 17, 256),  # a second step of k for one element
        (1, 8, 16, 4),  # one row costs a whole instruction of 64
        (8, 4096, 64, 1024),  # decode: the operands are swapped, 4096 x 8
        (65, 64, 16, 36),  # swapped: 64 x 72 instead of 128 x 64
    ],
)
def test_a_tensor_core_works_in_whole_instructions(m: int, n: int, k: int, cycles: int) -> None:
    assert tensor_core(m, n, k) == cycles


@pytest.mark.parametrize(
    ("m", "n", "k", "count", "dataflow", "rate", "cycles"),
    [
        (256, 256, 256, 1, "weight_stationary", 1.0, 4 * 256),  # four folds of weights, 256 rows through each
        (256, 256, 256, 4, "weight_stationary", 1.0, 256),  # an array for each
        (256, 256, 256, 3, "weight_stationary", 1.0, 256 + 128),  # a round; the last fold is shared by all
        (512, 128, 128, 2, "weight_stationary", 1.0, 256),  # one fold, half of its rows through each array
        (256, 256, 256, 1, "weight_stationary", 2.0, 4 * 128),  # two multiplies a cycle
        (1, 128, 128, 1, "weight_stationary", 1.0, 128),  # as long as the next weights take to shift in
        (1, 128, 129, 1, "weight_stationary", 1.0, 256),  # one row more of the reduction is one fold more
        (256, 128, 1024, 1, "output_stationary", 1.0, 2 * 1024),  # two folds of outputs, the reduction through each
        (256, 1000, 128, 1, "input_stationary", 1.0, 2 * 1000),
    ],
)
def test_a_systolic_array_works_in_whole_folds(
    m: int, n: int, k: int, count: int, dataflow: str, rate: float, cycles: int
) -> None:
    assert systolic(m, n, k, count=count, dataflow=dataflow, rate=rate) == cycles


sides = st.integers(1, 3000)
flows = st.sampled_from(["weight_stationary", "output_stationary", "input_stationary"])


@given(sides, sides, sides, flows, st.sampled_from([1, 2, 4]))
def test_no_matrix_unit_beats_its_multipliers(m: int, n: int, k: int, flow: str, count: int) -> None:
    assert tensor_core(m, n, k) * 2048 >= m * n * k
    assert systolic(m, n, k, count=count, dataflow=flow) * 128 * 128 * count >= m * n * k


@given(sides, sides, sides, flows)
def test_a_larger_tile_never_takes_fewer_cycles(m: int, n: int, k: int, flow: str) -> None:
    for grown in ((m + 1, n, k), (m, n + 1, k), (m, n, k + 1)):
        assert tensor_core(m, n, k) <= tensor_core(*grown)
        assert systolic(m, n, k, dataflow=flow) <= systolic(*grown, dataflow=flow)


@given(sides, sides, sides)
def test_a_product_and_its_transpose_cost_a_tensor_core_the_same(m: int, n: int, k: int) -> None:
    assert tensor_core(m, n, k) == tensor_core(n, m, k)


def test_the_skew_of_an_array_is_its_latency() -> None:
    assert systolic_latency(128, 128) == 254
    assert systolic_latency(1, 1) == 0


# vector units -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("elements", "cost", "cycles"),
    [
        (1024, VectorCost(1, 0), 8),  # 128 lanes
        (1024, VectorCost(1, 1), 64),  # 16 special lanes are the slower side
        (1024, VectorCost(16, 1), 128),  # and here they are not
        (1, VectorCost(1, 0), 1),
        (0, VectorCost(1, 0), 1),  # an instruction is issued all the same
        (1000, COSTS["silu_mul"], 125),  # max(3/128, 2/16)
    ],
)
def test_a_vector_unit_is_as_slow_as_the_busier_of_its_lanes(elements: int, cost: VectorCost, cycles: int) -> None:
    assert int(vector_cycles(elements, cost, lanes=128, special=16)) == cycles


@given(st.integers(0, 10**9), st.sampled_from(sorted(COSTS)), st.integers(1, 4096), st.integers(1, 1024))
def test_vector_work_grows_with_elements_and_shrinks_with_lanes(n: int, name: str, lanes: int, special: int) -> None:
    cycles = vector_cycles(n, COSTS[name], lanes=lanes, special=special)
    assert cycles <= vector_cycles(n + 1, COSTS[name], lanes=lanes, special=special)
    assert cycles >= vector_cycles(n, COSTS[name], lanes=2 * lanes, special=2 * special)
    assert cycles >= n * COSTS[name].simple / lanes
    assert cycles >= n * COSTS[name].special / special


def test_costs_add_up() -> None:
    assert COSTS["add"] + COSTS["rms"] == VectorCost(5.0, 0.0)
