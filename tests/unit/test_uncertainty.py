"""Doubtful values of a chip, and the figures that they leave open."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

import archsim
from archsim.cli.main import cli
from archsim.errors import InputError
from archsim.hardware import load_chip
from archsim.serving import Deployment
from archsim.serving.deployment import Step
from archsim.simulation.uncertainty import SPREAD, doubtful, intervals

pytestmark = pytest.mark.unit

STEP = {"phase": "decode", "batch": 1, "ctx": 64, "quant": "int4"}


def test_what_is_certain_is_not_moved() -> None:
    moved = {value.path: value for value in doubtful(load_chip("h100"))}
    assert "memory.bandwidth" not in moved
    assert moved["launch.latency"].spread == SPREAD["estimate"]
    assert moved["launch.latency"].faster == -1


def test_the_clock_moves_no_further_than_the_surest_peak() -> None:
    moved = {value.path: value for value in doubtful(load_chip("mtt-s5000"))}
    assert moved["clock"].spread == SPREAD["medium"]
    assert moved["memory.bandwidth"].spread == SPREAD["medium"]


def test_the_interval_holds_the_figure_and_values_set_by_hand_stay() -> None:
    seen: list[dict[str, str]] = []

    def step(values: object) -> archsim.Result:
        seen.append(dict(values))  # type: ignore[call-overload]
        return archsim.simulate("mtt-s5000", "llama-3.1-8b", set=seen[-1], fidelity="roofline", **STEP)

    found, moved = intervals("mtt-s5000", step, {"memory.bandwidth": "1.6 TB/s"})
    time = found["time_s"]
    assert time.low < time.nominal < time.high
    assert "memory.bandwidth" not in {value.path for value in moved}
    assert all(values["memory.bandwidth"] == "1.6 TB/s" for values in seen)
    assert len(seen) == 3


def test_a_chip_without_doubt_is_refused() -> None:
    chip = load_chip("h100")
    own = {value.path: value.text for value in doubtful(chip)}
    with pytest.raises(InputError, match="every value of h100"):
        intervals("h100", lambda values: pytest.fail("simulated"), own)


def test_the_command_gives_every_figure_as_an_interval() -> None:
    arguments = "run mtt-s5000 llama-3.1-8b --phase decode --ctx 64 --fidelity roofline --uncertainty --json"
    result = CliRunner().invoke(cli, arguments.split())
    assert result.exit_code == 0, result.output
    answer = json.loads(result.output)
    low, nominal, high = answer["uncertainty"]["figures"]["time_s"]
    assert low < nominal == answer["time_s"] < high
    assert answer["uncertainty"]["moved"]["memory.bandwidth"] == {"value": "1.6 TB/s", "spread": 0.1}


def test_what_a_server_yields_comes_as_intervals_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def step(server: Deployment, phase: str, batch: int, seq: int, ctx: int) -> Step:
        asked = {"phase": phase, "batch": batch, "seq": seq, "ctx": ctx, **server.options}
        time_s = archsim.simulate(server.chip, server.workload, fidelity="roofline", **asked).time_s
        return Step(time_s, 1, time_s)

    monkeypatch.setattr(Deployment, "step", step)
    asked = "serve mtt-s5000 llama-3.1-8b --input 64 --output 16 --batch 1 --static --uncertainty --json"
    result = CliRunner().invoke(cli, asked.split())
    assert result.exit_code == 0, result.output
    answer = json.loads(result.output)
    low, nominal, high = answer["uncertainty"]["figures"]["output_per_s"]
    assert low < nominal < high
    assert nominal == pytest.approx(answer["states"][0]["output_per_s"])


def test_a_training_step_comes_as_intervals_too() -> None:
    asked = "train mtt-s5000-x8 llama-3.1-8b --tp 8 --batch 4 --seq 1024 --fidelity roofline --uncertainty --json"
    result = CliRunner().invoke(cli, asked.split())
    assert result.exit_code == 0, result.output
    answer = json.loads(result.output)
    low, nominal, high = answer["uncertainty"]["figures"]["time_s"]
    assert low < nominal == answer["time_s"] < high
