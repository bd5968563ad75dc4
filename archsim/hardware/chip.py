"""A chip: cores, network, cache, memory, links, and the facts it is checked against."""

from __future__ import annotations

import hashlib
import json
from functools import cached_property
from typing import Any

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from archsim.errors import did_you_mean
from archsim.hardware.checks import Check, check_chip
from archsim.hardware.core import CoreSpec
from archsim.hardware.link import LinkSpec
from archsim.hardware.memory import MemorySpec
from archsim.hardware.noc import CacheSpec, DiesSpec, NocSpec
from archsim.hardware.physical import PhysicalSpec
from archsim.hardware.spec import Dtype, Provenance, ProvenanceMap, Spec, source_for
from archsim.units import AS_TEXT, ComputeRate, Frequency, Time

__all__ = ["ChipSpec", "LaunchSpec"]

_FACTS_ONLY = {"title", "vendor", "year", "status", "estimated", "provenance"}


class LaunchSpec(Spec):
    """What a kernel costs whatever it computes."""

    latency: Time
    """The device's gap between two dependent kernels that are queued or belong to one graph."""
    vector_latency: Time | None = None
    """For operators without matrix work, where it is known to differ."""
    startup: Time = 0.0
    """Inside the kernel's own time: placing its blocks, fetching instructions and descriptors, signalling its end."""
    barrier: Time | None = None
    """All cores waiting for each other within an operator (split-K); default: a kernel boundary, latency + startup."""

    @property
    def barrier_time(self) -> float:
        """Seconds from the last core's arrival to the first core's going on."""
        return self.latency + self.startup if self.barrier is None else self.barrier


class ChipSpec(Spec):
    """One chip (one package): `cores` identical cores at one clock, sharing a network, a cache and a memory."""

    name: str
    title: str
    vendor: str
    year: int = Field(strict=True, ge=1970, le=2100)
    status: str = ""
    estimated: bool = False
    """The whole description is an estimate: nobody outside has the numbers."""
    clock: Frequency
    """The clock at which the peaks are quoted."""
    clock_under_load: Frequency | None = None
    """What the matrix units sustain when all are busy, where power holds them below `clock`."""
    load_clocks: dict[Dtype, Frequency] = Field(default_factory=dict)
    """The same for types that draw more or less power than most."""
    cores: int = Field(strict=True, ge=1, le=65536)
    """Every one is simulated."""
    core: CoreSpec
    noc: NocSpec
    dies: DiesSpec | None = None
    """Dies that share the cores and the memory; none: one die, or links between them that never bind."""
    cache: CacheSpec | None = None
    memory: MemorySpec
    launch: LaunchSpec
    scale_up: LinkSpec | None = None
    """Fabric inside a node or pod (NVLink, UB, ICI)."""
    scale_out: LinkSpec | None = None
    """Network between nodes (InfiniBand, RoCE)."""
    peak: dict[Dtype, ComputeRate] = Field(default_factory=dict)
    """Quoted dense peaks of the matrix units; each must agree with cores x MACs x 2 x clock within 5 %."""
    physical: PhysicalSpec = PhysicalSpec()
    provenance: ProvenanceMap = Field(default_factory=dict)

    def flops(self, dtype: Dtype) -> float:
        """FLOP/s of all matrix units: cores x MACs per cycle x 2 x clock. KeyError when the type is not offered."""
        return self.cores * self.core.matrix.rates[dtype] * 2 * self.clock

    @property
    def dtypes(self) -> tuple[Dtype, ...]:
        """Operand types that the matrix units offer."""
        return tuple(self.core.matrix.rates)

    def source_of(self, path: str) -> Provenance | None:
        """Where the value at a dotted path comes from."""
        inside, standard = "memory.standard.", self.memory.standard.provenance
        nested = {**{inside + prefix: entry for prefix, entry in standard.items()}, **self.provenance}
        return source_for(path, nested)

    def checks(self) -> tuple[Check, ...]:
        """Every consistency check with its arithmetic."""
        return check_chip(self)

    @cached_property
    def content_hash(self) -> str:
        """Blake2b over what can change a simulated number: names, titles and sources do not; files of tables do."""
        from archsim.hardware.loading import own_tables

        content: dict[str, Any] = self.model_dump(mode="json", exclude=_FACTS_ONLY | {"name"})
        for label in ("name", "title", "provenance"):
            del content["memory"]["standard"][label]
        del content["physical"]["process"]
        nodes = [self.physical.technology, self.physical.io_dies.technology if self.physical.io_dies else None]
        content["tables"] = own_tables(nodes)
        text = json.dumps(content, sort_keys=True, separators=(",", ":"))
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()

    def resolved_yaml(self) -> str:
        """The whole description as one YAML document, without `base:`, that loads back to an equal chip."""
        from archsim.hardware.document import to_yaml

        data = self.model_dump(exclude_none=True, context=AS_TEXT)
        for spec, tree in ((self, data), (self.memory.standard, data["memory"]["standard"])):
            tree["provenance"] = {path: p.model_dump(exclude_defaults=True) for path, p in spec.provenance.items()}
        return to_yaml(data)

    def __hash__(self) -> int:
        return hash(self.content_hash)

    @model_validator(mode="after")
    def _is_consistent(self) -> ChipSpec:
        for check in check_chip(self):
            if not check.passed:
                raise PydanticCustomError("contradiction", "{text}", {"path": check.path, "text": check.text})
        for path in self.provenance:
            if not _exists(self, path):
                options = sorted(_paths(self.model_dump(exclude={"provenance"})))
                text = f"no such value in this chip{did_you_mean(path, options)}"
                raise PydanticCustomError("contradiction", "{text}", {"path": f"provenance.{path}", "text": text})
        return self


def _exists(spec: Any, path: str) -> bool:
    for part in path.split("."):
        spec = spec.get(part) if isinstance(spec, dict) else getattr(spec, part, None)
        if spec is None:
            return False
    return True


def _paths(tree: dict[str, Any], prefix: str = "") -> list[str]:
    found = []
    for key, value in tree.items():
        found.append(prefix + key)
        if isinstance(value, dict):
            found += _paths(value, f"{prefix}{key}.")
    return found
