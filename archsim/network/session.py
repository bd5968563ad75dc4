"""Collectives as SimPy processes that share a fabric: what overlaps in time contends for the links.

>>> from archsim.hardware import load_chip, load_system
>>> from archsim.network import Collective, Fabric, Group
>>> session = FabricSession(Fabric.of(load_system("hgx-h100"), load_chip("h100")))
>>> request = Collective("all_gather", 2**28, Group(8), "ring")
>>> alone = session.env.run(session.start(request)).elapsed_ps
>>> both = [session.start(request) for _ in range(2)]
>>> last = session.env.run(session.env.all_of(both))
>>> 1.7 < max(process.value.elapsed_ps for process in both) / alone < 2.1
True
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from simpy import Environment, Event, Process

from archsim.engine import Engine, SimpyInterpreter
from archsim.engine.compiled import CompiledEngine
from archsim.errors import InputError
from archsim.kernels.interpreter import MAX_ORDER
from archsim.network.fabric import Fabric
from archsim.network.lowering import foldable, lower_schedule
from archsim.network.request import Collective
from archsim.network.run import schedule_of
from archsim.program import Run

__all__ = ["FabricSession"]


class FabricSession:
    """The links of a fabric inside a SimPy simulation.

    folded: one chip stands for all, for requests whose chips are alike; otherwise every chip is there.
    ``fabric.alone(groups)`` is a fabric of those chips only that these groups fill. engine: "compiled", or "simpy",
    which is readable and slow.
    """

    def __init__(
        self, fabric: Fabric, env: Environment | None = None, *, folded: bool = True, engine: str = "compiled"
    ) -> None:
        self.fabric = fabric
        self.env = env or Environment()
        self.folded = folded and fabric.folds and not fabric.faults
        machine = fabric.folded if self.folded else fabric.unfolded
        engines = {"compiled": CompiledEngine, "simpy": SimpyInterpreter}
        if engine not in engines:
            raise InputError(f"engine '{engine}' is neither 'compiled' nor 'simpy'.")
        self._engine: Engine = engines[engine](machine, self.env)
        self._order = 0

    def start(self, request: Collective) -> Process:
        """Start a collective now; the process ends with it, and its value is the `Run` of its messages."""
        return self.env.process(self._collective(request))

    def _collective(self, request: Collective) -> Generator[Event, Any, Run | None]:
        schedule = schedule_of(self.fabric, request)
        if self.folded and not foldable(schedule):
            raise InputError(
                f"{request.kind}: its chips are not alike; it needs a session with folded=False, "
                "best of fabric.alone(groups)"
            )
        yield self.env.timeout(round(schedule.launch_s * 1e12))
        if not schedule.messages:
            return None
        self._order = (self._order + 1) % MAX_ORDER
        run: Run = yield self._engine.launch(lower_schedule(schedule, folded=self.folded), order=self._order)
        return run
