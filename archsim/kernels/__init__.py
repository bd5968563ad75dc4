"""The hot loops, compiled: what one memory does and what one machine does with a program.

Kernels know numbers and arrays and nothing else. Each is a Cython file `_name.pyx` behind a checked Python front
`name.py`, which holds the documentation.
"""

from pathlib import Path

from archsim.kernels._guard import check_kernels

check_kernels(Path(__file__).parent)  # before any kernel is imported: a stale one would be silently wrong

from archsim.kernels.interpreter import CompiledInterpreter  # noqa: E402
from archsim.kernels.memory import MemoryModel  # noqa: E402

__all__ = ["CompiledInterpreter", "MemoryModel"]
