"""Steps on a pipeline of stages: what a micro-batch takes on each, what bubbles and transfers add, what chips hold."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from click.testing import CliRunner

import archsim
from archsim.cli.main import cli
from archsim.errors import InputError
from archsim.hardware import load_chip, load_system
from archsim.network import Collective, Fabric, Group, run_collective
from archsim.serving import STACKS, Deployment, Request, at_batch
from archsim.simulation import Options, candidates, staged_candidates
from archsim.simulation.staged import StagedJob

pytestmark = pytest.mark.theory

MODEL = "llama-3.1-8b"


def staged(phase: str, batch: int, pp: int, **options: Any) -> StagedJob:
    given = Options(phase, batch, 64 if phase == "prefill" else None, None, tp=1, pp=pp, **options)
    return min(staged_candidates("h100", MODEL, given, f"h100-x{pp}"), key=StagedJob.bound_s)


def test_one_micro_batch_takes_the_stages_and_the_transfers() -> None:
    step = archsim.simulate("h100", MODEL, phase="prefill", seq=64, system="h100-x4", tp=1, pp=4)
    flow = step.meta["pipeline"]
    assert step.time_s == pytest.approx(sum(s["time_s"] for s in flow["stages"]) + 3 * flow["send_s"], abs=1e-12)


def test_stages_together_take_what_one_chip_takes() -> None:
    """The same kernels on the same chip: cut in stages they differ by what the cache holds from the kernel before."""
    whole = archsim.simulate("h100", MODEL, phase="prefill", seq=256)
    stages = archsim.simulate("h100", MODEL, phase="prefill", seq=256, system="h100-x2", tp=1, pp=2).meta["pipeline"]
    assert sum(s["time_s"] for s in stages["stages"]) == pytest.approx(whole.time_s, rel=0.01)


@pytest.mark.parametrize("count", [1, 3, 8])
def test_a_prefill_fills_and_drains_the_pipeline(count: int) -> None:
    job = staged("prefill", count, 4, micro_batches=count)
    time, _ = job.flow([1_000_000_000] * 4)
    assert time == (count + 3) * 1_000_000_000 + 3 * job.send_ps


@pytest.mark.parametrize(("batch", "slowest"), [(1, 3_000_000_000), (4, 3_000_000_000), (4, 900_000_000)])
def test_decode_is_bound_by_the_round_trip_or_the_slowest_stage(batch: int, slowest: int) -> None:
    job = staged("decode", batch, 4)
    times = [800_000_000, slowest, 800_000_000, 700_000_000]
    time, _ = job.flow(times)
    assert time == max(sum(times) + 3 * job.send_ps + job.return_ps, batch * slowest)


def test_a_link_carries_one_transfer_at_a_time() -> None:
    job = staged("prefill", 8, 2, micro_batches=8)
    assert job.flow([1000, 1000])[0] == 1000 + 8 * job.send_ps + 1000


def test_stages_hold_what_the_model_holds() -> None:
    options = Options("decode", 6, ctx=1000, tp=1)
    whole = candidates("h100", MODEL, options)[0].need
    for layers in (None, (9, 8, 8, 7), (1, 1, 1, 29)):
        for count in (1, 4):  # 4 micro-batches of 1 or 2 sequences
            given = replace(options, pp=4, stage_layers=layers, micro_batches=count)
            (job,) = staged_candidates("h100", MODEL, given, "h100-x4")[:1]
            needs = [stage.need for stage in job.stages]
            assert sum(need.weights for need in needs) == whole.weights
            assert sum(need.kv_cache for need in needs) == whole.kv_cache


def test_layers_as_given_and_by_time() -> None:
    assert staged("decode", 1, 4, stage_layers=(2, 10, 10, 10)).layers == (2, 10, 10, 10)
    by_time = staged("decode", 1, 4)
    assert sum(by_time.layers) == 32
    assert by_time.layers[3] < by_time.layers[1]  # the head weighs as much as two layers and more
    slowest, equal = (
        max(stage.bound_s() for stage in job.stages) for job in (by_time, staged("decode", 1, 4, stage_layers=(8,) * 4))
    )
    assert slowest < equal


def test_the_transfer_is_that_of_the_unfolded_fabric() -> None:
    fabric = Fabric.of(load_system("hgx-h100"), load_chip("h100"))
    for group in (Group(2, stride=4), Group(4, stride=2)):
        request = Collective("send_recv", 2**20, group)
        assert run_collective(fabric, request).time_ps == run_collective(fabric, request, fold=False).time_ps


def test_experts_lie_on_the_chips_of_a_stage() -> None:
    options = Options("decode", 32, ctx=256, tp=1, pp=2, quant="fp8")
    job = staged_candidates("h800", "deepseek-v3", options, "h800-x32")[0]
    assert (job.plan.dp, job.plan.ep, job.plan.chips, job.micro_batches) == (16, 16, 32, 2)
    assert sum(job.layers) == 61
    names = [set(stage.share or {}) for stage in job.stages]
    assert names[0] >= {"prologue", "dense", "moe"}
    assert "dense" not in names[1]


def test_a_pin_holds_on_the_stages_that_have_its_product() -> None:
    """DeepSeek's dense layers are all on the first stage, a head only on the last."""
    tile = {"tm": 128, "tn": 256, "tk": 64, "slots": 2}

    def stages(pins: dict[str, dict[str, int]]) -> tuple[dict[str, dict[str, Any]], ...]:
        options = Options("decode", 16, None, 512, tp=4, pp=2, quant="fp8", pins=pins)
        job = staged_candidates("h200", "deepseek-v3", options, "h200-x8")[0]
        return tuple({k.name: dict(k.pin) for b in stage.blocks for k in b.kernels if k.pin} for stage in job.stages)

    assert stages({"mlp.gate_proj": tile}) == ({"mlp.gate_proj + up_proj": tile}, {})
    assert stages({"lm_head": tile}) == ({}, {"lm_head": tile})
    with pytest.raises(InputError, match=r"no product or attention is called 'mlp\.gate_prj'"):
        stages({"mlp.gate_prj": tile})


