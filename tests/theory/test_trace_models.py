"""Do the shipped traces hold what the models' papers and configurations say, by formulas of our own?"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from archsim._data import data_path
from archsim.errors import InputError
from archsim.trace import Graph, Trace, load_workload, quantised, with_mtp, with_routed_shared
from archsim.trace.moe import expert_counts

CONFIGS: dict[str, dict[str, Any]] = {
    path.stem: json.loads(path.read_text()) for path in (data_path("workloads") / "configs").glob("*.json")
}
MODELS = sorted(CONFIGS)
every_model = pytest.mark.parametrize("name", MODELS)
every_trace = pytest.mark.parametrize(("name", "phase"), [(m, p) for m in MODELS for p in ("prefill", "decode")])
points = st.integers(1, 300), st.integers(1, 20000)

# Published billions of parameters.
TOTAL = {
    "deepseek-r1-distill-qwen-1.5b": 1.78,
    "deepseek-r1-distill-qwen-7b": 7.62,
    "deepseek-r1-distill-qwen-14b": 14.77,
    "deepseek-r1-distill-qwen-32b": 32.76,
    "deepseek-v2-lite": 15.7,
    "deepseek-v3": 671.0,
    "deepseek-v3.2-exp": 671.88,  # DeepSeek-V3 and 61 indexers of 14 million
    "gpt-oss-20b": 20.9,
    "gpt-oss-120b": 116.8,
    "gpt3-175b": 174.6,
    "glm-4.5": 352.8,  # published: 355 with the multi-token-prediction layer and without the two embeddings
    "glm-4.5-air": 106.85,
    "kimi-k2": 1026.4,  # of the checkpoint; the report says 1.04 T
    "llama-2-7b": 6.74,
    "llama-2-13b": 13.02,
    "llama-2-70b": 68.98,
    "llama-3.1-8b": 8.03,
    "llama-3.1-70b": 70.6,
    "llama-3.1-405b": 405.9,
    "mixtral-8x7b": 46.7,
    "qwen3-8b": 8.19,
    "qwen3-32b": 32.8,
    "qwen3-30b-a3b": 30.5,
    "qwen3-235b-a22b": 235.0,
}
# Published billions of parameters that one token activates, and how many of the two embeddings that counts.
ACTIVE = {
    "deepseek-v2-lite": (2.4, 1),
    "deepseek-v3": (37.0, 2),
    "deepseek-v3.2-exp": (37.0, 0),
    "gpt-oss-20b": (3.6, 1),
    "gpt-oss-120b": (5.1, 1),
    "glm-4.5": (32.0, 0),
    "glm-4.5-air": (12.0, 0),
    "kimi-k2": (32.0, 1),
    "mixtral-8x7b": (12.9, 2),
    "qwen3-30b-a3b": (3.3, 2),
    "qwen3-235b-a22b": (22.0, 2),
}
# Bytes of bf16 KV cache that one token takes: layers x key/value heads x (128 + 128) x 2, or layers x (512 + 64) x 2.
KV_PER_TOKEN = {
    "deepseek-v2-lite": 31104,
    "deepseek-v3": 70272,
    "deepseek-v3.2-exp": 70272 + 61 * 128 * 2,
    "gpt-oss-20b": 49152,
    "gpt3-175b": 4718592,
    "kimi-k2": 70272,
    "llama-2-7b": 524288,
    "llama-2-70b": 327680,
    "llama-3.1-8b": 131072,
    "llama-3.1-70b": 327680,
    "llama-3.1-405b": 516096,
    "mixtral-8x7b": 131072,
    "qwen3-30b-a3b": 98304,
    "qwen3-235b-a22b": 192512,
    "glm-4.5": 376832,
}


@dataclass(frozen=True)
class Layers:
    """What a configuration says of its layers, over all of them.

    matrix: weights that are multiplied with; active: those that one token meets; small: norms, biases and sinks.
    pair, cached_pair: columns multiplied for a query and a key it sees, in prefill and in decode; kv: cache elements.
    window: keys that a query of `sliding` of the layers sees at most (0 of them: none does).
    index_pair, index_kv: pair and kv of the choice of tokens, which sees all keys (not part of pair, but of kv).
    """

    matrix: int
    active: int
    small: int
    pair: int
    cached_pair: int
    kv: int
    window: int = 0
    sliding: float = 0.0
    index_pair: int = 0
    index_kv: int = 0


@lru_cache
def layers(name: str) -> Layers:
    c = CONFIGS[name]
    if c["model_type"] == "gpt2":
        count, hidden, inner = c["n_layer"], c["n_embd"], c["n_inner"]
        matrix = count * (4 * hidden * hidden + 2 * hidden * inner)
        small = count * (2 * 2 * hidden + 3 * hidden + hidden + inner + hidden)
        return Layers(matrix, matrix, small, count * 2 * hidden, count * 2 * hidden, count * 2 * hidden)
    count, hidden, heads = c["num_hidden_layers"], c["hidden_size"], c["num_attention_heads"]
    indexers = c.get("index_n_heads", 0)
    if "kv_lora_rank" in c:
        attention, small, pair, cached_pair, kv = latent_attention(c)
        if indexers:
            attention += c["q_lora_rank"] * indexers * c["index_head_dim"] + hidden * (c["index_head_dim"] + indexers)
            small += 2 * c["index_head_dim"]
            pair, kv = cached_pair, kv + c["index_head_dim"]  # absorbed in prefill too
    else:
        width, kv_heads = c.get("head_dim", hidden // heads), c["num_key_value_heads"]
        attention = hidden * width * (2 * heads + 2 * kv_heads)
        biased = c["model_type"] == "qwen2" or c.get("attention_bias", False)
        small = (heads + 2 * kv_heads) * width if biased else 0
        small += 2 * width if c["model_type"].startswith("qwen3") or c.get("use_qk_norm") else 0
        pair = cached_pair = heads * 2 * width
        kv = 2 * kv_heads * width
    if c["model_type"] == "gpt_oss":  # biases of all four projections, a sink a head, biases of router and experts
        small += hidden + heads + c["num_local_experts"] * (1 + 2 * c["intermediate_size"] + hidden)
    routed = c.get("n_routed_experts") or c.get("num_experts") or c.get("num_local_experts") or 0
    dense = c.get("first_k_dense_replace", 0) if routed else count
    expert = 3 * hidden * c.get("moe_intermediate_size", c["intermediate_size"])
    always = dense * 3 * hidden * c["intermediate_size"] + count * attention
    always += (count - dense) * (hidden * routed + c.get("n_shared_experts", 0) * expert)
    return Layers(
        always + (count - dense) * routed * expert,
        always + (count - dense) * c.get("num_experts_per_tok", 0) * expert,
        count * (2 * hidden + small),
        count * pair,
        count * cached_pair,
        count * kv,
        c.get("index_topk") or c.get("sliding_window") or 0,
        1.0 if indexers else 0.5 if c["model_type"] == "gpt_oss" else 0.0,
        count * indexers * (c.get("index_head_dim", 0) + 1),
        count * c.get("index_head_dim", 0),
    )


def latent_attention(c: dict[str, Any]) -> tuple[int, int, int, int, int]:
    """Of one layer: weights, norms, columns multiplied for a pair expanded and absorbed, cache elements of a token."""
    hidden, heads, rank, q_rank = c["hidden_size"], c["num_attention_heads"], c["kv_lora_rank"], c["q_lora_rank"]
    nope, rope, v = c["qk_nope_head_dim"], c["qk_rope_head_dim"], c["v_head_dim"]
    query = q_rank * (hidden + heads * (nope + rope)) if q_rank else hidden * heads * (nope + rope)
    weights = query + hidden * (rank + rope) + rank * heads * (nope + v) + heads * v * hidden
    return weights, (q_rank or 0) + rank, heads * (nope + rope + v), heads * (2 * rank + rope), rank + rope


def expansion(name: str) -> int:
    """Weights by which the latents of a cached token become keys and values again, over all layers."""
    c = CONFIGS[name]
    if "kv_lora_rank" not in c or c.get("index_n_heads"):
        return 0
    width = c["qk_nope_head_dim"] + c["v_head_dim"]
    return int(c["num_hidden_layers"] * c["kv_lora_rank"] * c["num_attention_heads"] * width)


def indexer_weights(name: str) -> int:
    c = CONFIGS[name]
    heads, width = c.get("index_n_heads", 0), c.get("index_head_dim", 0)
    return int(c.get("num_hidden_layers", 0) * (c.get("q_lora_rank", 0) or 0) * heads * width) + int(
        c.get("num_hidden_layers", 0) * c.get("hidden_size", 0) * (heads + width)
    )


def head_widths(name: str) -> tuple[int, int]:
    """Columns of a query and of a value in attention as it is trained."""
    c = CONFIGS[name]
    if "kv_lora_rank" not in c:
        return 1, 1
    if c.get("index_n_heads"):  # absorbed
        return c["kv_lora_rank"] + c["qk_rope_head_dim"], c["kv_lora_rank"]
    return c["qk_nope_head_dim"] + c["qk_rope_head_dim"], c["v_head_dim"]


def hidden_size(name: str) -> int:
    return int(CONFIGS[name].get("hidden_size") or CONFIGS[name]["n_embd"])


def embedding(name: str) -> int:
    return int(CONFIGS[name]["vocab_size"] * hidden_size(name))


def looked_up(name: str) -> int:
    """Weights of which a step reads rows only."""
    words = 0 if CONFIGS[name].get("tie_word_embeddings") else embedding(name)
    return words + int(CONFIGS[name].get("n_positions", 0)) * hidden_size(name)


def parameters(name: str) -> int:
    final_norm = hidden_size(name) * (2 if CONFIGS[name]["model_type"] == "gpt2" else 1)
    return layers(name).matrix + layers(name).small + final_norm + embedding(name) + looked_up(name)


def attention_flops(name: str, new: int, past: int, *, absorbed: bool) -> float:
    """Of one sequence: two a column of every pair of a query and a key that it sees."""
    c = layers(name)
    per_pair = 2 * (c.cached_pair if absorbed else c.pair)
    every = sum(range(past + 1, past + new + 1))
    near = sum(min(n, c.window) for n in range(past + 1, past + new + 1))
    return per_pair * ((1 - c.sliding) * every + c.sliding * near) + 2 * c.index_pair * every


@lru_cache
def trace(name: str, phase: str) -> Trace:
    return load_workload(name, phase)


def matrix_flops(graph: Graph) -> int:
    """FLOPs of the matrix kinds of the whole step."""
    kinds = ("matmul", "grouped_matmul", "attention")
    return sum(op.flops * b.repeat for b in graph.blocks for op in b.ops if op.kind in kinds)


@every_trace
def test_parameters(name: str, phase: str) -> None:
    graph = trace(name, phase).at(**dict.fromkeys(trace(name, phase).symbols, 1))
    assert graph.n_params == parameters(name)
    assert graph.weight_bytes == 2 * graph.n_params
    assert graph.n_params == pytest.approx(1e9 * TOTAL[name], rel=5e-3)


@pytest.mark.parametrize("name", ACTIVE)
def test_active_parameters(name: str) -> None:
    billions, embeddings = ACTIVE[name]
    active = layers(name).active + layers(name).small + embeddings * embedding(name)
    assert active == pytest.approx(1e9 * billions, rel=0.025)  # published with two digits


@every_model
@given(batch=points[0], seq=points[1], ctx=st.just(0) | st.integers(1, 20000))
@settings(max_examples=10, deadline=None)
def test_prefill_flops(name: str, batch: int, seq: int, ctx: int) -> None:
    """A whole prompt, and a chunk of one after `ctx` cached tokens, whose latents MLA expands once more."""
    graph = trace(name, "prefill").at(batch=batch, seq=seq, ctx=ctx)
    linear = 2 * batch * (seq * layers(name).active + embedding(name))  # last-token logits only
    assert matrix_flops(graph) == (
        linear + 2 * batch * ctx * expansion(name) + batch * attention_flops(name, seq, ctx, absorbed=False)
    )


@every_model
@given(batch=points[0], ctx=points[1], seq=st.just(1) | st.integers(2, 9))
@settings(max_examples=10, deadline=None)
def test_decode_flops(name: str, batch: int, ctx: int, seq: int) -> None:
    """One new token, and several that are verified at once: all have their logits."""
    graph = trace(name, "decode").at(batch=batch, ctx=ctx, seq=seq)
    # Absorbing moves the two halves of kv_b_proj to the queries and the outputs: as many FLOPs for one new token.
    linear = 2 * batch * seq * (layers(name).active + embedding(name))
    assert matrix_flops(graph) == linear + batch * attention_flops(name, seq, ctx, absorbed=True)


@every_model
@given(batch=st.integers(1, 8), first=st.integers(1, 3000), second=st.integers(1, 3000))
@settings(max_examples=5, deadline=None)
def test_two_chunks_do_the_work_of_one_prompt(name: str, batch: int, first: int, second: int) -> None:
    """The causal mask reaches over cached and new tokens, and no pair is counted twice or lost."""

    def attention(seq: int, ctx: int) -> int:
        graph = trace(name, "prefill").at(batch=batch, seq=seq, ctx=ctx)
        return sum(op.flops * b.repeat for b in graph.blocks for op in b.ops if op.kind == "attention")

    assert attention(first, 0) + attention(second, first) == attention(first + second, 0)


@every_model
@given(batch=st.integers(1, 64), seq=st.integers(1, 9000))
@settings(max_examples=10, deadline=None)
def test_training_flops(name: str, batch: int, seq: int) -> None:
    """Three times the forward pass; attention, whose scores are formed again, 3.5 times if all its widths are equal."""
    graph = trace(name, "train").at(batch=batch, seq=seq)
    c = layers(name)
    linear = 2 * batch * seq * (c.active + embedding(name))
    forward = attention_flops(name, seq, 0, absorbed=False)
    indexer = 2 * c.index_pair * sum(range(1, seq + 1))
    indexer_linear = 2 * batch * seq * indexer_weights(name)  # no gradient of the loss reaches the choice of tokens
    d_qk, d_v = head_widths(name)
    backward = (forward - indexer) * (3 * d_qk + 2 * d_v) / (d_qk + d_v)
    kinds = ("matmul", "grouped_matmul", "grouped_matmul_wgrad", "attention", "attention_backward")
    counted = sum(op.flops * b.repeat for b in graph.blocks for op in b.ops if op.kind in kinds)
    assert counted == pytest.approx(3 * linear - 2 * indexer_linear + batch * (forward + backward), rel=1e-12)


@every_model
def test_training_holds_sixteen_bytes_a_parameter(name: str) -> None:
    """bf16 weights and gradients, and in fp32 their copy and two moments; every weight but the indexer's is trained."""
    graph = trace(name, "train").at(batch=1, seq=64)
    untrained = sum(
        tensor.numel * block.repeat
        for block in graph.blocks
        for tensor in (graph.tensors[i] for i in block.tensors)
        if tensor.role == "weight" and ".indexer." in tensor.name and ".optimizer" not in block.name
    )
    trained = parameters(name) - untrained
    assert graph.n_params == parameters(name)
    assert (graph.gradient_bytes, graph.optimizer_bytes) == (2 * trained, 12 * trained)
    updates = [op for block in graph.blocks for op in block.ops if op.attrs["pass"] == "optimizer"]
    assert {op.attrs["fn"] for op in updates} == {"adamw"}


