"""The fold loop: worked by hand, equal to the closed form, and what must hold whatever the shapes and ports are."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from archsim.cli.main import cli
from archsim.errors import InputError
from archsim.kernels.systolic import Ports, SystolicCore, run_product
from archsim.models.systolic import DATAFLOWS, accesses, bandwidth_demand, compressed, cycles

sizes = st.integers(1, 120)
sides = st.integers(1, 24)
flows = st.sampled_from(DATAFLOWS)
widths = st.integers(0, 40)
cores = st.builds(SystolicCore, sides, sides, flows, st.integers(1, 4), st.sampled_from([0.5, 1.0, 2.0]))
ports = st.builds(Ports, widths, widths, widths)


@given(sizes, sizes, sizes, sides, sides, flows, st.sampled_from(["physical", "scalesim"]))
def test_one_array_with_free_ports_takes_what_the_closed_form_says(m, n, k, rows, cols, flow, convention):
    core = SystolicCore(rows, cols, flow)
    expected = cycles(m, n, k, rows=rows, cols=cols, dataflow=flow, convention=convention)
    assert run_product(core, m, n, k, convention=convention).cycles == expected


@given(cores, ports, sizes, sizes, sizes)
def test_no_product_is_faster_than_its_multiplications_or_its_words(core, limits, m, n, k):
    run = run_product(core, m, n, k, ports=limits)
    assert run.cycles * core.rows * core.cols * core.count * core.rate >= m * n * k
    assert run.stall_cycles >= 0
    assert 0 < run.utilisation <= 1
    counts = accesses(m, n, k, rows=core.rows, cols=core.cols, dataflow=core.dataflow)
    for words, width in (
        (counts.ifmap_reads, limits.ifmap),
        (counts.filter_reads, limits.filter),
        (counts.ofmap_writes + counts.ofmap_reads, limits.ofmap),
    ):
        assert width == 0 or run.cycles * width * core.count >= words


@given(cores, ports, sizes, sizes, sizes)
def test_nothing_gets_slower_when_a_resource_grows(core, limits, m, n, k):
    now = run_product(core, m, n, k, ports=limits).cycles
    wider = Ports(*(width and width + 5 for width in (limits.ifmap, limits.filter, limits.ofmap)))
    assert run_product(core, m, n, k, ports=wider).cycles <= now
    assert run_product(replace(core, rate=2 * core.rate), m, n, k, ports=limits).cycles <= now
    assert now <= run_product(replace(core, overlap=False), m, n, k, ports=limits).cycles
    if limits == Ports():
        assert run_product(replace(core, count=2 * core.count), m, n, k).cycles <= now


@given(cores, sizes, sizes, sizes)
@settings(max_examples=50)
def test_the_timeline_holds_every_fold_once_and_an_array_does_one_at_a_time(core, m, n, k):
    run = run_product(core, m, n, k, timeline=True)
    assert len(run.timeline) == run.folds
    assert run.timeline[:, 4].max() == run.cycles
    for array in range(core.count):
        mine = run.timeline[run.timeline[:, 0] == array]
        assert (mine[1:, 2] >= mine[:-1, 3]).all()  # a fold streams after the one before


def test_a_narrow_port_by_hand():
    core = SystolicCore(4, 4, "weight_stationary")
    # two folds of 4 x 4 weights at 2 words a cycle: 8 cycles to load each, hidden behind nothing for the first one,
    # and behind a stream of 4 for the second: 8, then the second load until 16, a stream of 4 and 6 of skew
    run = run_product(core, 4, 8, 4, ports=Ports(filter=2))
    assert (run.cycles, run.stall_cycles) == (8 + 8 + 4 + 6, 8)


def test_partial_sums_that_come_back_cost_their_words():
    core = SystolicCore(4, 4, "weight_stationary")
    # two folds down k: the second one adds to 16 sums, 32 words that take 8 cycles at 4 a cycle, not the stream's 4
    assert run_product(core, 4, 4, 8, ports=Ports(ofmap=4)).stall_cycles == 4


def test_structured_sparsity_halves_the_folds():
    dense, sparse = (
        run_product(SystolicCore(8, 8, "weight_stationary", sparsity=s), 64, 8, 64) for s in (None, (2, 4))
    )
    assert (dense.folds, sparse.folds) == (8, 4)
    assert sparse.accesses.filter_reads * 2 == dense.accesses.filter_reads
    assert int(compressed(10, 2, 4)) == 6


def test_the_demand_is_what_the_accesses_need_of_each_cycle():
    shape, array = (64, 16, 16), {"rows": 8, "cols": 8, "dataflow": "output_stationary"}
    counts = accesses(*shape, **array)
    demand = bandwidth_demand(*shape, **array)
    np.testing.assert_allclose(demand[0] * cycles(*shape, **array), counts.ifmap_reads)


@pytest.mark.parametrize(
    ("core", "shape", "message"),
    [
        (SystolicCore(0, 4, "weight_stationary"), (1, 1, 1), "rows is 0"),
        (SystolicCore(4, 4, "weight_stationary", count=0), (1, 1, 1), "count is 0"),
        (SystolicCore(4, 4, "row_stationary"), (1, 1, 1), "unknown dataflow 'row_stationary'"),
        (SystolicCore(4, 4, "weight_stationary"), (0, 1, 1), "m is 0"),
        (SystolicCore(4, 4, "weight_stationary"), (1, 1, -3), "k is -3"),
        (SystolicCore(4, 4, "weight_stationary"), (2**30, 2**30, 2**30), "too large"),
        (SystolicCore(4, 4, "weight_stationary", rate=0.0), (1, 1, 1), "rate is 0"),
        (SystolicCore(4, 4, "weight_stationary", sparsity=(3, 2)), (1, 1, 1), "3:2"),
    ],
)
def test_what_cannot_be_is_one_sentence(core, shape, message):
    with pytest.raises(InputError, match=message):
        run_product(core, *shape)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--gemm 1,1,1", "either a CHIP or an --array"),
        ("--array 4x4 --gemm 1,1", "3 whole numbers"),
        ("--array 4x4:rs --gemm 1,1,1", "there are: ws, os, is"),
        ("--array 0x4 --gemm 1,1,1", "rows is 0"),
        ("--array 4x4 --gemm 1,1,1 --ports 1,-1,1", "3 whole numbers"),
        ("h800 --gemm 1,1,1", "no systolic arrays"),
        ("custom-npu --dtype fp4 --gemm 1,1,1", "cannot multiply fp4"),
    ],
)
def test_the_command_refuses_with_exit_code_2(arguments, message):
    outcome = CliRunner().invoke(cli, ["systolic", *arguments.split()])
    assert outcome.exit_code == 2
    assert message in outcome.stderr


def test_the_command_prints_json_and_draws(tmp_path):
    figure = tmp_path / "folds.svg"
    arguments = ["systolic", "--array", "8x8:os", "--gemm", "24,24,24", "--json", "--plot", str(figure)]
    outcome = CliRunner().invoke(cli, arguments)
    assert outcome.exit_code == 0
    assert '"folds": 9' in outcome.stdout
    assert figure.read_text().startswith("<?xml")
