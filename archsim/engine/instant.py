"""The end of an instant: a SimPy event that fires after all others of its time."""

from __future__ import annotations

from simpy import Environment, Event
from simpy.events import EventPriority

__all__ = ["EndOfInstant"]

LATE = EventPriority(2)  # SimPy's own are URGENT = 0 and NORMAL = 1


class EndOfInstant(Event):
    """Fires at the present time, once every urgent and normal event of this time is done.

    Whoever arbitrates waits for it: then all requests of the instant are known, and who wins does not depend on
    the order in which processes happened to run.
    """

    def __init__(self, env: Environment) -> None:
        super().__init__(env)
        self._ok = True
        self._value = None
        env.schedule(self, priority=LATE)