@every_model
def test_training_is_forward_then_backward_then_optimizer(name: str) -> None:
    graph = trace(name, "train").at(batch=2, seq=300)
    order = [op.attrs["pass"] for block in graph.blocks for op in block.ops]
    assert order == sorted(order, key=["forward", "backward", "optimizer"].index)
    names = [block.name for block in graph.blocks]
    forward = [n for n in names if "." not in n]
    assert [n for n in names if n.endswith(".backward")] == [f"{n}.backward" for n in reversed(forward)]
    blocks = {block.name: block for block in graph.blocks}
    for forwards in forward:
        known = {op.name for op in blocks[forwards].ops}
        assert {op.attrs["of"] for op in blocks[f"{forwards}.backward"].ops} <= known
        assert blocks[forwards].repeat == blocks[f"{forwards}.backward"].repeat
    saved = [graph.tensors[i] for i in graph.saved]
    assert all(tensor.role == "activation" for tensor in saved)
    assert graph.saved_bytes >= 2 * 2 * 300 * hidden_size(name) * sum(blocks[n].repeat for n in forward[1:-1])


@every_model
def test_a_token_costs_two_flops_an_active_parameter(name: str) -> None:
    """The rule of thumb, over all operators: with next to nothing in the cache, within 2 %."""
    graph = trace(name, "decode").at(batch=1, ctx=0)
    assert graph.flops == pytest.approx(2 * (layers(name).active + embedding(name)), rel=0.02)


