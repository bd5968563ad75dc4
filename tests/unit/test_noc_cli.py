"""`archsim noc bench`: does it print the curve, and answer bad input with one sentence?"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from archsim.cli.main import cli

QUICK = ("--size", "3x3", "--flits", "2", "--loads", "0.2:0.4:0.2")


def bench(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["noc", "bench", *arguments])


def test_the_curve_is_printed_and_drawn(tmp_path: Path) -> None:
    result = bench(*QUICK, "--plot", str(tmp_path / "curve.svg"))
    assert result.exit_code == 0
    assert "empty network" in result.stdout
    assert (tmp_path / "curve.svg").read_text().startswith("<?xml")


def test_json_holds_every_point() -> None:
    found = json.loads(bench(*QUICK, "--json").stdout)
    assert [round(point["load"], 3) for point in found["points"]] == [0.2, 0.4]
    assert found["points"][0]["latency"] > found["zero_load_latency_cycles"] - 1
    assert not found["saturated"]


def test_a_network_from_files(tmp_path: Path) -> None:
    links, table = tmp_path / "links.txt", tmp_path / "table.txt"
    links.write_text("# a line of three\n0 1\n1 0\n1 2 3\n2 1 3\n")
    table.write_text("0 1 1\n0 2 1\n1 0 0\n1 2 2\n2 1 1\n2 0 1\n")
    result = bench("--graph", str(links), "--table", str(table), "--loads", "0.1:0.1:0.1", "--json")
    assert json.loads(result.stdout)["routing"] == "table"
    table.write_text("0 1 1\n")
    assert "has no entry for destination 2" in bench("--graph", str(links), "--table", str(table)).stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--size", "8"), "takes 2 number(s), for example 8x4"),
        (("--size", "axb"), "write whole numbers"),
        (("--topology", "fattree", "--size", "9999x9999"), "too many nodes"),
        (("--size", "99x99"), "too many nodes"),
        (("--loads", "1"), "write FROM:TO:STEP"),
        (("--loads", "0:1:0.1"), "needs 0 < FROM"),
        (("--topology", "torus", "--size", "4x4", "--no-datelines"), "can deadlock"),
        (("--topology", "torus", "--size", "4x4", "--vcs", "1"), "stay free of deadlock"),
        (("--graph", "absent.txt"), "cannot be read"),
        (("--pattern", "unifrm"), "did you mean 'uniform'"),
        ((*QUICK, "--plot", "curve.doc"), "must end in .png, .svg or .pdf"),
    ],
)
def test_bad_input_is_one_sentence(arguments: tuple[str, ...], message: str) -> None:
    result = bench(*arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_table_with_a_loop_or_a_hole_is_named(tmp_path: Path) -> None:
    links, table = tmp_path / "links.txt", tmp_path / "table.txt"
    links.write_text("0 1\n1 0\n1 2\n2 1\n")
    for text, message in (
        ("0 1 1\n0 2 1\n1 0 0\n1 2 0\n2 0 1\n2 1 1\n", "comes back to router 0: a loop"),
        ("0 1 1\n0 2 1\n1 0 0\n2 0 1\n2 1 1\n", "router 1 has no entry for destination 2"),
    ):
        table.write_text(text)
        result = bench("--graph", str(links), "--table", str(table))
        assert result.exit_code == 2
        assert message in result.stderr
        assert str(table) in result.stderr


@pytest.mark.parametrize(
    ("text", "message"),
    [("0 1\n", "not connected"), ("0 one\n", ":1: '0 one' must be 2 to 3"), ("", "names no link"),
     ("0 1 0\n1 0 1\n", "at least 1 cycle"), ("0 99999\n", "numbers end at 4095")],
)  # fmt: skip
def test_a_graph_that_is_none_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "links.txt"
    path.write_text(text)
    result = bench("--graph", str(path))
    assert result.exit_code == 2
    assert message in result.stderr
