"""One kernel alone on an idle chip."""

from __future__ import annotations

from archsim.engine import Launch, Session
from archsim.mapping import Lowered, Target

__all__ = ["run_once"]


def run_once(target: Target, lowered: Lowered) -> int:
    """Time of ``lowered`` in ps, begun just after a refresh: the channels of a fresh machine refresh at time zero."""
    bases, end = [], 0
    for region in lowered.program.regions:
        bases.append(end)
        end += -(-region.nbytes // target.block_bytes) * target.block_bytes
    refresh = round(target.chip.memory.standard.timings.trfc * 1e12)
    launch = Launch(lowered.program.name, "compute", launch_ps=refresh, program=lowered.program, bases=bases)
    (record,) = Session(target.machine).run([launch])
    return record.end_ps - record.start_ps
