"""Do a chip's numbers agree with each other? Every check shows its arithmetic."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from archsim.units import format_quantity

if TYPE_CHECKING:
    from archsim.hardware.chip import ChipSpec

__all__ = ["Check", "check_chip"]

PEAK_TOLERANCE = 0.05
"""Vendors round peaks and quote them at slightly different clocks."""

DATA_RATE_TOLERANCE = 0.10
"""Vendors ship bins a little above the first edition of a standard."""


@dataclass(frozen=True)
class Check:
    """One comparison: the dotted path it is about, the arithmetic, and whether it holds."""

    path: str
    text: str
    passed: bool


def check_chip(chip: ChipSpec) -> tuple[Check, ...]:
    """Compare quoted numbers with what the parts add up to."""
    return (*_clock(chip), *_peaks(chip), _memory(chip), *_network(chip), *_ports(chip))


def _clock(chip: ChipSpec) -> list[Check]:
    stated = {f"load_clocks.{dtype}": clock for dtype, clock in chip.load_clocks.items()}
    if chip.clock_under_load is not None:
        stated["clock_under_load"] = chip.clock_under_load
    quoted = format_quantity(chip.clock, "frequency", 4)
    return [
        Check(
            path,
            f"{format_quantity(clock, 'frequency', 4)} under load, at most the {quoted} of the quoted peaks",
            clock <= chip.clock,
        )
        for path, clock in stated.items()
    ]


def _peaks(chip: ChipSpec) -> list[Check]:
    checks = []
    for dtype, quoted in chip.peak.items():
        rate = chip.core.matrix.rates.get(dtype)
        if rate is None:
            text = f"a {dtype} peak is quoted but the matrix unit has no {dtype} rate"
            checks.append(Check(f"peak.{dtype}", text, False))
            continue
        built = chip.flops(dtype)
        ratio = built / quoted - 1
        text = (
            f"{chip.cores} cores x {rate:g} MAC/cycle x 2 x {format_quantity(chip.clock, 'frequency', 4)}"
            f" = {format_quantity(built, 'compute rate', 4)}, quoted {format_quantity(quoted, 'compute rate', 4)}"
            f" ({ratio:+.1%}, at most {PEAK_TOLERANCE:.0%} apart)"
        )
        checks.append(Check(f"peak.{dtype}", text, abs(ratio) <= PEAK_TOLERANCE))
    return checks


def _memory(chip: ChipSpec) -> Check:
    memory, standard = chip.memory, chip.memory.standard
    text = (
        f"{format_quantity(memory.bandwidth, 'bandwidth', 4)} over {memory.stacks} x {standard.channels_per_stack}"
        f" channels x {standard.channel_width_bits} bit needs {format_quantity(memory.data_rate, 'transfer rate', 3)}"
        f" per pin, {standard.title} reaches {format_quantity(standard.data_rate, 'transfer rate', 3)}"
    )
    return Check("memory.bandwidth", text, memory.data_rate <= standard.data_rate * (1 + DATA_RATE_TOLERANCE))


def _network(chip: ChipSpec) -> list[Check]:
    """That cores and memory ports have a router each, and what is shared out comes out even."""
    noc, found = chip.noc, []
    if noc.kind in ("mesh", "torus"):
        routers, held = noc.rows * noc.cols, noc.rows * noc.cols * noc.concentration
        on = f" of {noc.concentration} cores" if noc.concentration > 1 else ""
        text = f"{noc.rows} x {noc.cols} = {routers} routers{on} for {chip.cores} cores"
        found.append(Check("noc.rows", text, held == chip.cores))
    elif noc.kind == "ring":
        routers = chip.cores
    elif noc.kind == "clusters":
        routers = noc.clusters + 1
        text = f"{chip.cores} cores in {noc.clusters} clusters"
        found.append(Check("noc.clusters", text, chip.cores % noc.clusters == 0))
    elif noc.kind == "graph":
        routers = noc.routers
        text = f"{len(noc.core_routers)} routers listed for {chip.cores} cores"
        found.append(Check("noc.core_routers", text, len(noc.core_routers) == chip.cores))
        ends = [*noc.core_routers, *(end for link in noc.links for end in link)]
        text = f"routers 0 to {routers - 1}, the highest that is named is {max(ends)}"
        found.append(Check("noc.links", text, max(ends) < routers))
    if noc.kind != "crossbar" and (noc.memory_routers or noc.kind == "graph"):
        text = f"{len(noc.memory_routers)} routers listed for {noc.memory_ports} memory ports"
        found.append(Check("noc.memory_routers", text, len(noc.memory_routers) == noc.memory_ports))
        highest = max(noc.memory_routers, default=0)
        text = f"routers 0 to {routers - 1}, the highest that is named is {highest}"
        found.append(Check("noc.memory_routers", text, highest < routers))
    return found + _dies(chip)


def _dies(chip: ChipSpec) -> list[Check]:
    noc, dies = chip.noc, chip.dies
    if dies is None:
        return []
    columns = dies.columns or dies.count
    cut = noc.cols if noc.kind in ("mesh", "torus") else chip.cores
    what = "columns" if noc.kind in ("mesh", "torus") else "cores"
    return [
        Check("dies.count", f"{cut} {what} on {dies.count} dies", cut % dies.count == 0),
        Check("dies.columns", f"{dies.count} dies in rows of {columns}", dies.count % columns == 0),
        Check(
            "dies",
            f"on a {noc.kind}; dies divide a crossbar, a mesh or a torus",
            noc.kind in ("crossbar", "mesh", "torus"),
        ),
    ]


def _ports(chip: ChipSpec) -> list[Check]:
    read = chip.cores * chip.core.port.read_bytes_per_cycle * chip.clock
    behind = chip.cache.bandwidth if chip.cache else chip.memory.bandwidth
    name = "cache" if chip.cache else "memory"
    text = (
        f"{chip.cores} ports x {chip.core.port.read_bytes_per_cycle:g} B/cycle x"
        f" {format_quantity(chip.clock, 'frequency', 4)} = {format_quantity(read, 'bandwidth', 4)}"
        f" for a {name} of {format_quantity(behind, 'bandwidth', 4)}"
    )
    return [Check("core.port", text, True)]
