"""Are chip files inherited, overridden and validated as documented, and is every complaint one exact sentence?"""

from __future__ import annotations

from pathlib import Path

import pytest

from archsim.errors import InputError
from archsim.hardware import ChipSpec, load_chip, load_system

CHIP = """\
title: Test chip
vendor: me
year: 2026
clock: 1 GHz
cores: 4
core:
  matrix: {kind: systolic, rows: 128, cols: 64, dataflow: weight_stationary, dtypes: {bf16: 1.0, fp8: 2.0}}
  vector: {lanes: 64, special_lanes: 16}
  scratchpad: {capacity: 1 MiB}
  accumulator: {capacity: 256 KiB}
  port: {read_bytes_per_cycle: 64, write_bytes_per_cycle: 64}
noc: {kind: mesh, rows: 2, cols: 2, link_bytes_per_cycle: 64, hop_latency: 2 ns, memory_ports: 2}
memory: {standard: hbm3, stacks: 1, capacity: 16 GB, bandwidth: 800 GB/s, latency: 100 ns}
launch: {latency: 1 us}
scale_up: {name: wire, bandwidth: 50 GB/s, latency: 1 us, topology: ring, domain: 4, efficiency: 0.9}
peak: {bf16: 65.5 TFLOP/s}
provenance:
  cores: {source: a drawing, confidence: high}
"""


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Write a file into a fresh directory, which becomes the current one, and return its name."""
    monkeypatch.chdir(tmp_path)

    def write(name: str, text: str) -> str:
        Path(name).write_text(text, encoding="utf-8")
        return name

    return write


def refusal(name: str, overrides: dict[str, str] | None = None) -> str:
    with pytest.raises(InputError) as caught:
        load_chip(name, overrides)
    return str(caught.value)


def test_a_file_loads_as_si(write) -> None:
    chip = load_chip(write("chip.yaml", CHIP))
    assert (chip.name, chip.clock, chip.core.scratchpad.capacity, chip.memory.latency) == ("chip", 1e9, 2**20, 1e-7)
    assert chip.flops("bf16") == 4 * 128 * 64 * 2 * 1e9
    assert chip.core.matrix.rates == {"bf16": 128 * 64, "fp8": 2 * 128 * 64}
    assert chip.memory.channels == 32
    assert chip.memory.data_rate == 800e9 * 8 / 1024
    assert chip.memory.burst_time == pytest.approx(32 / 25e9)
    assert chip.cache is None


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("clock: 1", "clok: 1", "chip.yaml:4:1: clok: unknown key (did you mean 'clock'?)"),
        ("{lanes:", "{lane:", "chip.yaml:8:12: core.vector.lane: unknown key (did you mean 'lanes'?)"),
        ("cores: 4\n", "", "chip.yaml:1:1: cores: missing key"),
        ("rows: 128, ", "", "chip.yaml:7:3: core.matrix.rows: missing key"),
        (
            "clock: 1 GHz",
            "clock: 3 TB/s",
            "chip.yaml:4:1: clock: '3 TB/s' is a bandwidth, expected a frequency such as '1.83 GHz'",
        ),
        (
            "clock: 1 GHz",
            "clock: 1e9",
            "chip.yaml:4:1: clock: 1000000000.0 needs a unit, expected a frequency such as '1.83 GHz'",
        ),
        ("cores: 4", "cores: 0", "chip.yaml:5:1: cores: must be at least 1, found 0"),
        ("cores: 4", "cores: four", "chip.yaml:5:1: cores: expected a whole number, found 'four'"),
        ("800 GB/s", "-800 GB/s", "chip.yaml:13:54: memory.bandwidth: must be more than 0, found '-800 GB/s'"),
        (
            "peak: {bf16: 65.5",
            "peak: {bf16: 100",
            "chip.yaml:16:8: peak.bf16: 4 cores x 8192 MAC/cycle x 2 x 1 GHz = 65.54 TFLOP/s, "
            "quoted 100 TFLOP/s (-34.5%, at most 5% apart)",
        ),
        (
            "peak: {bf16",
            "peak: {fp32",
            "chip.yaml:16:8: peak.fp32: a fp32 peak is quoted but the matrix unit has no fp32 rate",
        ),
        (
            "800 GB/s",
            "1800 GB/s",
            "chip.yaml:13:54: memory.bandwidth: 1.8 TB/s over 1 x 32 channels x 32 bit needs 14.1 GT/s per pin, "
            "HBM3 reaches 6.4 GT/s",
        ),
        (
            "kind: mesh, rows: 2",
            "kind: mesh, rows: 3",
            "chip.yaml:12:19: noc.rows: 3 x 2 = 6 routers for 4 cores",
        ),
        ("year: 2026", "year: 2026\nyear: 2027", "chip.yaml:4:1: year: duplicate key, first given on line 3"),
        (
            "kind: systolic",
            "kind: systollic",
            "chip.yaml:7:12: core.matrix.kind: 'systollic' is not one of 'systolic', 'tensor_core' "
            "(did you mean 'systolic'?)",
        ),
        (
            "kind: mesh, ",
            "",
            "chip.yaml:12:1: noc.kind: missing key, one of 'crossbar', 'mesh', 'torus', 'ring', 'clusters', 'graph'",
        ),
        (
            "topology: ring",
            "topology: rings",
            "chip.yaml:15:59: scale_up.topology: 'rings' is not one of 'switch', 'full_mesh', 'torus', 'ring', "
            "'point_to_point', 'fat_tree' "
            "(did you mean 'ring'?)",
        ),
        ("efficiency: 0.9", "efficiency: 1.9", "chip.yaml:15:86: scale_up.efficiency: must be at most 1, found 1.9"),
        (
            "standard: hbm3,",
            "standard: hbm33,",
            "chip.yaml:13:10: memory.standard: unknown memory standard 'hbm33' (did you mean 'hbm3'?)",
        ),
        (
            "launch: {latency: 1 us}",
            "launch: 1 us",
            "chip.yaml:14:1: launch: expected a map of keys and values, found '1 us'",
        ),
        (
            "  cores: {source",
            "  coress: {source",
            "chip.yaml:18:3: provenance.coress: no such value in this chip (did you mean 'cores'?)",
        ),
        (
            "confidence: high",
            "confidence: absolute",
            "chip.yaml:18:30: provenance.cores.confidence: 'absolute' is not one of 'high', 'medium', 'low'",
        ),
        ("cores: 4", "cores: [4", "chip.yaml:6:5: not valid YAML, did not find expected ',' or ']'"),
    ],
)
def test_what_is_wrong_is_named_with_its_place(write, old: str, new: str, message: str) -> None:
    assert old in CHIP
    assert refusal(write("chip.yaml", CHIP.replace(old, new, 1))) == message


def test_names_that_do_not_exist() -> None:
    assert refusal("h10") == "unknown chip 'h10' (did you mean 'h100'?)"
    assert refusal("nowhere/x.yaml") == "nowhere/x.yaml: there is no such chip file"
    with pytest.raises(InputError, match=r"^unknown system 'hgx-h10' \(did you mean 'hgx-h100'\?\)$"):
        load_system("hgx-h10")


def test_a_number_of_any_chip_is_a_system(write) -> None:
    eight = load_system("h100-x16")
    assert (eight.name, eight.chip, eight.nodes, eight.chips_per_node) == ("h100-x16", "h100", 2, 8)
    own = write("chip.yaml", CHIP)
    assert (load_system(f"{own}-x1").chip, load_system("tpu-v4-x128").nodes) == (str(own), 1)
    assert load_system("h800-x144").title.startswith("Eighteen")  # a preset is itself
    for name, message in (("h100-x12", "12 chips do not fill nodes of 8"), ("h100-x0", "must be at least 1, found 0")):
        with pytest.raises(InputError, match=f"^{name}: chips: {message}"):
            load_system(name)


def test_a_child_inherits_deeply_and_replaces_what_it_names(write) -> None:
    write("parent.yaml", CHIP)
    child = load_chip(write("child.yaml", "base: parent.yaml\ncore: {vector: {lanes: 32}}\nlaunch: {latency: 2 us}\n"))
    parent = load_chip("parent.yaml")
    assert child.name == "child"
    assert (child.core.vector.lanes, child.core.vector.special_lanes) == (32, 16)
    assert child.launch.latency == 2e-6
    assert child.core.matrix == parent.core.matrix
    assert child.peak == parent.peak
    assert child.source_of("cores") == parent.source_of("cores")
    changed = child.source_of("core.vector.lanes")
    assert changed is not None
    assert (changed.source, changed.estimated) == ("set in child.yaml", True)


def test_a_child_that_changes_the_kind_replaces_the_block(write) -> None:
    write("parent.yaml", CHIP)
    text = "base: parent.yaml\nnoc: {kind: crossbar, hop_latency: 5 ns, memory_ports: 2}\n"
    assert load_chip(write("child.yaml", text)).noc.kind == "crossbar"


def test_peaks_of_another_machine_are_not_inherited(write) -> None:
    write("parent.yaml", CHIP)
    child = load_chip(write("child.yaml", "base: parent.yaml\nclock: 2 GHz\n"))
    assert child.peak == {}
    text = "base: parent.yaml\nclock: 2 GHz\npeak: {bf16: 65.5 TFLOP/s}\n"
    assert refusal(write("wrong.yaml", text)).startswith("wrong.yaml:3:8: peak.bf16: 4 cores x 8192 MAC/cycle")


def test_bad_bases(write) -> None:
    assert refusal(write("a.yaml", "base: h1000\n")) == (
        "a.yaml:1:1: base: unknown chip 'h1000' (did you mean 'h100'?)"
    )
    assert refusal(write("a.yaml", "base: gone.yaml\n")) == "a.yaml:1:1: base: gone.yaml: there is no such chip file"
    assert refusal(write("a.yaml", "base: [h100]\n")) == (
        "a.yaml:1:1: base: expected the name of a chip or a file, found ['h100']"
    )
    write("b.yaml", "base: a.yaml\n")
    assert refusal(write("a.yaml", "base: b.yaml\n")) == "b.yaml:1:1: base: inherits from itself (a -> b -> a)"


def test_overrides_read_units_numbers_and_maps() -> None:
    chip = load_chip(
        "custom-npu",
        {"core.matrix.rows": "256", "memory.bandwidth": "4 TB/s", "cache": "null", "launch": "{latency: 3 us}"},
    )
    assert chip.core.matrix.kind == "systolic"
    assert (chip.core.matrix.rows, chip.memory.bandwidth, chip.cache) == (256, 4e12, None)
    assert chip.launch.latency == 3e-6
    assert chip.peak == {}  # the quoted ones belong to 128 rows
    assert chip.source_of("core.matrix.rows").source == "set by hand (--set)"
    assert load_chip("custom-npu", {"core.matrix.rows": 256}).core.matrix.rows == 256


def test_an_override_reaches_into_the_memory_standard() -> None:
    chip = load_chip("h100", {"memory.standard.timings.trcd": "12 ns", "memory.standard": "hbm3e"})
    assert chip.memory.standard.name == "hbm3e"
    assert chip.memory.standard.timings.trcd == 12e-9


def test_a_clock_below_the_limit_under_load_lifts_the_limit() -> None:
    assert load_chip("h100", {"clock": "1.7 GHz"}).clock_under_load == 1.6e9
    assert load_chip("h100", {"clock": "1.5 GHz"}).clock_under_load is None


def test_a_chip_that_states_no_clock_under_load_inherits_none_for_single_types(write) -> None:
    child = "base: h100\nclock_under_load: null\n"
    assert load_chip("h100").load_clocks
    assert not load_chip(write("none.yaml", child)).load_clocks
    assert load_chip(write("own.yaml", child + "load_clocks: {fp8: 1.7 GHz}\n")).load_clocks == {"fp8": 1.7e9}


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("core.clok", "3 GHz", "--set core.clok=3 GHz: core.clok: unknown key (did you mean 'clock'?)"),
        ("core.matrx.rows", "3", "--set core.matrx.rows=3: core.matrx: unknown key (did you mean 'matrix'?)"),
        ("cores", "0", "--set cores=0: cores: must be at least 1, found 0"),
        ("clock.x", "3", "--set clock.x=3: clock is a single value and has no 'x'"),
        ("core..rows", "3", "--set core..rows=3: expected a dotted path such as core.matrix.rows=256"),
        ("cores", "[1", "--set cores=[1: not valid YAML, did not find expected ',' or ']'"),
        ("cores", "*a", "--set cores=*a: anchors and aliases are not allowed"),
        (
            "launch",
            "{latency: 1}",
            "--set launch={latency: 1}: launch.latency: 1 needs a unit, expected a time such as '40 ns'",
        ),
    ],
)
def test_a_bad_override_is_named(path: str, value: str, message: str) -> None:
    assert refusal("h100", {path: value}) == message


def test_python_builds_and_checks_specs_too() -> None:
    raw = load_chip("custom-npu").model_dump()
    assert ChipSpec.model_validate(raw) == load_chip("custom-npu")
    with pytest.raises(ValueError, match="quoted 3146 TFLOP/s"):
        ChipSpec.model_validate({**raw, "clock": 1e9})
