"""Steady states of a server, on a device whose iterations take a formula's time."""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import archsim
from archsim.cli.main import cli
from archsim.errors import InputError
from archsim.serving import (
    Deployment,
    Operating,
    Request,
    answer_all,
    at_batch,
    curve,
    first_token_s,
    fixed_batch,
    largest_batch,
    most_load,
    most_rate,
    poisson,
    pools,
    prefill_rate,
    serve_arrivals,
    serve_users,
    spread_lengths,
    stack_of,
)
from archsim.serving.deployment import Step, _Need

pytestmark = pytest.mark.unit


@dataclass(frozen=True)
class Formula(Deployment):
    """Prefill: 1 us a token. Decode: 5 ms, 10 us a sequence, 1 ns for each cached token. Room for 4,000,000 tokens."""

    def step(self, phase: str, batch: int, seq: int, ctx: int) -> Step:
        prefill = phase == "prefill"
        seconds = 1e-6 * batch * seq if prefill else 5e-3 + 1e-5 * batch * seq + 1e-9 * batch * ctx
        return Step(seconds, 300, seconds)

    def _fits(self, tokens: int) -> tuple[float, _Need]:
        return 4e6 / tokens, _Need(0, 0, 0, float(tokens))


SERVER = Formula("h100", "llama-3.1-8b")
ASKED = Request(1000, 1000)
#: bytes of an H100 that models can use
ROOM = archsim.load_chip("h100").memory.usable_capacity


def test_a_fixed_batch_takes_its_prompts_and_every_step() -> None:
    state = fixed_batch(SERVER, ASKED, 8)
    step = 5e-3 + 8e-5 + 8 * 1500e-9
    assert state.ttft_s == pytest.approx(8e-3)
    assert state.output_per_s == pytest.approx(8000 / (8e-3 + 999 * step))


def test_in_flight_every_token_pays_its_share_of_a_prompt() -> None:
    state = at_batch(SERVER, ASKED, 100)
    assert state.tpot_s == pytest.approx(5e-3 + 1e-3 + 100 * 1500e-9 + 100 / 1000 * 1e-3)
    assert state.output_per_s == pytest.approx(100 / state.tpot_s)
    assert most_load(SERVER, ASKED).batch == 2000


def test_a_prefix_that_is_cached_is_not_computed() -> None:
    half = Request(1000, 1000, prefix_hit=0.5)
    assert prefill_rate(SERVER, half, 4) == pytest.approx(2 * prefill_rate(SERVER, ASKED, 4))
    assert at_batch(SERVER, half, 100).output_per_s > at_batch(SERVER, ASKED, 100).output_per_s


def test_draft_tokens_count_if_all_before_them_were_right() -> None:
    drafting = replace(SERVER, draft=2, acceptance=0.5)
    assert drafting.tokens_per_step == 1.75
    assert drafting.tpot_s(1, 1000, 1000) == pytest.approx((5e-3 + 3e-5 + 1e-6) / 1.75)


def test_the_largest_batch_stays_within_the_limit_and_a_larger_one_does_not() -> None:
    heard: list[Operating] = []
    state = largest_batch(SERVER, ASKED, 10e-3, heard=heard.append)
    assert state.tpot_s <= 10e-3 < at_batch(SERVER, ASKED, round(1.01 * state.batch)).tpot_s
    assert state in heard
    assert len(heard) <= 6
    with pytest.raises(InputError, match=r"--tpot 1 ms: with 1 sequences a token takes 5\.\d+ ms already"):
        largest_batch(SERVER, ASKED, 1e-3)


