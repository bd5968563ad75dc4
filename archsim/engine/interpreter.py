"""What an interpreter of programs offers: `run` on its own, `launch` inside a SimPy simulation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from simpy import Event

from archsim.program import Machine, Program, Run

__all__ = ["Bases", "Engine", "Interpreter"]

Bases = Sequence[int] | Mapping[str, int]


class Interpreter(Protocol):
    """Runs one program after another on one machine, whose state lives on between them."""

    machine: Machine

    def run(self, program: Program, start_ps: int = 0, bases: Bases = ()) -> Run:
        """Run a program from `start_ps`, which must not lie before the end of the last run."""
        ...

    def reset(self) -> None:
        """Forget all state; time starts at zero again."""
        ...


class Engine(Protocol):
    """Runs programs inside a SimPy environment, several at once if they are launched so."""

    def launch(self, program: Program, bases: Bases = (), order: int = 0) -> Event:
        """Start a program now; the event fires at its end and its value is the `Run`.

        Among programs in flight, the one of lower `order` wins ties.
        """
        ...
