"""Do the shipped traces hold what the models' papers and configurations say, by formulas of our own?"""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from archsim._data import data_path
from archsim.trace import Graph, load_workload, quantised

MODELS = ["llama-3.1-8b", "deepseek-v3"]
TRACES = {(name, phase): load_workload(name, phase) for name in MODELS for phase in ("prefill", "decode")}
CONFIGS: dict[str, dict[str, Any]] = {
    name: json.loads((data_path("workloads") / "configs" / f"{name}.json").read_text()) for name in MODELS
}

points = st.integers(1, 300), st.integers(1, 20000)


def matrix_params(name: str) -> tuple[int, int]:
    """Matrix weights of one copy of all layers: (all, those that one token passes through)."""
    c = CONFIGS[name]
    h, layers = c["hidden_size"], c["num_hidden_layers"]
    if name == "llama-3.1-8b":
        head = h // c["num_attention_heads"]
        attention = 2 * h * h + 2 * h * c["num_key_value_heads"] * head
        everything = layers * (attention + 3 * h * c["intermediate_size"])
        return everything, everything
    heads, rank = c["num_attention_heads"], c["kv_lora_rank"]
    nope, rope, v = c["qk_nope_head_dim"], c["qk_rope_head_dim"], c["v_head_dim"]
    attention = (
        h * c["q_lora_rank"]
        + c["q_lora_rank"] * heads * (nope + rope)
        + h * (rank + rope)
        + rank * heads * (nope + v)
        + heads * v * h
    )
    dense_layers = c["first_k_dense_replace"]
    moe_layers = layers - dense_layers
    expert = 3 * h * c["moe_intermediate_size"]
    dense = dense_layers * 3 * h * c["intermediate_size"]
    shared = layers * attention + dense + moe_layers * (h * c["n_routed_experts"] + c["n_shared_experts"] * expert)
    routed, used = (moe_layers * n * expert for n in (c["n_routed_experts"], c["num_experts_per_tok"]))
    return shared + routed, shared + used


def norm_params(name: str) -> int:
    c = CONFIGS[name]
    latent = c["q_lora_rank"] + c["kv_lora_rank"] if name == "deepseek-v3" else 0
    return c["num_hidden_layers"] * (2 * c["hidden_size"] + latent) + c["hidden_size"]


def matrix_flops(graph: Graph) -> int:
    """FLOPs of the matrix kinds of the whole step."""
    kinds = ("matmul", "grouped_matmul", "attention")
    return sum(op.flops * b.repeat for b in graph.blocks for op in b.ops if op.kind in kinds)


def attention_flops(name: str, batch: int, pairs: int, absorbed: bool) -> int:
    c = CONFIGS[name]
    per_pair = 2 * c["hidden_size"]
    if name == "deepseek-v3":
        rank, rope = c["kv_lora_rank"], c["qk_rope_head_dim"]
        width = 2 * rank + rope if absorbed else c["qk_nope_head_dim"] + rope + c["v_head_dim"]
        per_pair = c["num_attention_heads"] * width
    return 2 * c["num_hidden_layers"] * batch * pairs * per_pair


@pytest.mark.parametrize("phase", ["prefill", "decode"])
@pytest.mark.parametrize(("name", "billions"), [("llama-3.1-8b", 8.03), ("deepseek-v3", 671.03)])
def test_parameters(name: str, billions: float, phase: str) -> None:
    c = CONFIGS[name]
    trace = TRACES[name, phase]
    graph = trace.at(**dict.fromkeys(trace.symbols, 1))
    expected = matrix_params(name)[0] + norm_params(name) + 2 * c["vocab_size"] * c["hidden_size"]
    assert graph.n_params == expected
    assert round(graph.n_params / 1e9, 2) == billions
    assert graph.weight_bytes == 2 * expected


@pytest.mark.parametrize(("name", "billions"), [("llama-3.1-8b", 8.03), ("deepseek-v3", 37.55)])
def test_active_parameters(name: str, billions: float) -> None:
    """The published "37 B activated": what one token passes through, the embedding and the head included."""
    c = CONFIGS[name]
    active = matrix_params(name)[1] + norm_params(name) + 2 * c["vocab_size"] * c["hidden_size"]
    assert round(active / 1e9, 2) == billions


