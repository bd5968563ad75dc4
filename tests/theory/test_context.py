"""Sequences shared by several chips: their work, their cache and their messages add up to those of one chip."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

import archsim
from archsim.errors import InputError
from archsim.hardware import load_chip, load_system
from archsim.mapping import Plan, shard, shard_step
from archsim.network import Collective, Fabric, Group, run_collective
from archsim.network.request import Kind
from archsim.serving import STACKS, Deployment
from archsim.simulation import Job, Options, prepare
from archsim.simulation.links import links_of
from archsim.trace import load_workload

pytestmark = pytest.mark.theory

DENSE, LATENT = "llama-3.1-8b", "deepseek-v2-lite"


def job(model: str, phase: str, system: str | None = "hgx-h100", **options: Any) -> Job:
    return prepare("h100", model, Options(phase, overlap="none", **options), system)


def flops(found: Job, kind: str, name: str = "") -> int:
    return sum(
        task.flops * block.repeat for block in found.tasks for task in block.tasks
        if task.kind == kind and name in task.name
    )  # fmt: skip


def test_one_chip_a_sequence_is_what_it_was() -> None:
    for phase in ("prefill", "decode"):
        graph = load_workload(DENSE, phase).at(batch=2, seq=4, ctx=64)
        found = job(DENSE, phase, batch=2, seq=4, ctx=64, tp=8)
        links = links_of(found.chip, found.system)
        assert shard_step(graph, Plan(tp=8), links) == shard(graph, Plan(tp=8), links) == found.tasks
    steps = [archsim.simulate("h100", DENSE, phase="decode", ctx=64, **given) for given in ({}, {"cp": 1})]  # type: ignore[arg-type]
    assert steps[0].time_ps == steps[1].time_ps


@pytest.mark.parametrize("ctx", [0, 1024])
@pytest.mark.parametrize("model", [DENSE, LATENT])
def test_chips_share_the_work_and_the_cache_of_a_prompt(model: str, ctx: int) -> None:
    whole = job(model, "prefill", None, seq=1024, ctx=ctx)
    part = job(model, "prefill", seq=1024, ctx=ctx, tp=1, cp=8)
    assert 8 * flops(part, "attention") == pytest.approx(flops(whole, "attention"), rel=2e-3)
    assert 8 * flops(part, "matmul", "q_proj") == flops(whole, "matmul", "q_proj")
    assert 8 * part.need.kv_cache == whole.need.kv_cache
    if model == LATENT:  # the latent cache is gathered, and every chip expands all of it
        assert flops(part, "matmul", "kv_b_proj") == flops(whole, "matmul", "kv_b_proj")


def test_what_is_gathered_is_the_cache() -> None:
    part = job(LATENT, "prefill", seq=1024, ctx=1024, tp=2, cp=4)
    gathers = [task for task in part.tasks[1].tasks if task.name.endswith("all_gather") and task.dims["ranks"] == 4]
    assert [(task.dims["bytes"], task.dims["stride"]) for task in gathers] == [(2048 * 576 * 2, 2)]


@pytest.mark.parametrize("model", [DENSE, LATENT])
def test_chips_share_weights_and_cached_tokens_in_decode(model: str) -> None:
    whole = job(model, "decode", None, batch=4, ctx=4095)
    for tp, cp in ((1, 8), (2, 4), (4, 2)):
        part = job(model, "decode", batch=4, ctx=4095, tp=tp, cp=cp)
        wide = job(model, "decode", batch=4, ctx=4095, tp=8)
        heads = 1 if model == LATENT else tp  # MLA's cache is one head, which tensor parallelism copies
        assert cp * heads * part.need.kv_cache == whole.need.kv_cache
        assert part.need.weights == wide.need.weights
        assert 8 * flops(part, "attention") == pytest.approx(flops(whole, "attention"), rel=1e-3)


@pytest.mark.parametrize("ctx", [0, 1024])
@pytest.mark.parametrize(("tp", "cp"), [(1, 8), (2, 4)])
@pytest.mark.parametrize("model", [DENSE, LATENT])
def test_chips_that_share_heads_share_all_work_of_a_prompt(model: str, tp: int, cp: int, ctx: int) -> None:
    """Attention to all tokens for some heads: nothing is expanded or attended to twice."""
    whole = job(model, "prefill", None, batch=2, seq=1024, ctx=ctx)
    part = job(model, "prefill", batch=2, seq=1024, ctx=ctx, tp=tp, cp=cp, cp_by="heads")
    for kind, name in (("attention", ""), ("matmul", "q_proj"), ("matmul", "o_proj"), ("matmul", "kv_b_proj")):
        assert 8 * flops(part, kind, name) == flops(whole, kind, name)
    held = cp if model == LATENT else 8  # latent tokens, of which tensor parallelism has copies; or a head a chip
    assert held * part.need.kv_cache == whole.need.kv_cache


def test_heads_change_hands_before_and_after_attention() -> None:
    """Of every token: queries, new keys and values to the chips of their heads, results back to the chip of the token.

    Eight key/value heads over 16 chips are sent twice.
    """
    for system, cp, copies in (("hgx-h100", 4, 1), ("h100-x16", 16, 2)):
        part = job(DENSE, "prefill", system, batch=16, seq=1024, ctx=1024, tp=1, cp=cp, cp_by="heads")
        sent = [t.dims["bytes"] for t in part.tasks[1].tasks if t.kind == "head_exchange"]
        own = 16 // part.plan.dp * 1024 // cp * 128 * 2
        assert sent == [32 * own, 8 * own * copies, 8 * own * copies, 32 * own]


def test_latent_queries_and_keys_are_gathered_as_they_were_computed() -> None:
    """DeepSeek-V3's 1,536 and 576 values in bf16 of all tokens, quantised where they are expanded."""
    options = Options("prefill", 4, 1024, 0, tp=1, cp=32, cp_by="heads", quant="int8", overlap="none")
    part = prepare("h800", "deepseek-v3", options, "h800-x32")
    tasks = part.tasks[1].tasks
    assert [t.dims["bytes"] for t in tasks if t.kind == "all_gather"] == [4096 * 1536 * 2, 4096 * 576 * 2]
    back = [t for t in tasks if t.kind == "head_exchange"]
    assert [(t.name, t.dims["bytes"]) for t in back] == [
        ("self_attn.o_proj.quantise.head_exchange", 4096 // 32 * 16384 * 2)
    ]
    by_name = {t.name: t.dims for t in tasks}
    assert by_name["self_attn.q_b_proj.quantise"]["rows"] == 4096
    assert (by_name["self_attn.q_b_proj"]["m"], by_name["self_attn.q_b_proj"]["n"]) == (4096, 4 * 192)
    assert by_name["self_attn.attention"]["heads"] == 4
    assert by_name["self_attn.o_proj"]["m"] == 128
    assert "CP by heads 32" in str(part.plan)
    assert any("its heads in attention" in note for note in part.notes())


def test_sparse_attention_by_heads_gathers_what_each_query_attends_to() -> None:
    options = Options("prefill", 4, 4096, 0, tp=1, cp=32, cp_by="heads", quant="fp8", overlap="none")
    parts = [prepare("h800", "deepseek-v3.2-exp", o, "h800-x32") for o in (options, replace(options, cp=1, batch=32))]
    by_heads, by_prompts = ({t.name: t.flops for t in part.tasks[1].tasks} for part in parts)
    products = [t.name for t in parts[0].tasks[1].tasks if t.kind in ("matmul", "grouped_matmul", "attention")]
    for name in products:  # of 4 prompts instead of 32
        assert 8 * by_heads[name] == pytest.approx(by_prompts[name], rel=0.05), name


def test_a_latent_cache_is_read_faster_by_more_chips() -> None:
    alike = {"phase": "decode", "batch": 8, "ctx": 16383, "system": "hgx-h100"}
    times = []
    for tp, cp in ((8, 1), (1, 8)):
        step = archsim.simulate("h100", LATENT, tp=tp, cp=cp, **alike)  # type: ignore[arg-type]
        times.append(step.time_by("kind")["attention"])
        assert step.meta["plan"].get("cp", 1) == cp
    assert times[1] < times[0] / 2


def test_exchanges_are_those_of_the_unfolded_fabric() -> None:
    fabric = Fabric.of(load_system("hgx-h100"), load_chip("h100"))
    wanted: list[tuple[Kind, Group]] = [
        ("all_gather", Group(4, 2)), ("all_to_all", Group(4, 2)), ("reduce_scatter", Group(4)),
    ]  # fmt: skip
    for kind, group in wanted:
        request = Collective(kind, 2**20, group, "fastest")
        assert run_collective(fabric, request).time_ps == run_collective(fabric, request, fold=False).time_ps


def test_windows_are_shared_too() -> None:
    part = job("gpt-oss-20b", "decode", batch=2, ctx=4095, tp=4, cp=2)
    windows = [t.attrs["window"] for b in part.tasks for t in b.tasks if t.kind == "attention"]
    assert 64 in windows
    assert None in windows


def test_stages_whose_chips_share_sequences() -> None:
    step = archsim.simulate(
        "h100", DENSE, phase="prefill", seq=256, system="hgx-h100", tp=2, cp=2, pp=2, fidelity="roofline"
    )
    assert step.meta["plan"] == {"tp": 2, "dp": 1, "ep": 1, "redundant": 0, "cp": 2, "pp": 2}
    assert step.meta["chips"] == 8


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"phase": "decode", "cp": 3}, "--cp 3: must divide the 8 chips"),
        ({"phase": "prefill", "cp": 8, "seq": 100}, "--cp 8: the 100 new tokens must divide into 16 chunks"),
        ({"phase": "decode", "cp": 64, "system": "h100-x64"}, "must divide the 32 heads"),
        ({"phase": "decode", "cp": 8, "tp": 8}, "--tp 8: must divide both the 1 chips"),
        ({"phase": "decode", "cp": 2, "system": None}, "--cp 2: must divide the 1 chips"),
        ({"phase": "prefill", "cp": 8, "cp_by": "heads", "seq": 100}, "--cp 8 --cp-by heads: must divide the 100 new"),
        ({"phase": "prefill", "cp": 64, "cp_by": "heads", "system": "h100-x64"}, "must divide the 32 attention heads"),
        ({"phase": "prefill", "cp": 8, "cp_by": "rows"}, "--cp-by rows: must be one of tokens, heads"),
    ],
)
def test_what_cannot_be_shared_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        archsim.simulate("h100", DENSE, **({"system": "hgx-h100"} | options))


def test_a_server_has_room_for_longer_sequences() -> None:
    flat = Deployment("h100", LATENT, "hgx-h100", {"tp": 8}, replace(STACKS["ideal"], chunk=500))
    shared = replace(flat, options={"tp": 1, "cp": 8})
    assert shared.capacity(100_000) > 7 * flat.capacity(100_000)
    assert shared.groups() == 1
    assert shared.prefill_s(1, 50) > 0  # filled up to 64
