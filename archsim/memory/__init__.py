"""Memories on their own: request streams, traces, and what a channel makes of them."""

from __future__ import annotations

from archsim.memory.streams import PATTERNS, Stream, due_ticks, make_stream

__all__ = ["PATTERNS", "Stream", "due_ticks", "make_stream"]
