"""Two micro-batches take turns: the order of launches, what it hides, and what it may not change."""

from __future__ import annotations

from dataclasses import replace

import pytest

import archsim
from archsim.errors import InputError
from archsim.hardware import SystemSpec, load_system
from archsim.mapping.experts import busiest_chip
from archsim.simulation import Options, prepare
from archsim.simulation.overlap import collective_spans, take_turns
from archsim.trace.moe import expert_counts

pytestmark = pytest.mark.theory

#: attention, dispatch, experts, combine, sum
EXCHANGE, WAITS = [False, False, True, False, True, False], [(), (0,), (1,), (2,), (3,), (4,)]
STEP = {"phase": "decode", "quant": "fp8", "tp": 1, "ctx": 256, "routing": "balanced", "system": "h800-x32"}


def _period(seconds: list[float], layers: int = 6) -> float:
    """Time of a layer inside, of both halves."""
    turns = take_turns(EXCHANGE, WAITS, seconds, layers)
    spans = collective_spans(
        [EXCHANGE[t.kernel] for t in turns], [t.after for t in turns], [seconds[t.kernel] for t in turns]
    )
    ends = [max(end for (_, end), t in zip(spans, turns, strict=True) if t.layer == n and not t.half) for n in (2, 3)]
    return ends[1] - ends[0]


def test_every_kernel_runs_once_after_what_it_waits_for() -> None:
    turns = take_turns(EXCHANGE, WAITS, [3, 3, 2, 2, 2, 1], 3)
    assert len({(t.layer, t.half, t.kernel) for t in turns}) == len(turns) == 3 * 2 * len(EXCHANGE)
    assert all(before < position for position, turn in enumerate(turns) for before in turn.after)


def test_long_attention_cut_in_two_hides_both_exchanges() -> None:
    """Experts are too short to hide an exchange; two halves of attention are long enough: only kernels take time."""
    assert _period([3, 3, 2.5, 1, 2.5, 0.5]) == pytest.approx(2 * (3 + 3 + 1 + 0.5))


def test_exchanges_that_are_longer_than_all_kernels_limit_the_layer() -> None:
    assert _period([1, 1, 9, 1, 9, 1]) >= 2 * (9 + 9)


def test_overlap_shortens_a_step_and_keeps_its_work() -> None:
    step = STEP | {"ctx": 1024, "batch": 128 * 64, "system": load_system("h800-x32", {"chips": 64})}
    alone, turns = (archsim.simulate("h800", "deepseek-v3", overlap=o, **step) for o in ("none", "two-batch"))
    assert turns.time_s < 0.9 * alone.time_s
    whole, halves = (result.op_table.total("flops") for result in (alone, turns))
    assert halves == pytest.approx(whole, rel=0.02)
    assert turns.memory == alone.memory
    bound = archsim.simulate("h800", "deepseek-v3", overlap="two-batch", fidelity="roofline", **step)
    assert bound.time_s <= turns.time_s
    for batch, chosen in ((4096, 2), (64, 1)):  # few sequences: to read the weights twice costs more than it hides
        options = Options("decode", batch, None, 2048, 1, quant="fp8")
        assert prepare("h800", "deepseek-v3", options, "h800-x32").micro_batches == chosen


@pytest.mark.parametrize(("sequences", "off"), [(64, 2e-2), (256, 5e-3)])
def test_layers_carried_forward_take_the_time_of_those_simulated(sequences: int, off: float) -> None:
    """The half that leads meets no exchange of another at first, which shows where exchanges are long."""
    system = load_system("h800-x32", {"chips": 16})
    step = STEP | {"system": system, "batch": sequences * 16}
    some, every = (
        archsim.simulate("h800", "deepseek-v2-lite", overlap="two-batch", exact=e, **step) for e in (False, True)
    )
    assert some.time_s == pytest.approx(every.time_s, rel=off)
    assert some.op_table.total("flops") == every.op_table.total("flops")
    assert some.op_table.total("dram_bytes") == pytest.approx(every.op_table.total("dram_bytes"), rel=0.1)


