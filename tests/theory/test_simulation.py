"""What a reader can check by hand: no step beats its bytes or its FLOPs, and each knob moves what it should."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

import archsim
from archsim import Result, SystemSpec, Trace
from archsim.hardware import list_chips, load_chip
from archsim.mapping import Kernel, Plan, fuse, lower, make_target, shard
from archsim.simulation import Options, prepare
from archsim.simulation.blocks import leeways

LLAMA, DEEPSEEK = "llama-3.1-8b", "deepseek-v3"
DECODE = {"phase": "decode", "batch": 4, "ctx": 512}
PREFILL = {"phase": "prefill", "batch": 1, "seq": 1024}


@lru_cache(maxsize=64)
def _cached(chip: str, workload: str, options: tuple[tuple[str, Any], ...]) -> Result:
    named = {key: dict(value) if key == "set" else value for key, value in options}
    return archsim.simulate(chip, workload, **named)


def run(chip: str, workload: str = LLAMA, **options: Any) -> Result:
    """A step, simulated once for all tests that ask for it."""
    return _cached(chip, workload, tuple((k, tuple(v.items()) if k == "set" else v) for k, v in options.items()))


def shortened(workload: str, phase: str, repeats: int) -> Trace:
    """The model with fewer layers."""
    trace = archsim.load_workload(workload, phase)
    return replace(trace, blocks=tuple(replace(b, repeat=min(b.repeat, repeats)) for b in trace.blocks))


def fabric_of(chip: str, chips: int) -> SystemSpec | None:
    """One node of so many chips."""
    if chips == 1:
        return None
    return SystemSpec(name=f"{chips} x {chip}", title="one node", chip=chip, chips=chips, chips_per_node=chips)


# lower bounds -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chip", ["h800", "custom-npu", "tpu-v4"])
def test_decode_takes_at_least_its_weights_and_cache_over_the_memory_bandwidth(chip: str) -> None:
    graph = archsim.load_workload(LLAMA, "decode").at(batch=4, ctx=512)
    embedding = 128256 * 4096 * 2  # of which a step reads four rows
    moved = graph.weight_bytes - embedding + graph.kv_bytes * 512 // 513
    floor = moved / load_chip(chip).memory.bandwidth
    step = run(chip, **DECODE)
    assert floor <= step.time_s <= 1.6 * floor
    assert step.op_table.total("dram_bytes") >= moved
    row_bytes = load_chip(chip).memory.standard.row_bytes
    assert step.op_table.total("activates") >= 0.95 * step.op_table.total("dram_bytes") / row_bytes
    assert step.row_hit_rate is not None
    assert 0.5 < step.row_hit_rate < 1
    assert sum(step.dram_energy_j.values()) == pytest.approx(step.energy_by_unit["memory"])
    moved_bits = 8 * load_chip(chip).memory.standard.burst_bytes * step.op_table.total("bursts")
    io_pj_per_bit = load_chip(chip).memory.standard.energy.io_pj_per_bit
    assert step.dram_energy_j["io"] == pytest.approx(moved_bits * io_pj_per_bit * 1e-12)


@pytest.mark.parametrize("chip", ["h800", "custom-npu", "tpu-v4"])
def test_prefill_takes_at_least_its_flops_over_the_peak(chip: str) -> None:
    graph = archsim.load_workload(LLAMA, "prefill").at(batch=1, seq=1024)
    step = run(chip, **PREFILL)
    products = {"matmul", "attention"}
    flops = sum(op.flops * b.repeat for b in graph.blocks for op in b.ops if op.kind in products)
    floor = flops / load_chip(chip).flops("bf16")
    assert floor <= step.time_s <= 2.5 * floor
    assert step.op_table.total("flops") == graph.flops


def test_llama_reads_two_bytes_and_computes_two_flops_per_parameter_and_token() -> None:
    """8.03 B parameters, of which the 0.53 B of the embedding table are only looked up."""
    step, parameters = run("h800", **DECODE), 8.03e9 - 0.53e9
    products = ("q_proj", "o_proj", "gate_proj", "down_proj", "lm_head")
    table = step.op_table
    linear = [any(p in name for p in products) for name in table.name]
    assert (table.flops * table.repeat)[linear].sum() == pytest.approx(2 * 4 * parameters, rel=0.01)
    assert (table.dram_bytes * table.repeat)[linear].sum() == pytest.approx(2 * parameters, rel=0.02)


def assert_bounded(bound: Result, step: Result) -> None:
    """The roofline lies below, for the whole step and for every operator."""
    assert bound.time_ps <= step.time_ps
    assert bound.op_table.name.tolist() == step.op_table.name.tolist()
    late = bound.op_table.time_ps > step.op_table.time_ps
    assert not late.any(), step.op_table.name[late].tolist()


def holds_a_model(chip: str) -> bool:
    """Arrays of 8 x 8 with 8 GB, which the suite npu measures single operators on, do not."""
    return load_chip(chip).memory.capacity > 9e9


@pytest.mark.parametrize("phase", [DECODE, PREFILL | {"seq": 64}], ids=["decode", "prefill"])
@pytest.mark.parametrize("chip", [name for name in list_chips() if holds_a_model(name)])
def test_the_roofline_lies_below_the_tiles_on_every_chip(chip: str, phase: dict[str, Any]) -> None:
    fits = load_chip(chip).memory.capacity > 17e9
    options = phase | {"quant": "none" if fits else "int8"}
    step = run(chip, **options)
    assert_bounded(run(chip, **options, fidelity="roofline"), step)
    assert all(0 <= busy <= 1 for busy in step.units.values())
    assert step.memory_used <= step.memory_capacity


@pytest.mark.parametrize("quant", ["none", "fp8"])
def test_the_roofline_lies_below_the_tiles_for_experts_spread_over_a_system(quant: str) -> None:
    options = {"phase": "decode", "batch": 32, "ctx": 1024, "system": "h800-x32", "quant": quant}
    assert_bounded(run("h800", DEEPSEEK, **options, fidelity="roofline"), run("h800", DEEPSEEK, **options))


# one knob at a time -------------------------------------------------------------------------------------------

TWICE_THE_MEMORY = [
    ("h800", {"memory.bandwidth": "6.7 TB/s", "memory.stacks": "10"}),
    ("tpu-v4", {"memory.bandwidth": "2.4 TB/s", "memory.stacks": "8"}),
]
TWICE_THE_ARRAY = [
    # fed as before or within the old power limit they would gain nothing
    (
        "h800",
        {"core.matrix.macs_per_cycle.bf16": "4096", "core.matrix.reuse_m": "128", "physical.tdp": "1400 W"},
        1.05,  # the cache, at the bandwidth that cores reach together, feeds little more
    ),
    ("tpu-v4", {"core.matrix.count": "8", "physical.tdp": "400 W"}, 1.5),
]


@pytest.mark.parametrize(("chip", "doubled"), TWICE_THE_MEMORY)
def test_twice_the_memory_bandwidth_speeds_up_decode_and_hardly_moves_prefill(
    chip: str, doubled: dict[str, str]
) -> None:
    assert load_chip(chip, doubled).memory.bandwidth == pytest.approx(2 * load_chip(chip).memory.bandwidth)
    decode = run(chip, **DECODE).time_s / run(chip, **DECODE, set=doubled).time_s
    prefill = run(chip, **PREFILL).time_s / run(chip, **PREFILL, set=doubled).time_s
    # gap and start-up of 320 kernels, an eighth of the step on an H800, stay as they are, and so do tiles of whole
    # instructions, of which few products have one for each core
    assert 1.45 <= decode <= 2.0
    assert 1.0 <= prefill <= 1.1


@pytest.mark.parametrize(("chip", "doubled", "gain"), TWICE_THE_ARRAY)
def test_twice_the_array_speeds_up_prefill_and_hardly_moves_decode(
    chip: str, doubled: dict[str, str], gain: float
) -> None:
    assert load_chip(chip, doubled).flops("bf16") == 2 * load_chip(chip).flops("bf16")
    prefill = run(chip, **PREFILL).time_s / run(chip, **PREFILL, set=doubled).time_s
    decode = run(chip, **DECODE).time_s / run(chip, **DECODE, set=doubled).time_s
    assert gain <= prefill <= 2.0
    assert 0.98 <= decode <= 1.05


def test_a_longer_launch_gap_adds_itself_once_for_every_kernel() -> None:
    """1 us becomes 2.5 us before each of a prologue of 1, 32 layers of 10 and an epilogue of 2 kernels."""
    fixed = {"launch.barrier": "2.5 us"}  # by default a barrier costs as much as the boundary between two kernels
    more = run("h800", **DECODE, set={"launch.latency": "2.5 us", **fixed}).time_s
    assert more - run("h800", **DECODE, set=fixed).time_s == pytest.approx((1 + 32 * 10 + 2) * 1.5e-6, rel=0.1)


def test_a_longer_start_up_adds_itself_once_for_every_kernel_in_both_fidelities() -> None:
    kernels = 1 + 32 * 10 + 2
    for fidelity, rel in (("roofline", 1e-6), ("tile", 0.05)):
        few, many = (
            run("h800", **DECODE, fidelity=fidelity, set={"launch.startup": each, "launch.barrier": "2.5 us"})
            for each in ("1 us", "3 us")
        )
        assert many.time_s - few.time_s == pytest.approx(kernels * 2e-6, rel=rel)
        assert many.op_table.total("launch_ps") == few.op_table.total("launch_ps")


def test_more_sequences_take_longer_but_give_more_tokens_a_second() -> None:
    steps = [run("h800", phase="decode", batch=batch, ctx=512) for batch in (1, 4, 16)]
    assert all(a.time_ps < b.time_ps and a.tokens_per_s < b.tokens_per_s for a, b in pairwise(steps))
    assert all(step.tokens_per_s == pytest.approx(step.tokens / step.time_s) for step in steps)
    assert [step.tokens for step in steps] == [1, 4, 16]
    assert run("h800", **PREFILL).tokens == 1024


def test_more_cached_tokens_take_longer() -> None:
    times = [run("h800", phase="decode", batch=16, ctx=ctx).time_ps for ctx in (64, 512, 4096)]
    assert times == sorted(times)


@pytest.mark.parametrize("phase", [DECODE | {"batch": 8}, PREFILL | {"seq": 512}], ids=["decode", "prefill"])
def test_more_chips_leave_each_less_to_compute_and_more_to_tell(phase: dict[str, Any]) -> None:
    compute, talk = [], []
    for chips in (1, 2, 4, 8):
        step = archsim.simulate("h800", LLAMA, **phase, system=fabric_of("h800", chips), tp=chips)
        times = step.time_by("kind")
        talk.append(sum(ps for kind, ps in times.items() if kind.startswith("all_")))
        compute.append(sum(times.values()) - talk[-1])
        assert step.time_ps == pytest.approx(compute[-1] + talk[-1], rel=1e-3)  # Llama's streams take turns
    assert compute == sorted(compute, reverse=True)
    assert compute[0] > 3 * compute[-1]
    assert talk == sorted(talk)
    assert talk[0] == 0


# conservation -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chip", ["h800", "custom-npu", "tpu-v4"])
@pytest.mark.parametrize("phase", [DECODE, PREFILL], ids=["decode", "prefill"])
def test_the_times_of_the_operators_add_up_to_the_step(chip: str, phase: dict[str, Any]) -> None:
    """One stream, nothing overlaps; every operator's time is rounded to a picosecond."""
    step = run(chip, **phase)
    assert step.op_table.total("time_ps") == pytest.approx(step.time_ps, abs=int(step.op_table.repeat.sum()))


