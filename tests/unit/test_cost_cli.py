"""`archsim cost`, `archsim chip show --physical` and what a simulated step says about energy and money."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from result_samples import llama_decode, physical, row

import archsim
from archsim.cli.main import cli
from archsim.hardware import load_chip
from archsim.physical import chip_area, load_variant, silicon
from archsim.report.html import fragment
from archsim.report.text import result_text
from archsim.results import OpTable
from archsim.simulation.cost import PHYSICAL

pytestmark = pytest.mark.unit


def invoke(*words: str) -> Result:
    return CliRunner().invoke(cli, list(words), env={"COLUMNS": "100"})


def test_cost_as_json_adds_up() -> None:
    sheet = json.loads(invoke("cost", "h100", "--price", "28000", "--tokens-per-s", "1000", "--json").output)
    items = sheet["items_usd"]
    assert sheet["parts_usd"] == pytest.approx(sum(items.values()) - items["engineering"])
    hour = sheet["usd_per_hour"]
    assert hour["total"] == pytest.approx(hour["capital"] + hour["power"])
    assert sheet["usd_per_million_tokens"] == pytest.approx(hour["total"] / 3.6)
    assert sheet["export"]["tpp"] == pytest.approx(15_832)
    assert "not legal advice" in sheet["export"]["disclaimer"]


def test_cost_as_text_says_that_it_estimates() -> None:
    output = invoke("cost", "mi300x").output
    for part in ("estimates", "8 x compute die, n5", "4 x I/O die, n6", "parts of one chip", "not legal advice"):
        assert part in output


def test_physical_as_json_and_text(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    sheet = json.loads(invoke("chip", "show", "h100", "--physical", "--power-cap", "500", "--json").output)
    product = sheet["products"]["bf16"]
    assert product["sustained_w"] <= 500
    assert product["sustained_clock_hz"] < 1.6e9
    assert sum(sheet["dies"][0]["blocks_mm2"].values()) == pytest.approx(sheet["dies"][0]["modelled_mm2"])
    plan = tmp_path / "plan.svg"
    output = invoke("chip", "show", "tpu-v4", "--physical", "--floorplan", str(plan)).output
    assert "one die (stated 600" in output
    assert "<svg" in plan.read_text()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("cost", "h101"), "unknown chip 'h101'"),
        (("cost", "hgx-h100"), "'hgx-h100' is a system: name its chip"),
        (("cost", "h100", "--volume", "0"), "--volume 0: must be at least 1"),
        (("cost", "h100", "--price", "-5"), "--price -5: must be USD, 0 or more"),
        (("cost", "h100", "--price", "nan"), "--price nan: must be USD, 0 or more"),
        (("cost", "h100", "--power", "0"), "--power 0: must be more than 0"),
        (("cost", "h100", "--tokens-per-s", "-1"), "--tokens-per-s -1: must be more than 0"),
        (("cost", "h100", "--parts", "gold"), "unknown parts list 'gold'"),
        (("cost", "h100", "--set", "physical.die_area=900 mm2"), "exceeds the reticle of 858 mm2"),
        (("cost", "h100", "--set", "physical.technology=n1"), "unknown technology 'n1'"),
        (("cost", "h100", "--set", "physical.technology=null"), "states no physical.technology"),
        (("chip", "show", "h100", "--physical", "--power-cap", "10"), "is below the"),
        (("chip", "show", "h100", "--power-cap", "10"), "--power-cap: goes with --physical"),
        (("run", "h100", "llama-3.1-8b", "--phase", "decode", "--power-cap", "-3"), "--power-cap -3: must be watts"),
        (("run", "h100", "llama-3.1-8b", "--phase", "decode", "--power-cap", "30"), "a power cap of 30 W is below"),
    ],
)
def test_bad_input_is_one_sentence(words: tuple[str, ...], message: str) -> None:
    result = invoke(*words)
    assert result.exit_code == 2
    assert message in result.output
    assert len(result.output.strip().splitlines()) == 1


@pytest.mark.parametrize("fidelity", ["roofline", "tile"])
def test_a_step_has_energy_power_and_cost(fidelity: str) -> None:
    step = archsim.simulate("h100", "llama-3.1-8b", phase="decode", batch=4, ctx=512, fidelity=fidelity)
    assert step.physical is not None
    assert set(step.physical) == set(PHYSICAL)
    assert step.energy_j is not None
    assert step.power_w is not None
    units = step.energy_by_unit
    assert all(joules >= -1e-9 for joules in units.values())
    assert units["memory"] >= step.op_table.total("dram_bytes") * 8 * 3.1e-12
    assert step.physical["static_power_w"] * 0.9 < step.power_w < 700
    assert step.joules_per_token == pytest.approx(step.energy_j / 4)


def test_a_power_cap_slows_a_prefill_and_takes_less_power() -> None:
    caps = (None, 450.0, 300.0)
    steps = [archsim.simulate("h100", "llama-3.1-8b", phase="prefill", seq=1024, power_cap=cap) for cap in caps]
    times = [step.time_ps for step in steps]
    watts = [step.power_w for step in steps]
    assert times == sorted(times)
    assert times[2] > 1.3 * times[0]
    assert watts == sorted(watts, reverse=True)  # type: ignore[type-var]
    assert watts[2] is not None
    assert watts[2] < 1.1 * 300


def test_a_kernel_that_streams_holds_a_low_cap_as_well() -> None:
    """At 200 W an H100 slows all of its cores, not only the matrix units, which hardly work in decode."""
    free, low = (
        archsim.simulate("h100", "llama-3.1-8b", phase="decode", batch=1, ctx=512, power_cap=watts)
        for watts in (None, 200.0)
    )
    assert free.power_w is not None
    assert low.power_w is not None
    assert low.power_w < 200 < free.power_w
    assert 1 < low.time_ps / free.time_ps < 1.2  # memory is what it waits for
    assert any("all else at 0.88" in note for note in low.meta["notes"])


def test_a_stated_area_follows_what_is_set() -> None:
    assert load_variant("h100").physical.die_area == 814
    fewer = load_variant("h100", {"physical.layout.cores": 132}).physical.die_area
    modelled = [chip_area(silicon(load_chip("h100", {"physical.layout.cores": n}))).mm2 for n in (132, 144)]
    assert fewer == pytest.approx(814 * modelled[0] / modelled[1])
    assert load_variant("h100", {"physical.die_area": "700 mm2", "core.vector.lanes": 64}).physical.die_area == 700
    shrunk = load_variant("mi300x", {"cache.capacity": "128 MiB", "physical.io_dies.count": 2}).physical
    assert shrunk.die_area == 115
    assert shrunk.io_dies is not None
    assert 370 < shrunk.io_dies.die_area < 740  # type: ignore[operator]


def test_a_chip_without_a_technology_still_runs() -> None:
    bare = {"physical.technology": "null"}
    step = archsim.simulate("h100", "llama-3.1-8b", phase="decode", batch=1, ctx=64, set=bare)
    assert step.physical is None
    assert step.energy_j is None


@pytest.mark.parametrize("width", [80, 100, 120])
def test_views_show_energy_and_cost(width: int) -> None:
    rows = [row("a", "matmul", 9.0, matrix_pj=10**9, memory_pj=2 * 10**9, static_pj=10**9)]
    result = llama_decode(op_table=OpTable.from_rows(rows), physical=physical())
    text = result_text(result, width=width)
    assert max(map(len, text.splitlines())) <= width
    for part in ("energy per token", "W/mm2", "3,050 USD", "a million tokens", "memory"):
        assert part in text
    assert "…" not in text
    assert "Power and cost (estimates)" in fragment(result)


def test_figures_of_energy_and_power_are_drawn() -> None:
    pytest.importorskip("matplotlib")
    from archsim.report import plot

    rows = [row(name, "matmul", 9.0, matrix_pj=10**9, static_pj=10**9) for name in ("a", "b")]
    result = llama_decode(op_table=OpTable.from_rows(rows), physical=physical())
    assert [text.get_text() for text in plot.energy(result).get_yticklabels()] == ["a", "b"]
    assert len(plot.power(result).patches) == 2
