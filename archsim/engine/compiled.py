"""The compiled interpreter as a guest of a SimPy environment."""

from __future__ import annotations

from collections.abc import Generator

from simpy import Environment, Event

from archsim.engine.instant import EndOfInstant
from archsim.engine.interpreter import Bases
from archsim.kernels import CompiledInterpreter
from archsim.program import Machine, Program

__all__ = ["CompiledEngine"]


class CompiledEngine:
    """Runs programs in the compiled interpreter, in step with the SimPy clock.

    The kernel may run ahead only to the next event of the environment: whatever happens there may launch another
    program, whose steps must meet those in flight. Between such events it does everything in one call.
    """

    def __init__(self, machine: Machine, env: Environment) -> None:
        self.machine = machine
        self.env = env
        self._interpreter = CompiledInterpreter(machine)
        self._ends: dict[int, Event] = {}
        self._launched = env.event()
        self._driver = self._drive()
        env.process(self._driver)

    def close(self) -> None:
        """Let go of the kernel: a process that waits refers to itself, and Python finds such circles late."""
        self._driver.close()

    def launch(self, program: Program, bases: Bases = (), order: int = 0) -> Event:
        """Start a program now; the event fires at its end and its value is the `Run`."""
        self._interpreter.submit(program, int(self.env.now), bases, order)
        self._ends[order] = self.env.event()
        if not self._launched.triggered:
            self._launched.succeed()
        return self._ends[order]

    def _drive(self) -> Generator[Event, None, None]:
        env, interpreter = self.env, self._interpreter
        while True:
            if not self._ends:
                yield self._launched
            self._launched = env.event()
            yield EndOfInstant(env)
            # Arrivals of this instant are all in; go on to where somebody else may act, or where a program ends.
            horizon = max(env.peek(), env.now + 1)
            ended = interpreter.advance(int(min(horizon, 2**63 - 1)))
            until = interpreter.now_ps if ended else interpreter.next_ps
            yield env.timeout(until - env.now) | self._launched
            if env.now == until and (ended or interpreter.settle(until)):
                for order, run in interpreter.collect().items():
                    self._ends.pop(order).succeed(run)
