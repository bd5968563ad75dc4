"""Impossible memories are refused in one sentence that names the value and the rule."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from archsim.errors import InputError
from archsim.hardware import load_chip, load_memory_standard
from archsim.kernels.dram_cycle import run_cycle
from archsim.mapping.dram import chip_dram, dram_channels, dram_timing
from archsim.memory import make_stream
from archsim.program.address_map import AddressMap, Organisation
from archsim.program.dram import Controller

HBM3 = dram_channels(load_memory_standard("hbm3"))
ORDER = ("pseudo_channel", "bank_group", "column", "bank", "stack_id", "row")


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"rc": 50}, "tRC must be at least tRAS \\+ tRP"), ({"faw": 2}, "tFAW must be at least tRRD_S"),
        ({"ccd_l": 1}, "tCCD_L must be"), ({"bl": 0}, "bl is 0"), ({"ticks_per_clock": 3}, "power of two"),
        ({"refi": 100}, "refi must be longer"),
    ],
)  # fmt: skip
def test_impossible_timings(change: dict[str, Any], text: str) -> None:
    with pytest.raises(InputError, match=text):
        replace(HBM3.timing, **change)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"memory.standard.timings.trc": "40 ns"}, "tRC 40 ns is less than tRAS \\+ tRP"),
        ({"memory.standard.timings.tfaw": "1 ns"}, "tFAW 1 ns is less than tRRD"),
        ({"memory.standard.banks": "0"}, "banks"), ({"memory.standard.banks": "20"}, "cannot be split"),
    ],
)  # fmt: skip
def test_impossible_standards_name_the_key(change: dict[str, str], text: str) -> None:
    with pytest.raises(InputError, match=text):
        load_chip("h100", change)


@pytest.mark.parametrize(
    ("order", "xor", "text"),
    [
        (ORDER[:-1], {}, "row has 14 bits, but bit 0 of it is not in the order"),
        ((*ORDER, "bank"), {}, "bit 0 of bank stands twice"),
        (("column[0:9]", *ORDER), {}, "beyond the 5 bits of column"),
        (("colum", *ORDER), {}, "did you mean 'column'"),
        (ORDER, {"bank": "row[0:3]"}, "at least as many bits"), (ORDER, {"bank": "bank[0:1]"}, "another field"),
    ],
)  # fmt: skip
def test_a_map_must_cover_every_bit_once(order: tuple[str, ...], xor: dict[str, str], text: str) -> None:
    with pytest.raises(InputError, match=text):
        AddressMap(HBM3.map.organisation, order, 1, 256, xor)


def test_a_map_is_one_to_one() -> None:
    organisation = Organisation(2, 1, 2, 2, rows=4, columns=4, burst_bytes=32)
    where = AddressMap(organisation, ORDER, 3, 64, {"bank": "row[0:1]", "bank_group": "row[1:2]"})
    places = {tuple(sorted(where.locate(address).items())) for address in range(0, where.capacity_bytes, 32)}
    assert len(places) == where.capacity_bytes // 32


@pytest.mark.parametrize("banks", [0, 3])
def test_an_organisation_has_powers_of_two(banks: int) -> None:
    with pytest.raises(InputError, match="power of two"):
        Organisation(1, 1, banks, 4, rows=4, columns=4, burst_bytes=32)


def test_an_address_beyond_the_capacity_is_refused() -> None:
    with pytest.raises(InputError, match="request 1 is at address 0x40000000, beyond the capacity"):
        run_cycle(HBM3, [0, HBM3.map.capacity_bytes])


@pytest.mark.parametrize("change", [{"scheduler": "lifo"}, {"read_queue": 0}, {"drain_low": 0.9}, {"row_hit_cap": -1}])
def test_impossible_controllers(change: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        Controller(**change)


@pytest.mark.parametrize("pattern", ["zigzag", "stride_0", "streams0_skewed", "chunk_999999999999999"])
def test_unknown_patterns(pattern: str) -> None:
    with pytest.raises(InputError, match="pattern"):
        make_stream(pattern, 10, request_bytes=32, region_bytes=2**20, stripe_bytes=65536)


def test_the_standards_are_the_reference_configurations() -> None:
    """HBM3 and HBM4 in nanoseconds round to the clocks of their source."""
    hbm3, hbm4 = (dram_timing(load_memory_standard(name)) for name in ("hbm3", "hbm4"))
    assert (hbm3.rc, hbm3.wr, hbm3.faw, hbm3.wtr_l, hbm3.refi_pb) == (144, 66, 48, 20, 390)
    assert (hbm4.rcd_rd, hbm4.rfc, hbm4.ccd_r, hbm4.rtw) == (78, 1800, 4, 50)


def test_codes_in_band_take_capacity_and_bandwidth() -> None:
    plain, coded = load_chip("h100"), load_chip("h100", {"memory.ecc_overhead": "0.125", "memory.reserved": "2 GB"})
    assert coded.memory.usable_capacity == pytest.approx(plain.memory.capacity * 0.875 - 2e9)
    plain, coded = load_chip("a40", {"memory.ecc_overhead": "0"}), load_chip("a40")  # a burst of 32 B for 256 B
    assert chip_dram(coded.memory).burst_ps == pytest.approx(chip_dram(plain.memory).burst_ps * 9 / 8, rel=1e-3)
