"""Folds worked by hand, and what the closed form must obey whatever the shapes are."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from archsim.models.systolic import DATAFLOWS, accesses, cycles, folds, mapping_efficiency, utilisation

sizes = st.integers(1, 300)
sides = st.integers(1, 64)
dataflows = st.sampled_from(DATAFLOWS)


def move_through_array(m: int, n: int, k: int, rows: int, cols: int) -> int:
    """An output-stationary fold element by element: when is the last result out at the bottom edge?

    Element (r, c) multiplies its last pair in cycle k - 1 + r + c. Its result then moves down one row a cycle, never
    two results of a column through one register at once, and is out one cycle after it has been in the last row.
    """
    last = 0
    for c in range(cols):
        free = 0  # the bottom edge passes one result of a column each cycle
        for r in reversed(range(rows)):
            at_edge = max(k - 1 + r + c + (rows - 1 - r) + 1, free)
            free = at_edge + 1
            last = max(last, at_edge)
    return last + 1


def shift_and_stream(m: int, rows: int, cols: int, count: int) -> int:
    """Weight-stationary folds cycle by cycle: load R rows, stream m rows, load the next fold meanwhile."""
    loaded = rows  # the cycle in which the first fold's weights are all in place
    end = 0
    for _ in range(count):
        start = max(loaded, end)
        end = start + m  # the last row enters the first element in cycle end - 1
        loaded = start + rows
    return end - 1 + (rows - 1) + (cols - 1) + 1


@pytest.mark.parametrize("m", [1, 3, 4, 9])
@pytest.mark.parametrize(("rows", "cols", "n", "k"), [(4, 4, 4, 4), (4, 2, 6, 8), (1, 1, 2, 3), (8, 3, 3, 40)])
def test_weight_stationary_folds_follow_each_other_as_in_a_cycle_by_cycle_account(m, rows, cols, n, k):
    count = -(-k // rows) * -(-n // cols)
    expected = shift_and_stream(m, rows, cols, count)
    assert cycles(m, n, k, rows=rows, cols=cols, dataflow="weight_stationary") == expected


@pytest.mark.parametrize(("rows", "cols", "k"), [(4, 4, 4), (4, 2, 1), (1, 1, 7), (8, 3, 5), (2, 9, 20)])
def test_output_stationary_fold_drains_causally(rows, cols, k):
    expected = move_through_array(rows, cols, k, rows, cols)
    assert cycles(rows, cols, k, rows=rows, cols=cols, dataflow="output_stationary") == expected


def test_one_multiplication_on_one_element_is_a_load_and_a_multiplication():
    assert cycles(1, 1, 1, rows=1, cols=1, dataflow="weight_stationary") == 2


def test_decode_on_a_weight_stationary_array_waits_for_its_weights():
    one_row = cycles(1, 4096, 4096, rows=128, cols=128, dataflow="weight_stationary")
    full_rows = cycles(128, 4096, 4096, rows=128, cols=128, dataflow="weight_stationary")
    assert one_row == full_rows - 127  # 1,024 folds of 128 cycles either way; only the last stream is shorter


@pytest.mark.parametrize(
    ("dataflow", "expected"),
    [("weight_stationary", 2 * 4 + 4 + 4 - 2 - 1), ("output_stationary", 9), ("input_stationary", 13)],
)
def test_scalesim_convention_of_a_single_fold(dataflow, expected):
    """SCALE-Sim reports 9 for the 4 x 4 x 4 output-stationary product whose trace has 10 lines (its issue 125)."""
    assert cycles(4, 4, 4, rows=4, cols=4, dataflow=dataflow, convention="scalesim") == expected


def test_arrays_give_what_their_elements_give():
    m, n, k = np.array([1, 7, 512]), np.array([300, 20, 8]), np.array([5, 64, 1000])
    together = cycles(m, n, k, rows=16, cols=8, dataflow="input_stationary")
    one_by_one = [cycles(*shape, rows=16, cols=8, dataflow="input_stationary") for shape in zip(m, n, k, strict=True)]
    assert together.dtype == np.int64
    assert together.tolist() == [int(each) for each in one_by_one]


def test_llm_sized_products_stay_exact_integers():
    taken = cycles(2**20, 2**18, 2**16, rows=8, cols=8, dataflow="weight_stationary")
    assert int(taken) == (2**13 * 2**15 - 1) * 2**20 + 2 * 8 + 8 + 2**20 - 2


@given(m=sizes, n=sizes, k=sizes, rows=sides, cols=sides, dataflow=dataflows)
def test_bounds(m, n, k, rows, cols, dataflow):
    shape, array = (m, n, k), {"rows": rows, "cols": cols, "dataflow": dataflow}
    physical = int(cycles(*shape, **array))
    down, across, stream = folds(*shape, **array)
    assert physical >= m * n * k / (rows * cols)
    assert physical >= int(down * across * stream)
    assert 0 < utilisation(*shape, **array) <= mapping_efficiency(*shape, **array) <= 1
    assert physical <= int(down * across) * (2 * rows + cols + int(stream) - 2)  # folds that never overlap


@given(m=sizes, n=sizes, k=sizes, rows=sides, cols=sides, dataflow=dataflows)
def test_more_work_never_takes_fewer_cycles(m, n, k, rows, cols, dataflow):
    base = cycles(m, n, k, rows=rows, cols=cols, dataflow=dataflow)
    for more in ((m + 1, n, k), (m, n + 1, k), (m, n, k + 1)):
        assert cycles(*more, rows=rows, cols=cols, dataflow=dataflow) >= base


@given(m=sizes, n=sizes, k=sizes, rows=sides, cols=sides, dataflow=dataflows)
def test_every_operand_is_read_and_every_partial_sum_comes_back(m, n, k, rows, cols, dataflow):
    ifmap, weights, written, read = accesses(m, n, k, rows=rows, cols=cols, dataflow=dataflow)
    assert ifmap >= m * k
    assert weights >= k * n
    assert written - read == m * n


def test_an_unknown_convention_is_refused():
    with pytest.raises(ValueError, match="unknown convention 'scale'"):
        cycles(1, 1, 1, rows=1, cols=1, dataflow="weight_stationary", convention="scale")