@pytest.mark.parametrize("phase", [DECODE, PREFILL], ids=["decode", "prefill"])
def test_every_busy_fraction_is_a_fraction(phase: dict[str, Any]) -> None:
    step = run("custom-npu", **phase)
    assert set(step.units) >= {"matrix", "vector", "memory", "noc", "port_in", "port_out"}
    assert all(0 < busy <= 1 for busy in step.units.values())
    whole = load_chip("custom-npu").memory.bandwidth * step.time_s
    assert step.units["memory"] == pytest.approx(step.op_table.total("dram_bytes") / whole, abs=0.03)


def test_the_same_inputs_give_the_same_result() -> None:
    options = {"phase": "decode", "batch": 32, "ctx": 256, "system": "h800-x32"}
    one, other = (archsim.simulate("h800", DEEPSEEK, **options) for _ in range(2))
    assert one.time_ps == other.time_ps
    assert one.op_table == other.op_table
    assert (one.units, one.memory, one.timeline) == (other.units, other.memory, other.timeline)


def test_both_engines_give_the_same_result() -> None:
    """A layer of an eighth of Llama: SimPy takes a second for it."""
    trace = shortened(LLAMA, "decode", 1)
    trace = replace(trace, blocks=trace.blocks[:2])
    options = {"phase": "decode", "batch": 1, "ctx": 16, "system": fabric_of("custom-npu", 8), "tp": 8}
    fast, slow = (archsim.simulate("custom-npu", trace, **options, engine=engine) for engine in ("compiled", "simpy"))
    assert fast.time_ps == slow.time_ps
    assert fast.op_table == slow.op_table


