"""Training steps: FLOPs and bytes are conserved by every way of sharding, and what must grow grows."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise

import pytest
from click.testing import CliRunner

from archsim.cli.main import cli
from archsim.errors import InputError
from archsim.hardware import load_chip, load_system
from archsim.mapping import Plan, fuse, lay_out, make_target, shard_training
from archsim.simulation.links import links_of
from archsim.trace import load_workload, routed
from archsim.trace.eager_experts import eager_experts
from archsim.trace.mixed_precision import mixed_precision
from archsim.trace.unfused import unfused_attention
from archsim.training import TrainPlan, simulate_training
from archsim.training.costs import measure
from archsim.training.job import prepare_training
from archsim.training.pairs import pair_of
from archsim.training.passes import Passes
from archsim.training.step import run_training

pytestmark = pytest.mark.theory

MULTIPLY = ("matmul", "grouped_matmul", "grouped_matmul_wgrad", "attention", "attention_backward")
SYSTEM, CHIP = load_system("hgx-h100"), load_chip("h100")
LINKS = links_of(CHIP, SYSTEM)


@pytest.mark.parametrize(
    ("model", "plan"),
    [
        ("llama-3.1-8b", Plan(tp=4, dp=2)),
        ("llama-3.1-8b", Plan(tp=8, sp=True)),
        ("gpt3-175b", Plan(tp=8, sp=True)),
        ("qwen3-30b-a3b", Plan(dp=8, ep=8)),
        ("qwen3-30b-a3b", Plan(tp=2, dp=4, ep=8, sp=True)),
    ],
)
def test_chips_share_the_work_of_a_step(model: str, plan: Plan) -> None:
    trace = load_workload(model, "train")
    if plan.ep > 1:
        trace = routed(trace, "balanced")
    graph = trace.at(batch=1, seq=512)
    whole = sum(
        op.flops * block.repeat for block in graph.blocks for op in block.ops if op.kind in MULTIPLY
    )  # fmt: skip
    blocks = shard_training(graph, plan, LINKS)
    mine = sum(task.flops * block.repeat for block in blocks for task in block.tasks if task.kind in MULTIPLY)
    # small products are not split (the router), and keys that fewer heads have than there are chips stand on several
    assert whole <= mine * plan.tp <= 1.1 * whole


def test_the_backward_pass_pays_one_reduction_for_products_of_one_input() -> None:
    graph = load_workload("llama-3.1-8b", "train").at(batch=1, seq=512)
    blocks = {block.name: block for block in shard_training(graph, Plan(tp=8), LINKS)}
    kinds = [task.kind for task in blocks["layer.backward"].tasks]
    assert kinds.count("all_reduce") == 2  # after the gradients of q, k, v and of gate, up
    names = [task.name for task in blocks["layer.backward"].tasks if task.name.endswith(".dgrad")]
    assert len(names) == 4  # q, k, v are one product, gate and up another, o and down


def test_sequence_parallelism_moves_the_same_bytes() -> None:
    graph = load_workload("llama-3.1-8b", "train").at(batch=1, seq=512)

    def moved(plan: Plan, kinds: dict[str, int]) -> int:
        blocks = {block.name: block for block in shard_training(graph, plan, LINKS)}
        tasks = [task for task in blocks["layer"].tasks if task.kind in kinds]
        return sum(task.dims["bytes"] * kinds[task.kind] for task in tasks)

    halves = {"all_gather": 1, "reduce_scatter": 1}
    assert moved(Plan(tp=8), {"all_reduce": 2}) == moved(Plan(tp=8, sp=True), halves)


def small(**changes: object) -> TrainPlan:
    return replace(TrainPlan(dp=8, batch=16), **changes)  # type: ignore[arg-type]


def step(plan: TrainPlan, **options: object) -> float:
    job = prepare_training("hgx-h100", "llama-3.1-8b", plan, seq=512, **options)  # type: ignore[arg-type]
    return run_training(job, fidelity="roofline", fit=False).time_s


def test_more_work_takes_longer() -> None:
    base = step(small())
    assert step(small(batch=32)) > base
    assert step(small(recompute="full")) > step(small(recompute="needed")) > step(small(recompute="selective")) > base
    assert step(small(zero=3)) > base
    assert step(small(), attention="fused", precision="fp8") < base
    assert step(small(pp=2, dp=4)) > step(small(pp=2, dp=4, virtual=2)) > 0


def test_shards_of_state_need_less_memory() -> None:
    def held(zero: int) -> list[int]:
        job = prepare_training("hgx-h100", "llama-3.1-8b", small(zero=zero), seq=512)
        stage = run_training(job, fidelity="roofline", fit=False).stages[0]
        return [stage.weights, stage.gradients, stage.optimizer]

    whole = held(0)
    for zero in (1, 2, 3):
        shares = [1 + 7 * (zero >= 3), 1 + 7 * (zero >= 2), 8]
        assert held(zero) == pytest.approx([n / share for n, share in zip(whole, shares, strict=True)], rel=1e-6)
    assert whole[2] == pytest.approx(12 * load_workload("llama-3.1-8b", "train").at(batch=1, seq=1).n_params, rel=1e-6)


def test_narrow_products_keep_narrow_activations() -> None:
    trace = load_workload("llama-3.1-8b", "train")
    wide, narrow = (mixed_precision(trace, p).at(batch=1, seq=256) for p in ("bf16", "fp8"))
    assert narrow.saved_bytes < wide.saved_bytes
    fp8 = {op.name for block in narrow.blocks for op in block.ops if op.dtype == "fp8"}
    assert {"mlp.up_proj", "mlp.up_proj.dgrad", "mlp.up_proj.wgrad"} <= fp8
    assert not any("lm_head" in name for name in fp8 if not name.endswith("quantise"))


def test_unfused_attention_computes_the_same_products_over_whole_squares() -> None:
    trace = load_workload("gpt3-175b", "train")
    fused, unfused = (t.at(batch=1, seq=256) for t in (trace, unfused_attention(trace)))
    heads, seq, d = 96, 256, 128
    square = 2 * heads * seq * seq * 2 * d
    names = {op.name: op for block in unfused.blocks for op in block.ops if ".attention." in op.name}
    forward = [op for op in names.values() if op.kind == "matmul" and op.attrs["pass"] == "forward"]
    backward = [op for op in names.values() if op.kind == "matmul" and op.attrs["pass"] == "backward"]
    assert sum(op.flops for op in forward) == square
    assert sum(op.flops for op in backward) == 2 * square
    assert unfused.saved_bytes > fused.saved_bytes
    with pytest.raises(InputError, match="as many key/value heads"):
        unfused_attention(load_workload("llama-3.1-8b", "train"))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--tp", "3"], "do not divide the 8"),
        (["--pp", "8", "--batch", "8", "--virtual", "8"], "has only 32 layers"),
        (["--ep", "2"], "has no experts"),
        (["--pp", "2", "--schedule", "dualpipe", "--batch", "12"], "at least 2 pp"),
        (["--zero", "0"], "does not fit hgx-h100"),
        (["--cp", "8", "--seq", "4090"], "tokens of a sequence"),
        (["--batch", "12"], "must be a multiple of dp 8"),
    ],
)
def test_an_impossible_plan_is_one_sentence(options: list[str], words: str) -> None:
    ran = CliRunner().invoke(cli, ["train", "hgx-h100", "llama-3.1-8b", "--fidelity", "roofline", *options])
    assert ran.exit_code == 2, ran.output
    assert words in ran.output
    assert ran.output.count("\n") == 1


def test_a_step_as_json() -> None:
    args = ["train", "hgx-h100", "llama-3.1-8b", "--tp", "8", "--seq", "256", "--batch", "8", "--json"]
    ran = CliRunner().invoke(cli, [*args, "--fidelity", "roofline"])
    assert ran.exit_code == 0, ran.output
    found = json.loads(ran.stdout)
    assert 0 < found["mfu"] <= found["hfu"] * 1.001 <= 1
    assert found["plan"]["tp"] == 8
    assert found["tokens"] == 8 * 256


def test_a_tiled_step_stands_above_its_bound() -> None:
    plan = TrainPlan(tp=8, batch=2)
    bound, tiled = (
        simulate_training("hgx-h100", "llama-3.1-8b", plan, seq=128, fidelity=fidelity).time_s
        for fidelity in ("roofline", "tile")
    )
    assert bound < tiled < 6 * bound


def test_rows_of_several_experts_are_sorted_on_arrival_and_before_they_return() -> None:
    graph = routed(load_workload("qwen3-30b-a3b", "train"), "balanced").at(batch=1, seq=512)
    block = next(b for b in shard_training(graph, Plan(dp=8, ep=8), LINKS) if b.name == "layer")
    names = [task.name.removeprefix("mlp.experts.") for task in block.tasks]
    there, back = names.index("dispatch.sort"), names.index("combine.sort")
    assert names[there - 1] == "dispatch.all_to_all"
    assert names[back + 1] == "combine.all_to_all"
    alone = shard_training(graph, Plan(dp=128, ep=128), links_of(CHIP, load_system("p5-x16", {"chips": 128})))
    assert not any(task.name.endswith(".sort") for block in alone for task in block.tasks)


@pytest.mark.parametrize(("precision", "sent"), [("fp8", "fp8"), ("fp8-tensor", "bf16"), ("mxfp8", "bf16")])
def test_block_scales_are_made_before_rows_travel_and_others_after(precision: str, sent: str) -> None:
    trace = mixed_precision(load_workload("qwen3-30b-a3b", "train"), precision)
    ops = [op for block in trace.blocks for op in block.ops if op.kind == "moe_dispatch"]
    assert {trace.tensors[op.outputs[0]].dtype for op in ops} == {sent}


def test_a_host_that_waits_for_counts_adds_what_it_cannot_run_ahead() -> None:
    operators = (("attention", 400), ("dispatch", 100), ("experts", 80), ("combine", 20))
    passes = Passes(600, 600, 0, 0, 0, 0, operators, launches=(1, 1, 8, 1), waits=(1,))
    ahead = replace(passes, waits=())
    assert passes.paced(600, 0) == ahead.paced(600, 0) == 600
    assert ahead.paced(600, 50) == 600  # 11 launches of 50 ps
    # dispatch begins at 50 and ends at 150; the last of 8 experts is launched at 450 and ends a part (10 ps) later;
    # combine is launched at 500 and ends at 520; attention is launched at 550
    assert passes.paced(600, 50) == 550 + 400
    two_layers = Passes(1200, 1200, 0, 0, 0, 0, operators * 2, launches=(1, 1, 8, 1) * 2, waits=(1, 5))
    assert two_layers.paced(1200, 50) == 2 * passes.paced(600, 50)
    assert ahead.paced(600, 100) == 1100


def test_collectives_hide_behind_kernels_as_far_as_they_are_shorter() -> None:
    exchanges = (("all_gather", 30, True), ("reduce_scatter", 20, False), ("all_to_all", 40, True))
    passes = Passes(190, 100, 90, 0, 0, 0, (), launches=(), waits=(), exchanges=exchanges, spare=25)

    def time(**overlap: object) -> int:
        return passes.hiding(small(**overlap).hidden)

    assert time() == 190
    assert time(overlap_tp="gathers") == 160
    assert time(overlap_tp="all") == 140
    assert time(overlap_tp="all", overlap_ep=True) == 100  # the kernels
    assert replace(passes, exchanges=(("all_to_all", 150, True),)).hiding({"all_to_all"}) == 150  # the exchange
    assert passes.needed(small().hidden) == 190 - 25 - 20
    assert passes.needed(small(overlap_tp="all").hidden) == 140 - 25


def test_clamps_and_biases_of_experts_move_what_pytorch_moves() -> None:
    trace = load_workload("gpt-oss-20b", "train")
    assert eager_experts(trace, "fused") is trace
    llama = load_workload("llama-3.1-8b", "train")
    assert eager_experts(llama, "eager").content_hash == llama.content_hash
    graph = routed(eager_experts(trace, "eager"), "balanced").at(batch=1, seq=512)
    kernels = {b.name: [k for k in b.kernels if "1.mlp.experts" in k.name]
               for b in fuse(shard_training(graph, Plan(dp=8, ep=8), LINKS))}  # fmt: skip
    rows, y, x = 512 * 4, 2880 * 2, 5760 * 2  # of a chip, and bytes of a row
    moved = {k.name.partition("experts.")[2]: k.nbytes for b in ("layer", "layer.backward") for k in kernels[b]}
    assert moved["silu_mul.clamp"] == moved["silu_mul.cat"] == 2 * rows * x
    assert moved["down_proj.add_bias"] == 3 * rows * y
    assert moved["silu_mul.backward.clamp"] == 3 * rows * x
    assert moved["down_proj.bias.scale"] == 2 * rows * y
    launched = {task.name: len(task.rows) for b in kernels.values() for k in b for task in k.tasks}
    assert launched["1.mlp.experts.down_proj.add_bias"] == 4  # for each of a chip's experts


def test_gradients_in_bf16_halve_what_is_exchanged_and_kept() -> None:
    steps = [
        simulate_training("hgx-h100", "llama-3.1-8b", small(zero=1, gradients=kind), seq=512, fidelity="roofline")
        for kind in ("fp32", "bf16")
    ]
    assert steps[0].time_s > steps[1].time_s
    assert steps[0].stages[0].gradients == pytest.approx(2 * steps[1].stages[0].gradients)


def test_a_host_waits_for_counts_once_in_every_layer() -> None:
    job = prepare_training("p5-x16", "gpt-oss-20b", TrainPlan(dp=16, ep=8, batch=16), seq=64)
    layer = next(b for b in measure(job, fidelity="roofline").passes if b.name == "layer")
    waited = [layer.forward.operators[i][0] for i in layer.forward.waits]
    assert waited == ["0.mlp.experts.dispatch", "1.mlp.experts.dispatch"]
    assert not layer.backward.waits


def test_a_pair_of_passes_has_kernels_of_one_beside_exchanges_of_the_other() -> None:
    graph = routed(load_workload("qwen3-30b-a3b", "train"), "balanced").at(batch=1, seq=64)
    tasks, target = shard_training(graph, Plan(dp=8, ep=8), LINKS), make_target(CHIP)
    blocks = {block.name: block for block in fuse(tasks)}
    layout = lay_out(graph, tasks, tuple(blocks.values()), target.block_bytes, target.storage)
    forward, backward = blocks["layer"], blocks["layer.backward"]
    pair = pair_of(forward, backward, layout)
    assert pair is not None
    assert pair_of(blocks["prologue"], blocks["prologue.backward"], layout) is None  # nothing travels
    names = {kernel.name for kernel in forward.kernels}
    sides = [(kernel.op_kind == "all_to_all", kernel.name in names) for kernel in pair[0].kernels]
    starts = [i for i, (exchange, _) in enumerate(sides) if exchange]
    for start, end in pairwise([*starts, len(sides)]):
        beside = {ahead for exchange, ahead in sides[start + 1 : end] if not exchange}
        assert (not sides[start][1]) in beside
    assert len(sides) == len(forward.kernels) + len(backward.kernels)
    ours = {o.tensor for k in pair[0].kernels if k.name in names for o in (*k.inputs, *k.outputs)}
    assert not ours & {o.tensor for k in backward.kernels for o in (*k.inputs, *k.outputs)}
