"""The order in which blocks of queries are worked on: no core idles long, and keys are fetched about once."""

from __future__ import annotations

import numpy as np

from archsim.engine import CompiledInterpreter
from archsim.hardware import load_chip
from archsim.mapping import make_target
from archsim.mapping.lowering.attention import AttentionShape, lower_attention

H100 = make_target(load_chip("h100"))


def test_keys_that_exceed_the_cache_are_fetched_about_once() -> None:
    shape = AttentionShape(4, 1024, 1024, 64, 64, 192, 128, True, None, False, "bf16", 2.0, 2.0)
    lowered = lower_attention(H100, "attention", shape, (0, 1, 2, 3))
    run = CompiledInterpreter(H100.machine).run(lowered.program, 0, [i << 34 for i in range(len(lowered.tensors))])
    tokens = shape.batch * shape.heads * shape.q_len
    unique = tokens * 2 * (192 + 192 + 128)  # queries, keys, values: three times the cache
    assert unique > 3 * H100.cache_bytes / 2
    assert unique <= run.counters.bytes_read <= 1.1 * unique


def test_cores_share_the_work_of_causal_attention_evenly() -> None:
    shape = AttentionShape(1, 4096, 4096, 32, 8, 128, 128, True, None, False, "bf16", 2.0, 2.0)
    program = lower_attention(H100, "attention", shape, (0, 1, 2, 3)).program
    work = np.bincount(program.tag[program.tag >= 0], program.work_ps[program.tag >= 0], H100.cores)
    assert work.max() <= 1.05 * work.mean()
