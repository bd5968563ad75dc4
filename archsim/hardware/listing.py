"""Every value of a chip on one line each, with where it comes from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from archsim.hardware.chip import ChipSpec
from archsim.hardware.spec import Provenance
from archsim.units import AS_TEXT

__all__ = ["Value", "unsourced", "values"]

_SKIPPED = {"name", "title", "vendor", "status", "estimated", "provenance"}
_SKIPPED |= {f"memory.standard.{key}" for key in ("title", "provenance")}


@dataclass(frozen=True)
class Value:
    """One leaf of a chip description."""

    path: str
    text: str
    is_number: bool
    provenance: Provenance | None

    @property
    def is_estimate(self) -> bool:
        """True when the value is marked as an estimate."""
        return self.provenance is not None and self.provenance.estimated


def values(chip: ChipSpec) -> tuple[Value, ...]:
    """All leaves of a chip in the order of the spec; quantities are written with their unit."""
    found = _leaves(chip.model_dump(exclude_none=True), chip.model_dump(exclude_none=True, context=AS_TEXT))
    return tuple(Value(path, text, is_number, chip.source_of(path)) for path, text, is_number in found)


def unsourced(chip: ChipSpec) -> tuple[str, ...]:
    """Paths of the numbers that no provenance entry covers."""
    return tuple(value.path for value in values(chip) if value.is_number and value.provenance is None)


def _leaves(tree: dict[str, Any], texts: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str, bool]]:
    for key, value in tree.items():
        if prefix + key in _SKIPPED:
            continue
        if isinstance(value, dict):
            yield from _leaves(value, texts[key], f"{prefix}{key}.")
            continue
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        text = f"{texts[key]:g}" if isinstance(texts[key], float) else str(texts[key])
        yield prefix + key, text, is_number
