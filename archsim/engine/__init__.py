"""When things happen: SimPy outside, a compiled interpreter of programs inside.

>>> from archsim.engine import Launch, Session
>>> from archsim.program import Machine, ProgramBuilder, Unit
>>> machine = Machine((Unit("mxu", "matrix"),))
>>> builder = ProgramBuilder(machine)
>>> tile = builder.step("mxu", work_ps=700)
>>> program = builder.build()
>>> session = Session(machine)
>>> first, second = session.run([Launch("a", "main", program=program),
...                              Launch("b", "main", launch_ps=50, program=program)])
>>> first.end_ps, second.start_ps, second.end_ps
(700, 750, 1450)
"""

from archsim.engine.chip import Launch, LaunchRecord, Session
from archsim.engine.interpreter import Engine, Interpreter
from archsim.engine.reference import Arbiter, SimpyInterpreter
from archsim.kernels import CompiledInterpreter

__all__ = [
    "Arbiter",
    "CompiledInterpreter",
    "Engine",
    "Interpreter",
    "Launch",
    "LaunchRecord",
    "Session",
    "SimpyInterpreter",
]