def test_micro_batches_hide_the_exchanges_of_experts_alone() -> None:
    """The collectives of attention are launched in order with its kernels."""
    step = {"phase": "prefill", "quant": "fp8", "tp": 4, "batch": 32, "seq": 512, "overlap": "two-batch"}
    job = prepare("h800", "deepseek-v3", Options(**step), "h800-x32")  # type: ignore[arg-type]
    collectives = [k for k in job.blocks[2].kernels if k.kind == "collective"]
    assert {k.op_kind for k in collectives if not job.blocks[2].communicates(k)} == {"all_reduce", "all_gather"}
    apart = [k for k in collectives if job.blocks[2].communicates(k)]
    assert [k.op_kind for k in apart] == ["all_to_all", "all_to_all"]
    alone = replace(job.blocks[2], micro_batches=1)
    assert all(alone.communicates(k) for k in collectives)


def test_a_batch_without_two_halves_is_refused() -> None:
    with pytest.raises(InputError, match="no two equal halves"):
        prepare("h800", "deepseek-v3", Options("decode", 32, tp=1, quant="fp8", overlap="two-batch"), "h800-x32")


def test_redundant_experts_relieve_the_busiest_chip() -> None:
    counts = [90, 10, 10, 10, 20, 20, 20, 20]
    assert sum(busiest_chip(counts, 4)) == 100
    spread = busiest_chip(counts, 4, redundant=4)
    assert 50 <= sum(spread) <= 56
    assert len(spread) == 3


def test_chips_that_hold_the_shared_expert_hold_no_other() -> None:
    """EP320 of CloudMatrix384: 256 routed experts and 32 copies on 288 dies, the shared one on 32."""
    counts = expert_counts(30720, 257, 9, "balanced", always=1)
    assert busiest_chip(counts.tolist(), 320, redundant=63) == (960,)
    options = {"phase": "decode", "batch": 320, "ctx": 64, "quant": "int8", "tp": 1, "routing": "balanced"}
    every, some = (
        prepare("ascend-910c-die", "deepseek-v3", Options(redundant=n, shared_experts=how, **options),  # type: ignore[arg-type]
                SystemSpec(name="ep320", title="", chip="ascend-910c-die", chips=320, chips_per_node=320)).need.weights
        for n, how in ((64, "everywhere"), (63, "spread"))
    )  # fmt: skip
    expert = 3 * 7168 * 2048  # a byte each, and scales
    assert every - some == pytest.approx(58 * expert, rel=0.01)


def test_results_say_that_shared_experts_were_spread() -> None:
    step = {"phase": "decode", "batch": 8, "ctx": 64, "fidelity": "roofline"}
    plain, spread = (
        archsim.simulate("h100", "deepseek-v2-lite", shared_experts=how, **step)  # type: ignore[arg-type]
        for how in ("everywhere", "spread")
    )
    assert spread.summary()["shared_experts"] == "spread"
    assert "shared_experts" not in plain.summary()
    assert archsim.compare(plain, spread).options["shared_experts"] == (None, "spread")


def test_redundant_experts_take_memory() -> None:
    options = {"phase": "decode", "batch": 32, "tp": 1, "quant": "fp8"}
    plain, more = (
        prepare("h800", "deepseek-v3", Options(redundant=n, **options), "h800-x32").need.weights  # type: ignore[arg-type]
        for n in (0, 32)
    )
    one = 3 * 7168 * 2048  # an expert in 8 bits, and its scales
    assert one * 58 <= more - plain <= 1.01 * one * 58
    with pytest.raises(InputError, match="--redundant 32 would"):
        prepare("h800", "deepseek-v3", Options(**options | {"batch": 144}), "h800-x144")  # type: ignore[arg-type]