def test_deepseek_decode_is_absorbed() -> None:
    """61 layers, 8 sequences of 4096 tokens: 1.145 TFLOP absorbed, 67.9 TFLOP as Hugging Face's code does it."""
    assert matrix_flops(trace("deepseek-v3", "decode").at(batch=8, ctx=4096)) == pytest.approx(1.145e12, rel=2e-3)


def test_sparse_attention_reads_what_it_selects() -> None:
    """DeepSeek-V3.2-Exp with 128k tokens: 64 times fewer latents than DeepSeek-V3, and one key of 128 a token."""
    dense, sparse = (trace(name, "decode").at(batch=4, ctx=131071) for name in ("deepseek-v3", "deepseek-v3.2-exp"))
    latents, scores, attention = 131072 * 576 * 2 * 4, "self_attn.indexer.scores", "self_attn.attention"
    read = {op.name: op.input_bytes[1] for op in sparse.blocks[2].ops if op.kind == "attention"}
    assert read == {scores: latents * 128 // 576, attention: latents // 64}
    assert next(op.input_bytes[1] for op in dense.blocks[2].ops if op.kind == "attention") == latents
    chosen = next(op for op in sparse.blocks[2].ops if op.name == "self_attn.indexer.top_k")
    assert chosen.bytes_written == 4 * 2048 * 4


@every_model
def test_kv_cache_per_token(name: str) -> None:
    per_token = 2 * layers(name).kv
    assert per_token == KV_PER_TOKEN.get(name, per_token)
    assert trace(name, "decode").at(batch=3, ctx=99).kv_bytes == 3 * 100 * per_token
    assert trace(name, "prefill").at(batch=3, seq=100).kv_bytes == 3 * 100 * per_token


@every_model
@given(seq=st.integers(1, 4000), ctx=st.integers(0, 9000))
@settings(max_examples=10, deadline=None)
def test_a_sliding_window_bounds_its_cache(name: str, seq: int, ctx: int) -> None:
    """It holds the window before the new tokens, and these; the other layers hold everything."""
    c = layers(name)
    window = c.window if CONFIGS[name].get("sliding_window") else ctx + seq
    held = (1 - c.sliding) * (ctx + seq) + c.sliding * min(ctx + seq, window - 1 + seq)
    if not CONFIGS[name].get("sliding_window"):
        held = ctx + seq
    for phase in ("prefill", "decode"):
        assert trace(name, phase).at(batch=2, seq=seq, ctx=ctx).kv_bytes == 2 * 2 * c.kv * held


def test_multi_token_prediction() -> None:
    """Published: 671 B and 14 B of the module, which stores embedding and lm_head once more (685 B together)."""
    more = with_mtp(trace("deepseek-v3", "decode"))
    graph = more.at(batch=2, ctx=99)
    module = graph.n_params - parameters("deepseek-v3")
    stored = module + 2 * embedding("deepseek-v3")
    assert module == pytest.approx(11.5e9, rel=0.01)  # "11.5 B unique" (README_WEIGHTS of the checkpoint)
    assert stored == pytest.approx(14e9, rel=0.04)  # published with two digits
    assert parameters("deepseek-v3") + stored == pytest.approx(685e9, rel=5e-3)
    assert graph.kv_bytes == 2 * 100 * 62 * 576 * 2
    layer, block = graph.blocks[2], graph.blocks[-1]
    head = 2 * 2 * embedding("deepseek-v3")
    projection = 2 * 2 * 2 * 7168 * 7168
    products = sum(op.flops for op in block.ops if op.name.endswith(("eh_proj", "lm_head")))
    assert products == head + projection
    shared = {op.name: op.flops for op in layer.ops}
    assert shared == {op.name: op.flops for op in block.ops if op.name in shared}
    with pytest.raises(InputError, match="has its layers for the prediction of more than one token already"):
        with_mtp(more)
    with pytest.raises(InputError, match=r"llama-3\.1-8b has no layers for the prediction"):
        with_mtp(trace("llama-3.1-8b", "decode"))


@pytest.mark.parametrize(("name", "shared"), [("deepseek-v3", 1), ("deepseek-v2-lite", 2), ("kimi-k2", 1)])
@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_shared_experts_among_the_routed_ones(name: str, shared: int, phase: str) -> None:
    """The same weights and products; a token has a row more for each, and an addition less."""
    plain = quantised(trace(name, phase), "int8").at(batch=32, seq=1, ctx=9)
    spread = quantised(with_routed_shared(trace(name, phase)), "int8").at(batch=32, seq=1, ctx=9)
    products = [
        sum(op.flops * b.repeat for b in graph.blocks for op in b.ops if "matmul" in op.kind or op.kind == "attention")
        for graph in (plain, spread)
    ]
    assert products[0] == products[1]
    assert spread.n_params == plain.n_params
    before, after = (next(b for b in graph.blocks if b.name == "moe") for graph in (plain, spread))
    of = {op.name: op for op in before.ops}
    assert not [op.name for op in after.ops if "shared" in op.name]
    for op in after.ops:
        if op.kind in ("moe_dispatch", "grouped_matmul", "moe_combine"):
            assert {n: op.dims[n] - of[op.name].dims[n] for n in ("top_k", "experts")} == {
                "top_k": shared, "experts": shared,
            }  # fmt: skip
    assert after.ops[-1].inputs[1] == next(op for op in after.ops if op.kind == "moe_combine").outputs[0]
    counts = expert_counts(32, 10, 4, "uniform", always=2)
    assert list(counts[-2:]) == [32, 32]
    assert not counts.flags.writeable  # it is kept, and shared between callers
    assert list(counts[:-2]) == list(expert_counts(32, 8, 2, "uniform"))
    with pytest.raises(InputError, match="qwen3-30b-a3b has no shared experts"):
        with_routed_shared(trace("qwen3-30b-a3b", phase))


@pytest.mark.parametrize("name", ["deepseek-v3", "kimi-k2"])
def test_yarn_scales_the_softmax(name: str) -> None:
    """YaRN's temperature is part of DeepSeek's softmax scale (its tables of angles cost nothing)."""
    yarn, width = CONFIGS[name]["rope_scaling"], CONFIGS[name]["qk_nope_head_dim"] + CONFIGS[name]["qk_rope_head_dim"]
    temperature = 0.1 * yarn["mscale_all_dim"] * math.log(yarn["factor"]) + 1
    for phase in ("prefill", "decode", "train"):
        scales = {op.attrs["scale"] for b in trace(name, phase).blocks for op in b.ops if op.kind == "attention"}
        assert list(scales) == pytest.approx([temperature**2 / math.sqrt(width)], abs=1e-6)


@every_model
@pytest.mark.parametrize("ctx", [1, 1000, 50000])
def test_a_decode_step_writes_only_the_new_token(name: str, ctx: int) -> None:
    graph = trace(name, "decode").at(batch=5, ctx=ctx)
    attention = [(op, b.repeat) for b in graph.blocks for op in b.ops if op.kind == "attention"]
    appended = sum(op.bytes_written * b.repeat for b in graph.blocks for op in b.ops if op.kind == "kv_append")
    cache_read = sum(sum(op.input_bytes[1:3]) * repeat for op, repeat in attention)
    c = layers(name)
    assert appended == 5 * 2 * c.kv
    seen = (1 - c.sliding) * (ctx + 1) + c.sliding * min(ctx + 1, c.window)
    assert cache_read == 5 * 2 * (seen * (c.kv - c.index_kv) + (ctx + 1) * c.index_kv)


@every_model
def test_every_weight_is_read_once_a_step(name: str) -> None:
    """With every expert active, the weight bytes that a step reads are the weights; the embedding reads rows."""
    graph = trace(name, "prefill").at(batch=8, seq=2048)
    read = sum(
        nbytes * block.repeat
        for block in graph.blocks
        for op in block.ops
        for tensor, nbytes in zip(op.inputs, op.input_bytes, strict=True)
        if graph.tensors[tensor].role == "weight" and op.kind != "embedding"
    )
    assert read == graph.weight_bytes - 2 * looked_up(name)


@every_trace
@given(batch=st.integers(1, 64), length=st.integers(1, 5000))
@settings(max_examples=5, deadline=None)
def test_more_work_costs_more(name: str, phase: str, batch: int, length: int) -> None:
    symbol = "seq" if phase == "prefill" else "ctx"
    small, wide, long = (
        trace(name, phase).at(**{"batch": b, symbol: n})
        for b, n in [(batch, length), (batch + 1, length), (batch, length + 1)]
    )
    assert small.flops < min(wide.flops, long.flops)
    assert small.kv_bytes < min(wide.kv_bytes, long.kv_bytes)


@pytest.mark.parametrize("name", ["deepseek-v3", "llama-3.1-8b"])
@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_fp8(name: str, phase: str) -> None:
    """DeepSeek-V3's own fp8 checkpoint: 1 byte a weight and 4 bytes of scale a 128 x 128 block in the layers."""
    whole = trace(name, phase)
    point = dict.fromkeys(whole.symbols, 16)
    before, after = whole.at(**point), quantised(whole, "fp8").at(**point)
    assert after.n_params == before.n_params
    added = sum(b.repeat * op.flops for b in after.blocks for op in b.ops if op.attrs.get("fn") == "quantise")
    assert after.flops - added == before.flops
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
    graph = quantised(trace("llama-3.1-8b", "decode"), "int8").at(batch=1, ctx=1)
    weight = next(t for t in graph.tensors if t.name == "layer.mlp.down_proj.weight")
    assert weight.nbytes == 4096 * 14336 + 4 * 4096
