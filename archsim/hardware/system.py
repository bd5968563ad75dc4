"""A system: how many chips, and which of them share a scale-up fabric."""

from __future__ import annotations

from pydantic import model_validator
from pydantic_core import PydanticCustomError

from archsim.errors import InputError
from archsim.hardware.chip import ChipSpec
from archsim.hardware.link import LinkSpec
from archsim.hardware.spec import Count, Spec

__all__ = ["SystemSpec"]


class SystemSpec(Spec):
    """`chips` chips in nodes (scale-up domains) of `chips_per_node`."""

    name: str
    title: str
    chip: str
    """Name of a chip preset or path of a chip file."""
    chips: Count
    chips_per_node: Count
    """Chips that reach each other over the scale-up fabric."""
    scale_up: LinkSpec | None = None
    """In place of the chip's own."""
    scale_out: LinkSpec | None = None
    """In place of the chip's own."""
    source: str = ""
    """Where the numbers come from."""
    estimated: bool = False
    notes: str = ""

    @property
    def nodes(self) -> int:
        """Scale-up domains."""
        return self.chips // self.chips_per_node

    def links(self, chip: ChipSpec) -> tuple[LinkSpec | None, LinkSpec | None]:
        """Scale-up and scale-out link of `chip` in this system; InputError when a link it needs is missing."""
        scale_up, scale_out = self.scale_up or chip.scale_up, self.scale_out or chip.scale_out
        joins = f"system '{self.name}' joins {self.chips_per_node} chips"
        if self.chips_per_node > 1 and scale_up is None:
            raise InputError(f"{joins} but '{chip.name}' has no scale_up link")
        if scale_up is not None and self.chips_per_node > scale_up.domain:
            raise InputError(f"{joins} by {scale_up.name}, which reaches {scale_up.domain}")
        if self.nodes > 1 and scale_out is None:
            raise InputError(f"system '{self.name}' has {self.nodes} nodes but '{chip.name}' has no scale_out link")
        return scale_up, scale_out

    @model_validator(mode="after")
    def _has_whole_nodes(self) -> SystemSpec:
        if self.chips % self.chips_per_node:
            text = f"{self.chips} chips do not fill nodes of {self.chips_per_node}"
            raise PydanticCustomError("contradiction", "{text}", {"path": "chips", "text": text})
        return self
