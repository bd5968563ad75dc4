"""Do all shipped descriptions load, agree with themselves, and say where every number comes from?"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from archsim._data import data_path
from archsim.hardware import (
    list_chips,
    list_memory_standards,
    list_systems,
    load_chip,
    load_memory_standard,
    load_system,
)
from archsim.hardware.listing import unsourced, values
from archsim.hardware.schema import SCHEMAS, json_schema

CHIPS = list_chips()


@pytest.mark.parametrize("name", CHIPS)
def test_a_chip_is_consistent_and_sourced(name: str) -> None:
    chip = load_chip(name)
    assert chip.name == name
    assert all(check.passed for check in chip.checks())
    assert chip.peak
    for dtype, quoted in chip.peak.items():
        assert chip.flops(dtype) == pytest.approx(quoted, rel=0.05)
    assert unsourced(chip) == ()


@pytest.mark.parametrize("name", CHIPS)
def test_a_resolved_chip_loads_back_equal(name: str, tmp_path: Path) -> None:
    chip = load_chip(name)
    path = tmp_path / f"{name}.yaml"
    path.write_text(chip.resolved_yaml())
    again = load_chip(path)
    assert again == chip
    assert again.content_hash == chip.content_hash
    assert hash(again) == hash(chip)


def test_hashes_tell_chips_apart_and_ignore_titles() -> None:
    assert len({load_chip(name).content_hash for name in CHIPS}) == len(CHIPS)
    assert load_chip("h100", {"title": "another", "year": "2023"}).content_hash == load_chip("h100").content_hash
    assert load_chip("h100", {"launch.latency": "2 us"}).content_hash != load_chip("h100").content_hash


def test_the_h800_differs_from_the_h100_in_its_links_only() -> None:
    h100, h800 = ({v.path: v.text for v in values(load_chip(name))} for name in ("h100", "h800"))
    differing = {path for path in h100.keys() | h800.keys() if h100.get(path) != h800.get(path)}
    assert differing == {"year", "scale_up.name", "scale_up.bandwidth", "scale_up.efficiency"}
    link = load_chip("h800").scale_up
    assert link is not None
    assert (link.bandwidth, link.sustained) == (200e9, 160e9)


@pytest.mark.parametrize("name", ["openai-jalapeno", "hygon-bw1000"])
def test_chips_without_public_numbers_say_estimate(name: str) -> None:
    chip = load_chip(name)
    assert chip.estimated
    assert "estimate" in chip.title
    guesses = [value for value in values(chip) if value.path.startswith(("core.", "clock", "peak", "memory.bandwidth"))]
    assert all(value.is_estimate or value.path == "core.scratchpad.capacity" for value in guesses)


@pytest.mark.parametrize("name", list_memory_standards())
def test_a_memory_standard_is_plausible(name: str) -> None:
    standard = load_memory_standard(name)
    timings = standard.timings
    assert standard.name == name
    assert standard.burst_bytes in (32, 64)
    assert standard.row_bytes % standard.burst_bytes == 0
    assert timings.trc >= timings.tras
    assert timings.trefi > 5 * timings.trfc
    assert "timings" in standard.provenance


@pytest.mark.parametrize("name", list_systems())
def test_a_system_has_the_links_it_needs(name: str) -> None:
    system = load_system(name)
    chip = load_chip(system.chip)
    scale_up, scale_out = system.links(chip)
    assert system.name == name
    assert system.source
    assert system.chips_per_node == 1 or scale_up is not None
    assert system.nodes == 1 or scale_out is not None
    assert system.estimated >= chip.estimated


@pytest.mark.parametrize("kind", SCHEMAS)
def test_the_schema_file_is_current(kind: str) -> None:
    shipped = json.loads((data_path("configs") / f"{kind}.schema.json").read_text())
    assert shipped == json_schema(kind), f"run: archsim chip schema --of {kind} > configs/{kind}.schema.json"
