"""Which operators become one kernel, and where the tensors of a chip lie."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise

import pytest

from archsim.errors import InputError
from archsim.mapping import Fusion, Kernel, KernelBlock, Layout, Plan, Storage, fuse, lay_out, savings, shard
from archsim.mapping.shard import Fabric
from archsim.mapping.task import Operand, Task, TaskBlock
from archsim.models.collective import Level
from archsim.trace import Graph, load_workload

ALIGN = 4096
FABRIC = Fabric(Level(1e-6, 160e9), Level(4e-6, 50e9), 8)
LLAMA, DEEPSEEK = Plan(), Plan(tp=8, dp=4, ep=32)


Mapped = tuple[Graph, tuple[TaskBlock, ...], tuple[KernelBlock, ...]]


def mapped(name: str, phase: str, plan: Plan, **at: int) -> Mapped:
    graph = load_workload(name, phase).at(**at)
    tasks = shard(graph, plan, FABRIC if plan.chips > 1 else None)
    return graph, tasks, fuse(tasks)


def kernel_names(blocks: Sequence[KernelBlock], name: str) -> list[str]:
    return [kernel.name for block in blocks if block.name == name for kernel in block.kernels]


def kernel(blocks: Sequence[KernelBlock], block: str, name: str) -> Kernel:
    return next(k for b in blocks if b.name == block for k in b.kernels if k.name == name)


@pytest.fixture(scope="module")
def llama() -> Mapped:
    return mapped("llama-3.1-8b", "decode", LLAMA, batch=4, ctx=512)


@pytest.fixture(scope="module")
def deepseek() -> Mapped:
    return mapped("deepseek-v3", "decode", DEEPSEEK, batch=8, ctx=512)


# fusion as data -----------------------------------------------------------------------------------------------


def test_rules_can_be_turned_off_and_operators_kept_apart(llama: Mapped) -> None:
    apart = kernel_names(fuse(llama[1], Fusion(products=False, vectors=False)), "layer")
    assert len(apart) == sum(len(block.tasks) for block in llama[1] if block.name == "layer")
    some = kernel_names(fuse(llama[1], Fusion(apart=("self_attn.residual", "self_attn.v_proj"))), "layer")
    assert {"self_attn.residual", "post_attention_layernorm", "self_attn.v_proj"} <= set(some)
    assert "self_attn.q_proj + k_proj" in some


def test_what_fusion_saves_is_what_its_absence_costs(llama: Mapped) -> None:
    saved = savings(llama[1], llama[2])
    unfused = fuse(llama[1], Fusion(products=False, vectors=False))
    kernels, moved = (
        [sum(b.repeat * each for b in blocks for each in figure(b)) for blocks in (unfused, llama[2])]
        for figure in (lambda b: [len(b.kernels)], lambda b: [k.nbytes for k in b.kernels])
    )
    assert sum(each.launches for each in saved) == kernels[0] - kernels[1] == 192
    assert sum(each.nbytes for each in saved) == moved[0] - moved[1] > 0


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"product": False}, "product: unknown key (did you mean 'products'?)"),
        ({"vectors": "no"}, "vectors is no, but must be true or false"),
        ({"apart": "mlp.residual"}, "apart is mlp.residual, but must be a list"),
        ({"apart": ["mlp.residul"]}, "no operator is called 'mlp.residul' (did you mean 'mlp.residual'?)"),
    ],
)
def test_rules_that_make_no_sense_are_one_sentence(llama: Mapped, given: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        fuse(llama[1], Fusion.of(given))


# fusion -------------------------------------------------------------------------------------------------------


def test_a_llama_layer_is_ten_kernels(llama: Mapped) -> None:
    assert kernel_names(llama[2], "layer") == [
        "input_layernorm",
        "self_attn.q_proj + k_proj + v_proj",
        "self_attn.rotary_q + rotary_k + kv_append",
        "self_attn.attention",
        "self_attn.o_proj",
        "self_attn.residual + post_attention_layernorm",
        "mlp.gate_proj + up_proj",
        "mlp.silu_mul",
        "mlp.down_proj",
        "mlp.residual",
    ]


def test_a_merged_product_reads_its_activation_once_and_all_its_weights(llama: Mapped) -> None:
    qkv = kernel(llama[2], "layer", "self_attn.q_proj + k_proj + v_proj")
    assert [o.nbytes for o in qkv.inputs] == [4 * 4096 * 2, 4096 * 4096 * 2, 1024 * 4096 * 2, 1024 * 4096 * 2]
    assert [o.nbytes for o in qkv.outputs] == [4 * 4096 * 2, 4 * 1024 * 2, 4 * 1024 * 2]
    assert qkv.flops == 2 * 4 * (4096 + 1024 + 1024) * 4096


def test_a_chain_keeps_what_only_its_members_see_in_registers(llama: Mapped) -> None:
    """Residual add and norm: two activations and the norm's weight come in; the sum leaves, for the later residual."""
    chain = kernel(llama[2], "layer", "self_attn.residual + post_attention_layernorm")
    rows = 4 * 4096 * 2
    assert sorted(o.nbytes for o in chain.inputs) == [4096 * 2, rows, rows]
    assert [o.nbytes for o in chain.outputs] == [rows, rows]
    rotated = kernel(llama[2], "layer", "self_attn.rotary_q + rotary_k + kv_append")
    key = 4 * 1024 * 2
    assert [o.role for o in rotated.outputs] == ["activation", "kv_cache", "kv_cache"]  # the rotated key stays inside
    assert sum(o.nbytes for o in rotated.inputs) == rows + 2 * key
    assert sum(o.nbytes for o in rotated.outputs) == rows + 2 * key