# carried forward or simulated in full -------------------------------------------------------------------------


@pytest.mark.parametrize("chip", ["h800", "custom-npu", "tpu-v4"])
def test_layers_carried_forward_agree_with_all_of_them_simulated(chip: str) -> None:
    carried, exact = run(chip, **DECODE), run(chip, **DECODE, exact=True)
    assert carried.time_ps == pytest.approx(exact.time_ps, rel=0.0075)  # where the refreshes of layers fall
    one, other = carried.op_table, exact.op_table
    moved = (abs(one.time_ps - other.time_ps) * one.repeat).sum()  # a refresh that meets another operator
    assert moved <= 0.01 * exact.time_ps


def test_a_long_layer_stands_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes far longer than the cache takes to fill and its kernels' refreshes last; the others take as long."""
    trace = shortened(LLAMA, "prefill", 3)
    trace = replace(trace, blocks=trace.blocks[:2])
    small = {"core.matrix.count": 1, "core.matrix.rows": 16, "core.matrix.cols": 16, "cache.capacity": "1 MiB"}
    point: dict[str, Any] = {"phase": "prefill", "seq": 128, "set": small}
    carried = archsim.simulate("custom-npu", trace, **point)
    monkeypatch.setattr("archsim.simulation.blocks.SETTLED", 0.0)
    monkeypatch.setattr("archsim.simulation.blocks.OWED", 0.0)
    every = archsim.simulate("custom-npu", trace, **point)
    assert any("2 more like the last" in each.name for each in carried.timeline)
    assert not any("more like the last" in each.name for each in every.timeline)
    assert carried.time_ps == pytest.approx(every.time_ps, rel=0.003)


