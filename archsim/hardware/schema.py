"""JSON schemas of the YAML files, for completion and checking in editors."""

from __future__ import annotations

from typing import Any

from archsim.hardware.chip import ChipSpec
from archsim.hardware.loading import list_memory_standards
from archsim.hardware.memory import MemoryStandard
from archsim.hardware.parts import PartsSpec
from archsim.hardware.rules import ExportRules
from archsim.hardware.spec import Spec
from archsim.hardware.system import SystemSpec
from archsim.hardware.technology import TechnologySpec

__all__ = ["SCHEMAS", "json_schema"]

SCHEMAS: dict[str, type[Spec]] = {
    "chip": ChipSpec, "system": SystemSpec, "memory": MemoryStandard, "technology": TechnologySpec, "parts": PartsSpec,
    "rules": ExportRules,
}  # fmt: skip
"""What can be described, and by which spec."""


def json_schema(kind: str) -> dict[str, Any]:
    """The schema of a file of `kind` (one of `SCHEMAS`).

    It differs from the spec where a file does: a file may inherit (`base`), so no key is required of it, and a chip
    may name its memory standard.
    """
    schema = SCHEMAS[kind].model_json_schema()
    for spec in (schema, *schema.get("$defs", {}).values()):
        spec.pop("required", None)
    inherit = {"type": "string", "description": "Preset or file to inherit from."}
    schema["properties"] = {"base": inherit, **schema["properties"]}
    if kind == "chip":
        standard = schema["$defs"]["MemorySpec"]["properties"]["standard"]
        reference = {"$ref": standard.pop("$ref")}
        standard["anyOf"] = [{"type": "string", "examples": list_memory_standards()}, reference]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
