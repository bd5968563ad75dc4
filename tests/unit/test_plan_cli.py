"""`archsim plan`: rankings of plans, what does not fit and why."""

from __future__ import annotations

import json
from typing import Any

import pytest
from click.testing import CliRunner

from archsim.cli.main import cli

pytestmark = pytest.mark.unit


def ranking(*args: str) -> dict[str, Any]:
    ran = CliRunner().invoke(cli, ["plan", *args, "--json"])
    assert ran.exit_code == 0, ran.output
    found: dict[str, Any] = json.loads(ran.stdout)
    return found


def test_plans_of_a_decode_step_are_ranked_and_the_others_explained() -> None:
    found = ranking("hgx-h800", "llama-3.1-70b", "--phase", "decode", "--batch", "64", "--simulate", "0")
    bounds = [plan["bound_s"] for plan in found["plans"]]
    assert bounds == sorted(bounds)
    plans = [plan["degrees"] for plan in found["plans"]]
    assert [plan["tp"] for plan in plans if plan["cp"] == plan["pp"] == 1] == [8, 4, 2]
    assert all(p["tp"] * p["cp"] * p["pp"] * p["dp"] == 8 for p in plans)
    assert {p["cp"] for p in plans} == {p["pp"] for p in plans} == {1, 2, 4, 8}
    assert len({json.dumps(plan, sort_keys=True) for plan in plans}) == len(plans)
    assert all("does not fit hgx-h800" in each["why"] for each in found["refused"])


def test_experts_fill_the_chips_and_halves_of_a_batch_are_told_apart() -> None:
    args = ("h800-x144", "deepseek-v3", "--phase", "decode", "--batch", "18432", "--quant", "fp8", "--simulate", "0")
    found = ranking(*args, "--pp", "1")
    best = found["plans"][0]["degrees"]
    assert best == {"tp": 1, "dp": 144, "ep": 144, "cp": 1, "pp": 1, "redundant": 32, "halves": True}
    assert "DP144 EP144+32 halves" in CliRunner().invoke(cli, ["plan", *args, "--pp", "1"]).output


def test_plans_of_a_training_step() -> None:
    found = ranking("hgx-h100", "llama-3.1-8b", "--phase", "train", "--batch", "16", "--seq", "1024", "--simulate", "0")
    plans = [plan["degrees"] for plan in found["plans"]]
    assert len(plans) > 50
    assert len({json.dumps(plan, sort_keys=True) for plan in plans}) == len(plans)
    assert all(plan["memory_bytes"] <= found["capacity_bytes"] for plan in found["plans"])
    assert all(p["tp"] * p["cp"] * p["pp"] * p["dp"] == 8 for p in plans)


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["hgx-h100", "llama-3.1-405b", "--phase", "train", "--batch", "64"], "by any of"),
        (["hgx-h100", "llama-3.1-405b", "--phase", "decode", "--batch", "64"], "does not fit hgx-h100 (TP8 x DP1)"),
        (["hgx-h100", "llama-3.1-8b", "--phase", "decode", "--batch", "8", "--pp", "3"], "--pp 3: stages of equal"),
        (["hgx-h100", "llama-3.1-8b", "--phase", "decode", "--batch", "8", "--cp", "16"], "--cp 16: must divide"),
    ],
)
def test_where_no_plan_goes_one_sentence_says_why(args: list[str], words: str) -> None:
    ran = CliRunner().invoke(cli, ["plan", *args])
    assert ran.exit_code == 2, ran.output
    assert words in ran.output
    assert ran.output.count("\n") == 1
