"""A chip with changes: what lies on its dies changes, and so does their size.

A description states the area of its dies as they were measured. Of a variant, that holds in the ratio of the modelled
areas with and without the changes, so that what the model misses on the chip it misses on the variant too.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from archsim.hardware import ChipSpec
from archsim.hardware.loading import ChipFamily
from archsim.physical.area import DieArea, chip_area
from archsim.physical.silicon import silicon

__all__ = ["load_variant"]


def load_variant(name: str | Path, overrides: Mapping[str, Any] | None = None) -> ChipSpec:
    """:func:`~archsim.hardware.load_chip`, with die areas that follow the overrides unless these state them.

    >>> [round(load_variant("h100", changes).physical.die_area) for changes in ({}, {"physical.layout.cores": 160})]
    [814, 885]
    """
    family = ChipFamily.of(name)
    chip = family.variant(overrides or {})
    stated = chip.physical
    if not overrides or stated.technology is None or (stated.die_area is None and stated.io_dies is None):
        return chip
    base = family.variant({})
    if base.physical.technology is None:
        return chip
    now, before = chip_area(silicon(chip)).dies, chip_area(silicon(base)).dies
    changes: dict[str, Any] = {"die_area": _followed(stated.die_area, base.physical.die_area, now[0], before[0])}
    if stated.io_dies and base.physical.io_dies:
        area = _followed(stated.io_dies.die_area, base.physical.io_dies.die_area, now[-1], before[-1])
        changes["io_dies"] = stated.io_dies.model_copy(update={"die_area": area})
    return chip.model_copy(update={"physical": stated.model_copy(update=changes)})


def _followed(stated: float | None, before: float | None, die: DieArea, base: DieArea) -> float | None:
    """A stated area that the overrides left alone, in the ratio of the modelled ones."""
    if stated is None or stated != before:
        return stated
    return stated * die.mm2 / base.mm2
