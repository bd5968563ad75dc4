"""The twelve ways in which exporting a trace without weights goes wrong, each with the test that shows it does not.

 1. parameters made outside the fake mode lose the aliasing of their views, and every view is charged as a copy
 2. functions that return tensors but look harmless (`Tensor.type`, `__getitem__`) are skipped, and work is lost
 3. dependencies by tensor id miss what is written through a slice: only the storage tells who wrote last
 4. the causal half, the window, grouped queries and keys shared with values belong to attention's cost formula
 5. active experts are counted for the model, not for each operator: more than it has
 6. the type a model is built in is not the type it is deployed in: quantisation is an overlay
 7. lm_head over all positions of a prompt, of which serving needs one
 8. tensors that cross layers (positions) become operators of every layer; inputs of a block must be explicit
 9. the exporter uses internals of transformers: its version is pinned, and readers never import it
10. expressions are evaluated as Python
11. the embedding is charged with its table, of which a step reads rows
12. exporting is slow on a loaded machine: exports are kept, and are the same bytes again
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="exporting needs torch (pip install archsim[export])")
transformers = pytest.importorskip("transformers", reason="exporting needs transformers (pip install archsim[export])")

from test_export import CONFIGS, DEEPSEEK, LLAMA  # noqa: E402

from archsim.errors import InputError  # noqa: E402
from archsim.trace import Graph, Op, capture, load_workload, quantised  # noqa: E402
from archsim.trace.exporter.functions import HANDLERS  # noqa: E402
from archsim.trace.exporter.recorder import Recorder  # noqa: E402
from archsim.trace.expr import Expr  # noqa: E402


def ops(graph: Graph, block: int) -> dict[str, Op]:
    return {op.name: op for op in graph.blocks[block].ops}


def recorded(*tensors: Any) -> Recorder:
    recorder = Recorder(HANDLERS, 2, 3, 3)
    for i, tensor in enumerate(tensors):
        recorder.add_tensor(tensor, f"x{i}")
    return recorder


def test_1_views_of_parameters_are_no_copies() -> None:
    """Absorbed attention uses two halves of kv_b_proj: both matmuls read the one weight, and nothing copies it."""
    graph = capture(DEEPSEEK, phase="decode").at(batch=2, ctx=50)
    layer = ops(graph, 1)
    weight = next(i for i, t in enumerate(graph.tensors) if t.name == "dense.self_attn.kv_b_proj.weight")
    readers = [op.name for op in layer.values() if weight in op.inputs]
    assert readers == ["self_attn.q_absorb", "self_attn.v_absorb"]
    assert sum(layer[name].input_bytes[1] for name in readers) == graph.tensors[weight].nbytes
    assert all(op.attrs.get("fn") not in ("copy", "cast") for op in layer.values())


def test_2_casts_and_slices_are_seen() -> None:
    x = torch.zeros(2, 3, 8, dtype=torch.bfloat16)
    recorder = recorded(x)
    with recorder:
        wide = x.type(torch.float32)
        part = x[:, 1:]
    assert [op.attrs["fn"] for op in recorder.ops] == ["cast"]
    assert recorder.find(part) == recorder.find(x) != recorder.find(wide)


def test_3_the_storage_tells_who_wrote_last() -> None:
    """Keys assembled by copies into slices of an empty tensor depend on what was copied."""
    part, other = torch.zeros(2, 3, 4), torch.zeros(2, 3, 4)
    recorder = recorded(part, other)
    with recorder:
        whole = part.new_empty(2, 3, 8)
        whole[..., :4].copy_(part)
        whole[..., 4:].copy_(other)
    assert [(op.attrs["fn"], op.inputs) for op in recorder.ops] == [("concat", [0, 1])]
    assert recorder.producer(whole) is recorder.ops[0]


def test_4_attention_knows_its_mask_its_groups_and_its_shared_keys() -> None:
    dense = ops(capture(LLAMA, phase="prefill").at(batch=2, seq=10, ctx=5), 1)["self_attn.attention"]
    assert dense.flops == 2 * 2 * 4 * sum(range(6, 16)) * 2 * 16  # causal over cached and new tokens
    assert dense.input_bytes[1] == 2 * 2 * 2 * 15 * 16  # two heads of keys for four of queries
    window = ops(capture(CONFIGS["gpt_oss"], phase="prefill").at(batch=2, seq=10, ctx=90), 1)["0.self_attn.attention"]
    assert window.flops == 2 * 2 * 4 * 10 * 20 * 2 * 24
    latent = ops(capture(DEEPSEEK, phase="decode").at(batch=2, ctx=50), 1)["self_attn.attention"]
    assert latent.input_bytes[1:3] == (2 * 2 * 51 * 32, 0)  # values are a slice of the keys


@pytest.mark.parametrize("family", ["mixtral", "qwen3_moe", "gpt_oss", "deepseek"])
def test_5_no_operator_has_more_active_experts_than_experts(family: str) -> None:
    graph = capture(CONFIGS[family], phase="decode").at(batch=500, ctx=9)
    grouped = [op for block in graph.blocks for op in block.ops if op.kind == "grouped_matmul"]
    assert grouped
    for op in grouped:
        assert op.input_bytes[1] == 2 * op.dims["experts"] * op.dims["n"] * op.dims["k"]  # all of its own, no more


def test_6_the_deployed_type_is_an_overlay() -> None:
    """The configuration's own quantisation does not change the export; the overlay does."""
    config = {**DEEPSEEK, "quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}}
    plain, stated = (capture(c, phase="decode", name="m") for c in (DEEPSEEK, config))
    assert (plain.blocks, plain.tensors) == (stated.blocks, stated.tensors)
    assert {t.dtype for t in plain.tensors if t.role == "weight"} == {"bf16"}
    assert {t.dtype for t in quantised(plain, "fp8").tensors if t.role == "weight"} == {"bf16", "fp8"}


def test_7_a_prompt_needs_the_logits_of_its_last_token() -> None:
    rows = {
        phase: ops(capture(LLAMA, phase=phase).at(batch=3, seq=50, ctx=None if phase == "train" else 7), 2)["lm_head"]
        for phase in ("prefill", "decode", "train")
    }
    assert {phase: op.dims["m"] for phase, op in rows.items()} == {"prefill": 3, "decode": 150, "train": 150}


def test_8_positions_cost_nothing_and_blocks_say_what_they_read() -> None:
    """Every activation that a layer reads from outside is the stream that the block before it left."""
    trace = capture(LLAMA, phase="prefill")
    prologue, layer = trace.blocks[:2]
    made = {i for op in layer.ops for i in op.outputs}
    outside = {i for op in layer.ops for i in op.inputs if trace.tensors[i].role == "activation"} - made
    assert outside == set(prologue.ops[-1].outputs)
    assert [op.name for op in prologue.ops] == ["embed_tokens"]


def test_9_readers_never_import_torch() -> None:
    code = (
        "import sys; from archsim.trace import load_workload, capture; load_workload('deepseek-v3', 'train').at(seq=9);"
        "assert not {'torch', 'transformers', 'sympy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert transformers.__version__ == load_workload("deepseek-v3", "decode").producer["transformers"]


@pytest.mark.parametrize("text", ["__import__('os')", "batch.bit_length()", "9**9**9", "[1]", "max(1,2)"])
def test_10_expressions_are_a_language_of_their_own(text: str) -> None:
    with pytest.raises(InputError):
        Expr.parse(text)


def test_11_the_embedding_reads_rows() -> None:
    words = ops(capture(LLAMA, phase="prefill").at(batch=2, seq=5), 0)["embed_tokens"]
    assert words.bytes_read == 2 * 10 * 64


def test_12_an_export_is_the_same_bytes_again(tmp_path: Path) -> None:
    for name in ("a.h5", "b.h5"):
        capture(CONFIGS["qwen3"], phase="train", name="m").save(tmp_path / name)
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()