@pytest.mark.parametrize("name", MODELS)
@given(batch=points[0], seq=points[1])
@settings(max_examples=25, deadline=None)
def test_prefill_flops(name: str, batch: int, seq: int) -> None:
    c = CONFIGS[name]
    graph = TRACES[name, "prefill"].at(batch=batch, seq=seq)
    linear = 2 * batch * (seq * matrix_params(name)[1] + c["vocab_size"] * c["hidden_size"])  # last-token logits only
    assert matrix_flops(graph) == linear + attention_flops(name, batch, seq * (seq + 1) // 2, absorbed=False)


@pytest.mark.parametrize("name", MODELS)
@given(batch=points[0], ctx=points[1])
@settings(max_examples=25, deadline=None)
def test_decode_flops(name: str, batch: int, ctx: int) -> None:
    c = CONFIGS[name]
    graph = TRACES[name, "decode"].at(batch=batch, ctx=ctx)
    # Absorbing moves the two halves of kv_b_proj to the queries and the outputs: as many FLOPs for one new token.
    linear = 2 * batch * (matrix_params(name)[1] + c["vocab_size"] * c["hidden_size"])
    assert matrix_flops(graph) == linear + attention_flops(name, batch, ctx + 1, absorbed=True)


def test_deepseek_decode_is_absorbed() -> None:
    """61 layers, 8 sequences of 4096 tokens: 1.145 TFLOP absorbed, 67.9 TFLOP as Hugging Face's code does it."""
    assert matrix_flops(TRACES["deepseek-v3", "decode"].at(batch=8, ctx=4096)) == pytest.approx(1.145e12, rel=2e-3)


@pytest.mark.parametrize(("name", "per_token"), [("deepseek-v3", 70272), ("llama-3.1-8b", 131072)])
def test_kv_cache_per_token(name: str, per_token: int) -> None:
    assert TRACES[name, "decode"].at(batch=3, ctx=99).kv_bytes == 3 * 100 * per_token
    assert TRACES[name, "prefill"].at(batch=3, seq=100).kv_bytes == 3 * 100 * per_token


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("ctx", [1, 1000, 50000])
def test_a_decode_step_writes_only_the_new_token(name: str, ctx: int) -> None:
    per_token = TRACES[name, "decode"].at(batch=1, ctx=0).kv_bytes
    graph = TRACES[name, "decode"].at(batch=5, ctx=ctx)
    appended = sum(op.bytes_written * b.repeat for b in graph.blocks for op in b.ops if op.kind == "kv_append")
    attended = sum(op.bytes_read * b.repeat for b in graph.blocks for op in b.ops if op.kind == "attention")
    assert appended == 5 * per_token
    assert attended > 5 * ctx * per_token  # the cache once, and the queries
    assert attended < 1.1 * 5 * (ctx + 1) * per_token + 61 * 5 * 128 * 576 * 2


@pytest.mark.parametrize("name", MODELS)
def test_every_weight_is_read_once_a_step(name: str) -> None:
    """With every expert active, the weight bytes that a step reads are the weights; the embedding reads rows."""
    graph = TRACES[name, "prefill"].at(batch=8, seq=1024)
    read = sum(
        op.input_bytes[1] * block.repeat
        for block in graph.blocks
        for op in block.ops
        if op.kind in ("matmul", "grouped_matmul", "norm")
    )
    c = CONFIGS[name]
    assert read == graph.weight_bytes - 2 * c["vocab_size"] * c["hidden_size"]


@pytest.mark.parametrize("key", sorted(TRACES))
@given(batch=st.integers(1, 64), length=st.integers(1, 5000))
@settings(max_examples=15, deadline=None)
def test_more_work_costs_more(key: tuple[str, str], batch: int, length: int) -> None:
    name = TRACES[key].symbols[1]
    small, wide, long = (
        TRACES[key].at(**{"batch": b, name: n}) for b, n in [(batch, length), (batch + 1, length), (batch, length + 1)]
    )
    assert small.flops < min(wide.flops, long.flops)
    assert small.kv_bytes < min(wide.kv_bytes, long.kv_bytes)


@pytest.mark.parametrize("key", sorted(TRACES))
def test_fp8(key: tuple[str, str]) -> None:
    """DeepSeek-V3's own fp8 checkpoint: 1 byte a weight and 4 bytes of scale a 128 x 128 block in the layers."""
    trace = TRACES[key]
    point = dict.fromkeys(trace.symbols, 16)
    before, after = trace.at(**point), quantised(trace, "fp8").at(**point)
    assert after.n_params == before.n_params
    assert after.flops == before.flops
    assert after.kv_bytes == before.kv_bytes
    moved = 0
    for block in after.blocks:
        for op in block.ops:
            if op.dtype != "fp8":
                continue
            weight = after.tensors[op.inputs[1]]
            assert weight.dtype == "fp8"
            assert weight.role == "weight"
            rows, cols = weight.shape[-2:]
            scales = 4 * (weight.numel // (rows * cols)) * -(-rows // 128) * -(-cols // 128)
            assert weight.nbytes == weight.numel + scales
            moved += block.repeat * (weight.numel - scales)
    assert after.weight_bytes == before.weight_bytes - moved
    kept = {op.name for b in after.blocks for op in b.ops if op.kind == "matmul" and op.dtype == "bf16"}
    assert kept <= {"lm_head", "mlp.gate", "self_attn.q_absorb", "self_attn.v_absorb"}
    assert all(op.dtype != "fp8" for b in after.blocks for op in b.ops if op.kind == "attention")


def test_int8_has_one_scale_an_output_channel() -> None:
    graph = quantised(TRACES["llama-3.1-8b", "decode"], "int8").at(batch=1, ctx=1)
    weight = next(t for t in graph.tensors if t.name == "layer.mlp.down_proj.weight")
    assert weight.nbytes == 4096 * 14336 + 4 * 4096
