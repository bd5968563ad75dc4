"""TensorRT-LLM's decode kernels, as the rows of `validate op` have them: which, in how many ranges, at what cost."""

from __future__ import annotations

import pytest

from archsim.mapping.attention_kernel import AttentionKernel
from archsim.validation.op.case import Attention, Case, simulate_us
from archsim.validation.op.readers import read_attention
from archsim.validation.table import Record


def decode(heads: int, kv_heads: int, keys: int, *, batch: int = 1, kv_dtype: str = "bfloat16") -> Case:
    cells = {
        "device": "NVIDIA H100 80GB HBM3", "phase": "decode", "batch": batch, "q_len": 1, "kv_len": keys,
        "q_heads": heads, "kv_heads": kv_heads, "head_dim": 128, "dtype": "bfloat16", "kv_dtype": kv_dtype,
        "latency_us": 20, "source_file": "h100_sxm/attention/trtllm/1.3.0rc20/generation_attention_perf.parquet",
    }  # fmt: skip
    case = read_attention(Record("here:1", {name: str(cell) for name, cell in cells.items()}))
    assert isinstance(case, Case)
    return case


def kernel_of(case: Case) -> AttentionKernel:
    core = case.kernels[-1]
    assert isinstance(core, Attention)
    return core.shape.kernel


@pytest.mark.parametrize(
    ("heads", "keys", "batch", "resident", "ranges"),
    [(64, 1024, 1, 1, 3), (32, 1024, 1, 1, 3), (32, 2048, 1, 1, 5), (8, 32768, 1, 1, 17), (4, 512, 64, 2, 2),
     (64, 128, 64, 4, 1)],
)  # fmt: skip
def test_the_kernel_on_the_lanes_takes_the_blocks_that_its_source_says(
    heads: int, keys: int, batch: int, resident: int, ranges: int
) -> None:
    """1,024 threads a core in blocks of 256 or more; 128 keys for 256 threads in each range, at least."""
    kernel = kernel_of(decode(heads, heads, keys, batch=batch))
    assert (kernel.lanes, kernel.resident, kernel.ranges) == (True, resident, ranges)


def test_blocks_beyond_the_cores_come_in_a_second_wave() -> None:
    """Three ranges of 64 heads are 192 blocks for 132 cores, of 32 heads 96; measured 28.2 and 16.7 us."""
    two, one = (simulate_us(decode(heads, heads, 1024)) for heads in (64, 32))
    assert 1.2 < two / one < 1.8


def test_a_head_more_takes_its_time_outside_the_loop_of_xqa_by_wgmma() -> None:
    """Blocks of 128 keys, one a core: measured 6.1 us with four heads and 10 with 32."""
    few, many = (decode(heads, 1, 128, kv_dtype="fp8") for heads in (4, 32))
    assert (kernel_of(few).outside, kernel_of(many).outside) == (800, 6400)
    assert 2.0 < simulate_us(many) - simulate_us(few) < 4.5
    assert kernel_of(decode(32, 8, 4096, batch=8)).outside == 4000  # by mma.sync, whatever the heads
