"""Presets whose caches and memories microbenchmarks have measured say what these say."""

from __future__ import annotations

import pytest

from archsim.hardware import load_chip
from archsim.mapping import make_target
from archsim.validation.suite import DATA
from archsim.validation.table import Record, Table

ROWS = [row for row in Table.read(DATA / "measured_cache.csv").records() if row.cells["level"] != "far"]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.text('preset')} {row.text('level')}")
def test_idle_latencies_and_what_a_cache_holds(row: Record) -> None:
    chip = load_chip(row.text("preset"))
    assert chip.cache is not None
    target, timings = make_target(chip), chip.memory.standard.timings
    beyond_s = chip.memory.latency + timings.trcd + timings.tcl
    latency_s = target.memory_latency_s - (beyond_s if row.text("level") == "cache" else 0.0)
    if row.cells["latency_ns"]:
        assert latency_s * 1e9 == pytest.approx(row.number("latency_ns"), rel=0.02)
    if row.cells["reach_mb"]:
        # of two partitions, each holds what its own cores have read of the other: three halves of the buffer in all
        held = chip.cache.capacity / (2 - 1 / chip.cache.partitions)
        assert held / 1e6 == pytest.approx(row.number("reach_mb"), rel=0.08)
