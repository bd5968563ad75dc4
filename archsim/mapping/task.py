"""What one chip has to do: operators after sharding, and the collectives between them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction

from archsim.sparsity import Sparsity
from archsim.trace.costs import sparsity_of
from archsim.trace.graph import Attr

__all__ = ["Operand", "Task", "TaskBlock"]


@dataclass(frozen=True)
class Operand:
    """This chip's share of a tensor as one task uses it.

    tensor: index in the graph. nbytes: unique bytes touched. element_bytes: of one element, packed types below one.
    """

    tensor: int
    role: str
    nbytes: int
    element_bytes: float


@dataclass(frozen=True)
class Task:
    """One operator, or one collective, of one chip. ``dims`` are this chip's share (see docs/trace-format.md).

    rows: for a grouped product (and in training for what quantises its operands), the rows of each of this chip's
        experts.
    seconds: for a collective, the time that it cannot come below; the engine plays its messages.
    """

    name: str
    kind: str
    dims: dict[str, int]
    attrs: dict[str, Attr]
    dtype: str
    inputs: tuple[Operand, ...]
    outputs: tuple[Operand, ...]
    flops: int
    rows: tuple[int, ...] = ()
    seconds: float = 0.0

    @property
    def sparsity(self) -> Sparsity | None:
        """The pattern of the weights of a product; None where they are dense."""
        return sparsity_of(self.attrs)

    @property
    def nbytes(self) -> int:
        """Unique bytes that the operands of the task touch."""
        return sum(o.nbytes for o in self.inputs + self.outputs)


@dataclass(frozen=True)
class TaskBlock:
    """A block of the graph as one chip performs it; ``shares[t]`` says how many chips share tensor ``t``."""

    name: str
    repeat: int
    tasks: tuple[Task, ...]
    shares: Mapping[int, int | Fraction] = field(default_factory=dict)
