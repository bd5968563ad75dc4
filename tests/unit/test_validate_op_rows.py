"""Rows of measured operators become the kernels, bytes and FLOPs that a reader would write down."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest

from archsim.mapping.tiling import chunk_bytes
from archsim.validation.op import build
from archsim.validation.op.case import Attention, Case, Gradients, Product, Vector, simulate_us, target_of, too_fast
from archsim.validation.op.dtypes import FORMATS, Format, format_of, width
from archsim.validation.op.published import read_published
from archsim.validation.op.readers import read_attention, read_matmul, read_mla, read_moe, read_rows
from archsim.validation.op.routing import power_law, rank_rows
from archsim.validation.op.sources import SOURCES, source_of
from archsim.validation.table import Record

GEMM = "h100_sxm/gemm/trtllm/1.3.0rc20/gemm_perf.parquet"
ATTENTION = "h100_sxm/attention/trtllm/1.3.0rc20/context_attention_perf.parquet"


def record(**cells: object) -> Record:
    return Record("here:1", {name: str(cell) for name, cell in cells.items()})


def gemm(dtype: str = "bfloat16", device: str = "NVIDIA H100 80GB HBM3", **more: object) -> Case | str:
    cells = {"device": device, "M": 128, "N": 4096, "K": 2048, "dtype": dtype, "latency_us": 20, "source_file": GEMM}
    return read_matmul(record(**{**cells, **more}))


def test_a_product_is_one_kernel_and_a_quantised_one_more() -> None:
    plain, fp8, block = gemm(), gemm("fp8"), gemm("fp8_block")
    assert isinstance(plain, Case)
    assert isinstance(fp8, Case)
    assert isinstance(block, Case)
    (product,) = plain.kernels
    assert isinstance(product, Product)
    assert product.flops == 2 * 128 * 4096 * 2048
    assert product.nbytes == 2 * (128 * 2048 + 4096 * 2048 + 128 * 4096)
    assert [type(kernel) for kernel in block.kernels] == [Vector, Product]
    kinds = [type(kernel) for kernel in fp8.kernels]  # zero, maximum, quantise, cast
    assert kinds == [*[Vector] * 4, Product]
    assert (plain.group, block.group) == ("h100 gemm bf16", "h100 gemm fp8_block")
    ada = gemm("fp8_block", "NVIDIA L40S")
    assert isinstance(ada, Case)
    assert [getattr(case.kernels[-1], "tile", None) for case in (block, ada)] == [None, (32, 128, 128, 3)]


@pytest.mark.parametrize(
    ("case", "reason"),
    [
        (gemm(device="abacus"), "no preset of the abacus"),
        (gemm("sq"), "SmoothQuant"),
        (gemm("nvfp4"), "multiplies no fp4"),
        (gemm("fp7"), "'fp7' is not known"),
        (gemm(source_file="my notes"), "how the source measured is not known"),
        (gemm(op="q_proj(maybe fused qkv)"), "doubts"),
    ],
)
def test_what_cannot_be_expressed_has_its_reason(case: Case | str, reason: str) -> None:
    assert isinstance(case, str)
    assert reason in case


def attention(phase: str, **more: object) -> Case | str:
    cells = {
        "device": "B200", "phase": phase, "batch": 2, "q_len": 1 if phase == "decode" else 512, "kv_len": 512,
        "q_heads": 8, "kv_heads": 2, "head_dim": 128, "dtype": "bfloat16", "kv_dtype": "fp8", "latency_us": 20,
        "source_file": ATTENTION,
    }  # fmt: skip
    return read_attention(record(**{**cells, **more}))


def test_attention_follows_what_rotates_and_appends() -> None:
    prefill, decode, fused = attention("prefill"), attention("decode"), attention("decode", device="H100")
    assert isinstance(prefill, Case)
    # a prefill in fp8 of activations in bf16 has one more small kernel; XQA for Hopper rotates and appends itself
    for case, kernels in ((prefill, 4), (decode, 3), (fused, 2)):
        assert isinstance(case, Case)
        *before, core = case.kernels
        assert len(case.kernels) == kernels
        assert all(isinstance(each, Vector) for each in before)
        assert isinstance(core, Attention)
        assert core.shape.kv_bytes == 1
        assert core.shape.dtype == "fp8"  # as the cache is held
        assert core.shape.kv_len == 512
    core = prefill.kernels[-1]
    assert isinstance(core, Attention)
    assert core.flops == 2 * 2 * 8 * (512 * 513 // 2) * 256
    row = record(device="A100", phase="prefill", batch=1, q_len=64, kv_len=100, q_heads=8, kv_heads=8, head_dim=128,
                 dtype="fp16", latency_us=9, source_file="Vidur")  # fmt: skip
    vidur = read_attention(row)
    assert isinstance(vidur, Case)
    (only,) = vidur.kernels
    assert isinstance(only, Attention)
    assert only.shape.kv_len == 164  # 100 cached and 64 new
    v0 = read_attention(replace(row, cells={**row.cells, "device": "H100", "source_file": "LLMServingSim v0/x"}))
    assert isinstance(v0, Case)
    assert isinstance(v0.kernels[0], Attention)
    assert (v0.kernels[0].shape.kv_len, v0.kernels[0].shape.causal) == (100, False)  # all keys, unmasked


@pytest.mark.parametrize(("phase", "batch", "copies"), [("decode", 1, 1), ("decode", 4, 3), ("prefill", 4, 1)])
def test_vllm_copies_keys_into_pages_and_swaps_the_heads_of_several_sequences(
    phase: str, batch: int, copies: int
) -> None:
    row = record(device="RTX4090", phase=phase, batch=batch, q_len=1 if phase == "decode" else 64, kv_len=32,
                 q_heads=32, kv_heads=8, head_dim=128, dtype="bf16", latency_us=9,
                 source_file="LLMServingSim profiler/perf/x")  # fmt: skip
    case = read_attention(row)
    assert isinstance(case, Case)
    assert [type(kernel) for kernel in case.kernels if not isinstance(kernel, Vector)] == [Attention]
    assert len(case.kernels) == 1 + copies
    if batch > 1:  # a profiler adds up what kernels take; a loop of graphs has the gaps between them
        loop = replace(case, source=replace(case.source, summed=False))
        gaps = simulate_us(loop) - simulate_us(case)
        launch = target_of("rtx-4090").launch_s(vector=True) * 1e6
        assert gaps == pytest.approx(copies * launch, rel=0.5)


def test_a_group_without_a_kernel_of_its_own_is_multiplied_in_16_bits() -> None:
    for kv_heads, dtype in ((2, "fp8"), (8, "bf16")):
        case = attention("decode", device="H100", kv_heads=kv_heads)
        assert isinstance(case, Case)
        core = case.kernels[-1]
        assert isinstance(core, Attention)
        assert (core.shape.dtype, core.shape.kv_bytes) == (dtype, 1)


def test_heads_are_normalised_one_by_one_and_phi_adds_twice() -> None:
    cells = {"device": "RTXPRO6000", "op": "qk_norm", "rows": 64, "cols": 2048, "dtype": "bf16", "latency_us": 9,
             "model": "Qwen3-32B", "tp": 1, "source_file": "LLMServingSim perf/x"}  # fmt: skip
    heads = read_rows(record(**cells))
    assert isinstance(heads, Case)
    (only,) = heads.kernels
    assert isinstance(only, Vector)
    assert (only.rows, only.cols) == (64 * 16, 128)
    phi = read_rows(record(**{**cells, "device": "H100", "op": "add", "model": "phi-2", "source_file": "Vidur"}))
    assert isinstance(phi, Case)
    assert len(phi.kernels) == 2


def test_attention_of_a_compiler_goes_through_memory() -> None:
    """Two sequences of 100 cached tokens and a new one: the cache is copied, 8 heads share 2 heads of keys."""
    row = record(device="TPU-v6e-1", phase="decode", batch=2, q_len=1, kv_len=100, q_heads=8, kv_heads=2, head_dim=128,
                 dtype="bf16", latency_us=90, source_file="LLMServingSim v0/perf_models/TPU-v6e-1/x")  # fmt: skip
    case = read_attention(row)
    assert isinstance(case, Case)
    append, scores, softmax, values = case.kernels
    assert isinstance(append, Vector)
    assert append.nbytes == 2 * 2 * 2 * 101 * 2 * 128 * 2  # read and written, keys and values
    assert isinstance(scores, Product)
    assert isinstance(values, Product)
    assert scores.flops == values.flops == 2 * 2 * 8 * 101 * 128
    assert isinstance(softmax, Vector)
    assert softmax.nbytes == 2 * 2 * 8 * 101 * 2


def test_a_time_beyond_the_peaks_is_no_time_of_this_operator() -> None:
    slow, fast = gemm(), gemm(latency_us=1)
    assert isinstance(slow, Case)
    assert isinstance(fast, Case)
    assert not too_fast(slow)
    assert too_fast(fast)  # 2.1 GFLOP in a microsecond


def test_mla_decodes_absorbed() -> None:
    case = read_mla(record(device="H100", phase="decode", batch=4, q_len=1, kv_len=1000, heads_per_gpu=16,
                           dtype="bfloat16", kv_dtype="fp8", latency_us=9, source_file="x/mla/y"))  # fmt: skip
    assert isinstance(case, Case)
    core = case.kernels[-1]
    assert isinstance(core, Attention)
    assert (core.shape.d_qk, core.shape.d_v, core.shape.kv_heads, core.shape.kv_shared) == (576, 512, 1, True)


def test_mla_decode_has_another_kernel_on_every_kind_of_matrix_unit() -> None:
    cells = {"phase": "decode", "batch": 4, "q_len": 1, "kv_len": 1000, "dtype": "bfloat16", "kv_dtype": "bfloat16",
             "latency_us": 99, "source_file": "x/mla/y"}  # fmt: skip
    older, few, many = (
        read_mla(record(device=device, heads_per_gpu=heads, **cells))
        for device, heads in (("A100", 32), ("B200", 32), ("B200", 64))
    )
    assert isinstance(older, Case)
    assert isinstance(few, Case)
    assert isinstance(many, Case)
    assert (len(older.kernels), len(few.kernels)) == (2, 3)  # where sequences begin, its rotation finds itself
    cores = [case.kernels[-1] for case in (older, few, many)]
    kernels = [core.shape.kernel for core in cores if isinstance(core, Attention)]
    assert (kernels[0].pieces, kernels[0].merge) == (2, "kernel")
    assert (kernels[1].most, kernels[1].merge) == (16, "cluster")
    assert kernels[2].most > 64


def test_queries_of_mla_are_narrowed_where_eight_bits_are_multiplied() -> None:
    wide = build.mla_decode(256, 8, 64, 2, dtype="bf16", small=0)[0]
    narrow = build.mla_decode(256, 8, 64, 1, dtype="fp8", small=0)[0]
    assert isinstance(wide, Vector)
    assert isinstance(narrow, Vector)
    queries, latent = 256 * 64, 256 * 576
    assert wide.nbytes == 256 * 64 * 65 * 2 + latent * 2 + queries * 64 * 2 + latent * 2
    assert narrow.nbytes == 256 * 64 * 65 * 2 + latent * 2 + queries * 512 * 2 + queries * 576 + latent


def test_experts_of_one_rank() -> None:
    case = read_moe(record(device="H100", model="Mixtral", num_tokens=64, hidden=4096, inter=14336, topk=2, experts=8,
                           tp=2, ep=4, dtype="bfloat16", distribution="balanced", latency_us=99,
                           source_file="x/moe/y"))  # fmt: skip
    assert isinstance(case, Case)
    up, down = (kernel for kernel in case.kernels if isinstance(kernel, Product))
    assert (up.shape.m, up.shape.n, up.shape.k) == ((16, 16), 14336, 4096)  # gate and up of half the inner width
    assert (down.shape.n, down.shape.k) == (4096, 7168)
    kinds = [type(kernel) for kernel in case.kernels]  # routing, sorting, sizes, gather; SwiGLU; weighted sum
    assert kinds == [*[Vector] * 4, Product, Vector, Product, Vector]


def test_vector_kernels_of_experts_wait_for_their_rows() -> None:
    cells = {"model": "x", "num_tokens": 4096, "hidden": 2048, "inter": 768, "topk": 8, "experts": 128, "tp": 1,
             "dtype": "bfloat16", "distribution": "balanced", "latency_us": 999,
             "source_file": "x/moe/y"}  # fmt: skip
    whole, sharded = (read_moe(record(device="H100", ep=ep, **cells)) for ep in (1, 8))
    assert isinstance(whole, Case)
    assert isinstance(sharded, Case)
    gather, swiglu, total = (whole.kernels[i] for i in (5, 7, 9))
    assert isinstance(gather, Vector)
    assert isinstance(swiglu, Vector)
    assert isinstance(total, Vector)
    assert gather.loads is not None
    assert swiglu.loads is not None
    assert total.loads is not None
    assert [gather.loads.trips(2048), swiglu.loads.trips(768)] == [3, 2]  # a row of either fits one load of the block
    assert total.loads.trips(2048) == 1 + 2 * 8  # eight results, each behind its index
    fewer = sharded.kernels[9]
    assert isinstance(fewer, Vector)
    assert fewer.loads is not None
    assert fewer.loads.trips(2048) == 1 + 2  # one of eight is on this rank


def test_blocks_of_experts_are_scaled_by_few_warps_on_hopper() -> None:
    cells = {"model": "x", "num_tokens": 4096, "hidden": 7168, "inter": 2048, "topk": 8, "experts": 128, "tp": 8,
             "ep": 8, "dtype": "fp8_block", "distribution": "balanced", "latency_us": 999,
             "source_file": "x/moe/y"}  # fmt: skip
    hopper, blackwell = (read_moe(record(device=device, **cells)) for device in ("H100", "B200"))
    assert isinstance(hopper, Case)
    assert isinstance(blackwell, Case)
    scale, wide = hopper.kernels[5], blackwell.kernels[5]  # after routing, sorting and gathering; no kernel for sizes
    assert isinstance(scale, Vector)
    assert isinstance(wide, Vector)
    assert (scale.rows, wide.rows) == (4096 * 7168 // 128, 4096)
    assert scale.nbytes == wide.nbytes
    one = replace(hopper, kernels=(scale,), weights=frozenset())
    waits = 4096 * 7168 / 128 / (132 * 8) * 0.95  # microseconds: a round trip for each 128 elements of a warp
    assert waits < simulate_us(one) < waits + 10


def test_fp4_experts_run_in_fused_kernels_up_to_256() -> None:
    cells = {"device": "B200", "model": "x", "num_tokens": 64, "hidden": 4096, "inter": 2048, "topk": 8, "tp": 2,
             "ep": 4, "dtype": "nvfp4", "distribution": "power_law_1.2", "latency_us": 99,
             "source_file": "x/moe/y"}  # fmt: skip
    fused, apart = (read_moe(record(experts=experts, **cells)) for experts in (256, 384))
    assert isinstance(fused, Case)
    assert isinstance(apart, Case)
    assert [type(kernel) for kernel in fused.kernels] == [*[Vector] * 3, Product, Product]
    up = fused.kernels[3]
    assert isinstance(up, Product)
    assert up.shape.c_bytes * up.shape.n == (0.5 + 1 / 16) * 1024  # SwiGLU leaves half of the columns, in fp4
    assert sum(up.shape.m) <= 64 * 8
    assert "share evenly" in str(read_moe(record(experts=254, **cells)))
    assert len(apart.kernels) == len(fused.kernels) + 8  # 4 of PyTorch's routing, sizes, gather, SwiGLU, weighted sum


def test_mxfp4_experts_run_in_the_kernels_that_the_chip_has() -> None:
    cells = {"model": "gpt-oss", "num_tokens": 64, "hidden": 2880, "inter": 2880, "topk": 4, "experts": 128, "tp": 1,
             "distribution": "balanced", "latency_us": 99, "source_file": "x/moe/y"}  # fmt: skip
    unpacked, alone = (read_moe(record(device="H100", dtype="w4a16_mxfp4", ep=ep, **cells)) for ep in (4, 1))
    mixed = read_moe(record(device="B200", dtype="w4a8_mxfp4_mxfp8", ep=4, **cells))
    assert isinstance(unpacked, Case)
    assert isinstance(alone, Case)
    assert isinstance(mixed, Case)
    # top-k, sorting, gate and up with SwiGLU, down, sum; a rank of several first cuts its experts out
    assert [type(kernel) for kernel in alone.kernels] == [*[Vector] * 5, Product, Product, Vector]
    assert len(unpacked.kernels) == len(alone.kernels) + 3
    up, both = (case.kernels[place] for case, place in ((unpacked, 8), (mixed, 3)))
    assert isinstance(up, Product)
    assert isinstance(both, Product)
    assert (up.shape.dtype, up.shape.convert_b) == ("bf16", True)
    assert (both.shape.dtype, both.shape.convert_b) == ("fp8", False)  # the slower format's rate, nothing to unpack
    assert both.shape.b_bytes < both.shape.b_held == both.shape.a_bytes  # 4 bits take 8 in the scratchpad only
    narrow = replace(both.shape, b_padded=None)
    assert chunk_bytes(128, 128, 128, 1, both.shape) > chunk_bytes(128, 128, 128, 1, narrow)
    assert [type(kernel) for kernel in mixed.kernels[-3:]] == [Product, Vector, Vector]
    assert "untuned" in str(read_moe(record(device="B200", dtype="w4a16_mxfp4", ep=4, **cells)))
    assert "two formats" in str(read_moe(record(device="H100", dtype="w4a8_mxfp4_mxfp8", ep=4, **cells)))


def test_routing_conserves_rows_and_stays_within_tokens() -> None:
    for tokens, experts, top_k, alpha in ((1, 256, 8, 1.01), (64, 128, 8, 1.2), (4096, 16, 1, 1.2), (128, 8, 2, 1.01)):
        counts = power_law(tokens, experts, top_k, experts // 4, alpha)
        assert counts.sum() == tokens * top_k
        assert 0 <= counts.min() <= counts.max() <= tokens
        rows = rank_rows(tokens, experts, top_k, experts // 4, f"power_law_{alpha}")
        assert rows is not None
        assert sum(rows) == counts.reshape(-1, 4).sum(axis=1).max()
        even = [sum(rank_rows(tokens, experts, top_k, ranks, "balanced") or ()) for ranks in (1, experts // 4)]
        assert even[0] == tokens * top_k
        assert even[1] <= max(-(-tokens * top_k // (experts // 4)), 4)
    assert rank_rows(4, 8, 2, 1, "activated=8") is None


def test_first_collector_gives_what_is_missing_to_the_largest() -> None:
    # of one token, no expert is worth a whole row: the first eight get one each, so that all are on one rank, if it has
    # as many (A100: 530 us of DeepSeek-V3 on 4, 8, 16 and 32 ranks; 223 and 127 us of Qwen3-235B on 16 and 32)
    for ranks in (4, 32, 64):
        held = 256 // ranks
        rows = rank_rows(1, 256, 8, ranks, "power_law_1.2", unbounded=True)
        assert rows == (1,) * min(8, held) + (0,) * max(held - 8, 0)
    assert sum(rank_rows(1, 256, 8, 32, "power_law_1.2") or ()) == 1
    for tokens, experts, top_k, alpha in ((64, 128, 8, 1.2), (4096, 8, 2, 1.01), (32, 384, 8, 1.2)):
        counts = power_law(tokens, experts, top_k, 4, alpha, unbounded=True)
        assert counts.sum() == tokens * top_k
        assert 0 <= counts.min() <= counts.max() <= tokens  # a token that is given an expert twice takes another one


def test_experts_whose_kernel_no_column_tells_are_a_group_of_their_own() -> None:
    cells = {"num_tokens": 64, "hidden": 5120, "inter": 8192, "topk": 1, "tp": 2, "distribution": "balanced",
             "latency_us": 99, "source_file": "x/moe/y"}  # fmt: skip
    groups = {
        ("H100", "Llama-4-Maverick", 128, 8, "bfloat16"): "h100 moe (kernel unknown) bf16",  # 16 a rank, as Scout has
        ("H100", "Llama-4-Maverick", 128, 4, "bfloat16"): "h100 moe bf16",  # 32 a rank: no other model has as many
        ("H100", "Llama-4-Maverick", 128, 8, "fp8_block"): "h100 moe fp8_block",  # one kernel, nothing to tune
        ("H100", "Mixtral-8x7B", 8, 1, "bfloat16"): "h100 moe bf16",
        ("B200", "DeepSeek-V3", 256, 8, "nvfp4"): "b200 moe (kernel unknown) nvfp4",
        ("B200", "Kimi-K2", 384, 8, "nvfp4"): "b200 moe nvfp4",
        ("B200", "gpt-oss-120b", 128, 4, "w4a8_mxfp4_mxfp8"): "b200 moe (kernel unknown) w4a8_mxfp4_mxfp8",
        ("B200", "gpt-oss-120b", 128, 1, "w4a8_mxfp4_mxfp8"): "b200 moe w4a8_mxfp4_mxfp8",
        ("H100", "gpt-oss-120b", 128, 4, "w4a16_mxfp4"): "h100 moe w4a16_mxfp4",  # Triton's: not tuned there
    }
    for (device, model, experts, ep, dtype), group in groups.items():
        case = read_moe(record(device=device, model=model, experts=experts, ep=ep, dtype=dtype, **cells))
        assert isinstance(case, Case)
        assert case.group == group


def test_kernels_of_experts_begin_before_the_one_before_has_ended_from_hopper_on() -> None:
    cells = {"model": "Mixtral-8x7B", "num_tokens": 8, "hidden": 4096, "inter": 14336, "topk": 2, "experts": 8, "tp": 8,
             "ep": 1, "dtype": "bfloat16", "distribution": "balanced", "latency_us": 40,
             "source_file": "x/moe/y"}  # fmt: skip
    for device, startup_us in (("H100", 1.5), ("B200", 2.1), ("L40S", 0.0)):
        case = read_moe(record(device=device, **cells))
        assert isinstance(case, Case)
        assert case.dependent == 1  # TensorRT-LLM's own routing is the first kernel
        none = replace(case, source=replace(case.source, early=0.0))
        saved = simulate_us(none) - simulate_us(case)
        assert saved == pytest.approx(0.3 * startup_us * (len(case.kernels) - 1), abs=0.6)
    of_pytorch = read_moe(record(device="H100", **{**cells, "experts": 256, "topk": 8}))
    assert isinstance(of_pytorch, Case)
    assert of_pytorch.dependent == 5


def test_more_heads_than_a_kernel_packs_are_left_to_the_lanes() -> None:
    """On Hopper and Blackwell whatever the cache holds; of 64 heads that share keys each reads them again there."""
    cells = {"phase": "decode", "batch": 16, "q_len": 1, "kv_len": 4096, "kv_heads": 1, "head_dim": 128,
             "dtype": "bfloat16", "latency_us": 99, "source_file": "x/attention/trtllm/1.3.0/y"}  # fmt: skip
    found = {}
    for device, heads, cache in product(("B200", "H100", "L40S"), (32, 64), ("bfloat16", "fp8")):
        case = read_attention(record(device=device, q_heads=heads, kv_dtype=cache, **cells))
        assert isinstance(case, Case)
        core = case.kernels[-1]
        assert isinstance(core, Attention)
        found[device, heads, cache] = core.shape.kernel.lanes
    lanes = {key for key, there in found.items() if there}
    assert lanes == {*product(("B200", "H100"), (64,), ("bfloat16", "fp8")), ("L40S", 64, "bfloat16")}


def test_values_of_the_first_decode_rows_lie_where_their_keys_do() -> None:
    cells = {"device": "A100", "phase": "decode", "batch": 16, "q_len": 1, "kv_len": 4096, "q_heads": 16,
             "head_dim": 128, "dtype": "bfloat16", "kv_dtype": "bfloat16", "latency_us": 99}  # fmt: skip
    first, later = "a100_sxm/attention/trtllm/1.0.0/x.parquet", "a100_sxm/attention/trtllm/1.3.0/x.parquet"
    shared, own, lanes = (
        read_attention(record(kv_heads=heads, source_file=source, **cells))
        for heads, source in ((2, first), (2, later), (16, first))
    )
    operands = []
    for case in (shared, own, lanes):
        assert isinstance(case, Case)
        core = case.kernels[-1]
        assert isinstance(core, Attention)
        operands.append(core.operands[1:3])
    assert [k == v for k, v in operands] == [True, False, False]  # lanes read values when all keys are long evicted
    assert isinstance(shared, Case)
    assert isinstance(own, Case)
    assert simulate_us(shared) < 0.75 * simulate_us(own)
    assert too_fast(replace(own, expected_us=10))  # 27 of 67 MB are beyond the cache
    assert not too_fast(replace(shared, expected_us=10))


def test_vector_kernels_move_what_they_must() -> None:
    base = {"device": "A100", "rows": 64, "cols": 4096, "dtype": "fp16", "latency_us": 5, "source_file": "Vidur x"}
    gated = read_rows(record(op="mlp_act", model="llama", **base))
    plain = read_rows(record(op="mlp_act", model="microsoft/phi-2", **base))
    assert isinstance(gated, Case)
    assert isinstance(plain, Case)
    assert (gated.kernels[0].nbytes, plain.kernels[0].nbytes) == (3 * 64 * 4096 * 2, 2 * 64 * 4096 * 2)
    eager = read_rows(record(**{**base, "op": "rope", "model": "x", "source_file": "LLMServingSim v0"}))
    assert "eager" in str(eager)
    assert "resolution" in str(read_rows(record(op="add", model="x", **{**base, "latency_us": 0})))


def test_vector_kernels_of_a_model_find_what_the_product_before_left() -> None:
    row = {"device": "RTX4090", "op": "act_fn", "model": "llama", "dtype": "bf16", "latency_us": 27, "tp": 1}
    after = read_rows(record(rows=512, cols=14336, source_file="LLMServingSim x", **row))
    assert isinstance(after, Case)
    alone = replace(after, before=())
    # 29 MB that 235 MB of weights passed in a cache of 72 MB: some of them come from memory again
    assert simulate_us(after) > 1.5 * simulate_us(alone)


def test_the_error_function_keeps_the_lanes_of_an_a100_busy() -> None:
    base = {"device": "A100", "op": "mlp_act", "cols": 10240, "rows": 4096, "dtype": "fp16", "latency_us": 123, "tp": 1}
    phi = read_rows(record(model="microsoft/phi-2", source_file="Vidur x", **base))
    assert isinstance(phi, Case)
    wide = replace(phi, kernels=build.elementwise(4096, 10240, "gelu", inputs=1))
    erf, tanh = simulate_us(phi), simulate_us(wide)
    assert erf > 1.25 * tanh  # 168 MB could pass in 100 us
    assert erf > 4096 * 10240 * 27 / (108 * 64 * 1.41e9) * 1e6


def test_reductions_of_a_wave_of_64_lanes_take_longer() -> None:
    base = {"op": "softmax", "rows": 4096, "cols": 4096, "dtype": "fp16", "latency_us": 200, "model": "x"}
    loads = {}
    for device in ("MI210", "A100"):
        case = read_rows(record(device=device, source_file="LLMCompass x", **base))
        assert isinstance(case, Case)
        kernel = case.kernels[0]
        assert isinstance(kernel, Vector)
        assert kernel.loads is not None
        loads[device] = kernel.loads
    assert (loads["A100"].width, loads["MI210"].width) == (8, 4)  # 16 B of 2 and of 4 bytes an element
    waits = [loads[device].per_row * time for device, time in (("A100", 1.3), ("MI210", 1.3))]
    assert waits[0] == 2.6
    assert 5.5 < waits[1] < 6.5  # microseconds of two reductions


def test_few_embeddings_are_gathered_one_after_the_other() -> None:
    row = {"device": "H100", "op": "emb", "cols": 4096, "model": "x", "dtype": "fp16", "source_file": "Vidur x"}
    few, more = (read_rows(record(rows=rows, latency_us=10, **row)) for rows in (16, 17))
    assert isinstance(few, Case)
    assert isinstance(more, Case)
    assert simulate_us(few) > 2 * simulate_us(more)


def test_a_published_rate_becomes_a_time() -> None:
    row = dict.fromkeys(["groups", "batch", "heads", "kv_heads", "head_dim", "head_dim_v", "seq_q", "seq_kv", "causal",
                         "notes"], "")  # fmt: skip
    row |= {"id": "x", "source": "github deepseek-ai/DeepGEMM", "chip": "H800_SXM", "op": "gemm", "M": "4096",
            "N": "7168", "K": "16384", "dtype": "fp8xfp8->bf16", "value": "1000", "unit": "TFLOPS"}  # fmt: skip
    case = read_published(Record("here:1", row))
    assert isinstance(case, Case)
    assert case.expected_us == pytest.approx(2 * 4096 * 7168 * 16384 / 1e9)
    assert case.source.flushed
    assert "second figure" in str(read_published(Record("here:1", row | {"unit": "GB/s"})))
    assert "communication" in str(read_published(Record("here:1", row | {"op": "nccl_all_gather"})))
    assert "shape" in str(read_published(Record("here:1", row | {"M": ""})))


def test_published_training_is_both_passes() -> None:
    row = dict.fromkeys(["groups", "M", "N", "K"], "")
    row |= {"id": "x", "source": "github Dao-AILab/flash-attention", "chip": "A100_80G_SXM", "op": "attention_fwd_bwd",
            "batch": "4", "heads": "16", "kv_heads": "16", "head_dim": "128", "head_dim_v": "128", "seq_q": "4096",
            "seq_kv": "4096", "causal": "1", "dtype": "fp16", "value": "173", "unit": "TFLOPS",
            "notes": "FA2 fwd+bwd"}  # fmt: skip
    case = read_published(Record("here:1", row))
    assert isinstance(case, Case)
    forward, gradients = case.kernels
    assert isinstance(forward, Attention)
    assert isinstance(gradients, Gradients)
    assert gradients.flops == 2.5 * forward.flops
    assert case.expected_us == pytest.approx(3.5 * 4 * 4 * 16 * 4096**2 * 128 / 2 / 173e6)
    assert (forward.shape.kernel.synchronous, forward.shape.kernel.keys) == (True, 64)
    assert simulate_us(case) == pytest.approx(case.expected_us, rel=0.1)
    for notes in ("FA3-paper Triton", "cuDNN"):  # whose kernels are not known
        assert "not known" in str(read_published(Record("here:1", row | {"op": "attention_fwd", "notes": notes})))


def test_formats_and_sources_are_complete() -> None:
    assert isinstance(format_of("fp8_block", frozenset({"fp8"})), Format)
    assert FORMATS["bf16"] == FORMATS["bfloat16"]
    assert width("fp8") == 1
    assert all(source.reason for source in SOURCES)
    found = source_of("LLMServingSim v0/perf_models")
    assert found is not None
    assert not found.first_gap
    assert build.elementwise(10, 100, "add", inputs=2)[0].nbytes == 3 * 10 * 100 * 2


def test_eager_code_is_a_kernel_for_each_operator() -> None:
    """Twelve for the rotation of queries and keys; a norm moves 36 B an element."""
    assert len(build.rotary_eager(10, (100, 50), 10)) == 12
    assert sum(kernel.nbytes for kernel in build.norm_eager(10, 1000)) == 36 * 10 * 1000 + 10 * (4 + 4 * 4)
