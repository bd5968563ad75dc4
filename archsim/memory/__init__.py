"""Memories on their own: request streams, traces, and what a channel makes of them.

>>> from archsim.memory import bench
>>> bench("hbm3", "sequential", requests=2000).counts["reads"]
2000
"""

from __future__ import annotations

from archsim.memory.bench import BenchResult, bench
from archsim.memory.streams import PATTERNS, Stream, due_ticks, make_stream
from archsim.memory.traces import read_requests

__all__ = ["PATTERNS", "BenchResult", "Stream", "bench", "due_ticks", "make_stream", "read_requests"]
