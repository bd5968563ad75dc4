"""Links between chips."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from archsim.hardware.spec import Count, Spec
from archsim.units import Bandwidth, Time

__all__ = ["LinkSpec"]


class LinkSpec(Spec):
    """What one chip puts on a fabric."""

    name: str
    bandwidth: Bandwidth
    """Line rate, per direction and chip, over all its ports."""
    latency: Time
    """One chip to another, small message."""
    topology: Literal["switch", "full_mesh", "torus", "ring"]
    domain: Count
    """Most chips that one fabric of this kind joins."""
    efficiency: Annotated[float, Field(strict=True, gt=0, le=1)]
    """Sustained over line rate for large messages."""

    @property
    def sustained(self) -> float:
        """Bytes per second, per direction and chip, that large messages reach."""
        return self.bandwidth * self.efficiency