def test_layers_that_hardly_matter_to_the_step_may_be_off_by_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first of DeepSeek's three dense layers stands for all beside layers of 256 experts, and not by itself."""
    trace, point = shortened(DEEPSEEK, "decode", 3), DECODE | {"batch": 16}
    job = prepare("h800", trace, Options(**point))
    more = dict(zip([block.name for block in job.blocks], leeways(job.blocks, job.target), strict=True))
    assert more["moe"] == 1.0 < more["dense"]
    few = archsim.simulate("h800", trace, **point)
    monkeypatch.setattr("archsim.simulation.leeways", lambda blocks, target: [1.0] * len(blocks))
    every = archsim.simulate("h800", trace, **point)
    assert sum("2 more like the last" in each.name for each in few.timeline) > sum(
        "2 more like the last" in each.name for each in every.timeline
    )
    assert few.time_ps == pytest.approx(every.time_ps, rel=0.003)


def assert_waves_are_skipped_to_no_effect(chip: str, trace: Trace, seq: int) -> None:
    point = {"phase": "prefill", "batch": 1, "seq": seq}
    job = prepare(chip, trace, Options(**point))
    products = [k for b in job.blocks for k in b.kernels if k.kind == "product"]
    assert any(len(lower(k, job.target).program.carry.weights) for k in products)
    carried, exact = (archsim.simulate(chip, trace, **point, exact=exact) for exact in (False, True))
    assert carried.time_ps == pytest.approx(exact.time_ps, rel=0.005)
    assert carried.op_table.total("dram_bytes") == pytest.approx(exact.op_table.total("dram_bytes"), rel=0.05)


