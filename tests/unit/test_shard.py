"""What one chip does of a sharded model, in numbers worked by hand from the published configurations.

Llama-3.1-8B: 32 layers, hidden 4096, 32 heads and 8 key/value heads of 128, MLP 14336, vocabulary 128256.
DeepSeek-V3: 3 dense and 58 MoE layers, hidden 7168, 128 heads, latent of 512 + 64, 256 experts of 2048, vocabulary
129280.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import pytest

from archsim.mapping import Handover, Plan, footprint, shard
from archsim.mapping.shard import Fabric
from archsim.mapping.task import Task, TaskBlock
from archsim.models.collective import Level, all_gather, all_reduce, all_to_all, over_nodes
from archsim.trace import Graph, load_workload
from archsim.trace.moe import expert_counts

INSIDE, OUTSIDE = Level(1e-6, 160e9), Level(4e-6, 50e9)
FABRIC = Fabric(INSIDE, OUTSIDE, 8)
BF16 = 2
BATCH, CTX = 8, 1000  # of one data-parallel group


@lru_cache
def sharded(name: str, plan: Plan) -> tuple[Graph, tuple[TaskBlock, ...]]:
    graph = load_workload(name, "decode").at(batch=BATCH, ctx=CTX)
    return graph, shard(graph, plan, FABRIC if plan.chips > 1 else None)


def task(name: str, plan: Plan, block: str, op: str) -> Task:
    return next(t for b in sharded(name, plan)[1] if b.name == block for t in b.tasks if t.name == op)


def collectives(name: str, plan: Plan, block: str) -> list[tuple[str, int, int]]:
    """(name, bytes, ranks) of each collective of a block."""
    tasks = next(b for b in sharded(name, plan)[1] if b.name == block).tasks
    return [(t.name, t.dims["bytes"], t.dims["ranks"]) for t in tasks if t.kind.startswith("all_")]


# one chip -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["llama-3.1-8b", "deepseek-v3"])
def test_one_chip_does_the_whole_model_and_talks_to_nobody(name: str) -> None:
    graph, blocks = sharded(name, Plan())
    assert [(b.name, b.repeat) for b in blocks] == [(b.name, b.repeat) for b in graph.blocks]
    for block, tasks in zip(graph.blocks, blocks, strict=True):
        assert [t.name for t in tasks.tasks] == [op.name for op in block.ops]
        assert sum(t.flops for t in tasks.tasks) == block.flops
    need = footprint(graph, blocks)
    assert need.weights == graph.weight_bytes
    assert need.kv_cache == graph.kv_bytes


# Llama on eight chips -----------------------------------------------------------------------------------------

LLAMA, TP8, TP16 = "llama-3.1-8b", Plan(tp=8), Plan(tp=16)


def test_each_of_eight_chips_holds_an_eighth_of_llama_but_all_of_its_norms() -> None:
    graph, blocks = sharded(LLAMA, TP8)
    norms = (32 * 2 + 1) * 4096 * BF16
    assert footprint(graph, blocks).weights == (graph.weight_bytes - norms) // 8 + norms
    assert footprint(graph, blocks).kv_cache == graph.kv_bytes // 8


@pytest.mark.parametrize(
    ("op", "n", "k"),
    [
        ("self_attn.q_proj", 4 * 128, 4096),
        ("self_attn.k_proj", 128, 4096),
        ("self_attn.v_proj", 128, 4096),
        ("self_attn.o_proj", 4096, 4 * 128),
        ("mlp.gate_proj", 14336 // 8, 4096),
        ("mlp.up_proj", 14336 // 8, 4096),
        ("mlp.down_proj", 4096, 14336 // 8),
    ],
)
def test_megatron_splits_columns_first_and_the_reduction_after(op: str, n: int, k: int) -> None:
    share = task(LLAMA, TP8, "layer", op)
    assert (share.dims["m"], share.dims["n"], share.dims["k"]) == (BATCH, n, k)
    assert [o.nbytes for o in share.inputs] == [BATCH * k * BF16, n * k * BF16]
    assert share.outputs[0].nbytes == BATCH * n * BF16
    assert share.flops == 2 * BATCH * n * k


def test_what_stands_between_the_products_inherits_their_split() -> None:
    attention = task(LLAMA, TP8, "layer", "self_attn.attention")
    assert (attention.dims["heads"], attention.dims["kv_heads"]) == (4, 1)
    assert task(LLAMA, TP8, "layer", "self_attn.rotary_q").dims["cols"] == 4 * 128
    assert task(LLAMA, TP8, "layer", "self_attn.rotary_k").dims["cols"] == 128
    assert task(LLAMA, TP8, "layer", "self_attn.kv_append").dims["cols"] == 2 * 128
    assert task(LLAMA, TP8, "layer", "mlp.silu_mul").dims["cols"] == 14336 // 8
    assert task(LLAMA, TP8, "layer", "mlp.residual").dims["cols"] == 4096


def test_key_value_heads_are_copied_where_there_are_fewer_than_chips() -> None:
    """Eight heads on sixteen chips: each chip keeps one, so the cache shrinks by eight and not by sixteen."""
    attention = task(LLAMA, TP16, "layer", "self_attn.attention")
    assert (attention.dims["heads"], attention.dims["kv_heads"]) == (2, 1)
    assert task(LLAMA, TP16, "layer", "self_attn.k_proj").dims["n"] == 128
    graph, blocks = sharded(LLAMA, TP16)
    assert footprint(graph, blocks).kv_cache == graph.kv_bytes // 8


def test_llama_reduces_twice_a_layer_and_gathers_its_logits() -> None:
    rows = BATCH * 4096 * BF16
    assert collectives(LLAMA, TP8, "prologue") == [("embed_tokens.all_reduce", rows, 8)]
    assert collectives(LLAMA, TP8, "layer") == [
        ("self_attn.o_proj.all_reduce", rows, 8),
        ("mlp.down_proj.all_reduce", rows, 8),
    ]
    assert collectives(LLAMA, TP8, "epilogue") == [("lm_head.all_gather", BATCH * 128256 * BF16, 8)]


def test_a_collective_cannot_come_below_its_closed_form() -> None:
    rows, logits = BATCH * 4096 * BF16, BATCH * 128256 * BF16
    assert task(LLAMA, TP8, "layer", "mlp.down_proj.all_reduce").seconds == all_reduce(rows, 8, INSIDE)
    assert task(LLAMA, TP8, "epilogue", "lm_head.all_gather").seconds == all_gather(logits, 8, INSIDE)
    across = task(LLAMA, TP16, "layer", "mlp.down_proj.all_reduce").seconds
    assert across == over_nodes(all_reduce, rows, 16, 8, INSIDE, OUTSIDE)  # sixteen chips span two nodes of eight


def test_data_parallel_groups_share_nothing_of_a_dense_model() -> None:
    assert sharded(LLAMA, Plan(dp=8))[1] == sharded(LLAMA, Plan())[1]


# DeepSeek on thirty-two chips ---------------------------------------------------------------------------------

DEEPSEEK, EP32 = "deepseek-v3", Plan(tp=8, dp=4, ep=32)
EXPERT = 3 * 7168 * 2048 * BF16


def test_each_chip_holds_its_heads_its_experts_and_copies_of_the_rest() -> None:
    graph, blocks = sharded(DEEPSEEK, EP32)
    copied = (1536 + 576) * 7168 + 1536 + 512 + 2 * 7168  # a-projections and norms of a layer
    split = (128 * 192 * 1536 + 128 * 256 * 512 + 128 * 128 * 7168) // 8  # heads: q_b, kv_b, o
    dense = 3 * 3 * 7168 * 18432 // 8
    shared_and_router = 58 * (3 * 7168 * 2048 // 8 + 256 * 7168)
    ends = 2 * 129280 * 7168 // 8 + 7168
    other = BF16 * (61 * (copied + split) + dense + shared_and_router + ends)
    assert footprint(graph, blocks).weights == 58 * (256 // 32) * EXPERT + other


def test_the_latent_cache_is_copied_to_every_chip_of_a_group() -> None:
    graph, blocks = sharded(DEEPSEEK, EP32)
    assert footprint(graph, blocks).kv_cache == graph.kv_bytes == 61 * BATCH * (CTX + 1) * 576 * BF16
    attention = task(DEEPSEEK, EP32, "moe", "self_attn.attention")
    assert (attention.dims["heads"], attention.dims["kv_heads"]) == (16, 1)
    latent = [o.nbytes for o in attention.inputs if o.role == "kv_cache"]
    assert latent == [BATCH * (CTX + 1) * 576 * BF16, 0]  # keys and values are one array


def test_absorbed_products_split_their_heads() -> None:
    absorb = task(DEEPSEEK, EP32, "moe", "self_attn.q_absorb")
    assert absorb.dims["b"] == 16
    assert absorb.inputs[1].nbytes == 16 * 128 * 512 * BF16


def test_the_busiest_chip_works_on_its_own_experts() -> None:
    """Tokens of all four groups are routed; a chip owns eight neighbouring experts, the layer waits for the busiest."""
    counts = expert_counts(4 * BATCH, 256, 8).reshape(32, 8)
    share = task(DEEPSEEK, EP32, "moe", "mlp.experts.gate_up_proj")
    assert len(share.rows) == 8
    assert sum(share.rows) == counts.sum(axis=1).max()
    active = sum(rows > 0 for rows in share.rows)
    assert share.inputs[1].nbytes == active * 4096 * 7168 * BF16
    assert share.inputs[0].nbytes == sum(share.rows) * 7168 * BF16
    assert share.flops == 2 * sum(share.rows) * 4096 * 7168
    down = task(DEEPSEEK, EP32, "moe", "mlp.experts.down_proj")
    assert down.rows == share.rows
    assert task(DEEPSEEK, EP32, "moe", "mlp.experts.silu_mul").dims["rows"] == sum(share.rows)


def test_moe_layers_exchange_their_tokens_and_rebuild_the_group() -> None:
    """A chip sends the top-8 copies of its eighth of the group's tokens, and gets as many back."""
    sent, rows = BATCH // 8 * 8 * 7168 * BF16, BATCH * 7168 * BF16
    assert collectives(DEEPSEEK, EP32, "moe") == [
        ("self_attn.o_proj.all_reduce", rows, 8),
        ("mlp.experts.dispatch.all_to_all", sent, 32),
        ("mlp.experts.combine.all_to_all", sent, 32),
        ("mlp.experts.combine.all_gather", rows, 8),
        ("mlp.shared_experts.down_proj.all_reduce", rows, 8),
    ]
    exchange = task(DEEPSEEK, EP32, "moe", "mlp.experts.dispatch.all_to_all")
    assert exchange.seconds == all_to_all(sent, 32, 8, INSIDE, OUTSIDE)


