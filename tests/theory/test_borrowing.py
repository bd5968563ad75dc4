"""Kernels that a small block has in common with a larger one: simulated once, and nothing of the step is lost."""

from __future__ import annotations

from itertools import pairwise

import pytest

import archsim
from archsim.mapping import Kernel, Lowered, Target, lower
from archsim.simulation import Options, prepare
from archsim.simulation.borrowing import borrowers
from archsim.training import TrainPlan, simulate_training

pytestmark = pytest.mark.theory

STEP = {"phase": "prefill", "seq": 1024, "quant": "fp8", "routing": "balanced"}


def test_dense_layers_of_deepseek_borrow_attention_and_llama_nothing() -> None:
    job = prepare("h800", "deepseek-v3", Options("decode", 32, ctx=512, tp=1, quant="fp8", mtp=True), "h800-x32")
    found = borrowers(job.blocks, job.target)
    assert {job.blocks[i].name for i in found} == {"dense", "mtp"}
    llama = prepare("h800", "llama-3.1-8b", Options("decode", 1, ctx=512))
    assert not borrowers(llama.blocks, llama.target)


def test_a_step_that_borrows_takes_the_time_of_one_that_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    some = archsim.simulate("h800", "deepseek-v2-lite", **STEP)  # type: ignore[arg-type]
    monkeypatch.setattr("archsim.simulation.borrowing.SMALL", 0.0)
    every = archsim.simulate("h800", "deepseek-v2-lite", **STEP)  # type: ignore[arg-type]
    assert some.time_s == pytest.approx(every.time_s, rel=3e-3)
    for column in ("flops", "dram_bytes", "activates"):
        assert some.op_table.total(column) == pytest.approx(every.op_table.total(column), rel=1e-2)
    blocks, times = some.op_table.block, some.op_table.time_ps
    mine = [i for i, name in enumerate(some.op_table.name) if name == "self_attn.attention"]
    assert [str(blocks[i]) for i in mine] == ["dense", "moe"]
    assert times[mine[0]] == times[mine[1]]
    assert (every.op_table.start_ps[1:] >= every.op_table.start_ps[:-1]).all()
    assert (some.op_table.start_ps[1:] >= some.op_table.start_ps[:-1]).all()  # each block has its place in the step


def test_the_timeline_of_a_step_that_borrows_has_no_gap() -> None:
    step = archsim.simulate("h800", "deepseek-v2-lite", timeline=True, **STEP)  # type: ignore[arg-type]
    lane = sorted((s.start_ps, s.start_ps + s.dur_ps) for s in step.timeline if s.lane == "compute")
    gaps = [begin - end for (_, end), (begin, _) in pairwise(lane)]
    assert lane[0][0] < 2e7
    assert max(gaps) < 2e7  # a launch


def test_passes_of_dense_layers_borrow_from_those_of_layers_of_experts(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []

    def counted(kernel: Kernel, target: Target, *, exact: bool = False) -> Lowered:
        made.append(kernel.name)
        return lower(kernel, target, exact=exact)

    monkeypatch.setattr("archsim.simulation.blocks.lower", counted)
    plan, steps, counts = TrainPlan(dp=8, ep=8, batch=16), [], []
    for small in (0.1, 0.0):
        monkeypatch.setattr("archsim.simulation.borrowing.SMALL", small)
        made.clear()
        steps.append(simulate_training("hgx-h100", "deepseek-v2-lite", plan, seq=256))
        counts.append(made.count("self_attn.attention.backward"))
    assert counts == [1, 2]
    some, every = ({block.name: block for block in step.passes} for step in steps)
    assert some["moe"] == every["moe"]
    assert some["dense"].backward.time == pytest.approx(every["dense"].backward.time, rel=0.01)
    assert steps[0].time_s == pytest.approx(steps[1].time_s, rel=1e-3)
