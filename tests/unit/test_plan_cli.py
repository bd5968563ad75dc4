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
    assert [plan["degrees"]["tp"] for plan in found["plans"]] == [8, 4]
    assert all("does not fit hgx-h800" in each["why"] for each in found["refused"])


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
        (["hgx-h100", "llama-3.1-405b", "--phase", "decode", "--batch", "64"], "does not fit"),
    ],
)
def test_where_no_plan_goes_one_sentence_says_why(args: list[str], words: str) -> None:
    ran = CliRunner().invoke(cli, ["plan", *args])
    assert ran.exit_code == 2, ran.output
    assert words in ran.output
    assert ran.output.count("\n") == 1
