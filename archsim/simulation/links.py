"""The links of a system as the closed forms of collectives see them."""

from __future__ import annotations

from archsim.hardware import ChipSpec, LinkSpec, SystemSpec
from archsim.mapping import Fabric, Handover
from archsim.models.collective import Level

__all__ = ["links_of"]


def links_of(chip: ChipSpec, system: SystemSpec | None) -> Fabric | None:
    """Inside a node and between nodes; None where there is one chip."""
    if system is None or system.chips == 1:
        return None
    inside, outside = system.links(chip)
    inner = _level(inside if system.chips_per_node > 1 else outside)
    spec = outside.transports.get("expert") if outside is not None and system.nodes > 1 else None
    handover = Handover(spec.post, spec.post_row, spec.receive, spec.receive_row) if spec and spec.post else None
    return Fabric(inner, _level(outside) if system.nodes > 1 else None, system.chips_per_node, handover)


def _level(link: LinkSpec | None) -> Level:
    assert link is not None, "SystemSpec.links has checked that the links exist"
    known = link.transports.values()
    latency = min((each.launch + each.latency for each in known), default=link.latency)
    return Level(latency, link.bandwidth * link.best_efficiency, "in_switch" in link.transports)
