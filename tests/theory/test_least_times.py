"""Nothing that is simulated is faster than the bound that prunes sweeps, and the bound says more than the roofline."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from archsim.kernels import CompiledInterpreter
from archsim.kernels.least import least_of
from archsim.program import Link, Machine, ProgramBuilder, Unit
from archsim.simulation import least_of_job, options_of, prepare, run_job

pytestmark = pytest.mark.theory

MODEL = "deepseek-r1-distill-qwen-1.5b"
STEPS = [("decode", 16, None, 64), ("prefill", 4, 48, None)]


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step[0])
@pytest.mark.parametrize(
    ("chip", "system"), [("custom-npu", None), ("tpu-v3-core", None), ("h100", None), ("h800", "h800-x8")]
)
def test_no_operator_is_faster_than_its_least_time(
    chip: str, system: str | None, step: tuple[str, int, int | None, int | None]
) -> None:
    phase, batch, seq, ctx = step
    job = prepare(chip, MODEL, options_of(phase, batch=batch, seq=seq, ctx=ctx, tp=2 if system else 1), system)
    least, ran = least_of_job(job), run_job(job)
    assert ran.op_table.name[least.op_table.time_ps > ran.op_table.time_ps + 1].tolist() == []
    roofline = sum(each.seconds.sum() * block.repeat for each, block in zip(job.bounds, job.blocks, strict=True))
    assert roofline * 1e12 < least.time_ps <= ran.time_ps
    assert ran.time_ps < 1.6 * least.time_ps


visits = st.tuples(st.sampled_from(["a", "b", "line", ("a", "line"), ("line", "b")]), st.integers(1, 50))


@given(st.lists(st.tuples(visits, st.sets(st.integers(1, 4), max_size=2)), min_size=1, max_size=12))
def test_no_program_is_faster_than_its_least_time(steps: list[tuple[tuple[str, int], set[int]]]) -> None:
    machine = Machine((Unit("a", "unit", 3), Unit("b", "unit"), Link("line", "link", 250_000, 2)))
    build = ProgramBuilder(machine)
    for number, ((route, size), before) in enumerate(steps):
        build.step(route, work_ps=size, nbytes=size, after=[number - back for back in before if back <= number])
    program = build.build()
    least, run = least_of(program), CompiledInterpreter(machine).run(program)
    assert max(least.busiest_ps, least.path_ps) <= run.elapsed_ps
    if len(steps) == 1:
        assert least.path_ps == run.elapsed_ps