def test_the_router_is_not_merged_with_the_shared_experts_that_read_the_same_rows(deepseek: Mapped) -> None:
    names = kernel_names(deepseek[2], "moe")
    assert "mlp.gate" in names
    assert "mlp.shared_experts.gate_proj + up_proj" in names
    gate = kernel(deepseek[2], "moe", "mlp.gate")
    shared = kernel(deepseek[2], "moe", "mlp.shared_experts.gate_proj + up_proj")
    assert gate.inputs[0].tensor == shared.inputs[0].tensor


def test_gathers_scatters_and_collectives_are_kernels_of_their_own(deepseek: Mapped) -> None:
    names = kernel_names(deepseek[2], "moe")
    for name in (
        "mlp.experts.dispatch", "mlp.experts.dispatch.all_to_all", "mlp.experts.combine.all_to_all",
        "mlp.experts.combine", "mlp.experts.combine.all_gather", "self_attn.o_proj.all_reduce",
    ):  # fmt: skip
        assert name in names


def test_a_collective_works_in_place_so_it_waits_for_its_data_and_is_waited_for() -> None:
    _, _, kernels = mapped("llama-3.1-8b", "decode", Plan(tp=8), batch=4, ctx=512)
    for name in ("layer.mlp.down_proj.all_reduce", "epilogue.lm_head.all_gather"):
        block, _, op = name.partition(".")
        collective = kernel(kernels, block, op)
        producer = kernel(kernels, block, op.rpartition(".")[0])
        assert collective.inputs == collective.outputs
        assert collective.inputs[0].tensor == producer.outputs[0].tensor


@pytest.mark.parametrize("model", ["llama", "deepseek"])
def test_fusion_neither_loses_nor_repeats_a_task(model: str, request: pytest.FixtureRequest) -> None:
    _, tasks, kernels = request.getfixturevalue(model)
    for before, after in zip(tasks, kernels, strict=True):
        members = [task for each in after.kernels for task in each.tasks]
        assert sorted(map(id, members)) == sorted(map(id, before.tasks))
        assert sum(each.flops for each in after.kernels) == sum(task.flops for task in before.tasks)


@pytest.mark.parametrize("model", ["llama", "deepseek"])
def test_fused_kernels_read_only_what_was_written_before(model: str, request: pytest.FixtureRequest) -> None:
    _, _, kernels = request.getfixturevalue(model)
    written: set[int] = set()
    for block in kernels:
        for each in block.kernels:
            assert all(o.tensor in written for o in each.inputs if o.role == "activation"), each.name
            written |= {o.tensor for o in each.outputs}


