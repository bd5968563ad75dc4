"""The hot loops, compiled: what one memory does and what one machine does with a program.

Kernels know numbers and arrays and nothing else. Each is a Cython file `_name.pyx` behind a checked Python front
`name.py`, which holds the documentation.
"""

from archsim.kernels.interpreter import CompiledInterpreter
from archsim.kernels.memory import MemoryModel

__all__ = ["CompiledInterpreter", "MemoryModel"]
