"""Die area, bottom up: counts of the chip times the areas of its technology.

Equation (every area of the technology table is that of placed and routed logic)::

    core    = macs a_mac + lanes a_lane + fp64 a_fp64 + sram_bytes a_sram
    cache   = bytes a_sram + (bytes/cycle) a_port
    network = (bytes/cycle at its ends) sqrt(A) a_noc
    A       = core blocks + cache + network + PHYs + controllers + system

======== ======================================================================= ==============
symbol   meaning                                                                 unit
======== ======================================================================= ==============
macs     16-bit multiply-accumulates per cycle of a core                         1
a_*      areas of the technology                                                 um2 or mm2
A        area of the die; its square root is the length of the network's wires   mm2
======== ======================================================================= ==============

A is solved for in closed form: with B the area of all else and w = a_noc ends, sqrt(A) = (w + sqrt(w^2 + 4 B)) / 2.

Assumptions: dies are square for the network; units for narrower types share the multipliers of the 16-bit ones; the
memory of a core has the density of a large scratchpad. Valid for one design style: constants are of a technology and
never of a chip. Not modelled: media engines, CPUs and other units that the chip description does not have, so such
dies come out too small. Fitted on the blocks of two dies (see the technology tables), checked on others
(`archsim validate physical`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import sqrt

from archsim.hardware import TechnologySpec
from archsim.physical.silicon import Silicon

__all__ = ["CORE_BLOCKS", "Block", "ChipArea", "DieArea", "chip_area"]

CORE_BLOCKS = ("matrix units", "vector units and control", "core memories")


@dataclass(frozen=True)
class Block:
    """One kind of block of a die, all of them together. The parts add up to `mm2`; only logic and SRAM use power."""

    name: str
    logic_mm2: float = 0.0
    sram_mm2: float = 0.0
    phy_mm2: float = 0.0
    count: int = 1

    @property
    def mm2(self) -> float:
        """Area of all of them."""
        return self.logic_mm2 + self.sram_mm2 + self.phy_mm2


@dataclass(frozen=True)
class DieArea:
    """One die: its blocks and how many such dies the package holds."""

    name: str
    technology: str
    count: int
    blocks: tuple[Block, ...]

    @property
    def mm2(self) -> float:
        """Area of one die."""
        return sum(block.mm2 for block in self.blocks)

    @property
    def logic_mm2(self) -> float:
        """Logic of one die."""
        return sum(block.logic_mm2 for block in self.blocks)

    @property
    def sram_mm2(self) -> float:
        """SRAM of one die."""
        return sum(block.sram_mm2 for block in self.blocks)

    def of(self, *names: str) -> float:
        """Area of the blocks of these names on one die."""
        return sum(block.mm2 for block in self.blocks if block.name in names)


@dataclass(frozen=True)
class ChipArea:
    """All dies of a chip, the compute dies first."""

    dies: tuple[DieArea, ...]

    @property
    def compute(self) -> DieArea:
        """The compute die."""
        return self.dies[0]

    @property
    def mm2(self) -> float:
        """Silicon of the package, memory apart."""
        return sum(die.mm2 * die.count for die in self.dies)


def chip_area(made: Silicon) -> ChipArea:
    """The dies of a chip with their blocks."""
    cores, cache, outside = _cores(made), _cache(made), _outside(made)
    core_ends = _core_ends(made)
    if not made.io_dies:
        shared = (*cores, _near(made, 0.0), cache, *outside)
        ends = core_ends + made.cache_bytes_per_cycle
        return ChipArea((_die("die", made.node, made.dies, shared, ends),))
    ports = made.cache_bytes_per_cycle
    compute = _die("compute die", made.node, made.dies, (*cores, _near(made, ports)), core_ends + ports)
    return ChipArea((compute, _die("I/O die", made.io_node, made.io_dies, (cache, *outside), 2 * ports)))


def _die(name: str, node: TechnologySpec, count: int, blocks: Iterable[Block], ends: float) -> DieArea:
    """One of `count` equal dies that share `blocks` and a network with `ends` bytes per cycle."""
    share = [
        Block(b.name, b.logic_mm2 / count, b.sram_mm2 / count, b.phy_mm2 / count, max(b.count // count, 1))
        for b in blocks
        if b.mm2 > 0
    ]
    share.append(Block("system", logic_mm2=node.system_mm2))
    rest = sum(block.mm2 for block in share)
    wires = node.noc_um2_per_mm * 1e-6 * ends / count
    edge = (wires + sqrt(wires**2 + 4 * rest)) / 2
    share.append(Block("network", logic_mm2=wires * edge))
    return DieArea(name, node.name, count, tuple(share))


def _cores(made: Silicon) -> tuple[Block, ...]:
    node, n = made.node, made.cores
    macs = made.chip.core.matrix.rates[made.dtype]
    vector = made.lanes * node.lane_um2 + made.chip.physical.layout.fp64_lanes * node.fp64_um2
    return (
        Block("matrix units", logic_mm2=n * macs * node.mac_um2 * 1e-6, count=n),
        Block("vector units and control", logic_mm2=n * vector * 1e-6, count=n),
        Block("core memories", sram_mm2=n * made.core_sram_bytes * node.sram_mm2_per_mb * 1e-6, count=n),
    )


def _core_ends(made: Silicon) -> float:
    """Bytes per cycle that enter the network from the cores, over the length that they travel (1: the die's edge)."""
    noc, port = made.chip.noc, made.chip.core.port
    if noc.kind in ("mesh", "torus"):
        links = noc.rows * (noc.cols - 1) / noc.cols + noc.cols * (noc.rows - 1) / noc.rows
        twice = 2 if noc.kind == "torus" else 1  # folded: every link is two tiles long
        return 2 * twice * links * noc.link_bytes_per_cycle * made.cores / made.chip.cores
    if noc.kind == "ring":  # a circle of cores on a square die
        return 2 * 4 * noc.link_bytes_per_cycle * made.cores / made.chip.cores
    if noc.kind == "clusters":
        return 2 * noc.clusters * noc.link_bytes_per_cycle * made.cores / made.chip.cores
    if noc.kind == "graph":  # links as long as the pitch of its routers
        ends = 2 * len(noc.links) / sqrt(noc.routers) * noc.link_bytes_per_cycle
        return ends * made.cores / made.chip.cores
    return made.cores * (port.read_bytes_per_cycle + port.write_bytes_per_cycle)


def _near(made: Silicon, ports: float) -> Block:
    size = made.chip.physical.layout.near_cache or 0
    logic = ports * made.node.cache_port_um2 * 1e-6
    return Block("near cache", logic, size * made.node.sram_mm2_per_mb * 1e-6, count=made.dies)


def _cache(made: Silicon) -> Block:
    node = made.io_node
    logic = made.cache_bytes_per_cycle * node.cache_port_um2 * 1e-6
    return Block("shared cache", logic, made.cache_bytes * node.sram_mm2_per_mb * 1e-6, count=made.dies)


def _outside(made: Silicon) -> tuple[Block, ...]:
    """Interfaces of the package: memory, links, host, other dies."""
    node, layout = made.io_node, made.chip.physical.layout
    phys, lanes, host = made.memory_phys, made.link_lanes, layout.host_lanes
    phy, controller = (
        (node.stack_phy_mm2, node.stack_controller_mm2)
        if made.stacked
        else (node.device_phy_mm2, node.device_controller_mm2)
    )
    between = made.dies * (layout.die_link or 0.0) * 1e-12
    return (
        Block("memory PHYs", phy_mm2=phys * phy, count=phys),
        Block("memory controllers", logic_mm2=phys * controller, count=phys),
        Block("link PHYs", phy_mm2=lanes * node.serdes_phy_mm2, count=max(lanes, 1)),
        Block("link controllers", logic_mm2=lanes * node.serdes_controller_mm2, count=max(lanes, 1)),
        Block("host link", host * node.serdes_controller_mm2, phy_mm2=host * node.serdes_phy_mm2),
        Block("die-to-die link", phy_mm2=between * node.die_link_mm2_per_tbyte_s, count=made.dies),
    )