def test_the_largest_batch_is_found_soon_where_time_bends() -> None:
    @dataclass(frozen=True)
    class Bent(Formula):
        def step(self, phase: str, batch: int, seq: int, ctx: int) -> Step:
            return Formula.step(self, phase, max(batch, 500) ** 2 // 500, seq, ctx)

    heard: list[Operating] = []
    server = Bent("h100", "llama-3.1-8b")
    state = largest_batch(server, ASKED, 15e-3, heard=heard.append)
    assert state.tpot_s <= 15e-3 < at_batch(server, ASKED, round(1.01 * state.batch)).tpot_s
    assert len(heard) <= 10


def test_between_simulated_batches_time_is_linear() -> None:
    asked: list[int] = []

    @dataclass(frozen=True)
    class Heard(Formula):
        def step(self, phase: str, batch: int, seq: int, ctx: int) -> Step:
            asked.append(batch)
            return Formula.step(self, phase, batch, seq, ctx)

    server = Heard("h100", "llama-3.1-8b")
    for batch in (100, 101, 2):
        assert server.between_s(batch, 500) == pytest.approx(server.decode_s(batch, 500))
    assert len(set(asked) - {100, 101}) <= 4


def test_the_curve_trades_interactivity_for_throughput() -> None:
    states = curve(SERVER, ASKED, 5)
    assert [s.batch for s in states] == sorted(s.batch for s in states)
    assert all(a.interactivity > b.interactivity for a, b in itertools.pairwise(states))
    assert states[-1].batch == 2000


def test_a_prefill_out_of_a_graph_waits_for_its_host() -> None:
    slow = replace(SERVER, stack=stack_of("tensorrt-llm-static"))
    assert slow.prefill_s(1, 128) == pytest.approx(300 * 10e-6 + 0.3e-3 + 4e-6)
    assert slow.prefill_s(1, 8000) == pytest.approx(8e-3 + 0.3e-3 + 4e-6)


def test_a_run_of_as_many_as_fit_is_the_fixed_batch() -> None:
    """1 us a prompt token in one iteration, then 63 steps of 5 ms, 10 us a sequence and 1 ns a cached token."""
    run = answer_all(SERVER, Request(1000, 64), [64] * 8)
    step = 5e-3 + 8e-5 + 8e-9 * (1000 + 31)
    assert run.output_per_s == pytest.approx(8 * 64 / (8e-3 + 63 * step), rel=1e-4)


def test_a_long_run_comes_to_the_steady_state_and_a_last_wave_that_is_not_full_costs() -> None:
    class Small(Formula):
        def capacity(self, tokens: int) -> int:
            return 64

    server = Small("h100", "llama-3.1-8b")
    steady = at_batch(server, ASKED, 64, first_token=False).output_per_s
    full, partial = (answer_all(server, ASKED, [1000] * count).output_per_s for count in (6400, 65))
    assert full == pytest.approx(steady, rel=0.01)
    assert partial < 0.6 * steady


def test_long_answers_keep_a_server_that_is_nearly_empty_busy() -> None:
    even, spread = ([1000] * 500, spread_lengths(1000, 500, 20_000))
    assert sum(spread) == pytest.approx(sum(even), rel=0.01)
    assert answer_all(SERVER, ASKED, spread).output_per_s < 0.5 * answer_all(SERVER, ASKED, even).output_per_s


def test_sequences_fill_up_the_next_graph_but_read_only_their_own_cache() -> None:
    graphs = replace(SERVER, stack=stack_of("tensorrt-llm-pytorch"))
    host = 0.5e-3 + 4e-6 * 300
    assert graphs.decode_s(300, 1000) == pytest.approx(5e-3 + 384e-5 + 384e-9 * round(1000 * 300 / 384) + host)


def test_a_fixed_batch_is_set_up_once_and_rows_of_experts_in_fp4_take_longer() -> None:
    stack = replace(stack_of("ideal"), setup_s=3e-3, fp4_row_s=1e-9)
    assert first_token_s(replace(SERVER, stack=stack), ASKED, 2) == pytest.approx(3e-3 + 2e-3)
    server = Deployment("b200", "qwen3-30b-a3b", None, {"quant": "fp4-kv"}, stack)
    plans: list[dict[str, int]] = [{"ep": 1, "dp": 1}, {"ep": 8, "dp": 1}, {"ep": 1, "dp": 4}]
    alone, spread, apart = (server._expanding_s("decode", 1000, plan) for plan in plans)
    assert alone == pytest.approx(1000 * 8 * 48 * 1e-9)  # 8 experts a token, 48 layers
    assert (spread, apart) == (pytest.approx(alone / 8), pytest.approx(alone / 4))
    assert replace(server, options={"quant": "fp8"})._expanding_s("decode", 1000, plans[0]) == 0


def test_the_process_takes_from_the_room_for_the_cache_as_a_log_of_an_h100_says() -> None:
    """Llama-3.1-8B in fp8, 23,552 tokens an iteration: 860,308 fit into 0.8 of the rest (TensorRT-LLM issue 6294)."""
    stack = replace(stack_of("tensorrt-llm-pytorch"), kv_share=0.8, chunk=23_552)
    server = Deployment("h100", "llama-3.1-8b", None, {"quant": "fp8-kv"}, stack)
    held = server.capacity(1024) * 1024
    bare = replace(server, stack=replace(stack, process_bytes=0.0)).capacity(1024) * 1024
    assert held == pytest.approx(860_308, rel=0.02)
    assert bare > 1.04 * held
    assert bare - held == pytest.approx(0.8 * 3.5e9 / server.kv_bytes(1), rel=0.05)
    with pytest.raises(InputError, match=r"GB of weights and activations and 3\.5 GB of the process leave"):
        server.capacity(9_000_000)


def test_a_stack_builds_its_products_in_fp4_for_one_tile_where_instructions_span_cores() -> None:
    stack = stack_of("tensorrt-llm-pytorch")
    server = Deployment("b200", "qwen3-30b-a3b", None, {"quant": "fp4-kv"}, stack)
    tile = {"tm": 128, "tn": 256, "tk": 256, "slots": 3}
    assert server._pins("decode") == {f"self_attn.{name}_proj": tile for name in "qkvo"}  # not those of experts
    assert server._pins("prefill") == {**server._pins("decode"), "self_attn.attention": {"kernel": "tensorrt-llm"}}
    assert not replace(server, options={"quant": "fp8-kv"})._pins("decode")
    assert not replace(server, chip="rtx-pro-6000")._pins("decode")
    assert not replace(server, stack=stack_of("ideal"))._pins("prefill")
    assert not replace(server, chip="ascend-910b", options={})._pins("prefill")  # its units are apart
    dense = replace(server, workload="llama-3.1-8b")
    free = replace(dense, stack=replace(stack, fp4_tile=None))
    assert 1.1 * free.decode_step(256, 16).time_s < dense.decode_step(256, 16).time_s


def test_pools_are_in_balance() -> None:
    both = pools(SERVER, SERVER, ASKED, 8, 100, 50e9)
    assert both.prefill_per_s * both.prefill_share == pytest.approx(both.decode.input_per_s)
    assert both.kv_bytes == SERVER.kv_bytes(1000) == 1000 * 32 * 2 * 8 * 128 * 2
    assert both.transfer_s == pytest.approx(both.kv_bytes / 50e9)


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(InputError, match="--prefix-hit 1"):
        Request(10, 10, 1.0)
    with pytest.raises(InputError, match="there are ideal"):
        stack_of("vlm")
    with pytest.raises(InputError, match="--mtp-acceptance 2"):
        Deployment("h100", "llama-3.1-8b", acceptance=2)
    with pytest.raises(InputError, match="less than one sequence of 9,000,000 tokens"):
        Deployment("h100", "llama-3.1-8b").capacity(9_000_000)


def test_short_sequences_leave_room_for_the_activations_of_all_of_them() -> None:
    most = Deployment("h100", "deepseek-r1-distill-qwen-1.5b").capacity(8)
    given = {"phase": "decode", "batch": most, "ctx": 7, "fidelity": "roofline"}
    step = archsim.simulate("h100", "deepseek-r1-distill-qwen-1.5b", **given)
    assert 0.95 * step.memory_capacity < step.memory_used <= step.memory_capacity


def test_layers_with_a_window_of_keys_leave_room_for_more_sequences() -> None:
    server = Deployment("h100", "gpt-oss-20b", options={"quant": "mxfp4"})
    tokens, window, heads = 8192, 128, 8 * 2 * 64 * 2  # bytes of a token in a layer, keys and values in bf16
    assert server.kv_bytes(tokens) == 12 * heads * (tokens + window)  # every other of 24 layers
    held = server.capacity(tokens) * server.kv_bytes(tokens)
    assert 0.8 * ROOM - 14e9 < held < ROOM - 12e9


def test_capacity_is_the_memory_that_weights_leave() -> None:
    server = Deployment("h100", "llama-3.1-8b", options={"quant": "fp8-kv"})
    each = 2000 * 32 * 2 * 8 * 128  # bytes of a cache of 2,000 tokens in fp8
    room = ROOM - 9e9
    assert 0.95 * room / each < server.capacity(2000) < room / each


def test_the_command_answers_in_json() -> None:
    arguments = "serve edge-npu llama-3.1-8b --input 64 --output 16 --quant int4 --batch 1 --static --json"
    result = CliRunner().invoke(cli, arguments.split())
    assert result.exit_code == 0, result.output
    (state,) = json.loads(result.output)["states"]
    assert state["output_per_s"] == pytest.approx(16 / (state["ttft_s"] + 15 * state["tpot_s"]))


def test_attention_before_xqa_reads_the_cache_for_each_query_head() -> None:
    """Four query heads of a Llama-3.1-8B share their keys, which the cache of the chip does not all hold."""
    server = Deployment("h100", "llama-3.1-8b", stack=stack_of("tensorrt-llm-static"))
    shared = replace(server, stack=replace(server.stack, answers=""))
    apart, together = (each.step("decode", 32, 1, 4096).time_s for each in (server, shared))
    assert 1.05 * together < apart < 4 * together


def test_a_request_alone_waits_for_nobody() -> None:
    run = serve_arrivals(SERVER, Request(1000, 101), [0.0, 1000.0], [101, 101])
    assert run.ttft_s == pytest.approx([1e-3, 1e-3])
    assert run.tpot_s == pytest.approx(5e-3 + 1e-5 + 1e-9 * 1050, rel=1e-3)
    assert run.most == 1


def test_requests_that_are_all_there_are_those_of_a_finite_run() -> None:
    outputs = [200] * 300
    at_once, finite = serve_arrivals(SERVER, ASKED, [0.0] * 300, outputs), answer_all(SERVER, ASKED, outputs)
    assert at_once.output_per_s == pytest.approx(finite.output_per_s, rel=0.01)  # which takes few sequences as more


def test_below_the_most_load_all_that_comes_is_served_and_above_it_queues_grow() -> None:
    server = replace(SERVER, stack=stack_of("tensorrt-llm"))
    most = at_batch(server, ASKED, 2000, first_token=False).output_per_s / 1000
    slow, fast = (
        serve_arrivals(server, ASKED, poisson(share * most, 6000), [1000] * 6000) for share in (0.5, 3.0)
    )  # fmt: skip
    assert slow.output_per_s == pytest.approx(0.5 * most * 1000, rel=0.1)
    assert fast.output_per_s < 1.2 * most * 1000
    assert np.median(slow.ttft_s) < 0.2 < 5 < np.median(fast.ttft_s)
    assert slow.within(0.5, 0.1) > fast.within(0.5, 0.1)
    assert slow.goodput(None, None) == pytest.approx(6000 / slow.seconds)


def test_prompts_of_many_lengths_cost_and_hold_what_they_are_long() -> None:
    """Their sum decides where steps are alike: 1 us a token, and room for 4,000,000."""
    prompts, outputs = [500, 1500] * 100, [50] * 200
    mixed = serve_arrivals(SERVER, ASKED, [0.0] * 200, outputs, prompts)
    alike = serve_arrivals(SERVER, Request(1000, 50), [0.0] * 200, outputs)
    assert mixed.seconds == pytest.approx(alike.seconds, rel=0.02)
    assert serve_arrivals(SERVER, ASKED, [0.0] * 200, [5000] * 200, [95_000] * 200).most == 39  # whole pages
    alone = serve_arrivals(SERVER, ASKED, [0.0, 100.0], [1, 1], [300, 3000])
    assert alone.ttft_s == pytest.approx([300e-6, 3000e-6])
    with pytest.raises(InputError, match="less than one sequence of 5,000,000 tokens"):
        serve_arrivals(replace(SERVER), ASKED, [0.0, 0.0], [1, 2_000_000], [1, 3_000_000])


def test_users_ask_again_when_they_are_answered() -> None:
    """Eight at most are under way, and each waits for its own prompt and those that came with it."""
    run = serve_users(SERVER, Request(1000, 100), 8, [100] * 80)
    assert run.most == 8
    step = 5e-3 + 8e-5 + 8e-9 * 1050
    assert run.output_per_s == pytest.approx(8 * 100 / (8e-3 + 99 * step), rel=0.01)
    assert run.ttft_s[8:].mean() == pytest.approx(8e-3, rel=0.01)
    with pytest.raises(InputError, match="--users 0: must be at least 1"):
        serve_users(SERVER, ASKED, 0, [1])


def test_littles_law_holds() -> None:
    """Sequences under way in the mean are those that arrive in the time of one."""
    rate, outputs = 20.0, [100] * 4000
    run = serve_arrivals(SERVER, Request(1000, 100), poisson(rate, 4000), outputs)
    answering = float(np.mean(run.tpot_s)) * 99
    step = 5e-3 + (1e-5 + 1e-9 * 1050) * rate * answering + 1e-3 * rate * answering / 99  # and prompts in between
    assert float(np.mean(run.tpot_s)) == pytest.approx(step, rel=0.03)


def test_the_most_rate_keeps_its_limits_and_arrivals_are_the_same_each_time() -> None:
    request, outputs = Request(1000, 200), [200] * 1000
    loose, tight = (most_rate(SERVER, request, outputs, ttft_s=2.0, tpot_s=t) for t in (0.1, 0.008))
    assert np.percentile(tight.tpot_s, 99) <= 0.008
    assert tight.rate < loose.rate
    assert poisson(3.0, 10).tolist() == poisson(3.0, 10).tolist() != poisson(3.0, 10, seed=1).tolist()
    assert tight.latency_s == pytest.approx(tight.ttft_s + 199 * tight.tpot_s)
    assert tight.arrivals_s < tight.seconds == pytest.approx(tight.arrivals_s + tight.latency_s[-1], rel=1e-3)
    with pytest.raises(InputError, match="not even"):
        most_rate(SERVER, request, outputs, ttft_s=1e-4, tpot_s=0.1)
    with pytest.raises(InputError, match="--rate 0: must be requests a second"):
        poisson(0.0, 3)


def test_prompts_longer_than_a_chunk_leave_others_their_tokens_in_between() -> None:
    """Three chunks of 8,192 tokens: three iterations, each with a token of the other sequence."""
    run = serve_arrivals(SERVER, Request(100, 200), [0.0, 0.1], [200, 1], [100, 3 * 8192])
    step = 5e-3 + 1e-5 + 1e-9 * 120
    assert 3 * 8192e-6 + 3 * step <= run.ttft_s[1] <= 3 * 8192e-6 + 4.01 * step
    assert run.latency_s[0] == pytest.approx(100e-6 + 199 * step + 3 * 8192e-6, rel=0.01)


def test_a_run_that_lasts_meets_the_steady_state() -> None:
    """Fifty requests are over before the server is full; asked again and again, they need the rate of many."""
    request = Request(1000, 200)
    few, lasting, many = (
        most_rate(SERVER, request, [200] * count, ttft_s=2.0, tpot_s=0.008, least_s=least_s)
        for count, least_s in ((50, 0), (50, 20), (2000, 0))
    )
    assert len(few.ttft_s) == 50
    assert len(lasting.ttft_s) == round(20 * lasting.rate)
    assert lasting.rate == pytest.approx(many.rate, rel=0.05)
    assert few.output_per_s < 0.8 * lasting.output_per_s


def test_the_command_serves_requests_over_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("archsim.cli.serve._deployment", lambda *given: SERVER)
    args = ["serve", "h100", "llama-3.1-8b", "--input", "64", "--output", "4", "--rate", "50", "--requests", "20"]
    ran = CliRunner().invoke(cli, [*args, "--ttft", "1s", "--json"])
    assert ran.exit_code == 0, ran.output
    found = json.loads(ran.stdout)
    assert 0 < found["ttft_s"]["p50"] <= found["ttft_s"]["p99"]
    assert found["goodput_per_s"] == pytest.approx(20 / found["seconds"])
    assert "keep the limits" in CliRunner().invoke(cli, [*args, "--tpot", "1s"]).output
    assert CliRunner().invoke(cli, [*args, "--batch", "4"]).exit_code == 2
    args[args.index("50")] = "most"
    ran = CliRunner().invoke(cli, [*args, "--ttft", "20ms", "--json"])
    most = json.loads(ran.stdout)
    assert most["ttft_s"]["p99"] <= 20e-3
    assert most["latency_s"]["p50"] > 15e-3
    assert most["rate"] > 50
    ran = CliRunner().invoke(cli, args)
    assert "--rate most: needs --ttft, --tpot or both" in ran.output
    args[args.index("most")] = "all"
    assert "--rate all: must be requests a second, or most" in CliRunner().invoke(cli, args).output
    serve = ["serve", "h100", "llama-3.1-8b", "--requests", "40", "--json"]
    users = CliRunner().invoke(cli, [*serve, "--input", "64", "--output", "4", "--users", "8"])
    assert json.loads(users.stdout)["most_under_way"] == 8
    trace = next(Path(__file__).parents[1].rglob("azure_llm_2023_conv.csv"))
    found = CliRunner().invoke(cli, [*serve, "--arrivals", str(trace)])
    assert json.loads(found.stdout)["requests"] <= 40, found.output
    for wrong in (["--users", "8"], ["--arrivals", str(trace), "--input", "64"], ["--rate", "1", "--users", "2"]):
        assert CliRunner().invoke(cli, [*serve, *wrong]).exit_code == 2
