"""`archsim memory`: streams, traces of other simulators, and refusals with the line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from archsim.cli.main import cli
from archsim.errors import InputError
from archsim.hardware.memory import ControllerSpec
from archsim.memory import bench, read_requests


def archsim(*args: object) -> Result:
    return CliRunner().invoke(cli, [str(arg) for arg in args])


def test_the_bench_reports_what_the_channel_did() -> None:
    result = archsim("memory", "bench", "--pattern", "random", "--requests", 3000, "--reads", 0.75, "--json")
    found = json.loads(result.output)
    assert result.exit_code == 0
    assert 0.2 < found["utilisation"] < 0.33
    assert found["latency_s"]["p50"] <= found["latency_s"]["p99"] <= found["latency_s"]["p100"]
    counts = found["counts"]
    assert counts["reads"] + counts["writes"] + counts["forwarded"] == 3000
    assert found["energy_j"].keys() == {"activate", "read", "write", "io", "refresh", "background"}
    assert "utilisation" in archsim("memory", "bench", "--requests", 500).output
    assert "hbm4" in archsim("memory", "list").output


def test_energy_is_counts_times_the_energy_of_each_command() -> None:
    result = bench("hbm3", "sequential", requests=4000)
    bits = 8 * 32 * 4000
    assert result.energy_j["read"] == pytest.approx(bits * 1.409e-12)
    assert result.energy_j["activate"] == pytest.approx(result.counts["activates"] * 371.538e-12)
    assert result.energy_j["write"] == 0.0


def test_a_closed_row_policy_has_no_row_hits_at_low_load() -> None:
    closed = bench("hbm3", requests=500, serial=True, controller=ControllerSpec(row_policy="closed"))
    assert closed.row_hit_rate == 0.0
    assert bench("hbm3", requests=500, serial=True).row_hit_rate > 0.8


@pytest.mark.parametrize(
    ("text", "clocks"),
    [
        ("0x100 R\n0x200 W\n", None),
        ("# a comment\n\nLD 0x100\nST 512\n", None),
        ("0x100 READ 0\n0x200 WRITE 100\n", [0, 100]),
    ],
)
def test_traces_of_ramulator_and_dramsim(tmp_path: Path, text: str, clocks: list[int] | None) -> None:
    path = tmp_path / "requests.trace"
    path.write_text(text)
    stream, due = read_requests(path)
    assert stream.address.tolist() == [0x100, 0x200]
    assert stream.write.tolist() == [False, True]
    assert (due.tolist() if due is not None else None) == clocks
    result = bench("hbm2", trace=path)
    assert (result.requests, result.counts["reads"], result.counts["writes"]) == (2, 1, 1)


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("0x100 R\n0x20g W\n", ":2: '0x20g' is no address"), ("0x100 X\n", ":1: '0x100 X' is no request"),
        ("-4 R\n", "is no address"), ("0x100 READ 5\n0x100 R\n", "all of them must, or none"),
        ("0x100 READ 5\n0x100 READ 4\n", "before the 5"), ("", "holds no requests"), ("R" * 500, "longer than"),
        ("99999999999999999999999 R\n", "is no address"), ("\x00\xff\n", "is no request"),
        ("0xffffffffff R\n", "ends at 0x"),
    ],
)  # fmt: skip
def test_a_bad_trace_is_refused_with_its_line(tmp_path: Path, text: str, place: str) -> None:
    path = tmp_path / "requests.trace"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(InputError, match=place):
        bench("hbm3", trace=path)
    result = archsim("memory", "bench", "--trace", path)
    assert result.exit_code == 2


def test_a_trace_is_read_up_to_a_limit(tmp_path: Path) -> None:
    path = tmp_path / "requests.trace"
    path.write_text("0x0 R\n" * 11)
    with pytest.raises(InputError, match="more than 10 requests"):
        read_requests(path, limit=10)
    with pytest.raises(InputError, match="cannot be read"):
        read_requests(tmp_path / "none")


@pytest.mark.parametrize("name", ["figure.png", "figure.svg"])
def test_a_figure_is_written(tmp_path: Path, name: str) -> None:
    result = archsim("memory", "bench", "--requests", 500, "--plot", tmp_path / name)
    assert result.exit_code == 0
    assert (tmp_path / name).stat().st_size > 1000
    assert archsim("memory", "bench", "--requests", 5, "--plot", tmp_path / "figure.gif").exit_code == 2


@pytest.mark.parametrize(
    "options",
    [
        ["--pattern", "zigzag"],
        ["--reads", "2"],
        ["--load", "0"],
        ["--queue", "0"],
        ["--memory", "ddr9"],
        ["--requests", "0"],
    ],
)
def test_bad_options_are_refused(options: list[str]) -> None:
    assert archsim("memory", "bench", *options).exit_code == 2
