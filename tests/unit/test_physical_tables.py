"""Do the tables of technologies and parts load, say where every number comes from, and stay free of fudge factors?"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

from archsim.errors import InputError
from archsim.hardware import (
    list_chips,
    list_memory_standards,
    list_technologies,
    load_chip,
    load_parts,
    load_technology,
)
from archsim.hardware.physical import IoDies, LayoutSpec, PhysicalSpec
from archsim.hardware.spec import source_for

pytestmark = pytest.mark.unit

#: what a chip may say of its silicon: facts that can be counted or measured, and names of shared tables
FACTS = {
    *("process", "technology", "dies", "die_area", "io_dies", "layout", "package", "tdp", "count"),
    *("cores", "lanes", "fp64_lanes", "core_sram", "near_cache", "cache", "memory_phys", "link_lanes", "host_lanes"),
    "die_link",
}
SHARED = {"technology", "package"}


@pytest.mark.parametrize("name", list_technologies())
def test_every_number_of_a_node_has_a_source(name: str) -> None:
    node = load_technology(name)
    numbers = set(type(node).model_fields) - {"name", "title", "provenance"}
    assert {key for key in numbers if source_for(key, node.provenance) is None} == set()


def test_every_part_has_a_source_and_every_memory_a_part() -> None:
    parts = load_parts()
    assert set(list_memory_standards()) <= set(parts.memory)
    numbers = set(type(parts).model_fields) - {"name", "title", "provenance", "fabric"}
    numbers |= {f"fabric.{key}" for key in type(parts.fabric).model_fields}
    assert {key for key in numbers if source_for(key, parts.provenance) is None} == set()


def test_nodes_are_there_from_16_to_2_nm_and_improve() -> None:
    names = ["n16", "n7", "n6", "n5", "n4", "n3", "n2"]
    assert {*names, "n7-duv"} == set(list_technologies())
    nodes = [load_technology(name) for name in names]
    for older, newer in pairwise(nodes):
        assert newer.mac_pj["bf16"] < older.mac_pj["bf16"]
        assert newer.mac_um2 < older.mac_um2
        assert newer.sram_mm2_per_mb <= older.sram_mm2_per_mb
        assert newer.wafer_usd > older.wafer_usd
    duv, euv = load_technology("n7-duv"), load_technology("n7")
    assert duv.defects_per_cm2 > euv.defects_per_cm2
    assert duv.mac_um2 > euv.mac_um2


def test_no_chip_carries_a_fudge_factor() -> None:
    """A chip states counts, sizes and names; every constant of area, energy and cost is shared."""
    fields = {*PhysicalSpec.model_fields, *LayoutSpec.model_fields, *IoDies.model_fields}
    assert fields == FACTS
    for name in list_chips():
        chip = load_chip(name)
        assert chip.physical.technology in list_technologies(), name
        assert chip.physical.package in (None, *load_parts().packages), name
        layout = chip.physical.layout.model_dump(exclude_none=True)
        assert all(value == int(value) for value in layout.values()), f"{name}: a fraction is no count"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("physical: {technology: n8}", "physical.technology: unknown technology 'n8' (known: n16, n2,"),
        ("physical: {io_dies: {technology: n99, count: 1}}", "physical.io_dies.technology: unknown technology 'n99'"),
        ("physical: {layout: {corse: 4}}", "physical.layout.corse: unknown key (did you mean 'cores'?)"),
        ("physical: {layout: {link_lanes: -1}}", "physical.layout.link_lanes: must be at least 0, found -1"),
    ],
)
def test_bad_silicon_is_named_with_its_place(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(f"base: a100\n{text}\n")
    with pytest.raises(InputError) as caught:
        load_chip(path)
    assert str(caught.value).startswith(f"{path}:2:")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("wafer_usd", "-5", "wafer_usd: must be more than 0, found -5"),
        ("defects_per_cm2", "much", "defects_per_cm2: expected a number, found 'much'"),
        ("clock_idle_share", "1.5", "clock_idle_share: must be at most 1, found 1.5"),
        (
            "curve",
            "[{clock: 2 GHz, volt: 0.8}, {clock: 1 GHz, volt: 0.9}]",
            "curve: its points must rise from each to the next",
        ),
    ],
)
def test_a_bad_node_is_one_clear_error(tmp_path: Path, key: str, value: str, message: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(f"base: n7\n{key}: {value}\n")
    with pytest.raises(InputError, match=r"mine\.yaml:2:1") as caught:
        load_technology(path)
    assert message in str(caught.value)
