"""Descriptions of chips and systems: frozen specs, their YAML files, and the checks between their numbers."""

from __future__ import annotations

from archsim.hardware.checks import Check
from archsim.hardware.chip import ChipSpec, LaunchSpec
from archsim.hardware.core import (
    CoreSpec,
    LocalMemory,
    MatrixUnit,
    Port,
    SystolicArray,
    TensorCore,
    VectorUnit,
)
from archsim.hardware.link import LinkSpec
from archsim.hardware.loading import (
    ChipFamily,
    SystemFamily,
    list_chips,
    list_memory_standards,
    list_systems,
    list_technologies,
    load_chip,
    load_memory_standard,
    load_parts,
    load_rules,
    load_system,
    load_technology,
    own_tables,
)
from archsim.hardware.memory import MemorySpec, MemoryStandard, Timings
from archsim.hardware.noc import CacheSpec, Clusters, Crossbar, DiesSpec, Graph, Mesh, NocSpec, Ring, Routed
from archsim.hardware.parts import PartsSpec
from archsim.hardware.physical import LayoutSpec, PhysicalSpec
from archsim.hardware.rules import ExportRules
from archsim.hardware.spec import Dtype, Provenance
from archsim.hardware.system import SystemSpec
from archsim.hardware.technology import TechnologySpec

__all__ = [
    "CacheSpec",
    "Check",
    "ChipFamily",
    "ChipSpec",
    "Clusters",
    "CoreSpec",
    "Crossbar",
    "DiesSpec",
    "Dtype",
    "ExportRules",
    "Graph",
    "LaunchSpec",
    "LayoutSpec",
    "LinkSpec",
    "LocalMemory",
    "MatrixUnit",
    "MemorySpec",
    "MemoryStandard",
    "Mesh",
    "NocSpec",
    "PartsSpec",
    "PhysicalSpec",
    "Port",
    "Provenance",
    "Ring",
    "Routed",
    "SystemFamily",
    "SystemSpec",
    "SystolicArray",
    "TechnologySpec",
    "TensorCore",
    "Timings",
    "VectorUnit",
    "list_chips",
    "list_memory_standards",
    "list_systems",
    "list_technologies",
    "load_chip",
    "load_memory_standard",
    "load_parts",
    "load_rules",
    "load_system",
    "load_technology",
    "own_tables",
]
