"""Heads of attention that stand for others: what is left out is counted, and takes its time."""

from __future__ import annotations

import numpy as np
import pytest

from archsim.hardware import load_chip
from archsim.kernels import CompiledInterpreter
from archsim.mapping import make_target
from archsim.mapping.attention_kernel import AttentionKernel, AttentionShape
from archsim.mapping.lowering.attention import lower_attention

PREFILL = AttentionShape(1, 4096, 4096, 128, 128, 192, 128, True, None, False, "bf16", 2, 2, 2)
DECODE = AttentionShape(512, 1, 1024, 32, 8, 128, 128, True, None, False, "bf16", 2, 2, 2)
#: whose blocks fall out of step only after a while, and whose results fill the cache
SHORT = AttentionShape(
    16, 512, 512, 96, 96, 128, 128, True, None, False, "bf16", 2, 2, 2,
    kernel=AttentionKernel(persistent=False, fixed=True, outside=2000),
)  # fmt: skip


@pytest.mark.parametrize("shape", [PREFILL, DECODE, SHORT], ids=["prefill", "decode", "short"])
@pytest.mark.parametrize("chip", ["a100", "h100", "ascend-910b"])
def test_what_is_left_out_is_counted_and_takes_its_time(chip: str, shape: AttentionShape) -> None:
    target = make_target(load_chip(chip))
    counts, times = [], []
    for exact in (False, True):
        program = lower_attention(target, "attention", shape, (0, 1, 2, 3), exact=exact).program
        run = CompiledInterpreter(target.machine).run(program, 0, [i << 34 for i in range(len(program.regions))])
        weight = program.weight.astype(np.int64)
        counts.append(
            [len(program), (weight * program.work_ps).sum(), (weight * program.nbytes)[program.write].sum(),
             run.counters.bytes_requested]
        )  # fmt: skip
        times.append(run.elapsed_ps + program.carry.time_ps(run.finish_ps))
    assert counts[0][1:] == pytest.approx(counts[1][1:], rel=1e-6)
    assert times[0] == pytest.approx(times[1], rel=0.015)
    if shape is not PREFILL or chip != "ascend-910b":  # whose cache holds the keys of nearly all heads at once
        assert counts[0][0] < 0.75 * counts[1][0]


def test_split_keys_and_partial_results_leave_out_no_head() -> None:
    target = make_target(load_chip("h100"))
    for kernel, batch in ((AttentionKernel(), 1), (AttentionKernel(partials=True), 128)):
        shape = AttentionShape(batch, 1, 2048, 32, 8, 128, 128, True, None, False, "bf16", 2, 2, 2, kernel=kernel)
        program = lower_attention(target, "attention", shape, (0, 1, 2, 3)).program
        assert (program.weight == 1).all()
        assert not len(program.carry.weights)
