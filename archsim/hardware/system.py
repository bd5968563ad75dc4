"""A system: how many chips, and which of them share a scale-up fabric."""

from __future__ import annotations

from math import prod
from typing import Annotated

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from archsim.errors import InputError
from archsim.hardware.chip import ChipSpec
from archsim.hardware.link import LinkSpec
from archsim.hardware.spec import Count, Spec

__all__ = ["LinkFault", "SystemSpec"]


class LinkFault(Spec):
    """Ports of one chip that run slower than they should, or not at all."""

    chip: Annotated[int, Field(strict=True, ge=0)]
    """Number of the chip, counted node by node."""
    network: str = Field(pattern="^(scale_up|scale_out)$")
    """`scale_up` or `scale_out`."""
    rate: Annotated[float, Field(strict=True, ge=0, lt=1)]
    """What is left of the line rate; 0: the link is down."""


class SystemSpec(Spec):
    """`chips` chips in nodes (scale-up domains) of `chips_per_node`."""

    name: str
    title: str
    chip: str
    """Name of a chip preset or path of a chip file."""
    chips: Count
    chips_per_node: Count
    """Chips that reach each other over the scale-up fabric."""
    dims: tuple[Count, ...] = ()
    """Sides of the torus inside a node; by default the squarest rectangle."""
    scale_up: LinkSpec | None = None
    """In place of the chip's own."""
    scale_out: LinkSpec | None = None
    """In place of the chip's own."""
    faults: tuple[LinkFault, ...] = ()
    """Slow and failed links."""
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

    def sides(self) -> tuple[int, ...]:
        """Sides of the torus inside a node.

        >>> SystemSpec(name="pod", title="", chip="x", chips=32, chips_per_node=32).sides()
        (8, 4)
        """
        if self.dims:
            return self.dims
        short = next(n for n in range(int(self.chips_per_node**0.5), 0, -1) if self.chips_per_node % n == 0)
        return (self.chips_per_node // short, short)

    @model_validator(mode="after")
    def _is_consistent(self) -> SystemSpec:
        if self.chips % self.chips_per_node:
            raise _contradiction("chips", f"{self.chips} chips do not fill nodes of {self.chips_per_node}")
        if self.dims and prod(self.dims) != self.chips_per_node:
            sides = " x ".join(map(str, self.dims))
            raise _contradiction("dims", f"{sides} = {prod(self.dims)}, but a node has {self.chips_per_node} chips")
        for number, fault in enumerate(self.faults):
            if fault.chip >= self.chips:
                text = f"there is no chip {fault.chip}, the last of {self.chips} is {self.chips - 1}"
                raise _contradiction(f"faults.{number}.chip", text)
        return self


def _contradiction(path: str, text: str) -> PydanticCustomError:
    return PydanticCustomError("contradiction", "{text}", {"path": path, "text": text})