def test_two_parts_of_one_tensor_count_together() -> None:
    """SwiGLU reads gate and up, which a merged product wrote side by side."""
    half = Operand(0, "activation", 100, 2.0)
    task = Task("mul", "elementwise", {"rows": 1, "cols": 50}, {"fn": "mul"}, "bf16", (half, half),
                (Operand(1, "activation", 100, 2.0),), 50)  # fmt: skip
    (block,) = fuse([TaskBlock("b", 1, (task,))])
    assert [o.nbytes for o in block.kernels[0].inputs] == [200]


# layout -------------------------------------------------------------------------------------------------------

POINTS = [
    ("llama-3.1-8b", "decode", LLAMA, {"batch": 4, "ctx": 512}),
    ("llama-3.1-8b", "prefill", Plan(tp=8), {"batch": 1, "seq": 64}),
    ("deepseek-v3", "decode", DEEPSEEK, {"batch": 8, "ctx": 512}),
]


def extents(graph: Graph, blocks: Sequence[KernelBlock], layout: Layout) -> dict[tuple[int, int], tuple[int, int]]:
    """(first, last + 1) byte of every (weight or KV tensor, repeat) that a kernel touches."""
    spans: dict[tuple[int, int], tuple[int, int]] = {}
    for block in blocks:
        for operand in (o for k in block.kernels for o in (*k.inputs, *k.outputs)):
            if graph.tensors[operand.tensor].role == "activation":
                continue
            for repeat in range(block.repeat):
                start = layout.base[operand.tensor] + repeat * layout.stride[operand.tensor]
                key = (operand.tensor, repeat)
                spans[key] = (start, max(start + operand.nbytes, spans.get(key, (0, 0))[1]))
    return spans


@pytest.mark.parametrize(("name", "phase", "plan", "at"), POINTS)
def test_no_two_resident_tensors_overlap_in_any_repeat(name: str, phase: str, plan: Plan, at: dict[str, int]) -> None:
    graph, tasks, kernels = mapped(name, phase, plan, **at)
    spans = sorted(extents(graph, kernels, lay_out(graph, tasks, kernels, ALIGN, Storage())).values())
    assert all(end <= start for (_, end), (start, _) in pairwise(spans))


@pytest.mark.parametrize(("name", "phase", "plan", "at"), POINTS)
def test_activations_lie_behind_all_weights_and_stay_where_they_are(
    name: str, phase: str, plan: Plan, at: dict[str, int]
) -> None:
    graph, tasks, kernels = mapped(name, phase, plan, **at)
    layout = lay_out(graph, tasks, kernels, ALIGN, Storage())
    last = max(end for _, end in extents(graph, kernels, layout).values())
    for tensor, base in layout.base.items():
        if graph.tensors[tensor].role == "activation":
            assert last <= base < layout.workspace
            assert layout.stride[tensor] == 0


@pytest.mark.parametrize(("name", "phase", "plan", "at"), POINTS)
def test_operands_of_a_merged_product_are_adjacent_in_every_repeat(
    name: str, phase: str, plan: Plan, at: dict[str, int]
) -> None:
    """The kernel walks over gate and up as over one matrix: what follows gate must be up of the same layer."""
    graph, tasks, kernels = mapped(name, phase, plan, **at)
    layout = lay_out(graph, tasks, kernels, ALIGN, Storage())
    merged = [k for b in kernels for k in b.kernels if k.kind == "product" and len(k.tasks) > 1]
    assert merged
    for each in merged:
        for group in (each.inputs[1:], each.outputs):
            for left, right in pairwise(group):
                assert layout.base[right.tensor] == layout.base[left.tensor] + left.nbytes
                assert layout.stride[right.tensor] == layout.stride[left.tensor]


def test_the_weights_of_a_chip_fill_its_memory_without_holes() -> None:
    """Sixteen gigabytes of Llama and its cache, but for less than a cache block per tensor and repeat."""
    graph, tasks, kernels = mapped("llama-3.1-8b", "decode", LLAMA, batch=4, ctx=512)
    layout = lay_out(graph, tasks, kernels, ALIGN, Storage(kv_cache="contiguous"))
    first_activation = min(b for t, b in layout.base.items() if graph.tensors[t].role == "activation")
    held = graph.weight_bytes + graph.kv_bytes
    assert held <= first_activation <= held + 32 * len(layout.base) * ALIGN