def test_a_single_group_has_all_tokens_everywhere_and_adds_up_what_its_experts_gave() -> None:
    plan = Plan(tp=8, ep=8)
    rows = BATCH * 7168 * BF16
    assert collectives(DEEPSEEK, plan, "moe") == [
        ("self_attn.o_proj.all_reduce", rows, 8),
        ("mlp.experts.combine.all_reduce", rows, 8),
        ("mlp.shared_experts.down_proj.all_reduce", rows, 8),
    ]
    busiest = expert_counts(BATCH, 256, 8).reshape(8, 32).sum(axis=1).max()
    assert sum(task(DEEPSEEK, plan, "moe", "mlp.experts.gate_up_proj").rows) == busiest
    assert task(DEEPSEEK, plan, "moe", "mlp.experts.combine").dims["tokens"] == -(-busiest // 8)


def test_without_expert_parallelism_every_chip_holds_a_slice_of_each_expert() -> None:
    plan = Plan(tp=8)
    up, down = (task(DEEPSEEK, plan, "moe", f"mlp.experts.{name}_proj") for name in ("gate_up", "down"))
    assert len(up.rows) == 256
    assert sum(up.rows) == BATCH * 8
    assert (up.dims["n"], up.dims["k"]) == (4096 // 8, 7168)
    assert (down.dims["n"], down.dims["k"]) == (7168, 2048 // 8)
    graph, blocks = sharded(DEEPSEEK, plan)
    experts = 58 * 256 * EXPERT // 8
    assert experts < footprint(graph, blocks).weights < experts * 1.1
    kinds = [name.rpartition(".")[2] for name, _, _ in collectives(DEEPSEEK, plan, "moe")]
    assert kinds == ["all_reduce"] * 3


def test_the_seed_moves_the_routing_and_nothing_else() -> None:
    graph = load_workload(DEEPSEEK, "decode").at(batch=BATCH, ctx=CTX)
    one, other = (shard(graph, EP32, FABRIC, seed) for seed in (0, 1))
    assert one != other
    assert shard(graph, EP32, FABRIC, 0) == one
    for a, b in zip(one, other, strict=True):
        for mine, theirs in zip(a.tasks, b.tasks, strict=True):
            assert mine == theirs or "experts" in mine.name


# cards that carry few tokens ------------------------------------------------------------------------------------


def handed_over(ep: int, batch: int) -> list[Task]:
    """The tasks around the experts of DeepSeek-V3 where cards carry messages between nodes of 8."""
    fabric = replace(FABRIC, handover=Handover(10e-6, 12e-9, 5e-6, 4e-9))
    plan = Plan(dp=ep, ep=ep)
    graph = load_workload("deepseek-v3", "decode").at(batch=batch, ctx=CTX)
    block = shard(graph, plan, fabric)[-2]
    return [t for t in block.tasks if ".experts." in t.name and t.kind.startswith(("moe", "expert", "all"))]


def test_cores_post_few_tokens_to_cards_and_take_them_over() -> None:
    tasks = handed_over(32, 64)
    assert [t.name.removeprefix("mlp.experts.") for t in tasks] == [
        "dispatch", "dispatch.all_to_all", "dispatch.post", "dispatch.receive",
        "combine.pack", "combine.all_to_all", "combine.post", "combine",
    ]  # fmt: skip
    by_name = {t.name.removeprefix("mlp.experts."): t for t in tasks}
    rows = 64 * 8
    assert by_name["dispatch.post"].seconds == pytest.approx(10e-6 + rows * 12e-9)
    assert by_name["dispatch.receive"].seconds == pytest.approx(5e-6 + rows * 4e-9)
    assert by_name["dispatch.all_to_all"].dims["received_ps"] == round((5e-6 + rows * 4e-9) * 1e12)
    assert by_name["dispatch.post"].inputs == ()  # nothing waits for it but the cores
    assert by_name["dispatch.receive"].inputs[0].tensor == by_name["dispatch.all_to_all"].outputs[0].tensor


@pytest.mark.parametrize(("ep", "batch"), [(8, 64), (32, 2048)])
def test_neither_one_node_nor_many_tokens_are_handed_over(ep: int, batch: int) -> None:
    kinds = [t.kind for t in handed_over(ep, batch)]
    assert kinds.count("all_to_all") == 2
    assert not {"expert_post", "expert_receive"} & set(kinds)
