"""What one packaged chip costs to make, item by item.

======================= ==================================================================================
item                    how
======================= ==================================================================================
silicon                 wafer price / (dies per wafer x yield), over all dies; a stated die area is used, and what
                        it holds beyond the described blocks counts as logic without spares
memory                  capacity x price per GB
package                 interposer of (dies + stacks) x margin, per mm2
yield loss              (1 / y^k - 1) silicon, for the k compute dies that are bonded on each I/O die; then
                        (1 / y^n - 1) of all the above, for n dies and stacks attached with yield y each
test                    one price for each kind of package
masks and engineering   (mask set + design) of each kind of die, over the volume; not in the total of parts
======================= ==================================================================================

Assumptions: dies are tested before they are packaged, and dies that are bonded on others once more before the memory
joins them, so that a failed bond costs silicon alone; they need no interposer of their own. Every level of an assembly
is tested in the same way in CATCH (Graening et al., arXiv:2503.15753).
Not modelled: margins of the foundry's customers, binning by clock, prices that move with demand.
"""

from __future__ import annotations

from dataclasses import dataclass

from archsim.errors import InputError
from archsim.hardware import TechnologySpec
from archsim.hardware.parts import PackageKind
from archsim.physical.area import CORE_BLOCKS, ChipArea, DieArea, chip_area
from archsim.physical.silicon import Silicon
from archsim.physical.yields import YIELD_MODELS, dies_per_wafer, redundant_yield

__all__ = ["Bill", "DieCost", "bill", "die_mm2", "over_reticle", "without_spares"]

POOR_YIELD = 0.3
"""Below it nobody makes a die of many equal cores without spares."""


@dataclass(frozen=True)
class DieCost:
    """One die: its area (stated, or modelled), dies on a wafer, yield and cost."""

    name: str
    technology: str
    count: int
    mm2: float
    stated: bool
    per_wafer: float
    good: float
    usd: float


@dataclass(frozen=True)
class Bill:
    """USD of one packaged chip."""

    dies: tuple[DieCost, ...]
    memory: float
    package: float
    yield_loss: float
    test: float
    engineering: float
    """Masks and design over the volume; not a part."""

    @property
    def silicon(self) -> float:
        """All dies."""
        return sum(die.usd * die.count for die in self.dies)

    @property
    def parts(self) -> float:
        """What the chip costs to make, engineering apart."""
        return self.silicon + self.memory + self.package + self.yield_loss + self.test

    def items(self) -> dict[str, float]:
        """The items of `parts`, then engineering."""
        names = ("silicon", "memory", "package", "yield_loss", "test", "engineering")
        return {name: getattr(self, name) for name in names}


def bill(
    made: Silicon, *, yield_model: str = "negative", volume: int | None = None, area: ChipArea | None = None
) -> Bill:
    """The bill of materials of a chip."""
    if yield_model not in YIELD_MODELS:
        raise InputError(f"--yield {yield_model}: must be one of {', '.join(YIELD_MODELS)}")
    if volume is not None and volume < 1:
        raise InputError(f"--volume {volume}: must be at least 1")
    area, chip, parts = area or chip_area(made), made.chip, made.parts
    tables = (made.node, made.io_node)
    dies = tuple(_die(made, die, node, yield_model) for die, node in zip(area.dies, tables, strict=False))
    memory = parts.memory[chip.memory.standard.name]
    memory_usd = chip.memory.capacity / 2**30 * memory.usd_per_gb  # as DRAM is sold
    kind = package_kind(made)
    stacks = chip.memory.stacks if made.stacked else 0
    base = dies[-1]  # with I/O dies, these carry the others
    package_usd = kind.usd_per_mm2 * kind.margin * (base.mm2 * base.count + stacks * memory.footprint)
    silicon_usd = sum(die.usd * die.count for die in dies)
    bonded = dies[0].count // base.count if made.io_dies else 0
    attached = stacks + base.count
    bonds_lost = (kind.attach_yield**-bonded - 1) * silicon_usd
    joined = silicon_usd + bonds_lost + package_usd + (memory_usd if stacks else 0.0)
    lost = bonds_lost + (kind.attach_yield**-attached - 1) * joined
    engineering = sum(node.mask_set_usd + node.design_usd for node, _ in zip(tables, dies, strict=False))
    return Bill(dies, memory_usd, package_usd, lost, kind.test_usd, engineering / (volume or parts.volume))


def package_kind(made: Silicon) -> PackageKind:
    """The package of the chip, or the usual one of its memory."""
    name = made.chip.physical.package or ("cowos_s" if made.stacked else "organic")
    if name not in made.parts.packages:
        known = ", ".join(made.parts.packages)
        raise InputError(f"{made.chip.name}: physical.package '{name}' is none of {known} ({made.parts.name})")
    return made.parts.packages[name]


def die_mm2(made: Silicon, area: ChipArea) -> list[tuple[float, bool]]:
    """Area of each kind of die, and whether it is stated."""
    physical = made.chip.physical
    stated = [physical.die_area, physical.io_dies.die_area if physical.io_dies else None]
    pairs = zip(area.dies, stated, strict=False)
    return [(given, True) if given is not None else (die.mm2, False) for die, given in pairs]


def over_reticle(made: Silicon, area: ChipArea | None = None) -> list[str]:
    """A sentence for each kind of die that is larger than one exposure."""
    area = area or chip_area(made)
    limit = made.parts.reticle
    found = []
    for die, (mm2, stated) in zip(area.dies, die_mm2(made, area), strict=True):
        if mm2 > limit:
            how = "stated" if stated else "modelled"
            size = f"its {die.name} of {mm2:.0f} mm2 ({how})"
            found.append(f"{made.chip.name}: {size} exceeds the reticle of {limit:g} mm2")
    return found


def without_spares(made: Silicon, found: Bill) -> list[str]:
    """A sentence where most dies are lost because the description knows no spare cores."""
    die, cores = found.dies[0], made.cores // made.dies
    if cores == 1 or made.cores > made.chip.cores or die.good > POOR_YIELD:
        return []
    return [
        f"{made.chip.name}: states no spare cores (physical.layout.cores), so that all {cores} of a die must work: "
        f"{die.good:.0%} of the dies are good"
    ]


def _die(made: Silicon, die: DieArea, node: TechnologySpec, model: str) -> DieCost:
    mm2, stated = die_mm2(made, chip_area(made))[0 if "I/O" not in die.name else 1]
    shrunk = min(mm2 / die.mm2, 1.0)
    unseen = max(mm2 - die.mm2, 0.0)  # logic that no block describes has no spare that would be known
    cores = made.cores // made.dies if "I/O" not in die.name else 0
    in_cores = sum(block.logic_mm2 for block in die.blocks if block.name in CORE_BLOCKS)
    rest = die.logic_mm2 - in_cores + sum(block.phy_mm2 for block in die.blocks) + unseen

    def good(area_mm2: float) -> float:
        return YIELD_MODELS[model](area_mm2 * shrunk / 100 * node.defects_per_cm2, made.parts.clustering)

    needed = -(-made.chip.cores // made.dies)
    if cores:
        share = redundant_yield(good(rest), good(in_cores / cores), cores, min(needed, cores))
    else:
        share = good(rest)
    per_wafer = dies_per_wafer(mm2)
    if per_wafer * share < 1e-3:
        raise InputError(f"{made.chip.name}: a {die.name} of {mm2:.0f} mm2 gives no good die on a wafer of 300 mm")
    return DieCost(die.name, node.name, die.count, mm2, stated, per_wafer, share, node.wafer_usd / (per_wafer * share))
