"""What every hardware spec shares: frozen fields, strict numbers, the data types, and where a value comes from."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["Count", "Dtype", "Provenance", "ProvenanceMap", "Rate", "Spec", "source_for"]

Dtype = Literal["fp32", "tf32", "bf16", "fp16", "fp8", "int8", "fp4", "int4"]
"""Operand types that a matrix unit may offer; accumulation is fp32 (int32 for integers)."""

Count = Annotated[int, Field(strict=True, ge=1, lt=2**31)]
Rate = Annotated[float, Field(strict=True, gt=0, lt=1e9, allow_inf_nan=False)]


class Spec(BaseModel):
    """Base of all specs: immutable, and a key that is not a field is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Provenance(Spec):
    """Where a value comes from and how far to trust it."""

    source: str = Field(min_length=1)
    """Page, paper, file or person; "estimate from <peer>" for a guess."""
    confidence: Literal["high", "medium", "low"]
    """High: a primary source or several that agree. Medium: one source, or well known. Low: a guess or a rumour."""
    estimated: bool = False
    """A modelling estimate, not a public fact."""
    note: str = ""


ProvenanceMap = dict[str, Provenance]
"""Dotted path prefix (``core.matrix``) -> where everything below it comes from; the longest prefix wins."""


def source_for(path: str, provenance: ProvenanceMap) -> Provenance | None:
    """Return the entry with the longest prefix of the dotted `path`.

    >>> core = Provenance(source="data sheet", confidence="high")
    >>> source_for("core.matrix.rows", {"core": core}).source, source_for("corel", {"core": core})
    ('data sheet', None)
    """
    parts = path.split(".")
    prefixes = (".".join(parts[:n]) for n in range(len(parts), 0, -1))
    return next((provenance[prefix] for prefix in prefixes if prefix in provenance), None)
