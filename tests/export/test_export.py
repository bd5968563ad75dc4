"""Does the exporter record what the model code does? Small models of every family, and the shipped files again."""

from __future__ import annotations

import json
import re
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="exporting needs torch (pip install archsim[export])")
transformers = pytest.importorskip("transformers", reason="exporting needs transformers (pip install archsim[export])")

from click.testing import CliRunner  # noqa: E402
from torch._subclasses.fake_tensor import FakeTensorMode  # noqa: E402
from torch.utils.flop_counter import FlopCounterMode  # noqa: E402

from archsim._data import data_path  # noqa: E402
from archsim.cli.main import cli  # noqa: E402
from archsim.errors import InputError  # noqa: E402
from archsim.trace import Graph, Trace, capture, load_trace, load_workload  # noqa: E402
from archsim.trace.exporter import functions, model  # noqa: E402
from archsim.trace.exporter.mla import absorb  # noqa: E402
from archsim.trace.exporter.recorder import Recorder  # noqa: E402
from archsim.trace.trace import PHASES  # noqa: E402

LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 300,
    "max_position_embeddings": 512,
}
DEEPSEEK: dict[str, Any] = {
    "model_type": "deepseek_v3",
    "hidden_size": 96,
    "intermediate_size": 160,
    "moe_intermediate_size": 48,
    "num_hidden_layers": 5,
    "first_k_dense_replace": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "n_routed_experts": 16,
    "num_experts_per_tok": 3,
    "n_group": 4,
    "topk_group": 2,
    "q_lora_rank": 40,
    "kv_lora_rank": 24,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 8,
    "v_head_dim": 12,
    "vocab_size": 300,
    "max_position_embeddings": 512,
}
SIZES = {key: value for key, value in LLAMA.items() if key != "model_type"}
ROUTED = {**SIZES, "moe_intermediate_size": 48, "num_experts_per_tok": 3}
CONFIGS: dict[str, dict[str, Any]] = {
    "llama": LLAMA,
    "deepseek": DEEPSEEK,
    "qwen2": {"model_type": "qwen2", **SIZES},
    "qwen3": {"model_type": "qwen3", **SIZES, "head_dim": 24},
    "qwen3_moe": {"model_type": "qwen3_moe", **ROUTED, "head_dim": 24, "num_experts": 16},
    "mixtral": {"model_type": "mixtral", **SIZES, "num_local_experts": 8, "num_experts_per_tok": 2},
    "glm4_moe": {
        "model_type": "glm4_moe", **ROUTED, "head_dim": 32, "n_routed_experts": 16, "first_k_dense_replace": 1,
        "use_qk_norm": True, "attention_bias": True, "partial_rotary_factor": 0.5, "n_group": 1, "topk_group": 1,
    },
    "deepseek_v2": {
        **{key: value for key, value in DEEPSEEK.items() if key not in ("model_type", "n_group", "topk_group")},
        "model_type": "deepseek_v2", "q_lora_rank": None, "n_shared_experts": 2, "topk_method": "greedy",
    },
    "deepseek_v32": {
        **DEEPSEEK, "model_type": "deepseek_v32", "index_n_heads": 4, "index_head_dim": 16, "index_topk": 32,
    },
    "gpt2": {"model_type": "gpt2", "n_embd": 64, "n_head": 4, "n_layer": 3, "vocab_size": 300, "n_positions": 512},
    "gpt_oss": {
        "model_type": "gpt_oss", **SIZES, "head_dim": 24, "num_local_experts": 16, "num_experts_per_tok": 3,
        "sliding_window": 20, "layer_types": ["sliding_attention", "full_attention"] * 2,
    },
    "gemma3": {
        "model_type": "gemma3_text", **SIZES, "head_dim": 24, "sliding_window": 20, "num_hidden_layers": 8,
        "layer_types": [*["sliding_attention"] * 3, "full_attention"] * 2, "query_pre_attn_scalar": 24,
    },
}  # fmt: skip
families = pytest.mark.parametrize("family", sorted(CONFIGS))
phases = pytest.mark.parametrize("phase", PHASES)


