"""Export-control rules as data: thresholds, dates, citations."""

from __future__ import annotations

from datetime import date
from typing import Annotated, Literal

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from archsim.hardware.spec import Count, Dtype, Rate, Spec

__all__ = ["ExportRule", "ExportRules", "ExportTest"]


class ExportTest(Spec):
    """Limits that must all be met; `*_below` are upper ends, the others lower ones."""

    tpp: Rate | None = None
    tpp_below: Rate | None = None
    density: Rate | None = None
    density_below: Rate | None = None
    links_gbyte_s: Rate | None = None
    """All links of the chip to other chips, both directions together."""
    memory_gbyte_s: Rate | None = None
    memory_and_links_gbyte_s: Rate | None = None


Day = Annotated[str, Field(pattern=r"^\d{4}-\d{2}-\d{2}$")]


class ExportRule(Spec):
    """One rule: it speaks of a chip that passes any of its tests."""

    name: str
    since: Day
    until: Day | None = None
    effect: str
    citation: str = Field(min_length=1)
    confidence: Literal["high", "medium", "low"] = "medium"
    tests: tuple[ExportTest, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _has_real_dates(self) -> ExportRule:
        for path, text in (("since", self.since), ("until", self.until)):
            try:
                date.fromisoformat(text or "2000-01-01")
            except ValueError:
                problem = f"'{text}' is no date"
                raise PydanticCustomError("contradiction", "{text}", {"path": path, "text": problem}) from None
        return self


class ExportRules(Spec):
    """The rules of one authority."""

    name: str
    title: str
    dtype_bits: dict[Dtype, Count]
    """Bit length of an operation by the type of its operands."""
    rules: tuple[ExportRule, ...] = Field(min_length=1)
