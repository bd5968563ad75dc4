"""Do `archsim chip` and `archsim system` show what was loaded, with stable JSON and exit codes?"""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner, Result

from archsim.cli.main import cli


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(cli, arguments)


def test_chip_list_marks_estimates() -> None:
    lines = invoke("chip", "list").output.splitlines()
    jalapeno = next(line for line in lines if "openai-jalapeno" in line)
    assert "~1887" in jalapeno
    assert "~" not in next(line for line in lines if "h100" in line)


def test_chip_list_as_json() -> None:
    rows = {row["name"]: row for row in json.loads(invoke("chip", "list", "--json").output)}
    assert rows["h800"]["scale_up_bytes_per_s"] == 200e9
    assert rows["h100"]["peak_flops"]["bf16"] == pytest.approx(989.4e12, rel=1e-3)
    assert rows["openai-jalapeno"]["estimated"] is True


def test_chip_show_names_the_source_of_every_value() -> None:
    output = invoke("chip", "show", "h800").output
    assert "scale_up.bandwidth" in output
    assert "DeepSeek-V3 technical report" in output


def test_chip_show_yaml_is_the_resolved_description() -> None:
    output = invoke("chip", "show", "h800", "--set", "launch.latency=3 us", "--yaml").output
    assert "base:" not in output
    assert "latency: 3 us" in output


def test_chip_show_json_has_hash_and_checks() -> None:
    shown = json.loads(invoke("chip", "show", "h100", "--json").output)
    assert shown["memory"]["standard"]["name"] == "hbm3"
    assert len(shown["content_hash"]) == 32
    assert all(check["passed"] for check in shown["checks"])


def test_chip_check_prints_the_arithmetic() -> None:
    result = invoke("chip", "check", "h100")
    assert result.exit_code == 0
    assert "132 cores x 2048 MAC/cycle x 2 x 1.83 GHz = 989.4 TFLOP/s, quoted 989 TFLOP/s" in result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("chip", "show", "h10"), "archsim: unknown chip 'h10' (did you mean 'h100'?)"),
        (("chip", "check", "h100", "--set", "cores=0"), "archsim: --set cores=0: cores: must be at least 1, found 0"),
        (
            ("chip", "check", "h100", "--set", "cores"),
            "archsim: --set cores: expected path=value, such as core.matrix.rows=256",
        ),
        (("system", "show", "x"), "archsim: unknown system 'x' (known: "),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(arguments: tuple[str, ...], message: str) -> None:
    result = invoke(*arguments)
    assert result.exit_code == 2
    assert result.output.startswith(message)
    assert len(result.output.splitlines()) == 1


def test_chip_schema_is_json() -> None:
    assert "base" in json.loads(invoke("chip", "schema", "--of", "system").output)["properties"]


def test_system_commands() -> None:
    assert "cloudmatrix384" in invoke("system", "list").output
    assert {row["name"] for row in json.loads(invoke("system", "list", "--json").output)} >= {"hgx-h800", "trn2-x16"}
    shown = invoke("system", "show", "h800-x32").output
    assert "4 node(s) of 8" in shown
    assert "160 GB/s sustained" in shown
    assert json.loads(invoke("system", "show", "h800-x32", "--json").output)["scale_up"]["efficiency"] == 0.8