def costs(graph: Graph) -> list[tuple[Any, ...]]:
    return [
        (block.name, block.repeat, op.name, op.kind, op.dims, op.attrs, op.flops, op.input_bytes, op.output_bytes)
        for block in graph.blocks
        for op in block.ops
    ]


@cache
def symbolic(family: str, phase: str) -> Trace:
    return capture(CONFIGS[family], phase=phase, name=family)


def concrete(monkeypatch: pytest.MonkeyPatch, family: str, phase: str, point: dict[str, int]) -> Trace:
    """A capture with plain integers in place of symbols."""
    with monkeypatch.context() as patch:
        patch.setattr(model, "HINTS", point)
        patch.setattr(model, "new_symbol", lambda fake, size: size)
        return capture(CONFIGS[family], phase=phase, name=family)


@families
@phases
def test_symbols_stand_for_any_size(family: str, phase: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for sizes in ((1, 1, 0), (5, 97, 0), (3, 11, 1013)):
        point = dict(zip(PHASES[phase], sizes, strict=False))
        free = symbolic(family, phase).at(**point)
        fixed = concrete(monkeypatch, family, phase, point).at(**point)
        assert costs(free) == costs(fixed)
        assert free.tensors == fixed.tensors


@families
@phases
def test_one_layer_stands_for_its_repeats(family: str, phase: str) -> None:
    point = dict.fromkeys(PHASES[phase], 7)
    collapsed = symbolic(family, phase).at(**point)
    full = capture(CONFIGS[family], phase=phase, name=family, collapse=False).at(**point)
    settings = transformers.AutoConfig.for_model(**CONFIGS[family])
    forward = [block for block in full.blocks if "." not in block.name]  # of training, backward and optimizer follow
    assert len(forward) == settings.num_hidden_layers + 2
    unrolled = [op for block in collapsed.blocks for _ in range(block.repeat) for op in block.ops]
    layers = [op for block in full.blocks for op in block.ops]
    for mine, other in zip(unrolled, layers, strict=True):
        assert (mine.dims, mine.attrs | {"of": ""}) == (other.dims, other.attrs | {"of": ""})
    # a layer that alternates with others has its place among them in front of its name
    assert [re.sub(r"^\d+\.", "", op.name) for op in unrolled] == [op.name for op in layers]
    for total in ("flops", "n_params", "weight_bytes", "kv_bytes", "gradient_bytes", "optimizer_bytes", "saved_bytes"):
        assert getattr(collapsed, total) == getattr(full, total)


def test_block_structure() -> None:
    def structure(config: dict[str, Any]) -> list[tuple[str, int]]:
        return [(block.name, block.repeat) for block in capture(config, phase="decode", name="m").blocks]

    assert structure(LLAMA) == [("prologue", 1), ("layer", 4), ("epilogue", 1)]
    assert structure(DEEPSEEK) == [("prologue", 1), ("dense", 2), ("moe", 3), ("epilogue", 1)]
    assert structure(CONFIGS["gpt_oss"]) == [("prologue", 1), ("layer", 2), ("epilogue", 1)]


def test_alternating_layers_are_one_block() -> None:
    trace = capture(CONFIGS["gpt_oss"], phase="decode", name="gpt_oss")
    windows = {op.name: op.attrs["window"] for op in trace.blocks[1].ops if op.kind == "attention"}
    assert windows == {"0.self_attn.attention": 20, "1.self_attn.attention": None}
    named = {tensor.name for tensor in trace.tensors}
    assert {f"layer.{i}.self_attn.{part}" for i in (0, 1) for part in ("k_cache", "sinks", "q_proj.bias")} <= named
    rotated = [kind + "_attention" for kind in ("sliding", "sliding", "full", "sliding", "sliding", "full", "sliding")]
    uneven = {**CONFIGS["gpt_oss"], "num_hidden_layers": 7, "layer_types": rotated}
    blocks = [(block.name, block.repeat) for block in capture(uneven, phase="decode", name="gpt_oss").blocks[1:-1]]
    assert blocks == [("layer", 2), ("layer_2", 1)]


def test_experts_and_attention_read_their_biases_and_sinks() -> None:
    graph = capture(CONFIGS["gpt_oss"], phase="decode", name="gpt_oss").at(batch=64, ctx=50)
    ops = {op.name: op for op in graph.blocks[1].ops}
    assert ops["0.self_attn.attention"].input_bytes[3] == 2 * 4
    assert ops["0.mlp.experts.gate_up_proj"].input_bytes[2] == 2 * 16 * 320  # all 16 experts are active
    assert ops["0.mlp.experts.down_proj"].input_bytes[2] == 2 * 16 * 64
    assert len(ops["0.mlp.router"].inputs) == 3


def test_gemma_like_layers_alternate_and_bound_their_caches() -> None:
    """Three layers with a window and one without are one block; the windows' caches hold no more than they reach."""
    graph = capture(CONFIGS["gemma3"], phase="decode").at(batch=2, ctx=1000)
    assert [(block.name, block.repeat) for block in graph.blocks] == [("prologue", 1), ("layer", 2), ("epilogue", 1)]
    held = {t.name.split(".")[1]: t.shape[2] for t in graph.tensors if t.name.endswith("k_cache")}
    assert held == {"0": 20, "1": 20, "2": 20, "3": 1001}
    attention = [op for op in graph.blocks[1].ops if op.kind == "attention"]
    assert [op.input_bytes[1] for op in attention] == [2 * 2 * 2 * n * 24 for n in (20, 20, 20, 1001)]
    rotary = [op.dims["cols"] for op in graph.blocks[1].ops if op.name.endswith("rotary_q")]
    assert rotary == [4 * 24] * 4


def test_fused_projections_are_no_shared_cache() -> None:
    for phase in ("prefill", "decode"):
        graph = capture(CONFIGS["gpt2"], phase=phase, name="gpt2").at(**dict.fromkeys(PHASES[phase], 5))
        ops = {op.name: op for op in graph.blocks[1].ops}
        assert ops["attn.attention"].attrs["kv_shared"] is False
        append = ops["attn.kv_append"]
        assert append.bytes_read == append.bytes_written == 2 * graph.tokens * 2 * 64
    assert [op.name for op in graph.blocks[0].ops] == ["wte", "wpe", "add"]
    assert ops["mlp.act"].attrs["fn"] == "gelu"


def test_linear_flops_equal_torchs_own_count() -> None:
    batch, seq = 2, 33
    with FakeTensorMode():
        settings = transformers.AutoConfig.for_model(**LLAMA)
        plain = transformers.AutoModelForCausalLM.from_config(settings, attn_implementation="sdpa")
        tokens = torch.zeros((batch, seq), dtype=torch.long)
        with FlopCounterMode(display=False) as counter:
            plain(input_ids=tokens, use_cache=False, logits_to_keep=1)
    counted = counter.get_flop_counts()["Global"][torch.ops.aten.mm]
    graph = capture(LLAMA, phase="prefill", name="llama").at(batch=batch, seq=seq)
    assert sum(op.flops * b.repeat for b in graph.blocks for op in b.ops if op.kind == "matmul") == counted


@pytest.mark.parametrize(
    "config",
    [
        DEEPSEEK,
        {**DEEPSEEK, "q_lora_rank": None},
        {**DEEPSEEK, "rope_interleave": False},
        CONFIGS["deepseek_v2"],
        CONFIGS["deepseek_v32"],
    ],
    ids=["v3", "v3, whole queries", "v3, rotary by halves", "v2", "v3.2"],
)
def test_absorbed_attention_gives_the_same_numbers(config: dict[str, Any]) -> None:
    """The model's own attention against the absorbed form, in a decode step after a prefill of 9 tokens.

    Sparse attention chooses all 10 tokens here.
    """
    torch.manual_seed(0)
    settings = transformers.AutoConfig.for_model(**config)
    plain = transformers.AutoModelForCausalLM.from_config(
        settings, dtype=torch.float64, attn_implementation="eager", experts_implementation="eager"
    ).eval()
    tokens = torch.randint(0, 300, (3, 10))

    def decode(absorbed: bool) -> Any:
        cache = transformers.DynamicCache(config=settings)
        plain(input_ids=tokens[:, :9], past_key_values=cache, use_cache=True)
        if absorbed:
            for layer in plain.model.layers:
                absorb(layer.self_attn)
        return plain(input_ids=tokens[:, 9:], past_key_values=cache, use_cache=True).logits

    with torch.no_grad():
        torch.testing.assert_close(decode(absorbed=True), decode(absorbed=False), rtol=1e-9, atol=1e-9)


def test_decode_attends_to_the_latents() -> None:
    trace = capture(DEEPSEEK, phase="decode", name="deepseek")
    graph = trace.at(batch=2, ctx=50)
    ops = {op.name: op for op in graph.blocks[1].ops}
    attention = ops["self_attn.attention"]
    assert attention.dims == {
        "batch": 2, "q_len": 1, "kv_len": 51, "heads": 4, "kv_heads": 1, "d_qk": 24 + 8, "d_v": 24,
    }  # fmt: skip
    assert attention.attrs["kv_shared"] is True
    assert "self_attn.kv_b_proj" not in ops
    weight = next(i for i, tensor in enumerate(graph.tensors) if tensor.name == "dense.self_attn.kv_b_proj.weight")
    assert ops["self_attn.q_absorb"].inputs[1] == ops["self_attn.v_absorb"].inputs[1] == weight


def test_prefill_expands_the_latents() -> None:
    graph = capture(DEEPSEEK, phase="prefill", name="deepseek").at(batch=2, seq=50)
    ops = {op.name: op for op in graph.blocks[1].ops}
    assert ops["self_attn.attention"].dims["kv_heads"] == 4
    assert ops["self_attn.attention"].attrs["kv_shared"] is False
    concat = ops["self_attn.concat"]  # keys: each head's part, and the rotary part that all heads share, read once
    assert (concat.dims["cols"], concat.dims["cols_0"], concat.dims["cols_1"]) == (4 * 24, 4 * 16, 8)
    assert ops["self_attn.kv_append"].dims == {"rows": 100, "cols": 24 + 8}


@families
def test_logits_of_the_last_token_only(family: str) -> None:
    head = capture(CONFIGS[family], phase="prefill", name=family).at(batch=3, seq=50).blocks[-1].ops[-1]
    assert (head.name, head.dims["m"]) == ("lm_head", 3)


@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_sparse_attention(phase: str) -> None:
    """Scores over all keys by the indexer's own heads, then attention over the 32 that it chose."""
    point = {"batch": 2, "seq": 100} if phase == "prefill" else {"batch": 2, "ctx": 100}
    graph = capture(CONFIGS["deepseek_v32"], phase=phase, name="v3.2").at(**point)
    ops = {op.name: op for op in graph.blocks[1].ops}
    scores, attention = ops["self_attn.indexer.scores"], ops["self_attn.attention"]
    assert (scores.dims["heads"], scores.dims["kv_heads"], scores.dims["d_qk"], scores.dims["d_v"]) == (4, 1, 16, 1)
    assert scores.dims["kv_len"] == attention.dims["kv_len"] == (100 if phase == "prefill" else 101)
    assert (attention.attrs["window"], attention.attrs["selected"], attention.attrs["kv_shared"]) == (32, True, True)
    assert ops["self_attn.indexer.top_k"].outputs[0] == attention.inputs[3]
    caches = {tensor.name: tensor.shape[-1] for tensor in graph.tensors if tensor.role == "kv_cache"}
    assert caches["dense.self_attn.kv_cache"] == 24 + 8
    assert caches["dense.self_attn.indexer.index_cache"] == 16


def test_other_families() -> None:
    """Fused projections of models that do not ship."""
    for phase in ("prefill", "decode"):
        trace = capture({"model_type": "phi3", **SIZES, "pad_token_id": 0, "eos_token_id": 1}, phase=phase, name="phi3")
        assert [block.name for block in trace.blocks] == ["prologue", "layer", "epilogue"]
        assert sum(op.attrs.get("fn") == "silu_mul" for op in trace.blocks[1].ops) == 1


def test_partial_rotary_embedding() -> None:
    """GLM-4.5 rotates half of each head."""
    ops = {op.name: op for op in capture(CONFIGS["glm4_moe"]).at(batch=1, seq=9).blocks[1].ops}
    assert (ops["self_attn.rotary_q"].dims["cols"], ops["self_attn.rotary_k"].dims["cols"]) == (4 * 16, 2 * 16)
    ops = {op.name: op for op in capture(CONFIGS["qwen3"]).at(batch=1, seq=9).blocks[1].ops}
    assert ops["self_attn.rotary_q"].dims["cols"] == 4 * 24


@pytest.mark.parametrize("name", [path.stem for path in (data_path("workloads") / "configs").glob("*.json")])
@phases
def test_the_shipped_files_are_what_the_exporter_makes(name: str, phase: str, tmp_path: Path) -> None:
    out = tmp_path / "again.h5"
    result = CliRunner().invoke(cli, ["trace", "export", name, "--phase", phase, "--out", str(out)])
    assert result.exit_code == 0, result.stderr
    assert load_trace(out).content_hash == load_workload(name, phase).content_hash


@pytest.mark.parametrize(
    ("config", "what"),
    [
        ({"model_type": "no_such_model"}, "cannot build this config"),
        ({**LLAMA, "hidden_size": "wide"}, "cannot build this config"),
        (
            {"model_type": "bert", "is_decoder": True},
            "BertLMHeadModel is not a decoder-only model with a list of layers",
        ),
        ({**LLAMA, "hidden_act": "relu"}, "no rule for 'relu' in module 'mlp.act_fn'"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_what_it_cannot_export_is_said(config: dict[str, Any], what: str) -> None:
    with pytest.raises(InputError, match=what):
        capture(config, phase="prefill", name="bad")


def test_work_without_a_rule_is_never_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(functions.HANDLERS, "silu")
    with pytest.raises(InputError, match=r"no rule for 'silu' in module 'mlp\.act_fn'"):
        capture(LLAMA, phase="prefill", name="llama")


@pytest.mark.parametrize("change", ["x.sigmoid_()", "x[0] = 1", "x -= 1", "x.masked_fill_(x > 0, 0.0)", "x.cumsum(0)"])
def test_changes_in_place_are_work(change: str) -> None:
    recorder = Recorder({}, 1, 1, 1)
    x = torch.zeros(4)
    recorder.add_tensor(x, "x")
    with recorder:
        assert x.view(2, 2)[:1].shape == (1, 2)  # views pass
        with pytest.raises(InputError, match="no rule for"):
            exec(change, {"x": x})


def test_the_models_code_is_left_as_it_was() -> None:
    modeling = sys.modules["transformers.models.llama.modeling_llama"]
    before = modeling.apply_rotary_pos_emb
    capture(LLAMA, phase="decode", name="llama")
    assert modeling.apply_rotary_pos_emb is before


def test_unknown_phase() -> None:
    with pytest.raises(InputError, match="did you mean 'decode'"):
        capture(LLAMA, phase="decod", name="llama")


def test_the_shipped_configs_are_plain_json() -> None:
    for path in (data_path("workloads") / "configs").glob("*.json"):
        assert {"_source", "model_type"} <= json.loads(path.read_text()).keys()
