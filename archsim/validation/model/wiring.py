"""Training runs as cases of the suite."""

from __future__ import annotations

from archsim.validation.model.case import Case
from archsim.validation.model.training import TrainingCase, published_case, simulate_case
from archsim.validation.table import Record

__all__ = ["read_training", "training_case"]


def read_training(record: Record) -> Case | str:
    """The case of a row of the published table, or why it has none."""
    found = published_case(record.cells)
    return found if isinstance(found, str) else training_case(record.text("id"), record.number("value"), found)


def training_case(name: str, expected: float, found: TrainingCase | str) -> Case | str:
    """The case of a training run as the readers of training understand it."""
    if isinstance(found, str):
        return found
    case = found
    assumption = f"{case.stack.name}: {case.stack.assumption}"
    return Case(name, case.group, expected, lambda: case.value(simulate_case(case)), assumption, heavy=True)

