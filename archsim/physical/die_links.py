"""Links between the dies of a package: energy of a bit, and whether they fit along the edge of a die.

Equation::  edge = 2 BW / d

| symbol | meaning | unit |
| --- | --- | --- |
| BW | bandwidth between two neighbouring dies, one direction (`dies.bandwidth`) | bytes/s |
| d | bandwidth of a millimetre of edge, both directions (`die_links` of the parts file) | bytes/s/mm |

Not modelled: several rows of interfaces behind one edge, the area of the interface (in `area`).
Reference: UCIe, D. Das Sharma, Hot Interconnects 2025.
"""

from __future__ import annotations

from archsim.errors import InputError, did_you_mean
from archsim.hardware.parts import DieInterface
from archsim.physical.silicon import Silicon

__all__ = ["die_link_pj_per_bit", "edge_warning"]


def die_link_pj_per_bit(made: Silicon) -> float:
    """Energy of the interface between the dies; InputError for one that the parts do not have."""
    interface = _interface(made)
    return made.parts.fabric.die_link_pj_per_bit if interface is None else interface.pj_per_bit


def edge_warning(made: Silicon, edge_mm: float) -> str | None:
    """A sentence where the link between two dies needs more than an edge of `edge_mm`."""
    interface, dies = _interface(made), made.chip.dies
    if interface is None or dies is None:
        return None
    needed = 2 * dies.bandwidth / interface.bandwidth_per_mm
    if needed <= edge_mm:
        return None
    return f"dies.bandwidth takes {needed:.1f} mm of {dies.interface}, but an edge of a die has {edge_mm:.1f}"


def _interface(made: Silicon) -> DieInterface | None:
    dies, known = made.chip.dies, made.parts.die_links
    if dies is None or not dies.interface:
        return None
    if dies.interface not in known:
        guess = did_you_mean(dies.interface, tuple(known))
        raise InputError(
            f"{made.chip.name}: dies.interface '{dies.interface}': the parts know {', '.join(known)}{guess}"
        )
    return known[dies.interface]
