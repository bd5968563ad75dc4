"""The suite `hbm`: each kind of stream within the band that its reference allows, and nothing left out in silence."""

from __future__ import annotations

import numpy as np
import pytest

from archsim.errors import InputError
from archsim.hardware import load_memory_standard
from archsim.kernels.dram_cycle import run_cycle
from archsim.mapping.dram import dram_channels
from archsim.memory import make_stream
from archsim.validation import SUITES, Report, Table, run_suite
from archsim.validation.hbm.suite import read_case
from archsim.validation.hbm.tile import tile_utilisation
from archsim.validation.suite import DATA

pytestmark = pytest.mark.validation

#: percent, the worst case of each group
LIMITS = {
    "row thrash": 3.0, "random": 3.0, "sequential": 5.0, "strided": 5.0, "streams, skewed": 5.0,
    "streams, aligned": 10.0, "random chunks": 10.0, "mixed reads and writes": 10.0, "one at a time": 3.0,
    "latency, low load": 10.0,
}  # fmt: skip


@pytest.fixture(scope="module")
def report() -> Report:
    return run_suite(SUITES["hbm"], per_group=3)


def test_every_kind_of_stream_is_within_its_limit(report: Report) -> None:
    worst = {name: group.max_ape_pct or 0.0 for name, group in report.groups.items()}
    assert worst.keys() >= LIMITS.keys()
    assert {name: error for name, error in worst.items() if error > LIMITS.get(name, 10.0)} == {}
    assert (report.error("mape_pct") or 9.0) < 1.0


def test_latency_probes_are_within_a_clock(report: Report) -> None:
    probes = [row for row in report.rows if row.group == "latency, probe"]
    assert len(probes) >= 3
    assert all(abs(row.got - row.expected) <= 1.0 for row in probes)


def test_what_is_not_trusted_is_said() -> None:
    cases = [read_case(record) for record in Table.read(DATA / "dram_golden.csv").records()]
    reasons = {case.why for case in cases if case.why}
    assert len(reasons) == 3
    assert sum(not case.why for case in cases) == 387


@pytest.mark.parametrize(
    ("column", "value", "text"),
    [
        ("config_file", "ram_ddr9_1ch_x_open.yaml", "unknown configuration 'ddr9'"),
        ("config_file", "nonsense", "must begin with"),
        ("address_mapping", "sideways", "must be one of"),
        ("injection_mode", "sometimes", "not known"),
        ("pattern", "zigzag", "not known"),
        ("region_bytes", str(2**60), "at most"),
        ("num_requests", "100000000", "at most 10 million"),
    ],
)
def test_a_row_that_makes_no_sense_is_refused_with_its_line(column: str, value: str, text: str) -> None:
    table = Table.read(DATA / "dram_golden.csv").take([0])
    table.columns[column][0] = value
    with pytest.raises(InputError, match=rf"(?s)dram_golden.csv:2: .*{text}"):
        SUITES["hbm"].references[0].compare(table)


def test_the_tile_model_is_near_on_average_and_says_what_it_cannot_be_compared_with() -> None:
    report = run_suite(SUITES["hbm-tile"], per_group=3)
    assert (report.error("median_ape_pct") or 99.0) < 3.0
    assert (report.error("mape_pct") or 99.0) < 5.0
    assert any("DRAMsim3" in reason for reason in report.skipped)
    assert (report.groups["row thrash"].max_ape_pct or 9.0) < 1.0


@pytest.mark.parametrize("name", ["gddr7", "hbm2e", "lpddr5x"])
def test_the_tile_model_is_near_the_cycle_model_on_standards_without_a_reference(name: str) -> None:
    dram = dram_channels(load_memory_standard(name))
    where = dram.map.organisation
    errors = []
    for pattern, reads in (
        ("sequential", 1.0), ("sequential", 0.75), ("random", 1.0), ("random", 0.5), ("stride_4096", 1.0),
        ("streams4_aligned", 1.0), ("streams8_aligned", 1.0), ("streams4_skewed", 1.0), ("chunk_512", 1.0),
        ("chunk_4096", 0.75), ("row_thrash", 1.0),
    ):  # fmt: skip
        stream = make_stream(
            pattern, 8000, request_bytes=where.burst_bytes, region_bytes=2**28,
            stripe_bytes=where.banks * where.columns * where.burst_bytes, read_share=reads,
        )  # fmt: skip
        seconds = run_cycle(dram, stream.address, stream.write).ticks * dram.timing.tick_ps * 1e-12
        expected = len(stream.address) * where.burst_bytes / seconds / dram.peak_bytes_per_s
        errors.append(abs(tile_utilisation(dram, stream) / expected - 1))
    assert np.mean(errors) < 0.08
    assert max(errors) < 0.3