def test_waves_carried_forward_agree_with_all_of_them_simulated() -> None:
    """Of gate and up of 4096 tokens on an A100, 32 waves are carried forward."""
    trace = shortened(LLAMA, "prefill", 1)
    assert_waves_are_skipped_to_no_effect("a100", replace(trace, blocks=trace.blocks[:2]), 4096)


def test_waves_and_layers_carried_forward_agree_with_all_of_them_simulated(monkeypatch: pytest.MonkeyPatch) -> None:
    """With few steps, which the few, large tiles of a TPU seldom exceed: waves of every product of a layer are carried
    forward, whatever it waits for."""
    for steps in ("WHOLE_STEPS", "WINDOW_STEPS"):
        monkeypatch.setattr(f"archsim.mapping.lowering.sample.{steps}", 700)
    assert_waves_are_skipped_to_no_effect("tpu-v4", shortened(LLAMA, "prefill", 6), 4096)


# experts and quantisation -------------------------------------------------------------------------------------


def expert_kernels(tokens: int) -> list[Kernel]:
    """The grouped products of a whole MoE layer on one chip."""
    graph = archsim.load_workload(DEEPSEEK, "decode").at(batch=tokens, ctx=1)
    return [k for b in fuse(shard(graph, Plan(), None)) for k in b.kernels if k.kind == "grouped"]


@pytest.mark.parametrize(("tokens", "active"), [(1, 8), (64, 223), (4096, 256)])
def test_the_weights_of_the_active_experts_are_read_and_no_others(tokens: int, active: int) -> None:
    """64 tokens reach 256 (1 - (1 - 8/256)^64) = 223 of 256 experts."""
    target = make_target(load_chip("h800"))
    kernels = expert_kernels(tokens)
    assert len(kernels) == 2
    for kernel, expert in zip(kernels, (4096 * 7168 * 2, 7168 * 2048 * 2), strict=True):
        weights = kernel.inputs[1]
        assert weights.nbytes == active * expert
        lowered = lower(kernel, target)
        program = lowered.program
        read = program.region == lowered.tensors.index(weights.tensor)
        places = np.unique(program.offset[read])
        if not len(program.carry.weights):  # nothing is left out
            sizes = dict(zip(program.offset[read].tolist(), program.nbytes[read].tolist(), strict=True))
            assert sum(sizes.values()) == active * expert
        assert places.max() < 256 * expert


def test_the_active_experts_come_from_memory_once() -> None:
    """A chip with room for all of DeepSeek: its expert products move their weights and little else."""
    trace, big = shortened(DEEPSEEK, "decode", 1), {"memory.capacity": "2 TB"}
    table = archsim.simulate("h800", trace, phase="decode", batch=64, ctx=16, set=big).op_table
    row = table.name.tolist().index("mlp.experts.gate_up_proj")
    assert table.dram_bytes[row] == pytest.approx(223 * 4096 * 7168 * 2, rel=0.01)
    assert table.bound[row] == "memory"


def test_fp8_halves_the_weights_of_deepseek() -> None:
    options = {"phase": "decode", "batch": 32, "ctx": 1024, "system": "h800-x32", "tp": 8, "fidelity": "roofline"}
    bf16, fp8 = (dict(run("h800", DEEPSEEK, **options, quant=quant).memory) for quant in ("none", "fp8"))
    assert 0.5 < fp8["weights"] / bf16["weights"] < 0.55  # embedding, head, router, absorbed products stay in bf16
    assert fp8["kv cache"] == bf16["kv cache"]


def test_narrower_weights_speed_up_decode() -> None:
    assert 1.4 <= run("h800", **DECODE).time_s / run("h800", **DECODE, quant="fp8").time_s <= 2.0
