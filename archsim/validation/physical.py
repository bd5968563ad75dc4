"""Suite `physical`: area, power, bills of materials and export figures against what has been published.

=========== ====================================================================================================
kind        what is compared
=========== ====================================================================================================
block       modelled area of the blocks of one die with the same blocks on a photograph of it; the constants of
            the technology tables that have no other source were fitted on these two dies
die         modelled area of a whole die, from counts alone (a stated area is not used)
power       watts of a dense product of 16-bit operands with the TDP, at the clock that the chip was measured to hold in
            one, or at the quoted clock; a chip that holds less than 85 % of that (its `clock` row) does not draw its
            TDP there, so that nothing can be compared
clock       the clock that is sustained under the TDP
parts       items of the bill of materials
tpp         total processing performance with the classification
=========== ====================================================================================================
"""

from __future__ import annotations

from collections.abc import Callable

from archsim.errors import InputError
from archsim.hardware import ChipSpec, list_chips, load_chip, load_rules
from archsim.physical import ChipArea, bill, chip_area, export_figures, gemm_power, silicon, sustained_clock
from archsim.physical.area import CORE_BLOCKS
from archsim.physical.sheet import memory_w
from archsim.units import parse
from archsim.validation.report import Row
from archsim.validation.suite import Outcome, Reference, Suite
from archsim.validation.table import Table

__all__ = ["PHYSICAL"]

LOW = "the published figure is a rumour or belongs to an estimated description"
MISSING = "no preset of this chip ships"
OTHER = ("system", "host link")
QUOTED = "dense product at the quoted clock"
HELD = 0.85


def compare(table: Table) -> Outcome:
    """Compare every row whose chip ships as a preset."""
    kinds = table.choices("kind", KINDS)
    presets = set(list_chips())
    rows: list[Row] = []
    reasons: list[str] = []
    held = {r.text("chip"): r.number("expected") for r, k in zip(table.records(), kinds, strict=True) if k == "clock"}
    for record, kind in zip(table.records(), kinds, strict=True):
        name, item = record.text("chip"), record.text("item")
        if item == QUOTED and name in presets and held.get(name, 1e3) * 1e9 < HELD * load_chip(name).clock:
            reasons.append(f"{name} holds {held[name]:g} GHz under load: its TDP is not the power at the quoted clock")
            continue
        expected = record.number("expected", least=1e-9)
        if name not in presets or record.text("confidence") == "low":
            reasons.append(MISSING if name not in presets else LOW)
            continue
        try:
            got = KINDS[kind](load_chip(name), item)
        except KeyError:
            raise InputError(f"{record.place}: item is '{item[:40]}', which is nothing of kind {kind}") from None
        rows.append(Row(f"{name} {item}", expected, got, _group(kind, name, item)))
    return rows, reasons


def _group(kind: str, name: str, item: str) -> str:
    if kind == "block":
        return f"blocks of the {name} die"
    if item.endswith("GHz"):
        return "dense product at the clock it was measured to hold"
    groups = {"die": "whole dies", "parts": f"parts of the {name}", "tpp": "TPP", "clock": "sustained clock"}
    return groups.get(kind, item)


def _block(chip: ChipSpec, item: str) -> float:
    die = chip_area(silicon(chip)).compute
    named = {"cores": CORE_BLOCKS, "other": OTHER, "other with link controllers": (*OTHER, "link controllers")}
    names = named.get(item, (item,))
    if not any(block.name in names for block in die.blocks):
        raise KeyError(item)
    return die.of(*names)


def _die(chip: ChipSpec, item: str) -> float:
    area: ChipArea = chip_area(silicon(chip))
    return {die.name: die.mm2 for die in area.dies}[item]


def _power(chip: ChipSpec, item: str) -> float:
    made = silicon(chip)
    if item == "memory at full rate":
        return memory_w(made)
    if item == QUOTED:
        return sum(gemm_power(made, made.dtype, chip.clock).values())
    head, _, clock = item.partition("dense product at ")
    if head or not clock.endswith("GHz"):
        raise KeyError(item)
    return sum(gemm_power(made, made.dtype, parse(clock, "frequency")).values())


def _clock(chip: ChipSpec, item: str) -> float:
    rates = {dtype: dtype for dtype in chip.dtypes}
    return sustained_clock(chip, rates[item]) * 1e-9  # type: ignore[index]


def _parts(chip: ChipSpec, item: str) -> float:
    found = bill(silicon(chip))
    items = {**found.items(), "total": found.parts, "yield loss and test": found.yield_loss + found.test}
    return items[item]


def _tpp(chip: ChipSpec, item: str) -> float:
    return {"tpp": export_figures(chip, load_rules()).tpp}[item]


KINDS: dict[str, Callable[[ChipSpec, str], float]] = {
    "block": _block, "die": _die, "power": _power, "clock": _clock, "parts": _parts, "tpp": _tpp,
}  # fmt: skip

PHYSICAL = Suite(
    name="physical",
    title="area, power, parts and export figures against published ones",
    references=(
        Reference(
            file="physical_reference.csv",
            columns=frozenset({"kind", "chip", "item", "expected", "confidence"}),
            compare=compare,
        ),
    ),
    band={"mape_pct": 15.0, "median_ape_pct": 10.0, "bias_pct": 10.0},
)
