"""Area, energy and the sustained clock: worked by hand, and the physics that they must obey."""

from __future__ import annotations

import pytest

from archsim.errors import InputError
from archsim.hardware import list_chips, load_chip, load_technology
from archsim.physical import (
    Events,
    busy_clocks,
    chip_area,
    energy_of,
    gemm_power,
    operand_bytes,
    silicon,
    sustained_clock,
    unit_energy,
    voltage,
)
from archsim.physical.voltage import dynamic_scale, leakage_scale

pytestmark = pytest.mark.unit


@pytest.mark.parametrize("name", list_chips())
def test_blocks_add_up_to_the_die_and_the_network_to_its_edge(name: str) -> None:
    made = silicon(load_chip(name))
    for die in chip_area(made).dies:
        assert die.mm2 == pytest.approx(sum(b.logic_mm2 + b.sram_mm2 + b.phy_mm2 for b in die.blocks))
        assert all(block.mm2 > 0 for block in die.blocks)
    if made.chip.noc.kind == "crossbar" and not made.io_dies:
        port = made.chip.core.port
        ends = made.cores * (port.read_bytes_per_cycle + port.write_bytes_per_cycle) + made.cache_bytes_per_cycle
        expected = ends / made.dies * made.node.noc_um2_per_mm * 1e-6 * chip_area(made).compute.mm2 ** 0.5
        assert chip_area(made).compute.of("network") == pytest.approx(expected)


def test_the_matrix_units_of_an_a100_by_hand() -> None:
    area = chip_area(silicon(load_chip("a100"))).compute
    assert area.of("matrix units") == pytest.approx(128 * 1024 * 670e-6)
    assert area.of("memory PHYs") == pytest.approx(6 * 10.45)


def test_more_of_anything_is_a_larger_die() -> None:
    base = chip_area(silicon(load_chip("custom-npu"))).mm2
    for change in ({"cache.capacity": "512 MiB"}, {"core.matrix.count": "8"}, {"physical.technology": "n5"}):
        assert chip_area(silicon(load_chip("custom-npu", change))).mm2 > base, change


def test_voltage_rises_with_the_clock() -> None:
    node = load_technology("n5")
    volts = [voltage(node, f * 1e8) for f in range(1, 32)]
    assert volts == sorted(volts)
    assert voltage(node, 1.2e9) == 0.68


def test_operands_of_the_two_kinds_of_matrix_unit_by_hand() -> None:
    registers, scratchpad = operand_bytes(silicon(load_chip("a100")), "bf16")
    assert registers == pytest.approx(2 / 16 + 2 / 8 + 8 / 16)
    assert scratchpad == pytest.approx(4 * 2 / (128 * 1024 / 4) ** 0.5)
    registers, scratchpad = operand_bytes(silicon(load_chip("tpu-v4")), "bf16")
    assert registers == pytest.approx(8 / 128)
    assert scratchpad == pytest.approx(2 / 128 + 2 / (2**21 / 4) ** 0.5)


def test_energy_is_linear_in_the_events() -> None:
    unit = unit_energy(silicon(load_chip("h100")), 1.5e9)
    once, twice = (energy_of(Events(macs=n, read_bytes=n, network_bytes=n), "fp8", unit).total for n in (1e9, 2e9))
    assert twice == pytest.approx(2 * once)


@pytest.mark.parametrize("name", ["h100", "a100", "mi300x", "tpu-v4", "custom-npu"])
def test_power_grows_faster_than_the_clock_and_the_sustained_clock_meets_the_cap(name: str) -> None:
    chip = load_chip(name)
    made = silicon(chip)
    dtype = made.dtype
    watts = [sum(gemm_power(made, dtype, chip.clock * x).values()) for x in (0.6, 0.8, 1.0)]
    assert watts[1] - watts[0] < watts[2] - watts[1]
    caps = [0.5 * watts[2], 0.8 * watts[2], 2 * watts[2]]
    clocks = [sustained_clock(chip, dtype, cap) for cap in caps]
    assert clocks == sorted(clocks)
    assert clocks[-1] == chip.clock
    for cap, clock in zip(caps[:2], clocks[:2], strict=True):
        assert sum(gemm_power(made, dtype, clock).values()) <= cap
        assert sum(gemm_power(made, dtype, clock + 2e6).values()) > cap


def test_a_cap_below_static_power_is_refused() -> None:
    with pytest.raises(InputError, match=r"h100: a power cap of 20 W is below the \d+ W that the chip takes at rest"):
        sustained_clock(load_chip("h100"), "bf16", 20)


def test_a_chip_without_limit_or_table_keeps_its_clock() -> None:
    chip = load_chip("hygon-bw1000")
    assert sustained_clock(chip, "bf16") == chip.clock
    bare = load_chip("h100", {"physical.technology": "null"})
    assert sustained_clock(bare, "bf16") == bare.clock
    with pytest.raises(InputError, match=r"states no physical\.technology"):
        silicon(bare)


def test_silicon_that_is_stated_but_not_described_takes_power() -> None:
    small, large = (load_chip("custom-npu", {"physical.die_area": f"{mm2} mm2"}) for mm2 in (100, 1000))
    modelled = load_chip("custom-npu", {"physical.die_area": "null"})
    watts = [sum(gemm_power(silicon(chip), "bf16", chip.clock).values()) for chip in (small, modelled, large)]
    assert watts[0] == watts[1] < watts[2]
    node, beyond = silicon(large).node, 1000 - chip_area(silicon(large)).compute.mm2
    volts = dynamic_scale(node, large.clock), leakage_scale(node, large.clock)
    clocked = node.clock_pj_per_mm2 * 1e-12 * large.clock * volts[0]
    assert watts[2] - watts[1] == pytest.approx(beyond * (clocked + node.logic_leakage_w_per_mm2 * volts[1]))


def test_io_dies_keep_the_voltage_of_their_node() -> None:
    """Leakage over that of the cores' voltage is a line; it goes through zero only where there are no I/O dies."""
    for name, io_dies in (("mi300x", True), ("h100", False)):
        made = silicon(load_chip(name))
        scale = [leakage_scale(made.node, clock) for clock in (0.9e9, 1.5e9, 2.1e9)]
        watts = [unit_energy(made, clock).leakage_w for clock in (0.9e9, 1.5e9, 2.1e9)]
        slope = (watts[1] - watts[0]) / (scale[1] - scale[0])
        assert watts[2] == pytest.approx(watts[1] + slope * (scale[2] - scale[1]))
        assert (watts[0] - slope * scale[0] > 50) == io_dies


@pytest.mark.parametrize("name", ["a100", "b200", "l40s", "mi210"])
def test_units_that_rest_may_run_faster_for_the_same_power(name: str) -> None:
    chip = load_chip(name)
    loaded = chip.clock_under_load or sustained_clock(chip, "bf16")
    busy, clock = busy_clocks(chip, loaded)
    assert (busy[-1], clock[-1]) == (1.0, loaded)
    assert clock[0] == chip.clock
    volts = [voltage(silicon(chip).node, float(each)) for each in clock]
    assert busy * clock * [volt**2 for volt in volts] == pytest.approx(clock[-1] * volts[-1] ** 2)
    assert all(busy[1:] > busy[:-1])