def test_layers_by_turns_stay_together_and_are_counted_one_by_one() -> None:
    given = {"phase": "decode", "system": "hgx-h100", "quant": "mxfp4", "pp": 2, "fidelity": "roofline"}
    step = archsim.simulate("h100", "gpt-oss-20b", stage_layers=[10, 14], **given)
    assert [stage["layers"] for stage in step.meta["pipeline"]["stages"]] == [10, 14]
    with pytest.raises(InputError, match="the 24 layers of gpt-oss-20b, multiples of 2"):
        archsim.simulate("h100", "gpt-oss-20b", stage_layers=[11, 13], **given)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pp": 3}, "--pp 3: stages of equal size must divide the 8 chips of hgx-h100"),
        ({"pp": 2, "system": None}, "--pp 2: stages of equal size must divide the chips of a system"),
        ({"pp": 2, "stage_layers": [30, 1]}, "must be 2 numbers from 1 that add up to the 32 layers"),
        ({"pp": 2, "micro_batches": 3, "batch": 2}, "--micro-batches 3: the sequences of a data-parallel group"),
        ({"micro_batches": 2}, "--micro-batches: there is one stage"),
        ({"pp": 64, "system": "h100-x64"}, "has only 32 layers"),
        ({"pp": 0}, "--pp 0: must be a whole number, at least 1"),
    ],
)
def test_what_cannot_be_cut_is_refused(options: dict[str, Any], message: str) -> None:
    given = {"phase": "decode", "system": "hgx-h100"} | options
    with pytest.raises(InputError, match=message):
        archsim.simulate("h100", MODEL, **given)


def test_a_model_that_fits_no_stage_shows_the_fullest() -> None:
    with pytest.raises(InputError, match=r"llama-3.1-405b does not fit hgx-h100 \(TP1 x DP1 x PP8, stage \d\)"):
        archsim.simulate("h100", "llama-3.1-405b", phase="decode", system="hgx-h100", pp=8)


def test_a_server_fills_its_pipeline() -> None:
    """Prompts behind each other cost what they add, an early one alone all stages; every stage keeps its layers."""
    stack = replace(STACKS["ideal"], chunk=128)
    server = Deployment("h100", MODEL, "h100-x2", {"tp": 1, "pp": 2}, stack)
    alone = server.prefill_s(2, 64)
    assert alone / 2 < server.prefill_s(2, 64, first=False) < 0.75 * alone
    flat = Deployment("h100", MODEL, "h100-x2", {"tp": 1}, stack)
    assert server.capacity(1000) > flat.capacity(1000)  # one copy of the weights leaves more room for caches
    assert (server.groups(), flat.groups()) == (1, 2)
    state = at_batch(server, Request(64, 16), 16, first_token=False)
    assert state.output_per_s == pytest.approx(16 / state.tpot_s)


@pytest.mark.parametrize(
    "args",
    [
        ("run", "h100", MODEL, "--system", "h100-x2", "--tp", "1", "--stage-layers", "17,15", "--fidelity", "roofline"),
        ("plan", "h100-x2", MODEL, "--simulate", "1"),
    ],
)
def test_the_commands_know_stages(args: tuple[str, ...]) -> None:
    ran = CliRunner().invoke(cli, [*args, "--phase", "decode", "--batch", "4", "--pp", "2", "--json"])
    assert ran.exit_code == 0, ran.output
    found = json.loads(ran.stdout)
    if args[0] == "plan":
        degrees = found["plans"][0]["degrees"]
        assert degrees == {"tp": 1, "dp": 1, "ep": 1, "cp": 1, "pp": 2, "redundant": 0, "halves": False}
    else:
        assert [stage["layers"] for stage in found["meta"]["pipeline"]["stages"]] == [17, 15]
