"""Which plan? Every legal way to spread a step over a system, ranked in closed form, the best simulated."""

from __future__ import annotations

from archsim.planning.ranking import Ranked, Ranking, rank_inference, rank_training

__all__ = ["Ranked", "Ranking", "rank_inference", "rank_training"]
