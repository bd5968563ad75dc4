"""Which products tensor parallelism splits, by the names that the model code of each family gives them."""

from __future__ import annotations

import pytest

from archsim.mapping import Plan, footprint, shard
from archsim.mapping.shard import Fabric
from archsim.models.collective import Level
from archsim.trace import load_workload

FABRIC = Fabric(Level(1e-6, 160e9), None, 8)
#: products that every chip does in full, by the end of their names
WHOLE = (
    "mlp.gate",
    "mlp.router",
    "q_a_proj",
    "kv_a_proj_with_mqa",
    "indexer.wq_b",
    "indexer.wk",
    "indexer.weights_proj",
    "indexer.scores",
)


@pytest.mark.parametrize(
    ("name", "ways"),
    [
        ("llama-3.1-8b", 8),
        ("qwen3-32b", 8),
        ("deepseek-r1-distill-qwen-32b", 8),
        ("gpt3-175b", 8),
        ("gpt-oss-20b", 8),
        ("mixtral-8x7b", 8),
        ("glm-4.5", 8),
        ("deepseek-v2-lite", 8),
        ("deepseek-v3", 8),
        ("deepseek-v3.2-exp", 8),
    ],
)
def test_eight_chips_do_an_eighth_of_every_product(name: str, ways: int) -> None:
    graph = load_workload(name, "decode").at(batch=8, ctx=100)
    blocks = shard(graph, Plan(tp=ways, ep=1), FABRIC)
    for block, tasks in zip(graph.blocks, blocks, strict=True):
        own = {task.name: task for task in tasks.tasks}
        for op in block.ops:
            if op.kind in ("matmul", "grouped_matmul", "attention"):
                expected = op.flops if op.name.endswith(WHOLE) else op.flops / ways
                assert own[op.name].flops == pytest.approx(expected, rel=0.02), op.name
        reductions = [task.name for task in tasks.tasks if task.kind == "all_reduce"]
        layers = sum(op.name.endswith("attention") for op in block.ops)
        shared = sum(op.name.endswith("shared_experts.down_proj") for op in block.ops)
        if layers:
            assert len(reductions) == 2 * layers + shared  # attention and MLP, and the shared experts
    need = footprint(graph, blocks)
    assert need.weights < 0.2 * graph.weight_bytes


def test_sinks_and_biases_are_split() -> None:
    graph = load_workload("gpt-oss-20b", "decode").at(batch=8, ctx=100)
    own = {task.name: task for task in shard(graph, Plan(tp=8, ep=1), FABRIC)[1].tasks}
    assert own["1.self_attn.attention"].inputs[3].nbytes == 2 * 64 // 8
    assert own["0.self_attn.q_proj"].inputs[2].nbytes == 2 * 4096 // 8
    active = sum(rows > 0 for rows in own["0.mlp.experts.gate_up_proj"].rows)
    assert own["0.mlp.experts.gate_up_proj"].inputs[2].nbytes == 2 * active * 5760 // 8
    assert own["0.mlp.experts.down_proj"].inputs[2].nbytes == 2 * active * 2880
